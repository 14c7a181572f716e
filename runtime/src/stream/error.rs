//! What can go wrong with a stream once it is open, and with one to a port.

use crate::id::SandboxId;
use crate::sandbox::LookupError;

/// Why it is not known how a session ended. What it ran may have ended or be about to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The shim closed the connection without a last word: it has ended, or failed.
    #[error("the pod's shim closed the stream without telling how it ended: {reason}")]
    Lost {
        /// What the connection said.
        reason: String,
    },
}

/// Why no connection can be made into a pod.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ForwardError {
    /// There is none, or more than one.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// It is stopped, or its shim is gone.
    #[error("pod sandbox {id} is not ready")]
    NotReady {
        /// Which.
        id: SandboxId,
    },
}
