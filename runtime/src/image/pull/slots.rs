//! How many layers may be under way at once.
//!
//! Owns the counts: of one host, so that one that drips does not stop the pulls from all others, and of all together, since memory
//! follows it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// Of all hosts together.
const ALL: usize = 32;
/// Of one host.
const HOST: usize = 12;

#[derive(Debug)]
pub(super) struct Slots {
    all: Arc<Semaphore>,
    /// Of hosts that somebody fetches from, or waits for.
    hosts: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// Leave to fetch one layer from one host.
#[derive(Debug)]
pub(super) struct Slot {
    _host: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Default for Slots {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(ALL)), hosts: Mutex::default() }
    }
}

impl Slots {
    /// Waits for the host's turn, then for everybody's: who waits for a host takes nothing from the others.
    pub(super) async fn take(&self, host: &str) -> Result<Slot, AcquireError> {
        let host = self.host(host).acquire_owned().await?;
        let all = Arc::clone(&self.all).acquire_owned().await?;
        Ok(Slot { _host: host, _all: all })
    }

    fn host(&self, host: &str) -> Arc<Semaphore> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.retain(|_, semaphore| semaphore.strong_count() > 0);
        let known = hosts.get(host).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let semaphore = Arc::new(Semaphore::new(HOST));
            hosts.insert(host.to_owned(), Arc::downgrade(&semaphore));
            semaphore
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn a_host_has_its_share_and_all_together_have_an_end() {
        let slots = Slots::default();
        let take = |host: &str| slots.take(host).now_or_never().transpose().unwrap();
        let mut held: Vec<Slot> = (0..HOST).map(|_| take("drips").unwrap()).collect();
        assert!(take("drips").is_none());
        let others: Vec<Slot> =
            (HOST..ALL).map(|number| take(&format!("host-{number}")).unwrap()).collect();
        assert!(take("other").is_none(), "all are taken");
        held.pop();
        drop(take("other").unwrap());
        drop(take("drips").unwrap());
        assert_eq!(slots.hosts.lock().unwrap().len(), 1 + others.len());
        drop((held, others));
        drop(take("other").unwrap());
        assert_eq!(slots.hosts.lock().unwrap().len(), 1, "hosts are forgotten");
    }
}
