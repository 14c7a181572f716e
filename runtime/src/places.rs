//! Room for so many at once; whoever comes next waits, in the order of asking.
//!
//! Owns the places in which pods and containers are made, started and ended: work that runs shims, OCI runtimes and plugins, of which a burst of calls
//! would otherwise run hundreds. Who waits holds no more than what was asked for. A place is for work, not for waiting: after a while it
//! goes to the next one although the work goes on, so that a plugin or hook that hangs holds up nobody else for long. The work is
//! done on a thread of its own, since some of its system calls (forks, mounts, cgroups) block for as long as the kernel likes: the executor's threads,
//! which answer everybody, never do. Work that has lost its place has lost its thread too, as there are not as many threads as there may be pods
//! behind a plugin that hangs: it goes on as a task like others.
//!
//! ```text
//! run ──► waits, first come first served ──► has a place ──done──► place free
//!                                                 └──── KEPT ───► place free, goes on without one, on no thread of its own
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinError;
use tracing::Instrument;

/// Ten times what making a pod takes with plugins on a busy node: what takes longer waits for something.
const KEPT: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    most: usize,
    waiting: Arc<AtomicUsize>,
    kept: Duration,
    ended: Arc<Notify>,
}

/// How full a queue is, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Queue {
    /// Who waits for a place.
    pub waiting: usize,
    /// Places that are taken.
    pub busy: usize,
    /// All places.
    pub places: usize,
}

/// The runtime's queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Queues {
    /// Of pods and containers that are to be made, and containers to be started.
    pub creations: Queue,
    /// Of pods that are to be ended.
    pub endings: Queue,
}

/// Waits for as long as it lives, be it because who waited went away.
struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Places {
    /// So many.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(most)),
            most,
            waiting: Arc::default(),
            kept: KEPT,
            ended: Arc::default(),
        }
    }

    /// Notified whenever something has been done.
    pub(crate) fn ended(&self) -> Arc<Notify> {
        Arc::clone(&self.ended)
    }

    /// How full it is now.
    pub(crate) fn look(&self) -> Queue {
        Queue {
            waiting: self.waiting.load(Ordering::Relaxed),
            busy: self.most.saturating_sub(self.free.available_permits()),
            places: self.most,
        }
    }

    /// Does the work in a place. Nothing of it is begun before there is one; it goes on to its end if nobody waits for it any more.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> T {
        // Fails for a closed semaphore only, and nobody closes this one.
        let waiting = Waiting::new(&self.waiting);
        let place = Arc::clone(&self.free).acquire_owned().await.ok();
        drop(waiting);
        let kept = self.kept;
        let executor = Handle::current();
        let work = work.instrument(tracing::Span::current());
        let placed = tokio::task::spawn_blocking(move || {
            executor.block_on(async move {
                let mut work = Box::pin(work);
                let done = tokio::time::timeout(kept, work.as_mut()).await;
                drop(place);
                done.map_err(|_elapsed| work)
            })
        });
        let ended = Arc::clone(&self.ended);
        let whole = tokio::spawn(async move {
            let done = match joined(placed.await).await {
                Ok(done) => done,
                Err(work) => work.await,
            };
            // Here, as whoever asked may have gone away.
            ended.notify_one();
            done
        });
        joined(whole.await).await
    }
}

/// What a task or a thread answers. Its panic is ours.
pub(crate) async fn joined<T>(answer: Result<T, JoinError>) -> T {
    match answer {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The executor ends, and whoever asked with it.
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use tokio::time::sleep;

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
                // Long beside what a busy machine takes to begin one.
                sleep(Duration::from_millis(100)).await;
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
        let places = Places { kept: Duration::from_secs(1), ..Places::new(1) };
        let (release, released) = tokio::sync::oneshot::channel();
        let hung = places.run(async move { released.await.unwrap() });
        let next = async {
            tokio::task::yield_now().await;
            assert_eq!(places.look(), Queue { waiting: 0, busy: 1, places: 1 });
            let next = tokio::time::timeout(Duration::from_secs(20), places.run(async { 3 }));
            assert_eq!(next.await.unwrap(), 3);
            release.send("done").unwrap();
        };
        let (hung, ()) = tokio::join!(hung, next);
        assert_eq!(hung, "done");
        assert_eq!(places.look(), Queue { waiting: 0, busy: 0, places: 1 });
    }

    #[test]
    fn those_that_hang_use_up_no_threads() {
        let executor = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .max_blocking_threads(2)
            .build()
            .unwrap();
        executor.block_on(async {
            let places = Places { kept: Duration::from_millis(10), ..Places::new(2) };
            let (release, _) = tokio::sync::broadcast::channel::<()>(1);
            let hung = |_| {
                let mut released = release.subscribe();
                places.run(async move { released.recv().await.is_err() })
            };
            let all = futures_util::future::join_all((0..20).map(hung));
            let next = async {
                sleep(Duration::from_millis(500)).await;
                let next = tokio::time::timeout(Duration::from_secs(20), places.run(async { 3 }));
                assert_eq!(next.await.unwrap(), 3);
                drop(release);
            };
            let (all, ()) = tokio::join!(all, next);
            assert_eq!(all, [true; 20]);
        });
    }

    #[tokio::test]
    async fn one_that_nobody_waits_for_goes_on_and_gives_its_place_back() {
        let places = Places { kept: Duration::from_secs(60), ..Places::new(1) };
        let (release, released) = tokio::sync::oneshot::channel::<()>();
        let (done, told) = tokio::sync::oneshot::channel();
        let work = async move {
            released.await.unwrap();
            done.send(()).unwrap();
        };
        let waited = tokio::time::timeout(Duration::from_millis(10), places.run(work)).await;
        assert!(waited.is_err());
        // One that goes away while it waits does not wait any more.
        let third = tokio::time::timeout(Duration::from_millis(1), places.run(async {})).await;
        assert!(third.is_err());
        assert_eq!(places.look().waiting, 0);
        release.send(()).unwrap();
        told.await.unwrap();
        assert_eq!(places.run(async { 3 }).await, 3);
    }
}
