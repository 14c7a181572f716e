//! Memory after work.
//!
//! Owns when it is given back: a while after the start, and after pods or containers were made or ended, once for all that was done meanwhile, so that a node on
//! which nothing happens has no more than it needs, and a burst of work is not slowed down.

use crate::shared::Shared;
use std::sync::Arc;
use std::time::Duration;

/// How long after the start, and after work.
const REST: Duration = Duration::from_secs(1);

/// Gives memory back after work, for as long as the runtime lives.
pub(crate) fn spawn(shared: &Arc<Shared>) {
    let weak = Arc::downgrade(shared);
    let (creations, endings) = (shared.creations.ended(), shared.endings.ended());
    tokio::spawn(async move {
        tokio::time::sleep(REST).await;
        drop(tokio::task::spawn_blocking(davit_sys::memory::let_code_go).await);
        while weak.strong_count() > 0 {
            tokio::select! {
                () = creations.notified() => {}
                () = endings.notified() => {}
            }
            tokio::time::sleep(REST).await;
            // Some milliseconds at most, for a heap of that size.
            drop(tokio::task::spawn_blocking(davit_sys::memory::trim).await);
        }
    });
}
