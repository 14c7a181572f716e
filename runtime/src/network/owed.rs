//! Networks that could not be taken down and whose pods nobody asks about any more.
//!
//! Owns the tries that follow, a few at a time and ever more rarely, however many there are; and how long a pod's end waits for a network that can't
//! be taken down. A record tells what is owed, so nothing is lost if davit ends: the next start, and each sweep, go on.

use super::{DetachError, Network};
use crate::error::chain;
use crate::id::SandboxId;
use futures_util::stream::{self, StreamExt as _};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How many pods are detached side by side, and in each [`AGAIN`]: plugins are processes, and a node has other things to do.
pub(super) const SIDE_BY_SIDE: usize = 8;
/// How long after a failure one is detached once more; doubled each time.
const AGAIN: Duration = Duration::from_secs(1);
/// How often: by then ten minutes are over, and the sweep, which comes every ten, goes on with it.
const TRIES: u32 = 9;
/// How long a pod's end waits for its network: a plugin whose agent is away for a while is no reason to leave an address behind, one that is gone for good is
/// none to keep the pod.
const PATIENCE: Duration = Duration::from_secs(5 * 60);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Owed {
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: BTreeMap<SandboxId, Turn>,
    running: bool,
    /// Since when pods that are to end can't be detached.
    failing: BTreeMap<SandboxId, Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Turn {
    at: Instant,
    tries: u32,
}

impl Turn {
    fn after(tries: u32) -> Self {
        Self { at: Instant::now() + AGAIN * 2_u32.saturating_pow(tries), tries }
    }
}

impl Owed {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who is due, the longest first; how long until the next one is; `None`: nobody waits, and nobody looks any more.
    fn due(&self) -> Option<Result<Vec<(SandboxId, u32)>, Duration>> {
        let mut queue = self.queue();
        let mut waiting: Vec<_> =
            queue.waiting.iter().map(|(id, turn)| (turn.at, id.clone(), turn.tries)).collect();
        waiting.sort_unstable();
        let Some((first, ..)) = waiting.first() else {
            queue.running = false;
            return None;
        };
        let now = Instant::now();
        if *first > now {
            return Some(Err(*first - now));
        }
        let due = waiting.into_iter().filter(|(at, ..)| *at <= now).take(SIDE_BY_SIDE);
        Some(Ok(due.map(|(_, id, tries)| (id, tries)).collect()))
    }

    /// Whether a pod's end has waited long enough.
    fn has_failed(&self, id: &SandboxId) -> bool {
        let mut queue = self.queue();
        let since = *queue.failing.entry(id.clone()).or_insert_with(Instant::now);
        since.elapsed() >= PATIENCE
    }
}

#[cfg(test)]
impl Owed {
    /// As if its end had waited for long.
    pub(super) fn has_failed_for_long(&self, id: &SandboxId) {
        let long_ago = Instant::now().checked_sub(PATIENCE).unwrap();
        self.queue().failing.insert(id.clone(), long_ago);
    }
}

impl Network {
    /// Detaches a pod that ends. Where its plugins are gone, or have failed for [`PATIENCE`], it is owed and done for the pod.
    ///
    /// # Errors
    /// As [`Self::detach`].
    pub(crate) async fn detach_ending(
        &self,
        id: &SandboxId,
        netns: Option<&Path>,
    ) -> Result<(), DetachError> {
        let owed = &self.inner.owed;
        match self.detach(id, netns).await {
            Ok(()) => drop(owed.queue().failing.remove(id)),
            Err(error) if !error.cause.is_for_want_of_plugins() && !owed.has_failed(id) => {
                return Err(error);
            }
            Err(error) => {
                tracing::warn!(sandbox = %id, error = chain(&error), "the pod ends although its network could not be taken down; that is tried again");
                // It stays known as failing: who removes the pod stops it once more.
                self.owe([id.clone()]);
            }
        }
        Ok(())
    }

    /// Tries again to detach those who are gone and could not be, for some minutes.
    pub(crate) fn owe(&self, gone: impl IntoIterator<Item = SandboxId>) {
        let mut queue = self.inner.owed.queue();
        for id in gone {
            queue.waiting.entry(id).or_insert_with(|| Turn::after(0));
        }
        if !queue.waiting.is_empty() && !std::mem::replace(&mut queue.running, true) {
            drop(self.inner.runtime.spawn(pay(self.clone())));
        }
    }
}

async fn pay(network: Network) {
    loop {
        let due = match network.inner.owed.due() {
            None => return,
            Some(Err(wait)) => {
                tokio::time::sleep(wait).await;
                continue;
            }
            Some(Ok(due)) => due,
        };
        let network = &network;
        let tries = stream::iter(due).map(|(id, tries)| async move {
            (network.detach(&id, None).await.map_err(|error| (error, tries + 1)), id)
        });
        let done: Vec<_> = tries.buffer_unordered(SIDE_BY_SIDE).collect().await;
        for (detached, id) in done {
            let mut queue = network.inner.owed.queue();
            match detached {
                Err((error, tries)) if tries < TRIES => {
                    tracing::debug!(sandbox = %id, error = chain(&error), "a pod's network is there still");
                    queue.waiting.insert(id, Turn::after(tries));
                }
                Err((error, _)) => {
                    tracing::error!(sandbox = %id, error = chain(&error), "the network of a pod that is gone could not be taken down; each sweep goes on with it");
                    queue.waiting.remove(&id);
                }
                Ok(()) => {
                    queue.waiting.remove(&id);
                    queue.failing.remove(&id);
                }
            }
        }
        // However many there are: so many plugins at a time, and no more.
        tokio::time::sleep(AGAIN).await;
    }
}
