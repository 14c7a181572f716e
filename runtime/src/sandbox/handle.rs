//! The way to a pod's task: its commands, and the snapshot that it publishes.
//!
//! Owns the message types. A call waits for its answer and owns nothing: when the caller goes away, the answer goes nowhere and the work
//! goes on.

use super::SandboxView;
use super::error::{RemoveSandboxError, RunSandboxError, StopSandboxError, UpdateSandboxError};
use super::job::Outcome;
use super::shim::Found;
use super::watch_shim::Hearing;
use crate::checkpoint::Archive;
use crate::container::{
    ContainerSpec, CreateContainerError, ExecError, KillContainerError, Motion,
    PauseContainerError, RemoveContainerError, ReopenLogError, Resources, StartContainerError,
    StopContainerError, UpdateContainerError,
};
use crate::exec::ExecTarget;
use crate::id::{ContainerId, SandboxId};
use crate::sandbox::{SandboxLimits, SandboxSpec};
use crate::shim::ShimClient;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// An answer; the error is shared by all who joined.
pub(crate) type Reply<T, E> = oneshot::Sender<Result<T, Arc<E>>>;

/// What a pod's task is asked to do.
#[derive(Debug)]
pub(crate) enum Command {
    /// Say when the pod is ready. The first of these comes with its creation; the others are retries of the same call.
    Run { spec: Arc<SandboxSpec>, reply: Reply<SandboxId, RunSandboxError> },
    /// End everything in it, and its network.
    Stop { reply: Reply<(), StopSandboxError> },
    /// Stop it, and forget it.
    Remove { reply: Reply<(), RemoveSandboxError> },
    /// Make a container.
    Create { spec: Box<ContainerSpec>, reply: Reply<ContainerId, CreateContainerError> },
    /// Make a container from a checkpoint.
    Restore { wanted: Box<Wanted>, reply: Reply<ContainerId, CreateContainerError> },
    /// Start a container.
    Start { id: ContainerId, reply: Reply<(), StartContainerError> },
    /// Stop a container.
    StopContainer { id: ContainerId, grace: Duration, reply: Reply<(), StopContainerError> },
    /// Stop a container at once, and forget it.
    RemoveContainer { id: ContainerId, reply: Reply<(), RemoveContainerError> },
    /// Change a container's limits.
    UpdateContainer {
        id: ContainerId,
        asked: Box<Resources>,
        reply: Reply<(), UpdateContainerError>,
    },
    /// Have a container stand still, or go on.
    Move { id: ContainerId, motion: Motion, reply: Reply<(), PauseContainerError> },
    /// What a signal to a container needs.
    Signal { id: ContainerId, reply: Reply<ShimClient, KillContainerError> },
    /// Take note of what the pod as a whole may use.
    Update { limits: Box<SandboxLimits>, reply: Reply<(), UpdateSandboxError> },
    /// What an exec in a container needs.
    Exec { id: ContainerId, reply: Reply<ExecTarget, ExecError> },
    /// What attaching to a container needs.
    Attach { id: ContainerId, reply: Reply<ExecTarget, ExecError> },
    /// What reopening a container's log needs.
    ReopenLog { id: ContainerId, reply: Reply<ShimClient, ReopenLogError> },
}

/// A container that is to be restored.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// What it was asked to be.
    pub(crate) spec: Box<ContainerSpec>,
    pub(crate) archive: Arc<Archive>,
    /// How long the OCI runtime may take.
    pub(crate) timeout: Duration,
}

/// What reaches a pod's task.
#[derive(Debug)]
pub(crate) enum Message {
    /// From a caller, whose span the work is done in.
    Command(Command, tracing::Span),
    /// From a job that the task had started.
    Outcome(Box<Outcome>),
    /// From the pod's shim.
    Event(davit_proto::shim::Event),
    /// The pod's shim, which did not answer when this daemon took up the pod, does.
    ShimFound(Box<Found>),
    /// Whether the pod's shim answers has changed.
    ShimHeard(Hearing),
    /// The pod's shim has ended.
    ShimEnded,
    /// Whether the kernel keeps this container frozen may have changed.
    Freezer(ContainerId),
}

/// A way to a pod's task.
#[derive(Debug, Clone)]
pub(crate) struct PodHandle {
    sender: mpsc::Sender<Message>,
    view: watch::Receiver<Option<Arc<SandboxView>>>,
}

/// The pod's task is gone: the pod was removed, or never came to be.
#[derive(Debug)]
pub(crate) struct Gone;

impl PodHandle {
    pub(super) fn new(
        sender: mpsc::Sender<Message>,
        view: watch::Receiver<Option<Arc<SandboxView>>>,
    ) -> Self {
        Self { sender, view }
    }

    /// Sends a command and waits for its answer.
    pub(crate) async fn call<T, E>(
        &self,
        command: impl FnOnce(Reply<T, E>) -> Command,
    ) -> Result<Result<T, Arc<E>>, Gone> {
        let (reply, answer) = oneshot::channel();
        let message = Message::Command(command(reply), tracing::Span::current());
        self.sender.send(message).await.map_err(|_undelivered| Gone)?;
        answer.await.map_err(|_dropped| Gone)
    }

    /// Has the task look whether the kernel keeps a container frozen.
    pub(crate) async fn look_at_freezer(&self, id: ContainerId) {
        // A pod that is gone has nothing to look at.
        drop(self.sender.send(Message::Freezer(id)).await);
    }

    /// The pod as it last was; `None` while it is being created.
    pub(crate) fn view(&self) -> Option<Arc<SandboxView>> {
        self.view.borrow().clone()
    }

    /// The pod's changes.
    pub(crate) fn watch(&self) -> watch::Receiver<Option<Arc<SandboxView>>> {
        self.view.clone()
    }
}
