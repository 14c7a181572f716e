//! The files through which daemon and shim tell each other what must survive either of them.
//!
//! Owns their names, their JSON shapes and the version in each. Written whole: to a temporary name, then renamed. A field
//! is only ever added, with a default, because a newer daemon reads what an older shim wrote.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The version of the files here.
pub const VERSION: u32 = 1;
/// In a pod's directory: what its shim is to be ([`ShimConfig`]). Written by the daemon before it spawns the shim.
pub const SHIM_CONFIG: &str = "shim.json";
/// In a pod's directory: the shim's listening socket, made by the daemon, which passes it as standard input.
pub const SHIM_SOCKET: &str = "shim.sock";
/// In a pod's directory: what the shim has to say on its standard error.
pub const SHIM_LOG: &str = "shim.log";
/// In a bundle: the pid of the container's init. Written by the OCI runtime.
pub const INIT_PID: &str = "init.pid";
/// In a bundle: how the container ended ([`ExitRecord`]). Written by the shim.
pub const EXIT_RECORD: &str = "exit.json";

/// Set in a shim's environment: glibc's allocator keeps nothing back for later. What it would keep, some chunks of each size wherever they lie, holds on to pages
/// that are otherwise free: 25 KiB of a shim at rest, 40 KiB of one that has worked. It can be told no other way.
pub const SHIM_ENV: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0");

/// What a shim is told when it starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts of a pod, each a JSON boolean"
)]
pub struct ShimConfig {
    /// [`VERSION`].
    pub version: u32,
    /// The sandbox's id.
    pub sandbox: String,
    /// The host name inside the pod's UTS namespace; `None` leaves the pod in the host's.
    pub hostname: Option<String>,
    /// Where to make and pin the pod's network namespace; `None` if the pod uses the host's, or the daemon makes it.
    pub netns: Option<PathBuf>,
    /// The pod has an IPC namespace and a `/dev/shm` of its own.
    pub ipc: bool,
    /// The pod shares a PID namespace: the shim starts an init for it.
    pub shared_pid: bool,
    /// Where to mount the pod's `/dev/shm`; `None` when the pod uses the host's.
    pub shm: Option<PathBuf>,
    /// Size of the pod's `/dev/shm` in bytes.
    pub shm_size: u64,
    /// Set inside the pod's namespaces: `net.*` and the IPC namespace's `kernel.*` and `fs.mqueue.*`.
    pub sysctls: BTreeMap<String, String>,
    /// The same, where a host that refuses one is done without it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub optional_sysctls: BTreeMap<String, String>,
    /// `cgroup.procs` files that the shim writes itself into; empty leaves it in the daemon's cgroups.
    pub cgroup_procs: Vec<PathBuf>,
    /// `cgroup.procs` files that the shared PID namespace's init writes itself into: the pod's cgroup's, or the shim's where that can have none.
    pub pod_cgroup_procs: Vec<PathBuf>,
    /// The shim's own `oom_score_adj`, as low as the daemon found that it can be set.
    pub oom_score_adj: Option<i32>,
    /// The pod has a user namespace of its own, which owns its other ones; `None` leaves it in the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub userns: Option<IdMappings>,
    /// Where the roots of such a pod's containers are mounted: an empty directory that its users can reach, which they can't the pod's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub userns_rootfs: Option<PathBuf>,
}

/// A range of user or group ids, as it is inside of a user namespace and on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdMapping {
    /// The first, inside.
    pub inside: u32,
    /// The first, on the host.
    pub host: u32,
    /// How many.
    pub length: u32,
}

impl IdMapping {
    /// What the host calls the id that is `inside`; `None` if this range hasn't it.
    #[must_use]
    pub fn to_host(self, inside: u32) -> Option<u32> {
        let offset = inside.checked_sub(self.inside).filter(|offset| *offset < self.length)?;
        self.host.checked_add(offset)
    }
}

/// Which ids of a user namespace are which of the host's.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdMappings {
    /// Users.
    pub uids: Vec<IdMapping>,
    /// Groups.
    pub gids: Vec<IdMapping>,
}

impl IdMappings {
    /// What the host calls a user; `None` if the namespace hasn't got it.
    #[must_use]
    pub fn host_uid(&self, inside: u32) -> Option<u32> {
        self.uids.iter().find_map(|range| range.to_host(inside))
    }

    /// What the host calls a group; `None` if the namespace hasn't got it.
    #[must_use]
    pub fn host_gid(&self, inside: u32) -> Option<u32> {
        self.gids.iter().find_map(|range| range.to_host(inside))
    }

    /// What the host calls the namespace's root and its group.
    #[must_use]
    pub fn host_root(&self) -> Option<(u32, u32)> {
        self.host_uid(0).zip(self.host_gid(0))
    }
}

/// How a container ended: the shim's word, kept for a daemon that was not there to hear it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// [`VERSION`].
    pub version: u32,
    /// The exit code, or 128 + the signal's number.
    pub code: i32,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// Nanoseconds since the epoch, by the shim's clock when it reaped the process.
    pub finished_at: i64,
    /// The kernel's OOM killer struck inside the container's cgroup.
    pub oom_killed: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_found_in_its_range_and_nowhere_else() {
        let range = |inside, host, length| IdMapping { inside, host, length };
        let mappings = IdMappings {
            uids: vec![range(0, 100_000, 10), range(10, 7, 1)],
            gids: vec![range(0, u32::MAX - 1, 9)],
        };
        assert_eq!(mappings.host_uid(0), Some(100_000));
        assert_eq!(mappings.host_uid(9), Some(100_009));
        assert_eq!(mappings.host_uid(10), Some(7));
        assert_eq!(mappings.host_uid(11), None);
        assert_eq!((mappings.host_gid(1), mappings.host_gid(2)), (Some(u32::MAX), None));
        assert_eq!(mappings.host_root(), Some((100_000, u32::MAX - 1)));
        assert_eq!(IdMappings::default().host_root(), None);
    }

    #[test]
    fn what_an_older_daemon_wrote_for_its_shim_is_a_pod_in_the_hosts_user_namespace() {
        let text = r#"{"version":1,"sandbox":"s","hostname":null,"netns":null,"ipc":false,"shared_pid":false,"shm":null,"shm_size":0,
            "sysctls":{},"cgroup_procs":[],"pod_cgroup_procs":[],"oom_score_adj":null}"#;
        let config: ShimConfig = serde_json::from_str(text).unwrap();
        assert_eq!((&config.userns, &config.userns_rootfs), (&None, &None));
        let written = serde_json::to_string(&config).unwrap();
        assert!(!written.contains("userns"), "an older shim would refuse it: {written}");
    }
}
