//! What is asked of the network for a pod, and what it gives.

use crate::id::SandboxId;
use crate::sandbox::{DnsConfig, PortMapping, SandboxKey};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

/// A pod to be attached.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// The sandbox.
    pub id: SandboxId,
    /// Its identity, for plugins and for errors.
    pub key: SandboxKey,
    /// Its pinned network namespace.
    pub netns: PathBuf,
    /// Those without a host port are ignored.
    pub port_mappings: Vec<PortMapping>,
    /// For plugins that want it.
    pub dns: Option<DnsConfig>,
    /// For plugins that want them, and the bandwidth.
    pub annotations: BTreeMap<String, String>,
    /// No plugin is told them: the spec has no word for it.
    pub labels: BTreeMap<String, String>,
    /// For plugins that want it.
    pub cgroup_path: Option<String>,
}

/// A pod that is attached.
#[derive(Debug, Clone, PartialEq)]
pub struct Attached {
    /// The primary one first: IPv4 before IPv6. Never empty.
    pub ips: Vec<IpAddr>,
    /// Of eth0, where known.
    pub mac: Option<String>,
    /// The CNI result of the last plugin, or one of the same shape by the built-in bridge.
    pub result: serde_json::Value,
}
