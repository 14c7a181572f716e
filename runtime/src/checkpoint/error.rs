//! Why there is no checkpoint. The container runs on, and nothing is at the location but what was there before.

use crate::id::ContainerId;
use crate::sandbox::LookupError;
use crate::shim::ShimError;
use crate::store::StoreError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// See the module.
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
