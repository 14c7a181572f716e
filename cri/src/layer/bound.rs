//! No more calls at once than the daemon can hold: the next one is refused, not queued.
//!
//! A queue would hide the trouble from the caller and keep its memory; `RESOURCE_EXHAUSTED` is what kubelet and crictl show and retry.

use super::{Concern, Held, Method};
use http::HeaderMap;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Code, Status};

/// So many calls at once.
#[derive(Debug, Clone)]
pub(crate) struct Bound {
    free: Arc<Semaphore>,
    most: usize,
}

impl Bound {
    /// At most this many.
    pub(crate) fn new(most: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(most)), most }
    }
}

impl Concern for Bound {
    type Held = OwnedSemaphorePermit;

    fn begin(&self, _: Method, _: &HeaderMap) -> Result<OwnedSemaphorePermit, Box<Status>> {
        Arc::clone(&self.free).try_acquire_owned().map_err(|_full| {
            Box::new(Status::resource_exhausted(format!(
                "{} calls are under way already, as many as limits.calls allows: call again later",
                self.most
            )))
        })
    }
}

impl Held for OwnedSemaphorePermit {
    /// Dropping it is what frees the place.
    fn end(&mut self, _: Code) {}
}
