//! One operation at a time per sandbox.
//!
//! Owns the queue of each sandbox that has work under way. A turn is held by a spawned task, never by a caller's future, so it always
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
