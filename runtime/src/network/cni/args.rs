//! What plugins are told about a pod: `CNI_ARGS` and the capability arguments.
//!
//! Owns their making and the checks on values that come from the pod. Pure.

use crate::network::Attachment;
use crate::network::bridge::ports::protocol;
use crate::sandbox::PortMapping;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
const LEAST_RATE: u128 = 1_000;
const MOST_RATE: u128 = 1_000_000_000_000_000;
/// Bits; what the peers use: no burst is cut short.
const BURST: u32 = u32::MAX;

/// Which value of the pod can't be told to plugins.
#[derive(Debug, thiserror::Error)]
pub enum ArgsError {
    /// It would be read as something else.
    #[error(
        "{field} {value:?} has a `;`, a `=` or a control character in it, which CNI_ARGS can't carry"
    )]
    Args {
        /// The CNI argument.
        field: &'static str,
        /// Its value.
        value: String,
    },
    /// No quantity, or out of range.
    #[error("annotation {annotation} = {value:?} {problem}")]
    Bandwidth {
        /// The annotation's name.
        annotation: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// `CNI_ARGS`.
pub(super) fn cni_args(attachment: &Attachment) -> Result<String, ArgsError> {
    let mut text = "IgnoreUnknown=1".to_owned();
    for (field, value) in [
        ("K8S_POD_NAMESPACE", attachment.key.namespace.as_str()),
        ("K8S_POD_NAME", attachment.key.name.as_str()),
        ("K8S_POD_INFRA_CONTAINER_ID", attachment.id.as_str()),
        ("K8S_POD_UID", attachment.key.uid.as_str()),
    ] {
        if value.contains([';', '=']) || value.chars().any(char::is_control) {
            return Err(ArgsError::Args { field, value: value.to_owned() });
        }
        text.push_str(&format!(";{field}={value}"));
    }
    Ok(text)
}

/// All that we have to say, by capability.
pub(super) fn capabilities(attachment: &Attachment) -> Result<BTreeMap<String, Value>, ArgsError> {
    let mut all = BTreeMap::new();
    let mut say = |capability: &str, value: Value| drop(all.insert(capability.to_owned(), value));
    let ports: Vec<Value> = attachment.port_mappings.iter().filter_map(port).collect();
    if !ports.is_empty() {
        say("portMappings", Value::Array(ports));
    }
    if let Some(bandwidth) = bandwidth(&attachment.annotations)? {
        say("bandwidth", bandwidth);
    }
    if let Some(dns) = &attachment.dns {
        say(
            "dns",
            json!({"servers": dns.servers, "searches": dns.searches, "options": dns.options}),
        );
    }
    if let Some(cgroup) = &attachment.cgroup_path {
        say("cgroupPath", json!(cgroup));
    }
    if !attachment.annotations.is_empty() {
        say("io.kubernetes.cri.pod-annotations", json!(attachment.annotations));
    }
    Ok(all)
}

fn port(mapping: &PortMapping) -> Option<Value> {
    let host_port = mapping.host_port.filter(|port| *port > 0)?;
    let host_ip = mapping.host_ip.map(|ip| ip.to_string()).unwrap_or_default();
    Some(json!({
        "hostPort": host_port,
        "containerPort": mapping.container_port,
        "protocol": protocol(mapping.protocol),
        "hostIP": host_ip,
    }))
}

fn bandwidth(annotations: &BTreeMap<String, String>) -> Result<Option<Value>, ArgsError> {
    let (ingress, egress) = (rate(annotations, INGRESS)?, rate(annotations, EGRESS)?);
    if ingress.is_none() && egress.is_none() {
        return Ok(None);
    }
    let mut value = serde_json::Map::new();
    for (direction, rate) in [("ingress", ingress), ("egress", egress)] {
        if let Some(rate) = rate {
            value.insert(format!("{direction}Rate"), json!(rate));
            value.insert(format!("{direction}Burst"), json!(BURST));
        }
    }
    Ok(Some(Value::Object(value)))
}

/// Bits per second.
fn rate(
    annotations: &BTreeMap<String, String>,
    annotation: &'static str,
) -> Result<Option<u64>, ArgsError> {
    let Some(value) = annotations.get(annotation) else { return Ok(None) };
    let wrong = |problem| ArgsError::Bandwidth { annotation, value: value.clone(), problem };
    let bits = quantity(value).ok_or_else(|| wrong("is no Kubernetes quantity"))?;
    if !(LEAST_RATE..=MOST_RATE).contains(&bits) {
        return Err(wrong("is not between 1k and 1P bits per second"));
    }
    Ok(u64::try_from(bits).ok())
}

/// A Kubernetes quantity as a whole number, rounded up; `None` if it is none, negative, or beyond all reason.
fn quantity(text: &str) -> Option<u128> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = (text.get(..end)?, text.get(end..)?);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || digits.len() > 20 || fraction.contains('.') {
        return None;
    }
    let digits: u128 = digits.parse().ok()?;
    let scale = u32::try_from(fraction.len()).ok()?;
    let (base, exponent) = multiplier(suffix)?;
    let (up, down) = if exponent < 0 {
        (1, 10_u128.checked_pow(exponent.unsigned_abs())?)
    } else {
        (base.checked_pow(exponent.unsigned_abs())?, 1)
    };
    let divisor = down.checked_mul(10_u128.checked_pow(scale)?)?;
    Some(digits.checked_mul(up)?.div_ceil(divisor))
}

fn multiplier(suffix: &str) -> Option<(u128, i32)> {
    if let Some(exponent) = suffix.strip_prefix(['e', 'E']).filter(|rest| !rest.is_empty()) {
        return exponent
            .parse()
            .ok()
            .filter(|exponent: &i32| exponent.abs() <= 18)
            .map(|exponent| (10, exponent));
    }
    Some(match suffix {
        "n" => (10, -9),
        "u" => (10, -6),
        "m" => (10, -3),
        "" => (10, 0),
        "k" => (10, 3),
        "M" => (10, 6),
        "G" => (10, 9),
        "T" => (10, 12),
        "P" => (10, 15),
        "E" => (10, 18),
        "Ki" => (1024, 1),
        "Mi" => (1024, 2),
        "Gi" => (1024, 3),
        "Ti" => (1024, 4),
        "Pi" => (1024, 5),
        "Ei" => (1024, 6),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::tests::attachment;
    use crate::sandbox::Protocol;
    use proptest::prelude::*;
    use std::path::Path;

    #[test]
    fn bandwidth_is_a_quantity_between_1k_and_1p() {
        for (text, want) in [
            ("1k", Some(1000)),
            ("10M", Some(10_000_000)),
            ("1Gi", Some(1 << 30)),
            ("1.5k", Some(1500)),
            ("1e6", Some(1_000_000)),
            ("1000000m", Some(1000)),
            ("1000000001u", Some(1001)),
            ("1P", Some(1_000_000_000_000_000)),
            ("999", None),
            ("1001P", None),
            ("", None),
            ("-1M", None),
            ("ten", None),
            ("1..5M", None),
            ("1 M", None),
            ("99999999999999999999E", None),
            ("1e999999999999", None),
        ] {
            let annotations = BTreeMap::from([(INGRESS.to_owned(), text.to_owned())]);
            let got = rate(&annotations, INGRESS);
            assert_eq!(got.as_ref().ok().copied().flatten(), want, "{text}");
            if let Err(error) = got {
                let told = error.to_string();
                assert!(told.contains(INGRESS) && told.contains(text), "{told}");
            }
        }
    }

    #[test]
    fn a_name_that_would_end_its_argument_is_refused() {
        for name in ["a;K8S_POD_UID=x", "a=b", "a\nb"] {
            let mut pod = attachment(Path::new("/x"));
            pod.key.name = name.to_owned();
            assert!(matches!(cni_args(&pod), Err(ArgsError::Args { field: "K8S_POD_NAME", .. })));
        }
    }

    #[test]
    fn what_plugins_are_told_is_what_the_peers_tell() {
        let mut pod = attachment(Path::new("/x"));
        let all = capabilities(&pod).unwrap();
        assert!(all.is_empty(), "{all:?}");
        let published = |host_port| PortMapping {
            protocol: Protocol::Tcp,
            container_port: 80,
            host_port,
            host_ip: None,
        };
        pod.port_mappings = vec![published(Some(8080)), published(None)];
        pod.annotations = BTreeMap::from([(EGRESS.to_owned(), "1M".to_owned())]);
        pod.cgroup_path = Some("/kubepods/x".to_owned());
        let want = json!({
            "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}],
            "bandwidth": {"egressRate": 1_000_000, "egressBurst": u32::MAX},
            "cgroupPath": "/kubepods/x",
            "io.kubernetes.cri.pod-annotations": {EGRESS: "1M"},
        });
        assert_eq!(json!(capabilities(&pod).unwrap()), want);
        let args = cni_args(&pod).unwrap();
        let id = &pod.id;
        assert_eq!(
            args,
            format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod;K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID=uid"
            )
        );
    }

    proptest! {
        #[test]
        fn any_quantity_is_a_number_or_none(text in "[+-]?[0-9.]{0,30}(Ki|Mi|k|M|e|E)?[0-9-]{0,6}") {
            let _ = quantity(&text);
        }
    }
}
