//! Signs of life for the service manager, if it asks for them (`WatchdogSec=` of systemd.service(5), which sets `WATCHDOG_USEC`).
//!
//! Owns when they are given: by a task of the executor, through another one. A daemon whose threads are all stuck gives none, is killed and started anew;
//! containers do not notice. What merely takes long (a plugin, a disk) is waited for elsewhere and costs no sign.

use super::notify;
use std::time::Duration;

/// Gives them for as long as the process lives, its orderly end included. To be called in the executor.
pub(super) fn start() {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else {
        return;
    };
    // Half of it, as sd_watchdog_enabled(3) wants.
    let every = limit / 2;
    tracing::info!(?limit, "the service manager wants signs of life");
    tokio::spawn(feed(every, notify::alive));
}

async fn feed(every: Duration, alive: impl Fn()) {
    loop {
        // It can't fail: nothing in there panics, and nobody has a handle to abort it.
        if tokio::spawn(std::future::ready(())).await.is_ok() {
            alive();
        }
        tokio::time::sleep(every).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, mpsc};

    #[test]
    fn a_stuck_executor_gives_no_sign_of_life_until_it_goes_on() {
        let executor = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_time()
            .build()
            .unwrap();
        let (count, (told, signs)) = (Arc::new(AtomicUsize::new(0)), mpsc::channel());
        let counted = Arc::clone(&count);
        executor.spawn(feed(Duration::from_millis(1), move || {
            counted.fetch_add(1, Ordering::SeqCst);
            told.send(()).ok();
        }));
        signs.recv().unwrap();
        signs.recv().unwrap();
        let (stuck, is_stuck) = mpsc::channel();
        let (let_go, waits) = mpsc::channel::<()>();
        executor.spawn(async move {
            stuck.send(()).unwrap();
            // Blocks the only worker.
            waits.recv().unwrap();
        });
        is_stuck.recv().unwrap();
        let before = count.load(Ordering::SeqCst);
        // Thirty times as long as between two signs.
        assert!(waited(&signs, before, &count), "a stuck executor gave a sign of life");
        let_go.send(()).unwrap();
        signs.recv().unwrap();
        assert!(count.load(Ordering::SeqCst) > before);
    }

    /// Takes the signs that were given before, and answers whether none comes after them.
    fn waited(signs: &mpsc::Receiver<()>, before: usize, count: &AtomicUsize) -> bool {
        while signs.try_recv().is_ok() {}
        signs.recv_timeout(Duration::from_millis(30)).is_err()
            && count.load(Ordering::SeqCst) == before
    }
}
