//! The grammar of one `hosts.toml`.

use super::{Capability, EndpointPlan, HostsError};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Deserialize)]
struct File {
    server: Option<String>,
    #[serde(default)]
    host: toml::Table,
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<Client>,
    skip_verify: Option<bool>,
    header: Option<toml::Table>,
    override_path: Option<bool>,
    dial_timeout: Option<String>,
    #[serde(flatten)]
    rest: toml::Table,
}

/// What a `[host."…"]` table holds, and, for the server, the file's own root.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Host {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<Client>,
    skip_verify: Option<bool>,
    header: Option<toml::Table>,
    override_path: Option<bool>,
    dial_timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// A file with certificate and key, several such, or pairs of certificate and key.
#[derive(Deserialize)]
#[serde(untagged)]
enum Client {
    One(String),
    Many(Vec<ClientEntry>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ClientEntry {
    Both(String),
    Pair(Vec<String>),
}

/// The endpoints that the file at `path` lists for `registry`, the server last.
pub(super) fn parse(
    path: &Path,
    text: &str,
    registry: &str,
) -> Result<Vec<EndpointPlan>, HostsError> {
    let broken = |source| HostsError::Parse { path: path.to_owned(), source: Box::new(source) };
    let file: File = toml::from_str(text).map_err(broken)?;
    if let Some((key, value)) = file.rest.iter().next() {
        return Err(Context { path, table: String::new(), registry }.wrong(
            key,
            &value.to_string(),
            "is not a known key",
        ));
    }
    let mut plans = Vec::new();
    // The order of the tables in the file is the order of the attempts; the parser is told to keep it.
    for (url, table) in file.host {
        let context = Context { path, table: format!("host.{url:?}."), registry };
        let host: Host = table.clone().try_into().map_err(|error: toml::de::Error| {
            context.wrong("", &table.to_string(), error.message())
        })?;
        plans.push(context.plan(&url, host)?);
    }
    let root = Host {
        capabilities: file.capabilities,
        ca: file.ca,
        client: file.client,
        skip_verify: file.skip_verify,
        header: file.header,
        override_path: file.override_path,
        dial_timeout: file.dial_timeout,
    };
    let context = Context { path, table: String::new(), registry };
    let server = file.server.filter(|server| !server.is_empty());
    plans.push(context.plan(&server.unwrap_or_else(|| EndpointPlan::origin(registry).url), root)?);
    Ok(plans)
}

/// Where in which file we are, for the errors.
struct Context<'a> {
    path: &'a Path,
    table: String,
    registry: &'a str,
}

impl Context<'_> {
    fn wrong(&self, key: &str, value: &str, reason: &str) -> HostsError {
        HostsError::Value {
            path: self.path.to_owned(),
            key: format!("{}{key}", self.table).trim_end_matches('.').to_owned(),
            value: value.chars().take(200).collect(),
            reason: reason.to_owned(),
        }
    }

    fn plan(&self, url: &str, host: Host) -> Result<EndpointPlan, HostsError> {
        let mut plan = EndpointPlan::origin(self.registry);
        let own = plan.host().to_owned();
        plan.url = self.url(url, host.override_path.unwrap_or(false).into())?;
        plan.namespace = (plan.host() != own).then(|| self.registry.to_owned());
        if let Some(capabilities) = host.capabilities {
            plan.capabilities = self.capabilities(&capabilities)?;
        }
        plan.ca = match host.ca {
            Some(OneOrMany::One(path)) => vec![self.absolute(&path)],
            Some(OneOrMany::Many(paths)) => paths.iter().map(|path| self.absolute(path)).collect(),
            None => Vec::new(),
        };
        plan.client = self.client(host.client)?;
        plan.skip_verify = host.skip_verify.unwrap_or(false);
        plan.headers = self.headers(host.header.unwrap_or_default())?;
        if let Some(text) = host.dial_timeout {
            plan.dial_timeout = duration(&text).ok_or_else(|| {
                self.wrong("dial_timeout", &text, "is no duration such as `30s` or `500ms`")
            })?;
        }
        plan.source = Some(self.path.to_owned());
        Ok(plan)
    }

    fn url(&self, text: &str, path: OverridePath) -> Result<String, HostsError> {
        let wrong =
            |reason| self.wrong(if self.table.is_empty() { "server" } else { "" }, text, reason);
        let whole = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
        let url = reqwest::Url::parse(&whole).map_err(|_parse| wrong("is no URL"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong("is neither http nor https"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("has a user: credentials do not belong here"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("has a query or a fragment"));
        }
        let host = url.host_str().ok_or_else(|| wrong("has no host"))?;
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let base = url.path().trim_end_matches('/');
        let suffix = match path {
            OverridePath::Yes => "",
            // As containerd: a path that already speaks of v2 is taken to be whole.
            OverridePath::No if base.ends_with("/v2") || base.contains("/v2/") => "",
            OverridePath::No => "/v2",
        };
        Ok(format!("{}://{host}{port}{base}{suffix}", url.scheme()))
    }

    fn capabilities(&self, names: &[String]) -> Result<Vec<Capability>, HostsError> {
        let mut capabilities = Vec::new();
        for name in names {
            match name.as_str() {
                "resolve" => capabilities.push(Capability::Resolve),
                "pull" => capabilities.push(Capability::Pull),
                // Nothing is ever pushed and no referrers are asked for: an endpoint that may be used so changes nothing.
                "push" | "referrers" => {}
                _ => {
                    let reason = "is none of pull, resolve, push, referrers";
                    return Err(self.wrong("capabilities", name, reason));
                }
            }
        }
        Ok(capabilities)
    }

    fn client(&self, client: Option<Client>) -> Result<Vec<(PathBuf, PathBuf)>, HostsError> {
        let both = |path: &str| (self.absolute(path), self.absolute(path));
        match client {
            None => Ok(Vec::new()),
            Some(Client::One(path)) => Ok(vec![both(&path)]),
            Some(Client::Many(entries)) => entries
                .iter()
                .map(|entry| match entry {
                    ClientEntry::Both(path) => Ok(both(path)),
                    ClientEntry::Pair(paths) => match paths.as_slice() {
                        [one] => Ok(both(one)),
                        [certificate, key] if key.is_empty() => Ok(both(certificate)),
                        [certificate, key] => Ok((self.absolute(certificate), self.absolute(key))),
                        _ => Err(self.wrong(
                            "client",
                            &paths.join(", "),
                            "is no pair of certificate and key",
                        )),
                    },
                })
                .collect(),
        }
    }

    fn headers(&self, table: toml::Table) -> Result<Vec<(String, String)>, HostsError> {
        let mut headers = Vec::new();
        for (name, value) in table {
            let key = format!("header.{name}");
            if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
                return Err(self.wrong(&key, &name, "is no header's name"));
            }
            let values = match (value.as_str(), value.as_array()) {
                (Some(text), _) => Some(vec![text.to_owned()]),
                (None, Some(values)) => {
                    values.iter().map(|value| value.as_str().map(str::to_owned)).collect()
                }
                (None, None) => None,
            };
            let reason = "is neither a text nor a list of texts";
            let values = values.ok_or_else(|| self.wrong(&key, value.type_str(), reason))?;
            for value in values {
                // Not quoted: a header may be a secret.
                if http::HeaderValue::from_str(&value).is_err() {
                    return Err(self.wrong(&key, "(hidden)", "is no header's value"));
                }
                headers.push((name.clone(), value));
            }
        }
        Ok(headers)
    }

    fn absolute(&self, path: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("/")).join(path)
    }
}

enum OverridePath {
    Yes,
    No,
}

impl From<bool> for OverridePath {
    fn from(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }
}

/// Go's way to write a duration: `1h30m`, `500ms`, `1.5s`.
fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut seconds = 0.0_f64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at_checked(digits)?;
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, next) = tail.split_at_checked(end)?;
        let scale = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * scale;
        rest = next;
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(seconds).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_in_go() {
        for (text, milliseconds) in [
            ("30s", Some(30_000)),
            ("1m30s", Some(90_000)),
            ("500ms", Some(500)),
            ("1.5s", Some(1500)),
            ("0", Some(0)),
            ("", None),
            ("s", None),
            ("3", None),
            ("3x", None),
            ("-1s", None),
        ] {
            assert_eq!(duration(text), milliseconds.map(Duration::from_millis), "{text}");
        }
    }
}
