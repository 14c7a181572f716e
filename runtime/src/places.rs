//! Room for so many at once; whoever comes next waits, in the order of asking.
//!
//! Owns the places in which pods and containers are made, started and ended: work that runs shims, OCI runtimes and plugins, of which a burst of calls
//! would otherwise run hundreds. Who waits holds no more than what was asked for. A place is for work, not for waiting: after a while it
//! goes to the next one although the work goes on, so that a plugin or hook that hangs holds up nobody else for long. The work is
//! done on a thread of its own, since some of its system calls (forks, mounts, cgroups) block for as long as the kernel likes: the executor's threads,
//! which answer everybody, never do.
//!
//! ```text
//! run ──► waits, first come first served ──► has a place ──done──► place free
//!                                                 └──── KEPT ───► place free, goes on without one
//! ```

use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// Ten times what making a pod takes with plugins on a busy node: what takes longer waits for something.
const KEPT: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    kept: Duration,
}

impl Places {
    /// So many.
    pub(crate) fn new(most: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(most)), kept: KEPT }
    }

    /// Does the work in a place. Nothing of it is begun before there is one; it goes on to its end if nobody waits for it any more.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> T {
        // Fails for a closed semaphore only, and nobody closes this one.
        let place = Arc::clone(&self.free).acquire_owned().await.ok();
        let kept = self.kept;
        let placed = async move {
            let mut work = std::pin::pin!(work);
            match tokio::time::timeout(kept, work.as_mut()).await {
                Ok(done) => done,
                Err(_) => {
                    drop(place);
                    work.await
                }
            }
        };
        let executor = Handle::current();
        match tokio::task::spawn_blocking(move || executor.block_on(placed)).await {
            Ok(done) => done,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The executor ends, and whoever asked with it.
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::time::{Instant, sleep};

    #[tokio::test]
    async fn no_more_than_so_many_at_once_and_first_come_first_served() {
        let places = Places::new(3);
        let seen = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(Vec::new())));
        let one = |number: usize| {
            let seen = Arc::clone(&seen);
            places.run(async move {
                let (running, most, begun) = &*seen;
                begun.lock().unwrap().push(number);
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                // Blocks, as a fork does: those that wait are not held up by it.
                tokio::task::block_in_place(|| ());
                sleep(Duration::from_millis(10)).await;
                running.fetch_sub(1, Ordering::SeqCst);
            })
        };
        futures_util::future::join_all((0..30).map(one)).await;
        let (_, most, begun) = &*seen;
        assert_eq!(most.load(Ordering::SeqCst), 3);
        let begun = begun.lock().unwrap();
        // Those that have a place at the same time begin in whatever order.
        assert!(begun.iter().enumerate().all(|(at, number)| at.abs_diff(*number) < 3), "{begun:?}");
    }

    #[tokio::test]
    async fn one_that_hangs_gives_its_place_away_and_goes_on() {
        let places = Places { kept: Duration::from_millis(50), ..Places::new(1) };
        let before = Instant::now();
        let hung = places.run(async {
            sleep(Duration::from_secs(1)).await;
            "done"
        });
        let next = async {
            tokio::task::yield_now().await;
            places.run(std::future::ready(())).await;
            before.elapsed()
        };
        let (hung, next) = tokio::join!(hung, next);
        assert_eq!(hung, "done");
        assert!(next < Duration::from_secs(1), "{next:?}");
        assert_eq!(places.free.available_permits(), 1);
    }

    #[tokio::test]
    async fn one_that_nobody_waits_for_goes_on_and_gives_its_place_back() {
        let places = Places::new(1);
        let (done, told) = tokio::sync::oneshot::channel();
        let work = async move {
            sleep(Duration::from_millis(50)).await;
            done.send(()).unwrap();
        };
        let waited = tokio::time::timeout(Duration::from_millis(10), places.run(work)).await;
        assert!(waited.is_err());
        told.await.unwrap();
        assert_eq!(places.run(async { 3 }).await, 3);
    }
}
