//! A container's stop: its signal, the grace, SIGKILL.
//!
//! Owns the sequence. There is one per container however many ask; what they ask for moves its deadline. It looks at the pod's view for the end, not
//! at the signal's success: a container is stopped when its exit is on record.

use super::{ContainerState, Signal, StopContainerError};
use crate::error::chain;
use crate::id::ContainerId;
use crate::sandbox::SandboxView;
use crate::shim::{ShimClient, ShimError};
use crate::store::{StoreError, reach};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// What a stop works with.
pub(crate) struct Stop {
    pub(crate) id: ContainerId,
    pub(crate) signal: Signal,
    pub(crate) client: ShimClient,
    /// When the grace ends; may be brought nearer.
    pub(crate) deadline: watch::Receiver<Instant>,
    /// How long it may take to end after SIGKILL.
    pub(crate) kill: Duration,
}

type View = watch::Receiver<Option<Arc<SandboxView>>>;

/// Answers when the container has ended, or its pod has.
pub(crate) async fn exited(mut view: View, id: &ContainerId) {
    let ended = |view: &Option<Arc<SandboxView>>| {
        let container = view.as_ref().and_then(|view| view.containers.get(id));
        container.is_none_or(|container| matches!(container.state, ContainerState::Exited(_)))
    };
    // The task that publishes is gone: so is the pod.
    drop(view.wait_for(ended).await);
}

/// Ends a container.
///
/// # Errors
/// [`StopContainerError`]: it is there still.
pub(crate) async fn stop(stop: Stop, view: View) -> Result<(), StopContainerError> {
    let failed = |source: StoreError| {
        let source = ShimError::Failed { message: chain(&source) };
        StopContainerError::Shim { id: stop.id.clone(), source }
    };
    reach("stop.asked").map_err(failed)?;
    if *stop.deadline.borrow() > Instant::now() {
        signal(&stop, stop.signal).await?;
        reach("stop.signalled").map_err(failed)?;
        let mut deadline = stop.deadline.clone();
        tokio::select! {
            () = exited(view.clone(), &stop.id) => return Ok(()),
            () = passed(&mut deadline) => {}
        }
    }
    match stop.client.kill_all(stop.id.as_str()).await {
        // It has ended meanwhile, or its shim has and tells its end otherwise.
        Ok(())
        | Err(ShimError::State { .. } | ShimError::Unknown { .. } | ShimError::Gone { .. }) => {}
        Err(
            source @ (ShimError::Runtime { .. }
            | ShimError::Deadline { .. }
            | ShimError::Short { .. }
            | ShimError::Old
            | ShimError::Failed { .. }),
        ) => {
            return Err(StopContainerError::Shim { id: stop.id, source });
        }
    }
    reach("stop.killed").map_err(failed)?;
    let ended = tokio::time::timeout(stop.kill, exited(view, &stop.id)).await;
    ended.map_err(|_elapsed| StopContainerError::Alive { id: stop.id.clone(), after: stop.kill })
}

async fn signal(stop: &Stop, signal: Signal) -> Result<(), StopContainerError> {
    match stop.client.signal(stop.id.as_str(), signal.number()).await {
        Ok(())
        | Err(ShimError::State { .. } | ShimError::Unknown { .. } | ShimError::Gone { .. }) => {
            Ok(())
        }
        Err(
            source @ (ShimError::Runtime { .. }
            | ShimError::Deadline { .. }
            | ShimError::Short { .. }
            | ShimError::Old
            | ShimError::Failed { .. }),
        ) => Err(StopContainerError::Shim { id: stop.id.clone(), source }),
    }
}

/// Answers when the deadline, wherever it has been moved to, has passed.
async fn passed(deadline: &mut watch::Receiver<Instant>) {
    loop {
        let until = *deadline.borrow_and_update();
        tokio::select! {
            () = tokio::time::sleep_until(until) => return,
            changed = deadline.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}
