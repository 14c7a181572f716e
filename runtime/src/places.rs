//! Room for so many at once; whoever comes next waits, in the order of asking.
//!
//! Owns the places in which pods and containers are made, started and ended: work that runs shims, OCI runtimes and plugins, of which a burst of calls
//! would otherwise run hundreds. Who waits holds no more than what was asked for. A place is for work, not for waiting: after [`KEPT`] it
//! goes to the next one although the work goes on, so that a plugin or hook that hangs holds up nobody else for long.
//!
//! ```text
//! run ──► waits, first come first served ──► has a place ──done──► place free
//!                                                 └──── KEPT ───► place free, goes on without one
//! ```

use std::time::Duration;
use tokio::sync::Semaphore;

/// Ten times what making a pod takes with plugins on a busy node: what takes longer waits for something.
const KEPT: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub(crate) struct Places {
    free: Semaphore,
}

impl Places {
    /// So many.
    pub(crate) fn new(most: usize) -> Self {
        Self { free: Semaphore::new(most) }
    }

    /// Does the work in a place. Nothing of it is begun before there is one.
    pub(crate) async fn run<T>(&self, work: impl Future<Output = T>) -> T {
        // Fails for a closed semaphore only, and nobody closes this one.
        let place = self.free.acquire().await.ok();
        let mut work = std::pin::pin!(work);
        match tokio::time::timeout(KEPT, work.as_mut()).await {
            Ok(done) => done,
            Err(_) => {
                drop(place);
                work.await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::time::{Instant, sleep};

    #[tokio::test(start_paused = true)]
    async fn no_more_than_so_many_at_once_and_first_come_first_served() {
        let places = Places::new(3);
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let begun = Mutex::new(Vec::new());
        let one = |number: usize| {
            let (places, running, most, begun) = (&places, &running, &most, &begun);
            places.run(async move {
                begun.lock().unwrap().push(number);
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                sleep(Duration::from_millis(100)).await;
                running.fetch_sub(1, Ordering::SeqCst);
            })
        };
        let before = Instant::now();
        futures_util::future::join_all((0..30).map(one)).await;
        assert_eq!(before.elapsed(), Duration::from_secs(1));
        assert_eq!(most.into_inner(), 3);
        assert_eq!(begun.into_inner().unwrap(), (0..30).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_hangs_gives_its_place_away_and_goes_on() {
        let places = Places::new(1);
        let before = Instant::now();
        let hung = places.run(async {
            sleep(KEPT * 10).await;
            "done"
        });
        let next = async {
            sleep(Duration::from_millis(1)).await;
            places.run(std::future::ready(())).await;
            before.elapsed()
        };
        let (hung, next) = tokio::join!(hung, next);
        assert_eq!((hung, next), ("done", KEPT));
        assert_eq!(places.free.available_permits(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_given_up_takes_no_place_with_it() {
        let places = Places::new(1);
        let given_up = tokio::time::timeout(KEPT / 2, places.run(std::future::pending::<()>()));
        assert!(given_up.await.is_err());
        assert_eq!(places.free.available_permits(), 1);
    }
}
