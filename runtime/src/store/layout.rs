//! Where everything is.

use super::StoreError;
use crate::id::{ContainerId, SandboxId};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// What is made below the root: by the images, by the pods, by the network (whose place the configuration names), by the journal, by checkpoints, by `davit run`,
/// by the store, for the lock.
const IN_ROOT: [&str; 9] = [
    "images",
    "layers",
    "containers",
    "network",
    "events",
    "checkpoints",
    "logs",
    super::identity::FILE,
    "lock",
];
/// What is made below the state directory: by the pods, by the handlers and their trials, by the store, for the lock.
const IN_STATE: [&str; 8] =
    ["pods", SHM, "rootfs", "quarantine", "oci", "handlers.json", "boot_id", "lock"];
/// Where pods' `/dev/shm` are, and what each was called when it was in its pod's own directory.
const SHM: &str = "shm";

/// The two roots and the paths below them.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
    state: PathBuf,
}

impl Layout {
    /// Below `root` (kept over a reboot) and `state` (of this boot).
    #[must_use]
    pub fn new(root: PathBuf, state: PathBuf) -> Self {
        Self { root, state }
    }

    /// What is kept over a reboot.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What is of this boot.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Everything that davit makes below the two, whichever part of it: what `davit wipe` removes. What else is there is not davit's.
    #[must_use]
    pub fn everything(&self) -> Vec<PathBuf> {
        let below = |directory: &Path, names: &[&str]| -> Vec<PathBuf> {
            names.iter().map(|name| directory.join(name)).collect()
        };
        [below(&self.root, &IN_ROOT), below(&self.state, &IN_STATE)].concat()
    }

    /// All pods.
    #[must_use]
    pub fn pods(&self) -> PathBuf {
        self.state.join("pods")
    }

    /// One pod.
    #[must_use]
    pub fn pod(&self, id: &SandboxId) -> PathBuf {
        self.pods().join(id.as_str())
    }

    /// One pod's record.
    #[must_use]
    pub fn sandbox_record(&self, id: &SandboxId) -> PathBuf {
        self.pod(id).join("sandbox.json")
    }

    /// All pods' `/dev/shm`: a mount of its own, so that all but one can be taken away at once from who need not see them.
    #[must_use]
    pub fn shms(&self) -> PathBuf {
        self.state.join(SHM)
    }

    /// One pod's `/dev/shm`. That of a pod which an earlier davit made is in the pod's own directory.
    #[must_use]
    pub fn shm(&self, id: &SandboxId) -> PathBuf {
        let earlier = self.pod(id).join(SHM);
        if earlier.symlink_metadata().is_ok() { earlier } else { self.shms().join(id.as_str()) }
    }

    /// One pod's containers.
    #[must_use]
    pub fn containers(&self, id: &SandboxId) -> PathBuf {
        self.pod(id).join("containers")
    }

    /// One container's OCI bundle.
    #[must_use]
    pub fn bundle(&self, sandbox: &SandboxId, id: &ContainerId) -> PathBuf {
        self.containers(sandbox).join(id.as_str())
    }

    /// One container's record.
    #[must_use]
    pub fn container_record(&self, sandbox: &SandboxId, id: &ContainerId) -> PathBuf {
        self.bundle(sandbox, id).join("container.json")
    }

    /// Where the roots of containers with a user namespace are mounted while they are made: empty, and for everybody to enter.
    #[must_use]
    pub fn userns_rootfs(&self) -> PathBuf {
        self.state.join("rootfs")
    }

    /// What OCI runtimes keep of containers, unless the configuration names another place.
    #[must_use]
    pub fn oci(&self) -> PathBuf {
        self.state.join("oci")
    }

    /// What could not be read.
    #[must_use]
    pub fn quarantine(&self) -> PathBuf {
        self.state.join("quarantine")
    }

    /// The boot that the records are of.
    #[must_use]
    pub fn boot_id(&self) -> PathBuf {
        self.state.join("boot_id")
    }

    /// The stored events.
    #[must_use]
    pub fn events(&self) -> PathBuf {
        self.root.join("events")
    }

    /// All writable layers.
    #[must_use]
    pub fn writable_layers(&self) -> PathBuf {
        self.root.join("containers")
    }

    /// One container's writable layer.
    #[must_use]
    pub fn writable(&self, id: &ContainerId) -> PathBuf {
        self.writable_layers().join(id.as_str())
    }
}

/// Makes a directory (and those above it) that only its owner can enter; one that is there is kept.
pub(crate) fn ensure_dir(path: &Path) -> Result<(), StoreError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(StoreError::io("make", path))
}

/// Lets everybody pass through `directory`, without seeing what is in it.
pub(crate) fn let_pass(directory: &Path) -> Result<(), StoreError> {
    let opened = (|| -> io::Result<()> {
        let mode = fs::metadata(directory)?.permissions().mode();
        fs::set_permissions(directory, fs::Permissions::from_mode(mode | 0o111))
    })();
    opened.map_err(StoreError::io("let others pass through", directory))
}

/// Makes a new directory with this mode, whatever the umask; one that is there is an error.
pub(crate) fn new_dir(path: &Path, mode: u32) -> Result<(), StoreError> {
    let made = (|| -> io::Result<()> {
        fs::DirBuilder::new().mode(mode).create(path)?;
        rustix::fs::chmod(path, rustix::fs::Mode::from_raw_mode(mode))?;
        Ok(())
    })();
    made.map_err(StoreError::io("make", path))
}
