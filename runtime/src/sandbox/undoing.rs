//! Taking back a creation that failed, or that a crash has interrupted.
//!
//! Owns what is tried again when it can't be taken back at once, and that a pod's files go last: they tell of the rest to whoever tries next, be it a later daemon. What a
//! step's undo does is [`super::teardown`]'s.

use super::teardown;
use crate::id::SandboxId;
use crate::shared::Shared;
use crate::store::SandboxRecord;
use crate::undo::{Undo, UndoError};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

pub(super) const NETNS: &str = "the pod's network namespace";
pub(super) const NETWORK: &str = "the pod's network";
pub(super) const SHIM: &str = "the pod's shim";
/// Of which the record tells: it may be there for others, too, and come to be another pod's.
pub(super) const CGROUP: &str = "the pod's cgroup";
/// With the pod's id as its name, of which the record may not tell yet.
const OWN_CGROUP: &str = "the pod's own cgroup";
const FILES: &str = "the pod's files";

/// Between two tries, and how many there are: what was wanting (descriptors, most likely) may be there again. Then the next start tries.
const PAUSE: Duration = Duration::from_secs(2);
const TRIES: u32 = 300;

/// Takes back what a creation that failed has come to. What can't be is tried again; nobody knows the pod any more, so nobody waits.
pub(super) async fn take_back(shared: &Arc<Shared>, record: SandboxRecord, undo: Undo<'static>) {
    let left = then_files(shared, &record.id, undo.run().await).await;
    for failed in &left {
        tracing::error!(sandbox = %record.id, error = failed as &dyn std::error::Error, "left behind by a pod that failed; it is tried again");
    }
    again(shared, record, &left);
}

/// Takes back a creation that a crash has interrupted: every step, whether it was reached or not.
pub(super) async fn take_back_interrupted(shared: &Arc<Shared>, record: SandboxRecord) {
    let left = take_back_steps(shared, record.clone(), |_| true).await;
    if left.is_empty() {
        tracing::info!(sandbox = %record.id, "undone: its creation was interrupted");
    }
    for failed in &left {
        tracing::error!(sandbox = %record.id, error = failed as &dyn std::error::Error, "an interrupted creation could not be undone; it is tried again");
    }
    again(shared, record, &left);
}

fn again(shared: &Arc<Shared>, record: SandboxRecord, left: &[UndoError]) {
    let mut left = steps_of(left);
    if left.remove(NETWORK) {
        // Which has tries of its own, few at a time for all pods: those of a plugin that fails come again and again.
        shared.network.owe([record.id.clone()]);
    }
    if !left.is_empty() {
        tokio::spawn(repeat(Arc::clone(shared), record, left));
    }
}

fn steps_of(left: &[UndoError]) -> BTreeSet<&'static str> {
    left.iter().map(UndoError::step).collect()
}

/// Only what is left: what was taken back may be somebody else's by now. So may a slice, which systemd stops with whoever is in it.
async fn repeat(shared: Arc<Shared>, mut record: SandboxRecord, mut left: BTreeSet<&'static str>) {
    record.cgroups.retain(|path| path.extension().is_none_or(|kind| kind != "slice"));
    for _ in 0..TRIES {
        tokio::time::sleep(PAUSE).await;
        let failed = take_back_steps(&shared, record.clone(), |step| left.contains(step)).await;
        if failed.is_empty() {
            tracing::info!(sandbox = %record.id, "undone: nothing is left of a pod that failed");
            return;
        }
        left = steps_of(&failed);
    }
}

async fn take_back_steps(
    shared: &Arc<Shared>,
    record: SandboxRecord,
    wanted: impl Fn(&'static str) -> bool,
) -> Vec<UndoError> {
    let mut undo = Undo::default();
    if wanted(OWN_CGROUP) && record.spec.cgroup_parent.is_none() {
        let own = shared.own_cgroups(&record.id);
        undo.push(OWN_CGROUP, teardown::cgroups(Arc::clone(shared), own));
    }
    if wanted(CGROUP) {
        undo.push(CGROUP, teardown::cgroups(Arc::clone(shared), record.cgroups));
    }
    // The namespace is released with the shim, in whatever way it was made.
    if wanted(SHIM) || wanted(NETNS) {
        let (netns, shim) = (record.netns.clone(), record.shim);
        let end = teardown::unborn_shim(Arc::clone(shared), record.id.clone(), netns, shim);
        undo.push(SHIM, end);
    }
    if wanted(NETWORK) {
        let detach = teardown::network(Arc::clone(shared), record.id.clone(), record.netns);
        undo.push(NETWORK, detach);
    }
    then_files(shared, &record.id, undo.run().await).await
}

/// Removes the pod's files, unless something is left that only they tell of: a network has a record of its own.
async fn then_files(
    shared: &Arc<Shared>,
    id: &SandboxId,
    mut left: Vec<UndoError>,
) -> Vec<UndoError> {
    if left.iter().any(|failed| failed.step() != NETWORK) {
        return left;
    }
    let mut files = Undo::default();
    files.push(FILES, teardown::files(Arc::clone(shared), id.clone()));
    left.extend(files.run().await);
    left
}
