//! Why there is no checkpoint, and why an archive is none.

use crate::id::ContainerId;
use crate::image::ApplyError;
use crate::sandbox::LookupError;
use crate::shim::ShimError;
use crate::store::StoreError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why there is no checkpoint. The container runs on, and nothing is at the location but what was there before.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// There is no such container, or more than one.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// It doesn't run.
    #[error("container {id} is {state}: only one that is running can be checkpointed")]
    NotRunning {
        /// Which.
        id: ContainerId,
        /// Its state.
        state: &'static str,
    },
    /// They are switched off.
    #[error("checkpoints are off: criu = false in davit's configuration")]
    Off,
    /// There is no CRIU.
    #[error("criu is missing: there is none in PATH")]
    Missing,
    /// It does not work with this kernel.
    #[error("criu does not work here: {0}")]
    Broken(String),
    /// The OCI runtime can't use it.
    #[error("criu can't be used by handler {handler:?}: {} was built without it", path.display())]
    Without {
        /// The handler.
        handler: String,
        /// The OCI runtime.
        path: PathBuf,
    },
    /// It does not even say so.
    #[error("criu hangs: `criu check` took longer than {} ms", after.as_millis())]
    Hung {
        /// How long it was waited for.
        after: Duration,
    },
    /// No archive can be there.
    #[error("location {:?} {problem}", path.display())]
    Location {
        /// What was asked for.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Another one is being made.
    #[error("container {id} is being checkpointed")]
    Busy {
        /// Which.
        id: ContainerId,
    },
    /// It took longer than it was given.
    #[error("the checkpoint of container {id} took longer than {} s", after.as_secs())]
    Timeout {
        /// Which.
        id: ContainerId,
        /// How long it was given.
        after: Duration,
    },
    /// The shim or the OCI runtime could not.
    #[error("checkpoint container {id}")]
    Shim {
        /// Which.
        id: ContainerId,
        /// Why.
        #[source]
        source: ShimError,
    },
    /// A file of it could not be read or written.
    #[error("{step} {}", path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A directory of it could not be made.
    #[error("keep the checkpoint's files")]
    Store(#[from] StoreError),
    /// The container's facts could not be put into words.
    #[error("write the container's configuration as JSON")]
    Encode(#[from] serde_json::Error),
    /// What makes it has died.
    #[error("make the checkpoint")]
    Task(#[source] io::Error),
}

/// Why a file is no archive that can be restored here. Each names the file.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It can't be opened or read.
    #[error("open the checkpoint {}", path.display())]
    Open {
        /// The archive.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is no file that may be believed.
    #[error("the checkpoint {} {problem}", path.display())]
    File {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// It is no sound archive.
    #[error("the checkpoint {} is broken", path.display())]
    Tar {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ApplyError,
    },
    /// Its `rootfs-diff.tar` is no sound archive, or can't be unpacked.
    #[error("rootfs-diff.tar of the checkpoint {}", path.display())]
    Diff {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ApplyError,
    },
    /// An entry is missing.
    #[error("the checkpoint {} has no {entry}: it is not whole, or davit has not made it", path.display())]
    Missing {
        /// The archive.
        path: PathBuf,
        /// What is missing.
        entry: &'static str,
    },
    /// An entry that davit does not put there.
    #[error("the checkpoint {} has an entry {entry:?}, which davit does not know", path.display())]
    Unknown {
        /// The archive.
        path: PathBuf,
        /// Its name.
        entry: String,
    },
    /// An entry is no file, or no directory, where it has to be one.
    #[error("the checkpoint {} has an entry {entry:?} of the wrong kind", path.display())]
    Kind {
        /// The archive.
        path: PathBuf,
        /// Its name.
        entry: String,
    },
    /// An entry makes no sense.
    #[error("read {entry} of the checkpoint {}", path.display())]
    Json {
        /// The archive.
        path: PathBuf,
        /// Which.
        entry: &'static str,
        /// Where it stops making sense.
        #[source]
        source: serde_json::Error,
    },
    /// A name in `deleted.files` is none below a root.
    #[error("deleted.files of the checkpoint {} has {name:?}, which is no absolute path without `..`", path.display())]
    Deleted {
        /// The archive.
        path: PathBuf,
        /// As it is there.
        name: String,
    },
    /// It was made by a davit that knows more, or less.
    #[error("the checkpoint {} is of version {found}; this davit restores version {known}", path.display())]
    Version {
        /// The archive.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// Its processes can't run here.
    #[error("the checkpoint {} is of a machine with the architecture {found:?}; this one is {here}", path.display())]
    Architecture {
        /// The archive.
        path: PathBuf,
        /// Its architecture.
        found: String,
        /// This machine's.
        here: &'static str,
    },
    /// Its pod had a user namespace.
    #[error("the checkpoint {} is of a container in a user namespace, which can't be restored", path.display())]
    UserNamespace {
        /// The archive.
        path: PathBuf,
    },
    /// What is unpacked could not be kept.
    #[error("unpack the checkpoint")]
    Store(#[from] StoreError),
}
