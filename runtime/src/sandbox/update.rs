//! Changes of limits: a container's, and the pod's own.
//!
//! Owns their order. A container has one change at a time, since each starts from what the one before has left; others wait in its slot. A
//! change is a job like any other, so the pod's other calls go on meanwhile. The pod's own limits are the kubelet's to set: it does so
//! itself, in the cgroup that it made, before it says so here. Only where davit made the pod's cgroup, because nobody named one, does it set them.

use super::error::UpdateSandboxError;
use super::handle::Reply;
use super::job::Outcome;
use super::task::Pod;
use crate::container::{self, ContainerState, Resources, UpdateContainerError, Updated};
use crate::id::ContainerId;
use crate::sandbox::{SandboxLimits, SandboxSpec};
use crate::store::{reach, write_json};
use std::sync::Arc;

impl Pod {
    pub(super) fn update_container(
        &mut self,
        id: &ContainerId,
        asked: Resources,
        reply: Reply<(), UpdateContainerError>,
    ) {
        if let Err(error) = self.may_update(id) {
            drop(reply.send(Err(Arc::new(error))));
            return;
        }
        let Some(slot) = self.slots.get_mut(id) else { return };
        slot.updates.push_back((asked, reply));
        if slot.updates.len() == 1 {
            self.begin_update(id);
        }
    }

    fn may_update(&self, id: &ContainerId) -> Result<(), UpdateContainerError> {
        let slot = self.slot(id)?;
        match slot.record.state {
            ContainerState::Created { .. } | ContainerState::Running { .. }
                if slot.removing.is_empty() && self.shim.is_some() =>
            {
                Ok(())
            }
            ContainerState::Creating
            | ContainerState::Created { .. }
            | ContainerState::Running { .. }
            | ContainerState::Exited(_) => {
                Err(UpdateContainerError::State { id: id.clone(), state: slot.state_name() })
            }
        }
    }

    /// Begins the first change that may still be made.
    fn begin_update(&mut self, id: &ContainerId) {
        let pod = self.shared.pod_group(&self.record.id, &self.spec);
        let group = pod.and_then(|pod| pod.container(id)).ok();
        loop {
            let allowed = self.may_update(id);
            let Some(slot) = self.slots.get_mut(id) else { return };
            let Some((asked, _)) = slot.updates.front() else { return };
            let (Ok(()), Some(shim)) = (allowed, &self.shim) else {
                let state = slot.state_name();
                let refused = UpdateContainerError::State { id: id.clone(), state };
                if let Some((_, reply)) = slot.updates.pop_front() {
                    drop(reply.send(Err(Arc::new(refused))));
                }
                continue;
            };
            let update = container::Update {
                shared: Arc::clone(&self.shared),
                handler: self.record.handler.clone(),
                id: id.clone(),
                client: shim.client.clone(),
                group: group.clone(),
                now: slot.record.spec.resources.clone(),
                asked: asked.clone(),
            };
            self.busy += 1;
            self.job(async move {
                let id = update.id.clone();
                Outcome::Updated { id, result: container::update(update).await.map(Box::new) }
            });
            return;
        }
    }

    pub(super) fn updated(
        &mut self,
        id: &ContainerId,
        result: Result<Box<Updated>, UpdateContainerError>,
    ) {
        self.busy -= 1;
        let answer = result.and_then(|updated| self.keep_limits(id, *updated));
        let waiting = self.slots.get_mut(id).and_then(|slot| slot.updates.pop_front());
        if let Some((_, reply)) = waiting {
            drop(reply.send(answer.map_err(Arc::new)));
        }
        self.begin_update(id);
    }

    /// Writes down what is in force. Shown in any case, since it is so.
    fn keep_limits(
        &mut self,
        id: &ContainerId,
        updated: Updated,
    ) -> Result<(), UpdateContainerError> {
        let bundle = self.shared.layout.bundle(&self.record.id, id);
        let Some(slot) = self.slots.get_mut(id) else { return Ok(()) };
        slot.set_resources(updated.resources);
        if !slot.removing.is_empty() {
            // Its files are being removed; a write now would bring one back.
            let state = slot.state_name();
            return Err(UpdateContainerError::State { id: id.clone(), state });
        }
        let path = self.shared.layout.container_record(&self.record.id, id);
        let written = reach("update.in_force")
            .and_then(|()| write_json(&path, &slot.record))
            .and_then(|()| reach("update.recorded"))
            .and_then(|()| container::write_spec(&bundle, updated.all));
        self.publish();
        written.map_err(|source| UpdateContainerError::Store { id: id.clone(), source })
    }

    /// Sets, where that is davit's to do, and writes down what the pod as a whole may use.
    pub(super) fn update(&mut self, limits: SandboxLimits) -> Result<(), UpdateSandboxError> {
        let id = self.record.id.clone();
        let SandboxLimits { overhead, resources } = limits;
        let limits = SandboxLimits {
            overhead: overhead.or_else(|| self.spec.overhead.clone()),
            resources: resources.or_else(|| self.spec.resources.clone()),
        };
        if self.spec.cgroup_parent.is_none() {
            let group = self.shared.pod_group(&id, &self.spec)?;
            let cgroups = &self.shared.host.cgroups;
            cgroups
                .limit(&group, &limits.total())
                .map_err(|source| UpdateSandboxError::Cgroup { id: id.clone(), source })?;
        }
        let SandboxLimits { overhead, resources } = limits;
        let spec = SandboxSpec { overhead, resources, ..SandboxSpec::clone(&self.spec) };
        self.spec = Arc::new(spec.clone());
        self.record.spec = spec;
        let written = self.save();
        self.publish();
        written.map_err(|source| UpdateSandboxError::Store { id, source })
    }
}
