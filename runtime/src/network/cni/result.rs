//! What a plugin said: results and errors.
//!
//! Owns their reading. Foreign bytes: nothing is taken for granted.

use super::conf::at_least;
use crate::network::bridge::link::POD_LINK;
use serde_json::{Map, Value};
use std::net::IpAddr;

/// A result's sum for the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Summary {
    /// The primary one first: IPv4 before IPv6, otherwise in the result's order.
    pub(super) ips: Vec<IpAddr>,
    pub(super) mac: Option<String>,
}

/// Why a result is none.
#[derive(Debug, thiserror::Error)]
pub enum ResultError {
    /// Not what the spec says.
    #[error("the result is no CNI result: {problem}: {said:?}")]
    Garbage {
        /// What is wrong.
        problem: String,
        /// How it begins.
        said: String,
    },
    /// No address for the pod's interface.
    #[error("the result has no IP address for {POD_LINK}")]
    NoAddress,
}

fn garbage(problem: impl ToString, value: &Value) -> ResultError {
    let said = crate::network::child::printable(value.to_string().as_bytes());
    ResultError::Garbage { problem: problem.to_string(), said }
}

/// Reads a plugin's standard output as a result in `version`.
pub(super) fn parse(stdout: &[u8], version: &str) -> Result<Value, ResultError> {
    let parsed: Result<Map<String, Value>, _> = serde_json::from_slice(stdout);
    let mut object = parsed.map_err(|error| ResultError::Garbage {
        problem: error.to_string(),
        said: crate::network::child::printable(stdout),
    })?;
    // The next plugin is told the version that the list speaks; between these, a family in each address is all that differs.
    object.insert("cniVersion".to_owned(), Value::String(version.to_owned()));
    if let Some(Value::Array(ips)) = object.get_mut("ips") {
        for ip in ips.iter_mut().filter_map(Value::as_object_mut) {
            convert_ip(ip, version);
        }
    }
    Ok(Value::Object(object))
}

fn convert_ip(ip: &mut Map<String, Value>, version: &str) {
    if at_least(version, "1.0.0") {
        ip.remove("version");
    } else if at_least(version, "0.3.0") && !ip.contains_key("version") {
        let v6 = ip.get("address").and_then(Value::as_str).is_some_and(|text| text.contains(':'));
        ip.insert("version".to_owned(), Value::from(if v6 { "6" } else { "4" }));
    }
}

/// The pod's addresses in a chain's last result.
pub(super) fn summary(result: &Value) -> Result<Summary, ResultError> {
    let mut ips = Vec::new();
    for ip in result.get("ips").and_then(Value::as_array).into_iter().flatten() {
        if let Some(addr) = pod_address(ip, result)? {
            ips.push(addr);
        }
    }
    // Before 0.3.0.
    for field in ["ip4", "ip6"] {
        if let Some(ip) = result.get(field) {
            ips.push(address(ip.get("ip"), result)?);
        }
    }
    if ips.is_empty() {
        return Err(ResultError::NoAddress);
    }
    ips.sort_by_key(IpAddr::is_ipv6);
    ips.dedup();
    let mac = interfaces(result)
        .find(|interface| is_pods(interface))
        .and_then(|interface| interface.get("mac")?.as_str().map(str::to_owned))
        .filter(|mac| !mac.is_empty());
    Ok(Summary { ips, mac })
}

/// `None`: an address of another interface.
fn pod_address(ip: &Value, result: &Value) -> Result<Option<IpAddr>, ResultError> {
    let addr = address(ip.get("address"), result)?;
    let Some(index) = ip.get("interface").filter(|index| !index.is_null()) else {
        return Ok(Some(addr));
    };
    let interface = index
        .as_u64()
        .and_then(|index| usize::try_from(index).ok())
        .and_then(|index| interfaces(result).nth(index))
        .ok_or_else(|| garbage("an address is of no interface", ip))?;
    Ok(is_pods(interface).then_some(addr))
}

fn is_pods(interface: &Value) -> bool {
    let named = interface.get("name").and_then(Value::as_str) == Some(POD_LINK);
    named
        && interface
            .get("sandbox")
            .and_then(Value::as_str)
            .is_some_and(|sandbox| !sandbox.is_empty())
}

fn interfaces(result: &Value) -> impl Iterator<Item = &Value> {
    result.get("interfaces").and_then(Value::as_array).into_iter().flatten()
}

fn address(value: Option<&Value>, result: &Value) -> Result<IpAddr, ResultError> {
    let text =
        value.and_then(Value::as_str).ok_or_else(|| garbage("an address is missing", result))?;
    let bare = text.split('/').next().unwrap_or(text);
    bare.parse().map_err(|error| garbage(format!("address {text:?}: {error}"), result))
}

/// A plugin's own error, or what else it said.
pub(super) fn plugin_error(stdout: &[u8], stderr: &[u8]) -> (Option<u64>, String) {
    let printable = |bytes: &[u8]| crate::network::child::printable(bytes);
    if let Ok(Value::Object(error)) = serde_json::from_slice::<Value>(stdout) {
        let part =
            |field: &str| error.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
        if let Some(msg) = part("msg") {
            let details = part("details").map(|details| format!(": {details}")).unwrap_or_default();
            let told = printable(format!("{msg}{details}").as_bytes());
            return (error.get("code").and_then(Value::as_u64), told);
        }
    }
    let said = [printable(stdout), printable(stderr)];
    (None, said.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn ipv4_comes_first_and_the_hosts_addresses_do_not_count() {
        let result = json!({
            "interfaces": [
                {"name": "br0"},
                {"name": "eth0", "sandbox": "/run/netns/x", "mac": "02:00:00:00:00:01"},
            ],
            "ips": [
                {"address": "fd00::2/64", "interface": 1},
                {"address": "10.0.0.1/24", "interface": 0},
                {"address": "10.0.0.2/24", "interface": 1},
                {"address": "10.0.0.3/24"},
            ],
        });
        let got = summary(&result).unwrap();
        let want: Vec<IpAddr> =
            ["10.0.0.2", "10.0.0.3", "fd00::2"].iter().map(|ip| ip.parse().unwrap()).collect();
        assert_eq!(got.ips, want);
        assert_eq!(got.mac.as_deref(), Some("02:00:00:00:00:01"));
    }

    #[test]
    fn old_results_have_their_addresses_too() {
        let got =
            summary(&json!({"ip4": {"ip": "10.0.0.2/24"}, "ip6": {"ip": "fd00::2/64"}})).unwrap();
        assert_eq!(got.ips.len(), 2);
    }

    #[test]
    fn a_result_without_an_address_or_with_a_wrong_one_is_an_error() {
        for result in [json!({}), json!({"ips": []}), json!({"ips": 1}), json!([])] {
            assert!(matches!(summary(&result), Err(ResultError::NoAddress)), "{result}");
        }
        for result in [
            json!({"ips": [{"address": "x"}]}),
            json!({"ips": [{}]}),
            json!({"ips": [{"address": "10.0.0.1/8", "interface": 7}]}),
            json!({"ips": [{"address": "10.0.0.1/8", "interface": -1}]}),
        ] {
            assert!(matches!(summary(&result), Err(ResultError::Garbage { .. })), "{result}");
        }
    }

    #[test]
    fn a_result_is_told_on_in_the_lists_version() {
        let old =
            parse(br#"{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.1/8"}]}"#, "0.4.0").unwrap();
        assert_eq!(
            old,
            json!({"cniVersion": "0.4.0", "ips": [{"address": "10.0.0.1/8", "version": "4"}]})
        );
        let new = parse(br#"{"ips":[{"address":"fd00::1/8","version":"6"}]}"#, "1.1.0").unwrap();
        assert_eq!(new, json!({"cniVersion": "1.1.0", "ips": [{"address": "fd00::1/8"}]}));
    }

    #[test]
    fn a_plugins_error_is_told_in_its_words() {
        let said = br#"{"cniVersion":"1.0.0","code":11,"msg":"try again","details":"no\nroom"}"#;
        assert_eq!(plugin_error(said, b""), (Some(11), "try again: no room".to_owned()));
        assert_eq!(plugin_error(b"", b"boom\n"), (None, "boom".to_owned()));
        assert_eq!(plugin_error(b"[1]", b"boom\n"), (None, "[1]; boom".to_owned()));
    }

    proptest! {
        #[test]
        fn foreign_results_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), text in ".*", index in any::<i64>()) {
            drop(parse(&bytes, "1.0.0"));
            drop(plugin_error(&bytes, &bytes));
            drop(summary(&json!({"ips": [{"address": text, "interface": index}], "interfaces": [text]})));
        }
    }
}
