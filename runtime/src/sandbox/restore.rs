//! What a pod's task does about a container that is to be restored from a checkpoint.
//!
//! Owns who may: nobody joins a restoration, and a name that somebody has is taken, since two restorations are never the same container. The work
//! itself is in [`crate::container`].

use super::handle::{Reply, Wanted};
use super::job::Outcome;
use super::slot::Slot;
use super::task::{InFlight, Pod};
use crate::container::{
    self, ContainerPid, ContainerSpec, ContainerState, CreateContainerError, Restoration,
};
use crate::id::ContainerId;
use crate::sandbox::PidMode;
use crate::shortage::patiently;
use std::sync::Arc;

impl Pod {
    pub(super) fn restore(
        &mut self,
        wanted: Wanted,
        reply: Reply<ContainerId, CreateContainerError>,
    ) {
        let Wanted { spec, archive, timeout } = wanted;
        let creation = match self.may_restore(&spec).and_then(|()| self.creation(&spec)) {
            Ok(creation) => Arc::new(creation),
            Err(error) => return drop(reply.send(Err(Arc::new(error)))),
        };
        let name = (spec.name.clone(), spec.attempt);
        self.creating.insert(name.clone(), InFlight { spec, replies: vec![reply] });
        self.busy += 1;
        let shared = Arc::clone(&self.shared);
        self.job(async move {
            let making = container::restore(Restoration { creation, archive, timeout });
            let made = shared.creations.run(Box::pin(making)).await;
            Outcome::Created { name, result: made.map(Box::new) }
        });
    }

    fn may_restore(&self, spec: &ContainerSpec) -> Result<(), CreateContainerError> {
        let unfit = |problem| CreateContainerError::Unfit { id: self.record.id.clone(), problem };
        if self.creating.contains_key(&(spec.name.clone(), spec.attempt)) {
            let (name, attempt) = (spec.name.clone(), spec.attempt);
            return Err(CreateContainerError::NameBusy { name, attempt });
        }
        let has = |slot: &&Slot| {
            slot.record.spec.name == spec.name && slot.record.spec.attempt == spec.attempt
        };
        if let Some(slot) = self.slots.values().find(has) {
            let (name, attempt, holder) = (spec.name.clone(), spec.attempt, slot.record.id.clone());
            return Err(CreateContainerError::NameHeld { name, attempt, holder });
        }
        // Whether the pod is ready: nobody has the name.
        self.may_create(spec)?;
        if self.spec.userns.is_some() {
            return Err(unfit("has a user namespace, in which nothing can be restored"));
        }
        // Its processes had pids of their own, which others may have here.
        if self.spec.pid != PidMode::Container || spec.security.pid != ContainerPid::Container {
            return Err(unfit("shares a PID namespace, in which nothing can be restored"));
        }
        Ok(())
    }

    /// Takes note of the end of a container that ran before anybody knew it here. The shim writes it down before it tells of it.
    pub(super) async fn catch_up(&mut self, id: &ContainerId) {
        let runs = |state: &ContainerState| matches!(state, ContainerState::Running { .. });
        if !self.slots.get(id).is_some_and(|slot| runs(&slot.record.state)) {
            return;
        }
        if let Ok(exit) = patiently(|| self.written_end(id)).await {
            self.apply(id, exit);
        }
    }
}
