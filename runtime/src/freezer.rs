//! Noticing that somebody has frozen a container, or lets it go on: an OCI runtime run by hand, or whoever writes to its cgroup.
//!
//! Owns the look-out, not the state: what differs from what is shown is told to the pod's task, which asks the kernel itself before it believes
//! it. What davit does is shown by its own doing, and what a checkpoint freezes is the checkpoint's.
//!
//! Version 2 of the cgroups could wake us when it happens, version 1 can't, and a watch for each container would be one for each of hundreds that
//! nobody ever freezes. So both are looked at from time to time: one small file of the kernel's for each container that runs, about ten
//! microseconds. Between two rounds lie at least two seconds, and a thousand times what the last one took, up to ten seconds: a thousandth of a
//! core at most.
//!
//! ```text
//! round: each container that runs ──kernel says otherwise──► pod's task ──► looks ──► Paused | Resumed
//! ```

use crate::cgroup::Group;
use crate::container::{ContainerState, ContainerView};
use crate::id::ContainerId;
use crate::sandbox::SandboxView;
use crate::shared::Shared;
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Between two rounds.
const PAUSE: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(10);
/// How many times as long as a round its pause is at least.
const SHARE: u32 = 1000;

/// Looks for as long as the runtime is there.
pub(crate) fn spawn(shared: &Arc<Shared>) {
    let weak: Weak<Shared> = Arc::downgrade(shared);
    tokio::spawn(async move {
        let mut pause = PAUSE;
        loop {
            tokio::time::sleep(pause).await;
            let Some(shared) = weak.upgrade() else { return };
            pause = round(shared).await;
        }
    });
}

/// Answers how long to wait for the next one.
async fn round(shared: Arc<Shared>) -> Duration {
    let looked = tokio::task::spawn_blocking(move || {
        let began = Instant::now();
        let differing = differing(&shared);
        (shared, differing, began.elapsed())
    });
    let Ok((shared, differing, took)) = looked.await else { return LONGEST };
    for id in differing {
        if let Ok((id, handle)) = shared.index.container(id.as_str()) {
            handle.look_at_freezer(id).await;
        }
    }
    (took * SHARE).clamp(PAUSE, LONGEST)
}

/// The containers that are not as they are shown.
fn differing(shared: &Shared) -> Vec<ContainerId> {
    let mut found = Vec::new();
    for sandbox in shared.index.views() {
        let Ok(pod) = shared.pod_group(&sandbox.id, &sandbox.spec) else { continue };
        let differs = |view: &&Arc<ContainerView>| differs(shared, &pod, view);
        found.extend(running(&sandbox).filter(differs).map(|view| view.id.clone()));
    }
    found
}

fn running(sandbox: &SandboxView) -> impl Iterator<Item = &Arc<ContainerView>> {
    sandbox.containers.values().filter(|view| matches!(view.state, ContainerState::Running { .. }))
}

fn differs(shared: &Shared, pod: &Group, view: &ContainerView) -> bool {
    let frozen = is_frozen(shared, pod, &view.id);
    frozen.is_some_and(|frozen| frozen != view.state.paused_at().is_some())
}

/// Whether the kernel keeps a container frozen; `None` if it doesn't tell, or if it is being checkpointed.
pub(crate) fn is_frozen(shared: &Shared, pod: &Group, id: &ContainerId) -> Option<bool> {
    let group = pod.container(id).ok()?;
    let frozen = shared.host.cgroups.is_frozen(&group)?;
    let checkpoints = shared.checkpoints.lock().unwrap_or_else(PoisonError::into_inner);
    (!checkpoints.contains(id)).then_some(frozen)
}
