//! One operation at a time per sandbox, and none that attaches while plugins collect garbage.
//!
//! Owns the queue of each sandbox that has work under way, and the gate. A turn is held by a spawned task, never by a caller's future, so it always
//! ends with the work; sandboxes never wait for each other.

use crate::id::SandboxId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Turns {
    queues: Arc<Mutex<BTreeMap<SandboxId, Arc<Semaphore>>>>,
}

/// More than ever attach at a time.
const PLACES: u32 = 1 << 16;

/// Many attach at a time; garbage collection is told who is there, and takes away who comes meanwhile, so it is alone.
#[derive(Debug, Clone)]
pub(super) struct Gate(Arc<Semaphore>);

impl Default for Gate {
    fn default() -> Self {
        let places = usize::try_from(PLACES).unwrap_or(Semaphore::MAX_PERMITS);
        Self(Arc::new(Semaphore::new(places)))
    }
}

impl Gate {
    /// The right to attach, for as long as the answer lives.
    pub(super) async fn enter(&self) -> Option<OwnedSemaphorePermit> {
        // Fails for a closed semaphore only, and nobody closes this one.
        Arc::clone(&self.0).acquire_owned().await.ok()
    }

    /// The right to be alone: once those are done that attach, before those who come later.
    pub(super) async fn clear(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0).acquire_many_owned(PLACES).await.ok()
    }
}

/// The right to work on a sandbox; ends when dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Turns,
    id: SandboxId,
    permit: Option<OwnedSemaphorePermit>,
}

impl Turns {
    /// Waits for the operations on `id` that came before.
    pub(super) async fn take(&self, id: &SandboxId) -> Turn {
        let queue = {
            let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(queues.entry(id.clone()).or_insert_with(|| Arc::new(Semaphore::new(1))))
        };
        // Fails for a closed semaphore only, and nobody closes these.
        let permit = queue.acquire_owned().await.ok();
        Turn { turns: self.clone(), id: id.clone(), permit }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut queues = self.turns.queues.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.permit.take());
        // Counted under the lock: the map's own reference is the last when nobody waits.
        if queues.get(&self.id).is_some_and(|queue| Arc::strong_count(queue) == 1) {
            queues.remove(&self.id);
        }
    }
}
