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
/// In a pod's directory: the shim's listening socket, made by the daemon.
pub const SHIM_SOCKET: &str = "shim.sock";
/// In a pod's directory: what the shim has to say on its standard error.
pub const SHIM_LOG: &str = "shim.log";
/// In a bundle: the pid of the container's init. Written by the OCI runtime.
pub const INIT_PID: &str = "init.pid";
/// In a bundle: how the container ended ([`ExitRecord`]). Written by the shim.
pub const EXIT_RECORD: &str = "exit.json";
/// The descriptor on which a shim finds its listening socket.
pub const SHIM_FD: i32 = 3;

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
    /// Where to pin the pod's network namespace; `None` leaves the pod in the host's.
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
    /// `cgroup.procs` files that the shim writes itself into; empty leaves it in the daemon's cgroups.
    pub cgroup_procs: Vec<PathBuf>,
    /// The cgroup of the pod (its parent), as a path below the hierarchy's root: the shared PID namespace's init moves there.
    pub pod_cgroup_procs: Vec<PathBuf>,
    /// The shim's own `oom_score_adj`, as low as the daemon found that it can be set.
    pub oom_score_adj: Option<i32>,
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
