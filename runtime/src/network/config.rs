//! What the network is told once, at start.
//!
//! Owns the options and the check that they make sense together. Everything that names a kernel object (bridge, table) is an
//! option, so that two daemons, or two tests, can share one machine.

use ipnet::{Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

/// The longest name that the kernel gives a link (`IFNAMSIZ` without the final NUL).
pub(super) const MAX_LINK_NAME: usize = 15;
const MAX_TABLE_NAME: usize = 64;
const MIN_MTU: u32 = 576;
const MIN_MTU_IPV6: u32 = 1280;
const MAX_MTU: u32 = 65_535;

/// Where the network's parts are and how they are named.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Where CNI configurations are looked for; need not exist.
    pub cni_conf_dir: PathBuf,
    /// Where CNI plugins are looked for, in this order.
    pub cni_bin_dirs: Vec<PathBuf>,
    /// Records, cached results and leases; made if it is not there. On a file system that outlives the boot, attachments of the
    /// previous boot are found and detached by [`super::Network::recover`].
    pub state: PathBuf,
    /// How long one call of one plugin may take.
    pub cni_timeout: Duration,
    /// The network that pods get when there is no CNI configuration.
    pub bridge: BridgeConfig,
}

impl NetworkConfig {
    /// The defaults of a node, with records below `state`.
    #[must_use]
    pub fn new(state: PathBuf) -> Self {
        Self {
            cni_conf_dir: PathBuf::from("/etc/cni/net.d"),
            cni_bin_dirs: vec![PathBuf::from("/opt/cni/bin"), PathBuf::from("/usr/lib/cni")],
            state,
            cni_timeout: Duration::from_secs(60),
            bridge: BridgeConfig::default(),
        }
    }
}

/// The built-in bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "two options that have nothing to do with each other"
)]
pub struct BridgeConfig {
    /// Used when there is no CNI configuration. Off, a node without one is not ready: right where a CNI provider will write its
    /// configuration later and pods must wait for it.
    pub enabled: bool,
    /// The bridge's name; at most 15 characters.
    pub name: String,
    /// Where pods get their IPv4 addresses from; the first one is the bridge's.
    pub subnet: Ipv4Net,
    /// The same for IPv6; `None`: pods have link-local IPv6 only. Switches IPv6 forwarding on for the whole host, which makes the
    /// kernel ignore router advertisements on interfaces whose `accept_ra` is not 2.
    pub subnet6: Option<Ipv6Net>,
    /// Of the bridge and of the pods' interfaces; `None`: that of the link with the IPv4 default route, or 1500.
    pub mtu: Option<u32>,
    /// The nftables table (family inet) for masquerading and host ports; nobody else may write to it.
    pub table: String,
    /// Pods reach the world beyond the bridge under the host's address.
    pub ip_masq: bool,
}

impl Default for BridgeConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            name: "davit0".to_owned(),
            subnet: Ipv4Net::new_assert(Ipv4Addr::new(10, 88, 0, 0), 16),
            subnet6: None,
            mtu: None,
            table: "davit".to_owned(),
            ip_masq: true,
        }
    }
}

impl BridgeConfig {
    /// Whether it makes sense, before anything is made of it.
    ///
    /// # Errors
    /// [`InvalidConfig`] naming the first option that makes none.
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        validate_bridge(self)
    }
}

/// Which option makes no sense, and why.
#[derive(Debug, thiserror::Error)]
#[error("network option {field} = {value:?} {problem}")]
pub struct InvalidConfig {
    field: &'static str,
    value: String,
    problem: &'static str,
}

impl InvalidConfig {
    /// Which option.
    #[must_use]
    pub fn field(&self) -> &'static str {
        self.field
    }

    /// What it is.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    /// What is wrong with that.
    #[must_use]
    pub fn problem(&self) -> &'static str {
        self.problem
    }

    fn new(field: &'static str, value: impl ToString, problem: &'static str) -> Self {
        Self { field, value: value.to_string(), problem }
    }
}

/// # Errors
/// [`InvalidConfig`] naming the first option that makes no sense.
pub(super) fn validate(config: &NetworkConfig) -> Result<(), InvalidConfig> {
    if config.cni_timeout.is_zero() {
        return Err(InvalidConfig::new("cni_timeout", "0", "leaves a plugin no time"));
    }
    for dir in &config.cni_bin_dirs {
        // They travel in CNI_PATH, which separates them with a colon.
        if !dir.is_absolute() || dir.as_os_str().as_encoded_bytes().contains(&b':') {
            return Err(InvalidConfig::new(
                "cni_bin_dirs",
                dir.display(),
                "is not absolute or has a colon in it",
            ));
        }
    }
    config.bridge.validate()
}

fn validate_bridge(bridge: &BridgeConfig) -> Result<(), InvalidConfig> {
    let word = |text: &str, most: usize| {
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        !text.is_empty()
            && text.len() <= most
            && text.bytes().all(letter)
            && text.starts_with(|first: char| first.is_ascii_alphabetic())
    };
    // Both names are written into nft's language: anything but a plain word could mean something there.
    if !word(&bridge.name, MAX_LINK_NAME) {
        return Err(InvalidConfig::new(
            "bridge.name",
            &bridge.name,
            "is not 1 to 15 letters, digits, - and _",
        ));
    }
    if !word(&bridge.table, MAX_TABLE_NAME) || bridge.table.contains('-') {
        return Err(InvalidConfig::new(
            "bridge.table",
            &bridge.table,
            "is not 1 to 64 letters, digits and _",
        ));
    }
    let least = if bridge.subnet6.is_some() { MIN_MTU_IPV6 } else { MIN_MTU };
    if let Some(mtu) = bridge.mtu.filter(|mtu| !(least..=MAX_MTU).contains(mtu)) {
        return Err(InvalidConfig::new(
            "bridge.mtu",
            mtu,
            "is out of range (576, with IPv6 1280, to 65535)",
        ));
    }
    validate_subnets(bridge.subnet, bridge.subnet6)
}

/// # Errors
/// [`InvalidConfig`] when a subnet has no room for a bridge and a pod, or is none that hosts may have.
pub(super) fn validate_subnets(v4: Ipv4Net, v6: Option<Ipv6Net>) -> Result<(), InvalidConfig> {
    let addr = v4.network();
    let odd =
        addr.is_loopback() || addr.is_multicast() || addr.is_unspecified() || addr.is_link_local();
    if v4.prefix_len() < 8 || v4.prefix_len() > 29 || odd {
        return Err(InvalidConfig::new(
            "bridge.subnet",
            v4,
            "is not a unicast subnet of /8 to /29",
        ));
    }
    let Some(v6) = v6 else { return Ok(()) };
    let addr: Ipv6Addr = v6.network();
    let odd = addr.is_loopback()
        || addr.is_multicast()
        || addr.is_unspecified()
        || addr.is_unicast_link_local();
    if v6.prefix_len() < 16 || v6.prefix_len() > 125 || odd {
        return Err(InvalidConfig::new(
            "bridge.subnet6",
            v6,
            "is not a unicast subnet of /16 to /125",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        validate(&NetworkConfig::new(PathBuf::from("/x"))).unwrap();
    }

    #[test]
    fn an_option_that_makes_no_sense_is_named_with_its_value() {
        let with = |change: fn(&mut NetworkConfig)| {
            let mut config = NetworkConfig::new(PathBuf::from("/x"));
            change(&mut config);
            validate(&config).unwrap_err().to_string()
        };
        for (text, field) in [
            (with(|c| c.bridge.name = "sixteen-letters-".into()), "bridge.name"),
            (with(|c| c.bridge.name = String::new()), "bridge.name"),
            (with(|c| c.bridge.name = "a;b".into()), "bridge.name"),
            (with(|c| c.bridge.table = "a b".into()), "bridge.table"),
            (with(|c| c.bridge.table = "1a".into()), "bridge.table"),
            (with(|c| c.bridge.mtu = Some(100)), "bridge.mtu"),
            (with(|c| c.bridge.subnet = "10.0.0.0/30".parse().unwrap()), "bridge.subnet"),
            (with(|c| c.bridge.subnet = "127.0.0.0/24".parse().unwrap()), "bridge.subnet"),
            (with(|c| c.bridge.subnet6 = Some("fe80::/64".parse().unwrap())), "bridge.subnet6"),
            (with(|c| c.cni_bin_dirs = vec!["a/b".into()]), "cni_bin_dirs"),
            (with(|c| c.cni_timeout = Duration::ZERO), "cni_timeout"),
        ] {
            assert!(text.contains(field), "{text}");
        }
    }
}
