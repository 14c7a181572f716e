//! Removing the links of pods that are gone.
//!
//! Owns the queue of links to remove. The kernel takes 20 to 30 ms to remove a veth, most of it waiting, and as long for many at once:
//! so a detach does not wait, and all links that come up while a batch is under way make the next one. A pod's record and
//! leases outlive its link: they go in `done`, after it.
//!
//! ```text
//! bury ──► queue ──take all──► batch: one group, one request ──► done(id) each ──► queue empty? end
//! ```

use super::link;
use crate::id::SandboxId;
use crate::network::netlink::{Netlink, NetlinkError};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

type Done = Arc<dyn Fn(&SandboxId, Result<(), NetlinkError>) + Send + Sync>;

#[derive(Default)]
struct Queue {
    waiting: BTreeMap<SandboxId, Done>,
    running: bool,
}

/// See the module.
pub(in crate::network) struct Reaper {
    netlink: Mutex<Netlink>,
    queue: Mutex<Queue>,
    /// How many are queued or being removed.
    pending: watch::Sender<usize>,
    group: u32,
}

impl std::fmt::Debug for Reaper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reaper").field("pending", &*self.pending.borrow()).finish_non_exhaustive()
    }
}

impl Reaper {
    /// `group` numbers the link group of a batch: random, so that it is nobody else's.
    pub(super) fn new(netlink: Netlink, group: u32) -> Arc<Self> {
        let pending = watch::Sender::new(0);
        Arc::new(Self { netlink: Mutex::new(netlink), queue: Mutex::default(), pending, group })
    }

    /// Queues a pod's link; `done` is called on a blocking thread. On a blocking thread of the runtime.
    pub(in crate::network) fn bury(self: &Arc<Self>, id: &SandboxId, done: Done) {
        let mut queue = self.queue();
        if queue.waiting.insert(id.clone(), done).is_none() {
            self.pending.send_modify(|count| *count += 1);
        }
        if !std::mem::replace(&mut queue.running, true) {
            let reaper = Arc::clone(self);
            drop(tokio::task::spawn_blocking(move || reaper.run()));
        }
    }

    /// Waits until nothing is queued or under way.
    pub(in crate::network) async fn idle(&self) {
        // The sender is in self: it can't be gone.
        drop(self.pending.subscribe().wait_for(|count| *count == 0).await);
    }

    fn run(&self) {
        loop {
            let batch = {
                let mut queue = self.queue();
                let batch = std::mem::take(&mut queue.waiting);
                queue.running = !batch.is_empty();
                batch
            };
            if batch.is_empty() {
                return;
            }
            for (id, outcome) in self.delete(batch.keys()) {
                if let Some(done) = batch.get(&id) {
                    done(&id, outcome);
                }
            }
            self.pending.send_modify(|count| *count = count.saturating_sub(batch.len()));
        }
    }

    fn delete<'a>(
        &self,
        ids: impl Iterator<Item = &'a SandboxId>,
    ) -> Vec<(SandboxId, Result<(), NetlinkError>)> {
        let ids: Vec<SandboxId> = ids.cloned().collect();
        let mut netlink = self.netlink.lock().unwrap_or_else(PoisonError::into_inner);
        if let [id] = ids.as_slice() {
            return vec![(id.clone(), delete_one(&mut netlink, id))];
        }
        let mut changes: Vec<_> =
            ids.iter().map(|id| link::join_group(&link::host_link(id), self.group)).collect();
        changes.push(link::delete_group(self.group));
        // Whatever became of the batch, what counts is whether each link is gone: asking again costs microseconds then.
        drop(netlink.try_all(changes));
        ids.into_iter()
            .map(|id| {
                let gone = delete_one(&mut netlink, &id);
                (id, gone)
            })
            .collect()
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A link that is not there is as good as removed: it went with its namespace.
pub(super) fn delete_one(netlink: &mut Netlink, id: &SandboxId) -> Result<(), NetlinkError> {
    match netlink.apply(vec![link::delete(&link::host_link(id))]) {
        Err(error) if error.is(Errno::NODEV) => Ok(()),
        other => other,
    }
}
