//! Pauses: containers that stand still until somebody lets them go on.
//!
//! Owns their order: one at a time for each container, in the order they were asked for; they wait in its slot. What is shown and written down is what the
//! shim has done, and after a restart what it tells: whether a container is frozen is the kernel's to say, and an OCI runtime run by hand may have frozen
//! it too. So both are passed on whatever the record says.
//!
//! ```text
//! Running{} ──Pause──► (shim) ──► Running{paused_at} ──Resume, or a stop with a grace──► (shim) ──► Running{}
//!                                        └── killed, or stopped at once ──► Exited
//! ```

use super::handle::Reply;
use super::job::Outcome;
use super::task::{Next, Pod};
use crate::container::{ContainerState, KillContainerError, Motion, PauseContainerError};
use crate::freezer;
use crate::id::ContainerId;
use crate::shim::ShimClient;
use std::sync::Arc;

impl Pod {
    pub(super) fn move_container(
        &mut self,
        id: &ContainerId,
        motion: Motion,
        reply: Reply<(), PauseContainerError>,
    ) {
        match self.may_move(id, motion) {
            Ok(_) => self.queue_motion(id, motion, Some(reply)),
            Err(error) => drop(reply.send(Err(Arc::new(error)))),
        }
    }

    /// Lets a container go on that is paused, as it is to be stopped: its signal is of no use to it before.
    pub(super) fn wake_to_stop(&mut self, id: &ContainerId) {
        let paused = self.slots.get(id).is_some_and(|slot| slot.record.state.paused_at().is_some());
        if paused {
            self.queue_motion(id, Motion::Resume, None);
        }
    }

    fn queue_motion(
        &mut self,
        id: &ContainerId,
        motion: Motion,
        reply: Option<Reply<(), PauseContainerError>>,
    ) {
        let Some(slot) = self.slots.get_mut(id) else { return };
        slot.motions.push_back((motion, reply));
        if slot.motions.len() == 1 {
            self.begin_motion(id);
        }
    }

    fn may_move(
        &self,
        id: &ContainerId,
        motion: Motion,
    ) -> Result<ShimClient, PauseContainerError> {
        let slot = self.slot(id)?;
        let refuse = |state| PauseContainerError::State { id: id.clone(), state };
        if slot.stopping.is_some() && motion == Motion::Pause {
            return Err(refuse("being stopped"));
        }
        match (&slot.record.state, &self.shim) {
            (ContainerState::Running { .. }, Some(shim)) if slot.removing.is_empty() => {
                Ok(shim.client.clone())
            }
            (_, _) => Err(refuse(slot.state_name())),
        }
    }

    /// Begins the first that may still be done.
    fn begin_motion(&mut self, id: &ContainerId) {
        while let Some(motion) = self.next_motion(id) {
            match self.may_move(id, motion) {
                Ok(client) => {
                    self.busy += 1;
                    let id = id.clone();
                    self.job(async move {
                        let result = motion.perform(&client, &id).await;
                        Outcome::Moved { id, motion, result }
                    });
                    return;
                }
                Err(error) => self.answer_motion(id, Err(error)),
            }
        }
    }

    fn next_motion(&self, id: &ContainerId) -> Option<Motion> {
        self.slots.get(id)?.motions.front().map(|(motion, _)| *motion)
    }

    fn answer_motion(&mut self, id: &ContainerId, answer: Result<(), PauseContainerError>) {
        let waiting = self.slots.get_mut(id).and_then(|slot| slot.motions.pop_front());
        if let Some((_, Some(reply))) = waiting {
            drop(reply.send(answer.map_err(Arc::new)));
        } else if let Err(error) = answer {
            tracing::warn!(container = %id, error = &error as &dyn std::error::Error, "a paused container that is to be stopped");
        }
    }

    pub(super) fn moved(
        &mut self,
        id: &ContainerId,
        motion: Motion,
        result: Result<(), PauseContainerError>,
    ) {
        self.busy -= 1;
        if result.is_ok() {
            self.apply(id, motion.event());
        }
        self.answer_motion(id, result);
        self.begin_motion(id);
    }

    /// Shows a container as the kernel has it, if nobody is about to change that.
    pub(super) fn look_at_freezer(&mut self, id: &ContainerId) -> Next {
        let pod = self.shared.pod_group(&self.record.id, &self.spec);
        let frozen = pod.ok().and_then(|pod| freezer::is_frozen(&self.shared, &pod, id));
        let (Some(frozen), Some(slot)) = (frozen, self.slots.get(id)) else { return Next::Go };
        let runs = matches!(slot.record.state, ContainerState::Running { .. });
        let is_shown = slot.record.state.paused_at().is_some();
        if runs && slot.motions.is_empty() && frozen != is_shown {
            let motion = if frozen { Motion::Pause } else { Motion::Resume };
            tracing::info!(container = %id, "noticed: somebody else has had it {}d", motion.verb());
            self.apply(id, motion.event());
        }
        Next::Go
    }

    pub(super) fn signal_target(&self, id: &ContainerId) -> Result<ShimClient, KillContainerError> {
        let slot = self.slot(id)?;
        match (&slot.record.state, &self.shim) {
            (ContainerState::Created { .. } | ContainerState::Running { .. }, Some(shim)) => {
                Ok(shim.client.clone())
            }
            (_, _) => Err(KillContainerError::State { id: id.clone(), state: slot.state_name() }),
        }
    }
}
