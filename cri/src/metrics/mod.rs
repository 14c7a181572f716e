//! The status counters as Prometheus shows them, and the endpoint.
//!
//! Owns names and help texts of what is a state, and the endpoint ([`http`], [`debug`]). The numbers are the state machine's own ([`Counters`],
//! fetched by a closure at each scrape) and the process's ([`process`]); nothing is counted here, so nothing here can be out of step. What is
//! measured while it happens is elsewhere: calls in [`crate::layer`], the runtime's work in [`davit_runtime::metrics`]. docs/metrics.md lists
//! all of them, and a test compares it with what a scrape gives.
//!
//! No label is a name that somebody else can choose, but a handler's, which the configuration has: what a pod is called is nobody's label.

mod counters;
pub(crate) mod debug;
mod gauges;
pub(crate) mod http;
pub(crate) mod process;
mod profile;
mod site;

pub(crate) use counters::{Counters, CountersSource};
pub(crate) use site::{DebugOn, Site};

use gauges::Gauges;
use prometheus::{Encoder, Registry, TextEncoder};
use std::sync::{Mutex, PoisonError};

/// The gauges, and who fills them.
pub(crate) struct Metrics {
    registry: Registry,
    gauges: Gauges,
    counters: CountersSource,
    /// Two scrapes at once would mix two moments.
    one_at_a_time: Mutex<()>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// All gauges, registered with `registry`, which holds everything else, too.
    ///
    /// # Errors
    /// The library's, if the registry has metrics of these names already.
    pub(crate) fn new(registry: Registry, counters: CountersSource) -> prometheus::Result<Self> {
        let gauges = Gauges::register(&registry)?;
        Ok(Self { registry, gauges, counters, one_at_a_time: Mutex::new(()) })
    }

    /// Everything, in Prometheus' text format. Reads a few files of the kernel's: some tens of microseconds for each thousand descriptors.
    ///
    /// # Errors
    /// The library's; none is known for metrics that were registered.
    pub(crate) fn text(&self) -> prometheus::Result<Vec<u8>> {
        let _one = self.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
        self.gauges.set(&(self.counters)());
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::VERSION;
    use davit_runtime::{Queue, Queues};
    use std::sync::Arc;

    #[test]
    fn a_scrape_shows_what_the_counters_say_then() {
        let running = Arc::new(std::sync::atomic::AtomicU64::new(2));
        let source = Arc::clone(&running);
        let counters: CountersSource = Arc::new(move || Counters {
            containers_running: source.load(std::sync::atomic::Ordering::Relaxed),
            sandboxes_ready: 1,
            shims: 1,
            image_layers: 4,
            image_layer_bytes: 4096,
            log_dropped_bytes: 17,
            events_dropped: 3,
            subscribers_lagged: 2,
            events_retained: 9,
            events_not_stored: 5,
            queues: Queues {
                creations: Queue { waiting: 5, busy: 16, places: 16 },
                ..Queues::default()
            },
            ..Counters::default()
        });
        let metrics = Metrics::new(Registry::new(), counters).unwrap();
        let text = || String::from_utf8(metrics.text().unwrap()).unwrap();
        let first = text();
        for line in [
            "davit_containers{state=\"running\"} 2",
            "davit_containers{state=\"paused\"} 0",
            "davit_pods{state=\"ready\"} 1",
            "davit_pods{state=\"not_ready\"} 0",
            "davit_shims 1",
            "davit_images 0",
            "davit_image_layers 4",
            "davit_image_layer_bytes 4096",
            "davit_event_subscribers 0",
            "davit_queue_waiting{queue=\"creations\"} 5",
            "davit_queue_busy{queue=\"creations\"} 16",
            "davit_queue_places{queue=\"endings\"} 0",
            "# TYPE davit_log_dropped_bytes_total counter",
            "davit_log_dropped_bytes_total 17",
            "davit_events_dropped_total 3",
            "davit_event_subscribers_lagged_total 2",
            "davit_events_retained 9",
            "davit_events_not_stored_total 5",
            "# TYPE process_cpu_seconds_total counter",
        ] {
            assert!(first.contains(line), "{line} is missing from {first}");
        }
        assert!(first.contains(&format!("version=\"{VERSION}\"")), "{first}");
        running.store(3, std::sync::atomic::Ordering::Relaxed);
        let second = text();
        assert!(second.contains("davit_containers{state=\"running\"} 3"));
        assert!(second.contains("davit_log_dropped_bytes_total 17"), "counted once: {second}");
    }

    #[test]
    fn one_scrape_is_as_long_as_the_last() {
        let counters: CountersSource = Arc::new(Counters::default);
        let metrics = Metrics::new(Registry::new(), counters).unwrap();
        let lines = || metrics.text().unwrap().iter().filter(|byte| **byte == b'\n').count();
        let first = lines();
        for _ in 0..100 {
            assert_eq!(lines(), first);
        }
    }
}
