//! What a pod needs before it is asked for: a shim and a network, made while nothing else is to do, so that its start need not wait for them.
//!
//! Owns for how many pods to come it is there, when it is made, and that nothing of it is left: a shim that waits has neither a directory nor a mount, and ends with
//! its socket, a network with its descriptor, so the daemon's own end, of whatever kind, is theirs too. All of it is for one pod, whose id is on the shim's
//! command line from the beginning, and in the link's name. A namespace is as old as its making: parameters of the host's that the kernel copies into a new one are those of
//! then.
//!
//! ```text
//! quiet ──► made ──► waits ──taken──► a pod's        (another is made once no pod is being made)
//!                      └──── its end, the daemon's ──► nothing
//! ```

use crate::id::SandboxId;
use crate::network::NetworkAhead;
use crate::oci::sealed::Copy;
use crate::shared::Shared;
use crate::shim::{ProcessHandle, ReadyShim, SpawnError, end_child};
use crate::store::ShimRecord;
use davit_proto::disk::ShimConfig;
use davit_proto::ready::Meanwhile;
use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// After the daemon's start, which has enough to do.
const START: Duration = Duration::from_millis(300);
/// Between two looks whether pods are still being made, while there is too little.
const PAUSE: Duration = Duration::from_millis(3);
/// In how many looks in a row none is: between two calls for the same pod there is a moment in which none is.
const QUIET: u32 = 2;

/// See the module.
#[derive(Debug)]
pub(crate) struct Ahead {
    most: usize,
    waiting: Mutex<VecDeque<PodAhead>>,
    /// One was taken.
    wanting: Arc<Notify>,
}

/// What waits for the pod of this id.
#[derive(Debug)]
pub(crate) struct PodAhead {
    pub(crate) id: SandboxId,
    pub(crate) shim: ShimAhead,
    /// If it could be made.
    pub(crate) network: Option<NetworkAhead>,
}

/// A shim that waits for its pod.
#[derive(Debug)]
pub(crate) struct ShimAhead {
    shim: ReadyShim,
    /// Reaps it if it ends before it is a pod's.
    watch: AbortHandle,
}

impl ShimAhead {
    /// Makes it its pod's: [`ReadyShim::give`].
    pub(crate) fn give(
        self,
        directory: &Path,
        config: &ShimConfig,
        sealed: Option<&Copy>,
    ) -> Result<Option<ShimRecord>, SpawnError> {
        let Self { shim, watch } = self;
        let given = shim.give(directory, config, sealed)?;
        if given.is_some() {
            // Whoever watches the pod does it now.
            watch.abort();
        }
        Ok(given)
    }
}

impl Ahead {
    /// For so many pods; empty as yet.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, waiting: Mutex::default(), wanting: Arc::default() }
    }

    /// What has waited longest, if anything does: the last shim may still be coming up.
    pub(crate) fn take(&self) -> Option<PodAhead> {
        self.wanting.notify_one();
        self.waiting().pop_front()
    }

    /// The pods to come.
    pub(crate) fn ids(&self) -> Vec<SandboxId> {
        self.waiting().iter().map(|pod| pod.id.clone()).collect()
    }

    /// A shim that waited has ended: nobody is to get it. Another is made when something is taken, as this one may have ended because it can't wait.
    fn forget(&self, id: &SandboxId) {
        self.waiting().retain(|pod| pod.id != *id);
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<PodAhead>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps it ready for as long as the runtime lives.
pub(crate) fn spawn(shared: &Arc<Shared>) {
    if shared.ahead.most == 0 {
        return;
    }
    let (weak, wanting) = (Arc::downgrade(shared), Arc::clone(&shared.ahead.wanting));
    tokio::spawn(async move {
        tokio::time::sleep(START).await;
        let mut quiet = 0;
        while let Some(shared) = weak.upgrade() {
            // The processors are the pods' else.
            quiet = if shared.creations.look().busy > 0 { 0 } else { quiet + 1 };
            if quiet >= QUIET {
                fill(&shared).await;
                quiet = 0;
                drop(shared);
                wanting.notified().await;
            } else {
                drop(shared);
            }
            tokio::time::sleep(PAUSE).await;
        }
    });
}

/// Makes what there is too little of. What can't be made now is tried again once something was taken: pods are made without.
async fn fill(shared: &Arc<Shared>) {
    while shared.ahead.waiting().len() < shared.ahead.most {
        if let Err(error) = make(shared).await {
            tracing::debug!(error = crate::error::chain(&error), "nothing is made ahead");
            break;
        }
    }
}

/// Makes what one pod to come needs.
async fn make(shared: &Arc<Shared>) -> Result<(), AheadError> {
    let id = SandboxId::random()?;
    // A pod may do without; whatever is wrong is told when one needs it.
    let network = shared.network.make_ahead(&id).await.ok();
    let starting = (Arc::clone(shared), id.clone());
    let started = tokio::task::spawn_blocking(move || start(&starting.0, &starting.1)).await;
    let shim = started.unwrap_or(Err(AheadError::Ended))?;
    let record = shim.shim.record();
    shared.ahead.waiting().push_back(PodAhead { id: id.clone(), shim, network });
    // Whoever watches it has found nothing to forget if it ended before.
    if ProcessHandle::open(record)?.is_none() {
        shared.ahead.forget(&id);
        return Err(AheadError::Ended);
    }
    Ok(())
}

/// Starts its shim.
fn start(shared: &Arc<Shared>, id: &SandboxId) -> Result<ShimAhead, AheadError> {
    let meanwhile = Meanwhile {
        cgroup_procs: shared.shim_procs.clone(),
        oom_score_adj: Some(shared.host.lowest_oom_score_adj),
    };
    let shim = ReadyShim::start(&shared.config.shim, &shared.layout.pod(id), &meanwhile)?;
    let process = ProcessHandle::open(shim.record())
        .inspect_err(|_| end_child(shim.record()))?
        .ok_or(AheadError::Ended)?;
    let (weak, ended) = (Arc::downgrade(shared), id.clone());
    let watch = tokio::spawn(async move {
        process.ended().await;
        if let Some(shared) = weak.upgrade() {
            shared.ahead.forget(&ended);
        }
    });
    Ok(ShimAhead { shim, watch: watch.abort_handle() })
}

#[derive(Debug, thiserror::Error)]
enum AheadError {
    #[error("make its pod's id")]
    Id(#[from] crate::id::NoRandomness),
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    #[error("watch it")]
    Watch(#[from] io::Error),
    #[error("it ended at once")]
    Ended,
}
