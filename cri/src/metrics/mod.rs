//! The status counters as Prometheus shows them.
//!
//! Owns names and help texts, and the endpoint ([`http`]). The numbers are the state machine's own ([`Counters`], fetched by a closure
//! at each scrape) and the process's ([`process`]); nothing is counted here, so nothing here can be out of step.

pub(crate) mod http;
pub(crate) mod process;

use crate::VERSION;
use davit_proto::admin;
use prometheus::{
    Encoder, Gauge, GaugeVec, IntCounter, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};
use std::sync::{Arc, Mutex, PoisonError};

/// What the state machine counts, at one moment.
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
    /// Images.
    pub(crate) images: u64,
    /// Who is subscribed to events.
    pub(crate) event_listeners: u64,
    /// Bytes of containers' logs that could not be written: a counter, all others are gauges.
    pub(crate) log_dropped_bytes: u64,
}

impl Counters {
    /// As `davit info` is told, with what the kernel and the executor know besides.
    pub(crate) fn to_wire(self) -> admin::Counters {
        let Self {
            containers_created,
            containers_running,
            containers_paused,
            containers_stopped,
            sandboxes_ready,
            sandboxes_not_ready,
            images,
            event_listeners,
            log_dropped_bytes,
        } = self;
        let now = jiff::Timestamp::now().as_nanosecond();
        admin::Counters {
            containers_created,
            containers_running,
            containers_paused,
            containers_stopped,
            sandboxes_ready,
            sandboxes_not_ready,
            images,
            event_listeners,
            log_dropped_bytes,
            descriptors: process::descriptors(),
            tasks: process::tasks(),
            // Until the year 2262.
            system_time: i64::try_from(now).unwrap_or(i64::MAX),
        }
    }
}

/// Where the counters are fetched.
pub(crate) type CountersSource = Arc<dyn Fn() -> Counters + Send + Sync>;

/// The gauges, and who fills them.
pub(crate) struct Metrics {
    registry: Registry,
    gauges: Gauges,
    counters: CountersSource,
    /// Two scrapes at once would mix two moments.
    one_at_a_time: Mutex<()>,
}

struct Gauges {
    containers: IntGaugeVec,
    sandboxes: IntGaugeVec,
    images: IntGauge,
    event_listeners: IntGauge,
    log_dropped: IntCounter,
    descriptors: IntGauge,
    tasks: IntGauge,
    cpu: Gauge,
    rss: IntGauge,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// All gauges, registered with `registry`, which holds the operations' counters too.
    ///
    /// # Errors
    /// The library's, if the registry has metrics of these names already.
    pub(crate) fn new(registry: Registry, counters: CountersSource) -> prometheus::Result<Self> {
        let build =
            GaugeVec::new(Opts::new("davit_build_info", "The version that runs."), &["version"])?;
        build.with_label_values(&[VERSION]).set(1.0);
        registry.register(Box::new(build))?;
        let gauges = Gauges::register(&registry)?;
        Ok(Self { registry, gauges, counters, one_at_a_time: Mutex::new(()) })
    }

    /// Everything, in Prometheus' text format.
    ///
    /// # Errors
    /// The library's; none is known for metrics that were registered.
    pub(crate) fn text(&self) -> prometheus::Result<Vec<u8>> {
        let _one = self.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
        self.gauges.set((self.counters)());
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

impl Gauges {
    fn register(registry: &Registry) -> prometheus::Result<Self> {
        let gauges = Self {
            containers: IntGaugeVec::new(
                Opts::new("davit_containers", "Containers, by state."),
                &["state"],
            )?,
            sandboxes: IntGaugeVec::new(
                Opts::new("davit_sandboxes", "Pod sandboxes, by state."),
                &["state"],
            )?,
            images: IntGauge::new("davit_images", "Images.")?,
            event_listeners: IntGauge::new(
                "davit_event_listeners",
                "Subscribers of container events.",
            )?,
            log_dropped: IntCounter::new(
                "davit_log_dropped_bytes_total",
                "Bytes of containers' logs that could not be written.",
            )?,
            descriptors: IntGauge::new(
                "davit_open_descriptors",
                "The daemon's open file descriptors.",
            )?,
            tasks: IntGauge::new("davit_tasks", "The daemon's live asynchronous tasks.")?,
            cpu: Gauge::new("process_cpu_seconds_total", "User and system CPU time, in seconds.")?,
            rss: IntGauge::new("process_resident_memory_bytes", "Resident memory, in bytes.")?,
        };
        registry.register(Box::new(gauges.containers.clone()))?;
        registry.register(Box::new(gauges.sandboxes.clone()))?;
        for gauge in [
            &gauges.images,
            &gauges.event_listeners,
            &gauges.descriptors,
            &gauges.tasks,
            &gauges.rss,
        ] {
            registry.register(Box::new(gauge.clone()))?;
        }
        registry.register(Box::new(gauges.cpu.clone()))?;
        registry.register(Box::new(gauges.log_dropped.clone()))?;
        Ok(gauges)
    }

    fn set(&self, counters: Counters) {
        let Counters {
            containers_created,
            containers_running,
            containers_paused,
            containers_stopped,
            sandboxes_ready,
            sandboxes_not_ready,
            images,
            event_listeners,
            log_dropped_bytes,
        } = counters;
        for (state, count) in [
            ("created", containers_created),
            ("running", containers_running),
            ("paused", containers_paused),
            ("stopped", containers_stopped),
        ] {
            self.containers.with_label_values(&[state]).set(signed(count));
        }
        self.sandboxes.with_label_values(&["ready"]).set(signed(sandboxes_ready));
        self.sandboxes.with_label_values(&["not_ready"]).set(signed(sandboxes_not_ready));
        self.images.set(signed(images));
        self.event_listeners.set(signed(event_listeners));
        // It counts what is counted elsewhere; one scrape at a time comes here.
        self.log_dropped.inc_by(log_dropped_bytes.saturating_sub(self.log_dropped.get()));
        self.descriptors.set(signed(process::descriptors()));
        self.tasks.set(signed(process::tasks()));
        let usage = process::usage();
        self.cpu.set(usage.cpu_seconds);
        self.rss.set(signed(usage.resident_bytes));
    }
}

/// Nothing that is counted here comes near the limit.
fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
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
    fn a_scrape_shows_what_the_counters_say_then() {
        let running = Arc::new(std::sync::atomic::AtomicU64::new(2));
        let source = Arc::clone(&running);
        let counters: CountersSource = Arc::new(move || Counters {
            containers_running: source.load(std::sync::atomic::Ordering::Relaxed),
            sandboxes_ready: 1,
            log_dropped_bytes: 17,
            ..Counters::default()
        });
        let metrics = Metrics::new(Registry::new(), counters).unwrap();
        let text = || String::from_utf8(metrics.text().unwrap()).unwrap();
        let first = text();
        for line in [
            "davit_containers{state=\"running\"} 2",
            "davit_containers{state=\"paused\"} 0",
            "davit_sandboxes{state=\"ready\"} 1",
            "davit_sandboxes{state=\"not_ready\"} 0",
            "davit_images 0",
            "davit_event_listeners 0",
            "# TYPE davit_log_dropped_bytes_total counter",
            "davit_log_dropped_bytes_total 17",
        ] {
            assert!(first.contains(line), "{line} is missing from {first}");
        }
        assert!(first.contains(&format!("davit_build_info{{version=\"{VERSION}\"}} 1")));
        running.store(3, std::sync::atomic::Ordering::Relaxed);
        assert!(text().contains("davit_containers{state=\"running\"} 3"));
    }
}
