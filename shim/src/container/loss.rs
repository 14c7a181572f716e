//! A log that loses what a container says: who is told, and when it is tried again.
//!
//! While a log can't be written, one task per container tries once a second, so that a container that says no more gets its notice too, and tells
//! subscribers how much is missing: when it begins, as it grows, and when it is over. However the disk wavers, that is one event a second.

use crate::pod::Pod;
use crate::stdio::log::{Listener, Loss};
use davit_proto::shim::{Event, LogLoss, event};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Between two tries.
const PAUSE: Duration = Duration::from_secs(1);

/// Listens to the log of a container of this pod.
pub(super) fn listener(pod: &Arc<Pod>, id: &str) -> Listener {
    // The pod has the container, and that the log.
    let (pod, id) = (Arc::downgrade(pod), id.to_owned());
    let watched = Arc::new(AtomicBool::new(false));
    Box::new(move || {
        if !watched.swap(true, Ordering::Relaxed) {
            tokio::spawn(watch(Weak::clone(&pod), id.clone(), Arc::clone(&watched)));
        }
    })
}

/// The event that tells of it.
pub(crate) fn event(id: &str, loss: Loss) -> Event {
    let Loss { dropped, error } = loss;
    let loss = LogLoss { dropped, error: error.unwrap_or_default() };
    Event { id: id.to_owned(), kind: Some(event::Kind::LogLoss(loss)) }
}

/// Until the log is whole, or the container gone.
async fn watch(pod: Weak<Pod>, id: String, watched: Arc<AtomicBool>) {
    let mut told = None;
    loop {
        {
            let Some(pod) = pod.upgrade() else { return };
            let Ok(container) = pod.container(&id) else { return };
            let whole = told.is_some() && container.log.settle();
            if whole {
                watched.store(false, Ordering::Relaxed);
            }
            let loss = container.log.loss();
            if let (true, Some(loss)) = (loss != told, &loss) {
                pod.events.publish(&event(&id, loss.clone()));
            }
            if whole {
                return;
            }
            told = loss;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
