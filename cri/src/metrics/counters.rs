//! What the state machine counts, at one moment.

use super::process;
use davit_proto::admin;
use davit_runtime::{Queues, Runtime};
use std::sync::Arc;

/// The counts. Those that only grow say so; all others are of this moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Containers made and not started.
    pub(crate) containers_created: u64,
    /// Containers that run.
    pub(crate) containers_running: u64,
    /// Containers that are frozen.
    pub(crate) containers_paused: u64,
    /// Containers that have ended.
    pub(crate) containers_stopped: u64,
    /// Pods that containers can be made in.
    pub(crate) sandboxes_ready: u64,
    /// Pods that have stopped.
    pub(crate) sandboxes_not_ready: u64,
    /// Pods' shims that live.
    pub(crate) shims: u64,
    /// Images.
    pub(crate) images: u64,
    /// Unpacked layers, each counted once.
    pub(crate) image_layers: u64,
    /// What those take of the disk.
    pub(crate) image_layer_bytes: u64,
    /// Who is subscribed to events.
    pub(crate) event_listeners: u64,
    /// Events that subscribers were too slow for. It only grows.
    pub(crate) events_dropped: u64,
    /// How often a subscriber was told so. It only grows.
    pub(crate) subscribers_lagged: u64,
    /// Events that can be replayed.
    pub(crate) events_retained: u64,
    /// Events that could not be stored. It only grows.
    pub(crate) events_not_stored: u64,
    /// Bytes of containers' logs that could not be written. It only grows.
    pub(crate) log_dropped_bytes: u64,
    /// How full the queues are.
    pub(crate) queues: Queues,
}

/// Where the counters are fetched.
pub(crate) type CountersSource = Arc<dyn Fn() -> Counters + Send + Sync>;

impl Counters {
    /// As they are kept.
    pub(crate) fn of(runtime: &Runtime) -> Self {
        let counts = runtime.counters().read();
        let totals = runtime.images().totals();
        let stored = runtime.stored_events();
        Self {
            containers_created: counts.containers_created,
            containers_running: counts.containers_running,
            containers_paused: counts.containers_paused,
            containers_stopped: counts.containers_stopped,
            sandboxes_ready: counts.sandboxes_ready,
            sandboxes_not_ready: counts.sandboxes_not_ready,
            shims: counts.shims,
            images: count(totals.images),
            image_layers: count(totals.layers),
            image_layer_bytes: totals.bytes,
            event_listeners: counts.event_listeners,
            events_dropped: counts.events_dropped,
            subscribers_lagged: counts.listeners_told,
            events_retained: stored.retained,
            events_not_stored: stored.not_stored,
            log_dropped_bytes: counts.log_dropped_bytes,
            queues: runtime.queues(),
        }
    }

    /// As `davit info` is told, with what the kernel and the executor know besides.
    pub(crate) fn to_wire(self) -> admin::Counters {
        let Self {
            containers_created,
            containers_running,
            containers_paused,
            containers_stopped,
            sandboxes_ready,
            sandboxes_not_ready,
            shims,
            images,
            image_layers,
            image_layer_bytes,
            event_listeners,
            events_dropped,
            subscribers_lagged: _,
            events_retained: _,
            events_not_stored: _,
            log_dropped_bytes,
            queues: _,
        } = self;
        let now = jiff::Timestamp::now().as_nanosecond();
        admin::Counters {
            containers_created,
            containers_running,
            containers_paused,
            containers_stopped,
            sandboxes_ready,
            sandboxes_not_ready,
            shims,
            images,
            image_layers,
            image_layer_bytes,
            event_listeners,
            events_dropped,
            log_dropped_bytes,
            descriptors: process::descriptors(),
            tasks: process::tasks(),
            // Until the year 2262.
            system_time: i64::try_from(now).unwrap_or(i64::MAX),
        }
    }

    /// As the verbose Status of CRI has them, under the keys that docs/metrics.md tells.
    pub(crate) fn to_json(self) -> serde_json::Value {
        let queue = |queue: davit_runtime::Queue| {
            let davit_runtime::Queue { waiting, busy, places } = queue;
            serde_json::json!({ "waiting": waiting, "busy": busy, "places": places })
        };
        serde_json::json!({
            "containers": {
                "created": self.containers_created,
                "running": self.containers_running,
                "paused": self.containers_paused,
                "stopped": self.containers_stopped,
            },
            "sandboxes": { "ready": self.sandboxes_ready, "notReady": self.sandboxes_not_ready },
            "shims": self.shims,
            "images": self.images,
            "imageLayers": self.image_layers,
            "imageLayerBytes": self.image_layer_bytes,
            "eventListeners": self.event_listeners,
            "eventsDropped": self.events_dropped,
            "eventListenersLagged": self.subscribers_lagged,
            "eventsRetained": self.events_retained,
            "eventsNotStored": self.events_not_stored,
            "logDroppedBytes": self.log_dropped_bytes,
            "queues": {
                "creations": queue(self.queues.creations),
                "endings": queue(self.queues.endings),
            },
            "openFds": process::descriptors(),
            "tasks": process::tasks(),
        })
    }
}

/// A count as the wire has it.
pub(super) fn count(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_info_tells_is_what_is_counted() {
        let wire = Counters { containers_paused: 2, images: 3, ..Counters::default() }.to_wire();
        assert_eq!((wire.containers_paused, wire.images, wire.containers_created), (2, 3, 0));
        assert!(wire.descriptors >= 3 && wire.system_time > 1_700_000_000_000_000_000);
    }

    #[test]
    fn what_status_tells_is_what_is_counted() {
        let counters = Counters { containers_paused: 2, shims: 3, ..Counters::default() };
        let json = counters.to_json();
        assert_eq!((&json["containers"]["paused"], &json["shims"]), (&2.into(), &3.into()));
        assert_eq!(json["queues"]["creations"]["waiting"], 0);
    }
}
