//! What a job that a pod's task had started comes back with.

use super::error::{RemoveSandboxError, StopSandboxError};
use crate::container::{
    CreateContainerError, MadeContainer, Motion, PauseContainerError, RemoveContainerError,
    StartContainerError, StopContainerError, UpdateContainerError, Updated,
};
use crate::id::ContainerId;

/// A job's result, for the task to apply and to tell those who asked.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// A container was made, or not.
    Created { name: (String, u32), result: Result<Box<MadeContainer>, CreateContainerError> },
    /// A container was started (when, by the shim's clock), or not.
    Started { id: ContainerId, result: Result<i64, StartContainerError> },
    /// A container has ended, or would not.
    Stopped { id: ContainerId, result: Result<(), StopContainerError> },
    /// A container is gone but for its entry, or is not.
    Removed { id: ContainerId, result: Result<(), RemoveContainerError> },
    /// A container's limits were changed, or not.
    Updated { id: ContainerId, result: Result<Box<Updated>, UpdateContainerError> },
    /// A container stands still or goes on, or is as it was.
    Moved { id: ContainerId, motion: Motion, result: Result<(), PauseContainerError> },
    /// What an interrupted creation of a container had left is gone, or was told.
    Undone,
    /// A silent shim was killed.
    ShimKilled(Ended),
    /// The pod's processes and network are gone, or not.
    SandboxStopped(Result<(), StopSandboxError>),
    /// All of the pod but its entry is gone, or is not.
    SandboxRemoved(Result<(), RemoveSandboxError>),
}

/// Whether a process that was to be killed has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    Yes,
    /// Not in time.
    No,
    /// It could not be: why.
    NotKilled(String),
}
