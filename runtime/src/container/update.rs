//! A change of a container's limits while it lives.
//!
//! Owns the order: validated, applied by the OCI runtime, put back if that fails half-way; the spec that lies in the bundle. That there is one change at
//! a time, and the container's record, are the pod's task's.

use super::{Resources, UpdateContainerError};
use crate::cgroup::Group;
use crate::error::chain;
use crate::id::ContainerId;
use crate::oci::{LimitChange, limit_change};
use crate::shared::Shared;
use crate::shim::ShimClient;
use crate::store::{StoreError, reach, read_json, write_json};
use oci_spec::runtime::{LinuxResources, Spec};
use std::path::Path;
use std::sync::Arc;

/// What a change works with: the container as it was when it began.
pub(crate) struct Update {
    pub(crate) shared: Arc<Shared>,
    /// The pod's handler.
    pub(crate) handler: String,
    pub(crate) id: ContainerId,
    pub(crate) client: ShimClient,
    /// The container's cgroup.
    pub(crate) group: Option<Group>,
    pub(crate) now: Resources,
    pub(crate) asked: Resources,
}

/// Limits that are in force and not written down yet.
#[derive(Debug)]
pub(crate) struct Updated {
    pub(crate) resources: Resources,
    /// For the container's spec.
    pub(crate) all: LinuxResources,
}

/// Changes the limits, or leaves them as they were.
///
/// # Errors
/// [`UpdateContainerError`].
pub(crate) async fn update(update: Update) -> Result<Updated, UpdateContainerError> {
    let Update { shared, handler, id, now, asked, .. } = &update;
    let handler = shared.handlers.get(handler)?;
    let change = limit_change(now, asked, handler, &shared.host)?;
    for warning in &change.warnings {
        tracing::warn!(container = %id, "{warning}");
    }
    fits(&update)?;
    let store = |source| UpdateContainerError::Store { id: id.clone(), source };
    reach("update.asked").map_err(store)?;
    apply(&update, &change).await?;
    reach("update.applied").map_err(store)?;
    Ok(Updated { resources: now.changed(asked), all: change.all })
}

/// Version 2 would make room for a lower limit by killing; version 1 would refuse, but only after minutes of trying.
fn fits(update: &Update) -> Result<(), UpdateContainerError> {
    let asked = u64::try_from(update.asked.memory_limit).unwrap_or_default();
    let Some(group) = update.group.as_ref().filter(|_| asked > 0) else { return Ok(()) };
    match update.shared.host.cgroups.usage(group).memory {
        Some(memory) if memory.working_set > asked => Err(UpdateContainerError::InUse {
            id: update.id.clone(),
            asked,
            used: memory.working_set,
        }),
        Some(_) | None => Ok(()),
    }
}

async fn apply(update: &Update, change: &LimitChange) -> Result<(), UpdateContainerError> {
    let (id, client) = (&update.id, &update.client);
    let Err(source) = client.update(id.as_str(), &json(&change.apply)?).await else {
        return Ok(());
    };
    // A runtime that has failed may have written some of them. It may fail again, for the same reason.
    if let Err(error) = client.update(id.as_str(), &json(&change.revert)?).await {
        tracing::debug!(container = %id, error = chain(&error), "limits could not be put back");
    }
    Err(UpdateContainerError::Shim { id: id.clone(), source })
}

fn json(resources: &LinuxResources) -> Result<Vec<u8>, UpdateContainerError> {
    serde_json::to_vec(resources).map_err(UpdateContainerError::Encode)
}

/// Writes the limits into the spec in the bundle, whose rules for devices stay.
pub(crate) fn write_spec(bundle: &Path, mut all: LinuxResources) -> Result<(), StoreError> {
    let path = bundle.join("config.json");
    let mut spec: Spec = read_json(&path)?;
    let mut linux = spec.linux().clone().unwrap_or_default();
    let devices = linux.resources().as_ref().and_then(|before| before.devices().clone());
    all.set_devices(devices);
    linux.set_resources(Some(all));
    spec.set_linux(Some(linux));
    write_json(&path, &spec)
}
