//! What a pod sandbox is asked to be, once the request has been found to make sense.
//!
//! Owns the types; whoever makes one (the conversion from CRI) has validated it. Kept in the pod's record as it is here.

use crate::container::{Resources, SelinuxOptions};
pub use davit_proto::disk::{IdMapping, IdMappings};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

/// What makes two RunPodSandbox calls the same call: a retry joins the work in flight and gets the same id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SandboxKey {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's uid.
    pub uid: String,
    /// How many sandboxes this pod had before.
    pub attempt: u32,
}

impl fmt::Display for SandboxKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} (uid {}, attempt {})", self.namespace, self.name, self.uid, self.attempt)
    }
}

/// A pod sandbox to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Its identity.
    pub key: SandboxKey,
    /// Host name inside the pod; empty: the first 12 digits of the id, or the host's with the host's network.
    pub hostname: String,
    /// Where its containers' logs go; absolute. `None`: containers without logs only.
    pub log_directory: Option<PathBuf>,
    /// What its resolv.conf says; `None`: a copy of the host's.
    pub dns: Option<DnsConfig>,
    /// Ports of the host that lead into the pod.
    pub port_mappings: Vec<PortMapping>,
    /// Told back as they came.
    pub labels: BTreeMap<String, String>,
    /// Told back as they came.
    pub annotations: BTreeMap<String, String>,
    /// The runtime handler's name; empty: the default one.
    pub handler: String,
    /// The pod's cgroup; `None`: davit's own parent.
    pub cgroup_parent: Option<CgroupParent>,
    /// Sysctls of the pod's own namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Its network namespace.
    pub network: NetworkMode,
    /// The PID namespace that its containers have unless they say otherwise.
    pub pid: PidMode,
    /// It uses the host's IPC namespace and `/dev/shm`.
    pub host_ipc: bool,
    /// Its user namespace; `None`: the host's.
    #[serde(default)]
    pub userns: Option<IdMappings>,
    /// What it allows and asks for.
    pub security: SandboxSecurity,
    /// What running the pod costs beyond its containers (informative).
    pub overhead: Option<Resources>,
    /// The sum of what its containers ask for (informative).
    pub resources: Option<Resources>,
}

/// Whose network the pod has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// A namespace of its own.
    Pod,
    /// The host's.
    Host,
}

/// Whose processes a pod's container sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PidMode {
    /// All of the pod's.
    Pod,
    /// Its own.
    Container,
    /// The host's.
    Host,
}

/// What a sandbox allows its containers. Fields that in other runtimes shape the pause process have nothing to shape here; they
/// are kept to be told back.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "the flags are the interface's own")]
pub struct SandboxSecurity {
    /// It may hold privileged containers.
    pub privileged: bool,
    /// Informative: there is no pause process.
    pub run_as_user: Option<i64>,
    /// Informative: there is no pause process.
    pub run_as_group: Option<i64>,
    /// Informative: there is no pause process.
    pub supplemental_groups: Vec<i64>,
    /// Informative: there is no pause process.
    pub readonly_rootfs: bool,
    /// The SELinux label of containers that name none; without effect on a host that has no SELinux.
    #[serde(default)]
    pub selinux: SelinuxOptions,
}

/// What resolv.conf says inside the pod.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DnsConfig {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// The `search` line.
    pub searches: Vec<String>,
    /// The `options` line.
    pub options: Vec<String>,
}

/// A port of the host that leads into the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// Of both ports.
    pub protocol: Protocol,
    /// Inside the pod.
    pub container_port: u16,
    /// On the host; `None`: not published (the kubelet lists such ports too).
    pub host_port: Option<u16>,
    /// The host's address it listens on; `None`: all.
    pub host_ip: Option<IpAddr>,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260.
    Sctp,
}

/// A pod's cgroup as the kubelet names it: a path below the hierarchy's root (`/kubepods/burstable/pod…`) for the cgroupfs driver, a
/// slice (`kubepods-pod….slice`) for systemd's. Relative to nothing else, without `..`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CgroupParent(String);

/// Why a text is no cgroup parent.
#[derive(Debug, thiserror::Error)]
#[error("cgroup parent {value:?} {problem}")]
pub struct InvalidCgroupParent {
    value: String,
    problem: &'static str,
}

impl CgroupParent {
    /// As the kubelet wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for CgroupParent {
    type Error = InvalidCgroupParent;

    fn try_from(value: String) -> Result<Self, InvalidCgroupParent> {
        let problem = if value.is_empty() {
            Some("is empty")
        } else if value.split('/').any(|part| part == ".." || part == ".") {
            Some("has a `.` or `..` in it")
        } else if value.bytes().any(|byte| byte.is_ascii_control()) {
            Some("has a control character in it")
        } else if value.len() > 4096 || value.split('/').any(|part| part.len() > 255) {
            Some("is longer than a path may be")
        } else {
            None
        };
        match problem {
            Some(problem) => Err(InvalidCgroupParent { value, problem }),
            None => Ok(Self(value)),
        }
    }
}

impl From<CgroupParent> for String {
    fn from(parent: CgroupParent) -> Self {
        parent.0
    }
}

/// What a pod as a whole may use; `None`: as before.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SandboxLimits {
    /// What the pod itself costs.
    pub overhead: Option<Resources>,
    /// The sum of its containers' limits.
    pub resources: Option<Resources>,
}

impl SandboxLimits {
    /// Both together. A CPU quota is summed as the share of time that it is; where one of the two has no limit, the sum has none.
    #[must_use]
    pub fn total(&self) -> Resources {
        let (Some(resources), Some(overhead)) = (&self.resources, &self.overhead) else {
            return self.resources.clone().unwrap_or_default();
        };
        let both = |one: i64, other: i64| {
            if one > 0 { one.saturating_add(other.max(0)) } else { one }
        };
        let period = if resources.cpu_period > 0 { resources.cpu_period } else { 100_000 };
        let of = if overhead.cpu_period > 0 { overhead.cpu_period } else { 100_000 };
        let quota = overhead.cpu_quota.max(0).saturating_mul(period) / of;
        Resources {
            cpu_quota: both(resources.cpu_quota, quota),
            cpu_shares: both(resources.cpu_shares, overhead.cpu_shares),
            memory_limit: both(resources.memory_limit, overhead.memory_limit),
            ..resources.clone()
        }
    }
}
