//! What a running daemon can take over from a changed configuration, and what it can't.

use super::effective::Config;

/// The keys that a running daemon takes over. Registries' hosts.toml files and CNI configurations are read when they are needed.
const CHANGEABLE: [&str; 3] = ["log_level", "debug", "tls.client_names"];

/// The keys that differ and can't be changed without a restart.
pub(crate) fn unchangeable(running: &Config, new: &Config) -> Vec<String> {
    let (running, new) = (flat(running), flat(new));
    let mut keys: Vec<&String> = running.keys().chain(new.keys()).collect();
    keys.sort();
    keys.dedup();
    let differs = |key: &&String| running.get(*key) != new.get(*key);
    let fixed = |key: &&String| !CHANGEABLE.contains(&key.as_str());
    keys.into_iter().filter(differs).filter(fixed).cloned().collect()
}

/// Every key with its value. A configuration can always be written as TOML; one that could not would differ from none.
fn flat(config: &Config) -> std::collections::BTreeMap<String, toml::Value> {
    let mut keys = std::collections::BTreeMap::new();
    if let Ok(table) = toml::Table::try_from(config.as_layer()) {
        flatten("", table, &mut keys);
    }
    keys
}

fn flatten(
    above: &str,
    table: toml::Table,
    keys: &mut std::collections::BTreeMap<String, toml::Value>,
) {
    for (key, value) in table {
        let key = if above.is_empty() { key } else { format!("{above}.{key}") };
        match value {
            toml::Value::Table(inner) => flatten(&key, inner, keys),
            value @ (toml::Value::String(_)
            | toml::Value::Integer(_)
            | toml::Value::Float(_)
            | toml::Value::Boolean(_)
            | toml::Value::Datetime(_)
            | toml::Value::Array(_)) => {
                keys.insert(key, value);
            }
        }
    }
}
