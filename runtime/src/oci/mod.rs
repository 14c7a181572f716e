//! OCI runtimes and the specs they are given.
//!
//! Owns everything between "a container is to be like this" and the JSON that an OCI runtime reads, and the knowledge of which runtimes
//! there are ([`handlers`]). Starts no container: the pod's shim does. A spec is decided once, when its container is created, and never
//! changed; what the host and the daemon can do is found once, at start ([`Host`]).
//!
//! Trust: the pod's fields come from whoever may make pods, and are checked for sense; the image's (user, environment, working directory,
//! volumes, its passwd file) come from anybody, and decide nothing outside of the container.

pub(crate) mod apparmor;
mod binds;
mod build;
mod capabilities;
mod devices;
mod env;
pub mod handlers;
mod host;
pub(crate) mod mountinfo;
mod mounts;
mod namespaces;
mod path;
mod process;
mod resources;
pub mod sealed;
mod seccomp;
pub mod selinux;
mod syscalls;
mod user;
mod userns;

pub use crate::looks::Spot;
pub use apparmor::AppArmorError;
pub use binds::MountError;
pub use build::{SpecError, build};
pub use capabilities::CapabilityError;
pub use devices::DeviceError;
pub use env::EnvError;
pub use handlers::{Handler, Handlers, Kind};
pub use host::{Host, HostConfig, HostError, MissingSources};
pub use namespaces::NamespaceError;
pub use path::PathProblem;
pub use process::{ExecAs, ProcessError, Terminal, exec_process};
pub use resources::{LimitChange, ResourceError, limit_change};
pub use seccomp::SeccompError;
pub use user::{UserError, UserFiles};
pub use userns::MappedBind;

#[cfg(test)]
mod accepted;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use crate::container::{ContainerSpec, Signal, User};
use crate::id::{ContainerId, SandboxId};
use crate::sandbox::SandboxSpec;
use oci_spec::runtime::Spec;
use std::path::{Path, PathBuf};

/// What an image says about its containers. Hostile.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageDefaults {
    /// What runs.
    pub entrypoint: Vec<String>,
    /// Arguments of what runs, or itself what runs.
    pub cmd: Vec<String>,
    /// Each `NAME=value`.
    pub env: Vec<String>,
    /// Where it runs; empty: at the root.
    pub working_dir: String,
    /// `user`, `uid`, and with a colon a group or gid behind; empty: root.
    pub user: String,
    /// A name or number; empty: SIGTERM.
    pub stop_signal: String,
    /// Directories that have to be there.
    pub volumes: Vec<String>,
}

/// Where a pod's namespaces and files are. A namespace is `None` where the pod uses the host's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodPaths {
    /// Network namespace.
    pub netns: Option<PathBuf>,
    /// IPC namespace.
    pub ipcns: Option<PathBuf>,
    /// UTS namespace.
    pub utsns: Option<PathBuf>,
    /// User namespace.
    pub userns: Option<PathBuf>,
    /// PID namespace that the container is to join: the pod's shared one, or that of the container it targets.
    pub pidns: Option<PathBuf>,
    /// The pod's `/dev/shm`; `None`: the host's with the host's IPC namespace, else one for each container.
    pub shm: Option<PathBuf>,
    /// What its containers see as `/etc/hostname`.
    pub hostname_file: Option<PathBuf>,
    /// What its containers see as `/etc/resolv.conf`.
    pub resolv_conf: Option<PathBuf>,
    /// Its host name.
    pub hostname: String,
}

/// Everything a spec is made from.
#[derive(Debug, Clone, Copy)]
pub struct SpecInput<'a> {
    /// The container's id.
    pub id: &'a ContainerId,
    /// Its pod's id.
    pub sandbox_id: &'a SandboxId,
    /// What it is asked to be.
    pub container: &'a ContainerSpec,
    /// What its pod is.
    pub sandbox: &'a SandboxSpec,
    /// What its image says.
    pub image: &'a ImageDefaults,
    /// The image's users and groups.
    pub users: &'a UserFiles,
    /// Where its pod's parts are.
    pub pod: &'a PodPaths,
    /// Where its root is mounted when the OCI runtime runs; absolute.
    pub rootfs: &'a Path,
    /// Below it, by the index of their mounts, the images are mounted then that are volumes; absolute.
    pub volumes: &'a Path,
    /// The directory in which mapped mounts are there when the OCI runtime runs; absolute.
    pub mapped: &'a Path,
    /// The OCI runtime.
    pub handler: &'a Handler,
    /// The host.
    pub host: &'a Host,
    /// Told which of the host's files is looked at.
    pub spot: &'a Spot,
}

/// A directory to make beneath a container's root unless it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MakeDir {
    /// Absolute, inside; without `..`, but through symlinks of the image, if it has such.
    pub path: PathBuf,
    /// Its owner, as the container calls it.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its permissions.
    pub mode: u32,
}

/// Where the image of the mount with this index is mounted, for the spec to bind from.
#[must_use]
pub fn volume_target(volumes: &Path, index: usize) -> PathBuf {
    volumes.join(index.to_string())
}

/// A spec, and what else the making of the container needs to know.
#[derive(Debug, Clone)]
pub struct Built {
    /// For `config.json`. It carries the `oom_score_adj`, raised to what this host can set.
    pub spec: Spec,
    /// Whom its command runs as. `groups` holds the primary one too, first, as the kernel does and clients expect.
    pub user: User,
    /// Working directory and image volumes.
    pub make_dirs: Vec<MakeDir>,
    /// What the shim has to mount for the OCI runtime to find.
    pub mapped: Vec<MappedBind>,
    /// Sent to stop it.
    pub stop_signal: Signal,
    /// It sees none but its own processes.
    pub own_pid_namespace: bool,
    /// What its processes and files are labelled; `None`: the host has no SELinux, or it is privileged.
    pub labels: Option<selinux::Labels>,
    /// Volumes that have to get the files' label.
    pub relabel: Vec<PathBuf>,
    /// What was asked for and isn't done, each a sentence for the log.
    pub warnings: Vec<String>,
}
