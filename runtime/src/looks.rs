//! Looks at files of the host that may never come back: a volume may be on a share whose server is gone.
//!
//! Owns the threads that look. Each is waited for so long, then whoever waits is told at which path it is; the thread ends when the kernel lets it, and till
//! then nobody looks at that path again. So what is asked for again and again has one thread, and there are no more than so many of them: the others of
//! the executor's threads that may block are left to everybody else.

use crate::places::joined;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A quarter of the executor's threads that may block.
const MOST: usize = 128;

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Looks {
    free: Arc<Semaphore>,
    running: Arc<Mutex<Vec<Arc<Spot>>>>,
}

/// Where a look is at the moment.
#[derive(Debug)]
pub struct Spot {
    begun: Instant,
    path: Mutex<Option<PathBuf>>,
}

/// What is looked at does not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("look at {}: no answer within {} ms", path.as_deref().map_or("the host's files".into(), Path::to_string_lossy), waited.as_millis())]
pub struct Hung {
    /// What it is, if a look has come to anything yet.
    pub path: Option<PathBuf>,
    /// For how long it was waited.
    pub waited: Duration,
}

impl Default for Spot {
    fn default() -> Self {
        Self { begun: Instant::now(), path: Mutex::default() }
    }
}

impl Spot {
    /// From now on it is here.
    pub fn at(&self, path: &Path) {
        *self.path() = Some(path.to_owned());
    }

    fn path(&self) -> MutexGuard<'_, Option<PathBuf>> {
        self.path.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Looks {
    fn default() -> Self {
        Self { free: Arc::new(Semaphore::new(MOST)), running: Arc::default() }
    }
}

impl Looks {
    /// Looks, in a thread that may block.
    ///
    /// # Errors
    /// [`Hung`] after so long. The look may still come to its end.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        look: impl FnOnce(&Spot) -> T + Send + 'static,
    ) -> Result<T, Hung> {
        let spot = Arc::new(Spot::default());
        let looking = async {
            // Fails for a closed semaphore only, and nobody closes this one.
            let place = Arc::clone(&self.free).acquire_owned().await.ok();
            let running = self.begin(&spot, place);
            let span = tracing::Span::current();
            let thread = tokio::task::spawn_blocking(move || span.in_scope(|| look(&running.spot)));
            joined(thread.await).await
        };
        let looked = tokio::time::timeout(limit, looking).await;
        looked.map_err(|_elapsed| Hung { path: spot.path().clone(), waited: limit })
    }

    /// Refuses what somebody else's look hangs at.
    ///
    /// # Errors
    /// [`Hung`] at once.
    pub(crate) fn may_look(&self, path: &Path, limit: Duration) -> Result<(), Hung> {
        let hangs = |spot: &&Arc<Spot>| {
            spot.begun.elapsed() >= limit && spot.path().as_deref() == Some(path)
        };
        match self.running().iter().find(hangs) {
            None => Ok(()),
            Some(spot) => Err(Hung { path: Some(path.to_owned()), waited: spot.begun.elapsed() }),
        }
    }

    fn begin(&self, spot: &Arc<Spot>, place: Option<OwnedSemaphorePermit>) -> Running {
        self.running().push(Arc::clone(spot));
        Running { looks: self.clone(), spot: Arc::clone(spot), _place: place }
    }

    fn running(&self) -> MutexGuard<'_, Vec<Arc<Spot>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One that has not come back yet.
struct Running {
    looks: Looks,
    spot: Arc<Spot>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.looks.running().retain(|other| !Arc::ptr_eq(other, &self.spot));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const LIMIT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn what_hangs_is_given_up_by_its_path_and_not_looked_at_again_till_it_comes_back() {
        let looks = Looks::default();
        let (share, other) = (Path::new("/mnt/share"), Path::new("/mnt/other"));
        assert_eq!(looks.run(LIMIT, |_| 3).await, Ok(3));
        let (answer, server) = mpsc::channel::<()>();
        let looked = looks.run(LIMIT, move |spot| {
            spot.at(other);
            spot.at(share);
            server.recv().is_err()
        });
        let hung = looked.await.unwrap_err();
        assert_eq!(hung, Hung { path: Some(share.to_owned()), waited: LIMIT });
        assert_eq!(hung.to_string(), "look at /mnt/share: no answer within 50 ms");
        assert_eq!(looks.may_look(share, LIMIT).unwrap_err().path.as_deref(), Some(share));
        assert_eq!(looks.may_look(other, LIMIT), Ok(()));
        drop(answer);
        while looks.may_look(share, LIMIT).is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!((looks.running().len(), looks.free.available_permits()), (0, MOST));
    }

    #[tokio::test]
    async fn there_are_only_so_many_that_hang() {
        let looks = Looks { free: Arc::new(Semaphore::new(1)), ..Looks::default() };
        let (answer, server) = mpsc::channel::<()>();
        looks.run(LIMIT, move |_| server.recv().is_err()).await.unwrap_err();
        assert_eq!(looks.run(LIMIT, |_| ()).await, Err(Hung { path: None, waited: LIMIT }));
        drop(answer);
        looks.run(Duration::from_secs(30), |_| ()).await.unwrap();
    }
}
