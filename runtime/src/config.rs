//! How a [`crate::Runtime`] is to be, once the command line and the files have been made sense of.

use crate::image::ImagesConfig;
use crate::network::NetworkConfig;
use crate::oci::HostConfig;
use crate::oci::handlers::HandlersConfig;
use crate::sandbox::CgroupParent;
use std::path::PathBuf;
use std::time::Duration;

/// A runtime's configuration. Paths are absolute.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// What is kept over a reboot: images and writable layers.
    pub root: PathBuf,
    /// What is of this boot: records, sockets.
    pub state: PathBuf,
    /// Where network namespaces are pinned.
    pub netns_dir: PathBuf,
    /// The `davit-shim` executable.
    pub shim: PathBuf,
    /// The cgroup that all shims live in, as a path below the hierarchy's root; `None` leaves them in the daemon's.
    pub shim_cgroup: Option<String>,
    /// Images.
    pub images: ImagesConfig,
    /// Pod networks.
    pub network: NetworkConfig,
    /// OCI runtimes.
    pub handlers: HandlersConfig,
    /// The cgroup, or with systemd the slice, below which pods have theirs that name none.
    pub pod_cgroup_parent: CgroupParent,
    /// Containers can be checkpointed, where CRIU works.
    pub criu: bool,
    /// Where CDI specifications are; a later directory has precedence.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// What may be chosen of the host.
    pub host: HostConfig,
    /// The longest content of one log line, in bytes.
    pub max_log_line: u32,
    /// How many pods and containers are made or started at once, and how many pods ended.
    pub creations: usize,
    /// For how many pods to come a shim and a network namespace are kept ready; 0: none.
    pub pods_ahead: usize,
    /// How many events are kept; 0: none.
    pub events_retain: usize,
    /// Between two sweeps of what belongs to nobody.
    pub sweep_interval: Duration,
    /// How long things may take.
    pub deadlines: Deadlines,
}

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// A shim: to come up, and to answer a call that runs no OCI runtime.
    pub shim: Duration,
    /// One run of an OCI runtime, but to start a container.
    pub runtime: Duration,
    /// One run of an OCI runtime that starts a container. One that takes longer is killed.
    pub start: Duration,
    /// A container that got SIGKILL: to end.
    pub kill: Duration,
    /// Output that comes after the command of an exec has ended, because a child of it holds the pipe.
    pub drain: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            shim: Duration::from_secs(10),
            runtime: Duration::from_secs(60),
            start: Duration::from_secs(60),
            kill: Duration::from_secs(30),
            drain: Duration::from_secs(5),
        }
    }
}
