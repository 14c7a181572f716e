//! The network that davit makes itself: the table `[bridge]`, its defaults, and what is refused.

use super::layer::Layer;
use super::load::{ConfigError, Sources};
use super::value::{Interface, Name, Subnet, Subnet6};
use davit_runtime::network::BridgeConfig;
use serde::{Deserialize, Serialize};

/// `[bridge]`: the network that is used while there is no CNI configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Bridge {
    /// Whether there is a built-in network; if not, pods wait for a CNI configuration
    #[arg(long = "bridge-enabled", id = "bridge-enabled", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) enabled: Option<bool>,
    /// The built-in network's interface
    #[arg(long = "bridge-name", id = "bridge-name", value_name = "INTERFACE")]
    pub(crate) name: Option<Interface>,
    /// The built-in network's addresses
    #[arg(long = "bridge-subnet", id = "bridge-subnet", value_name = "NETWORK")]
    pub(crate) subnet: Option<Subnet>,
    /// The built-in network's IPv6 addresses; none unless given
    #[arg(long = "bridge-subnet6", id = "bridge-subnet6", value_name = "NETWORK")]
    pub(crate) subnet6: Option<Subnet6>,
    /// The largest packet on the built-in network, in bytes; else as on the link with the default route
    #[arg(long = "bridge-mtu", id = "bridge-mtu", value_name = "BYTES")]
    pub(crate) mtu: Option<u32>,
    /// Whether pods reach the world under the node's address
    #[arg(long = "bridge-ip-masq", id = "bridge-ip-masq", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) ip_masq: Option<bool>,
    /// The built-in network's nftables table
    #[arg(long = "bridge-table", id = "bridge-table", value_name = "NAME")]
    pub(crate) table: Option<Name>,
}

impl Bridge {
    /// Both in one; where both speak, `over` is heard.
    pub(super) fn under(self, over: Self) -> Self {
        Self {
            enabled: over.enabled.or(self.enabled),
            name: over.name.or(self.name),
            subnet: over.subnet.or(self.subnet),
            subnet6: over.subnet6.or(self.subnet6),
            mtu: over.mtu.or(self.mtu),
            ip_masq: over.ip_masq.or(self.ip_masq),
            table: over.table.or(self.table),
        }
    }

    /// Every one has its value that has one by default.
    pub(super) fn with_defaults(self) -> Self {
        let usual = BridgeConfig::default();
        Self {
            enabled: self.enabled.or(Some(usual.enabled)),
            name: self.name.or_else(|| usual.name.parse().ok()),
            subnet: self.subnet.or(Some(Subnet(usual.subnet))),
            subnet6: self.subnet6,
            mtu: self.mtu,
            ip_masq: self.ip_masq.or(Some(usual.ip_masq)),
            table: self.table.or_else(|| usual.table.parse().ok()),
        }
    }

    /// What they come to.
    pub(super) fn config(&self) -> BridgeConfig {
        let usual = BridgeConfig::default();
        BridgeConfig {
            enabled: self.enabled.unwrap_or(usual.enabled),
            name: self.name.as_ref().map_or(usual.name, |name| name.as_str().to_owned()),
            subnet: self.subnet.map_or(usual.subnet, |Subnet(net)| net),
            subnet6: self.subnet6.map(|Subnet6(net)| net),
            mtu: self.mtu,
            table: self.table.as_ref().map_or(usual.table, |table| table.as_str().to_owned()),
            ip_masq: self.ip_masq.unwrap_or(usual.ip_masq),
        }
    }
}

/// What the network itself would refuse when it is opened.
pub(super) fn check(full: &Layer, sources: &Sources) -> Result<(), ConfigError> {
    let Err(wrong) = full.bridge.config().validate() else { return Ok(()) };
    let key = wrong.field();
    let set = |layer: &Layer| match key {
        "bridge.name" => layer.bridge.name.is_some(),
        "bridge.subnet" => layer.bridge.subnet.is_some(),
        "bridge.subnet6" => layer.bridge.subnet6.is_some(),
        "bridge.mtu" => layer.bridge.mtu.is_some(),
        _ => layer.bridge.table.is_some(),
    };
    Err(sources.wrong(set, key, &wrong.value(), wrong.problem()))
}
