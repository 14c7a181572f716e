//! Which calls are under way, so that a stopping daemon can refuse new ones and wait for those it has.
//!
//! ```text
//! open ──stop──► stopping: new calls get UNAVAILABLE ──every counted call has ended──► drained
//! ```
//!
//! Calls that never end by themselves ([`Method::endless`]) are let in but not counted: nobody waits for them.

use super::{Concern, Held, Method};
use http::HeaderMap;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::{Code, Status};

/// The calls under way.
#[derive(Debug, Clone, Default)]
pub(crate) struct InFlight {
    counted: TaskTracker,
    stopping: CancellationToken,
}

impl InFlight {
    /// From now on calls are refused.
    pub(crate) fn stop(&self) {
        self.stopping.cancel();
        self.counted.close();
    }

    /// Ends when [`Self::stop`] has been called.
    pub(crate) fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// How many calls are under way, the endless ones left out.
    pub(crate) fn len(&self) -> usize {
        self.counted.len()
    }

    /// Ends when new calls are refused and every counted one has ended.
    pub(crate) async fn drained(&self) {
        self.counted.wait().await;
    }
}

/// One call's place in the count.
#[derive(Debug)]
pub(crate) struct Place {
    _counted: Option<TaskTrackerToken>,
}

impl Concern for InFlight {
    type Held = Place;

    fn begin(&self, method: Method, _: &HeaderMap) -> Result<Place, Box<Status>> {
        // The place is taken before the look: a call that is let in is waited for, whatever happens in between.
        let place = Place { _counted: (!method.endless).then(|| self.counted.token()) };
        if self.stopping.is_cancelled() {
            return Err(Box::new(Status::unavailable("davit is stopping")));
        }
        Ok(place)
    }
}

impl Held for Place {
    /// Dropping it is what frees the place.
    fn end(&mut self, _: Code) {}
}
