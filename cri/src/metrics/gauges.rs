//! The names of what is a state, and how a scrape fills them in.

use super::counters::{Counters, count};
use super::process;
use crate::VERSION;
use davit_runtime::{Queue, Queues};
use prometheus::core::Collector;
use prometheus::{Counter, Gauge, GaugeVec, IntCounter, IntGauge, IntGaugeVec, Opts, Registry};

/// See the module.
pub(super) struct Gauges {
    containers: IntGaugeVec,
    pods: IntGaugeVec,
    queues: [IntGaugeVec; 3],
    plain: Plain,
    log_dropped: IntCounter,
    events_dropped: IntCounter,
    events_not_stored: IntCounter,
    lagged: IntCounter,
    cpu: Counter,
    started: Gauge,
}

/// Those without a label.
struct Plain {
    shims: IntGauge,
    images: IntGauge,
    layers: IntGauge,
    layer_bytes: IntGauge,
    subscribers: IntGauge,
    retained: IntGauge,
    descriptors: IntGauge,
    most_descriptors: IntGauge,
    tasks: IntGauge,
    threads: IntGauge,
    resident: IntGauge,
    heap: IntGauge,
}

impl Gauges {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let states = |name, help| IntGaugeVec::new(Opts::new(name, help), &["state"]);
        let queue = |name, help| IntGaugeVec::new(Opts::new(name, help), &["queue"]);
        let gauges = Self {
            containers: states("davit_containers", "Containers, by state.")?,
            pods: states("davit_pods", "Pods, by state.")?,
            queues: [
                queue("davit_queue_waiting", "Who waits for a place of limits.creations.")?,
                queue("davit_queue_busy", "Places of limits.creations that are taken.")?,
                queue("davit_queue_places", "Places of limits.creations.")?,
            ],
            plain: Plain::new()?,
            log_dropped: IntCounter::new(
                "davit_log_dropped_bytes_total",
                "Bytes of containers' logs that could not be written.",
            )?,
            events_dropped: IntCounter::new(
                "davit_events_dropped_total",
                "Events that subscribers were too slow for.",
            )?,
            events_not_stored: IntCounter::new(
                "davit_events_not_stored_total",
                "Events that could not be stored.",
            )?,
            lagged: IntCounter::new(
                "davit_event_subscribers_lagged_total",
                "How often a subscriber of events was told that it missed some.",
            )?,
            cpu: Counter::new("process_cpu_seconds_total", "User and system CPU time.")?,
            started: Gauge::new(
                "process_start_time_seconds",
                "When the daemon was started, since the Unix epoch.",
            )?,
        };
        gauges.started.set(process::started());
        let build = GaugeVec::new(
            Opts::new("davit_build_info", "The version that runs; always 1."),
            &["version"],
        )?;
        build.with_label_values(&[VERSION]).set(1.0);
        registry.register(Box::new(build))?;
        for collector in gauges.collectors() {
            registry.register(collector)?;
        }
        Ok(gauges)
    }

    fn collectors(&self) -> Vec<Box<dyn Collector>> {
        let Self {
            containers,
            pods,
            queues,
            plain,
            log_dropped,
            events_dropped,
            events_not_stored,
            lagged,
            cpu,
            started,
        } = self;
        let vectors = [containers, pods].into_iter().chain(queues);
        let vectors = vectors.map(|one| Box::new(one.clone()) as Box<dyn Collector>);
        let plain = plain.all().map(|one| Box::new(one.clone()) as Box<dyn Collector>);
        let counters = [log_dropped, events_dropped, events_not_stored, lagged];
        let counters = counters.map(|one| Box::new(one.clone()) as Box<dyn Collector>);
        let others: [Box<dyn Collector>; 2] = [Box::new(cpu.clone()), Box::new(started.clone())];
        vectors.chain(plain).chain(counters).chain(others).collect()
    }

    /// As it is now. One scrape at a time comes here.
    pub(super) fn set(&self, counters: &Counters) {
        for (state, count) in [
            ("created", counters.containers_created),
            ("running", counters.containers_running),
            ("paused", counters.containers_paused),
            ("stopped", counters.containers_stopped),
        ] {
            self.containers.with_label_values(&[state]).set(signed(count));
        }
        self.pods.with_label_values(&["ready"]).set(signed(counters.sandboxes_ready));
        self.pods.with_label_values(&["not_ready"]).set(signed(counters.sandboxes_not_ready));
        let Queues { creations, endings } = counters.queues;
        for (name, Queue { waiting, busy, places }) in
            [("creations", creations), ("endings", endings)]
        {
            for (gauge, value) in self.queues.iter().zip([waiting, busy, places]) {
                gauge.with_label_values(&[name]).set(signed(count(value)));
            }
        }
        grown(&self.log_dropped, counters.log_dropped_bytes);
        grown(&self.events_dropped, counters.events_dropped);
        grown(&self.events_not_stored, counters.events_not_stored);
        grown(&self.lagged, counters.subscribers_lagged);
        self.plain.set(counters);
        let usage = process::usage();
        self.plain.resident.set(signed(usage.resident_bytes));
        self.cpu.inc_by((usage.cpu_seconds - self.cpu.get()).max(0.0));
    }
}

impl Plain {
    fn new() -> prometheus::Result<Self> {
        let gauge = IntGauge::new::<&str, &str>;
        Ok(Self {
            shims: gauge("davit_shims", "Pods' shims that live.")?,
            images: gauge("davit_images", "Images.")?,
            layers: gauge("davit_image_layers", "Unpacked layers of images, each counted once.")?,
            layer_bytes: gauge(
                "davit_image_layer_bytes",
                "What unpacked layers take of the disk.",
            )?,
            subscribers: gauge("davit_event_subscribers", "Subscribers of events.")?,
            retained: gauge("davit_events_retained", "Events that can be replayed.")?,
            descriptors: gauge("davit_open_fds", "The daemon's open file descriptors.")?,
            most_descriptors: gauge("process_max_fds", "How many file descriptors may be open.")?,
            tasks: gauge("davit_tasks", "The daemon's live asynchronous tasks.")?,
            threads: gauge("davit_threads", "The daemon's threads.")?,
            resident: gauge("process_resident_memory_bytes", "Resident memory.")?,
            heap: gauge("davit_heap_bytes", "Memory that the daemon has allocated.")?,
        })
    }

    fn all(&self) -> impl Iterator<Item = &IntGauge> {
        let Self {
            shims,
            images,
            layers,
            layer_bytes,
            subscribers,
            retained,
            descriptors,
            most_descriptors,
            tasks,
            threads,
            resident,
            heap,
        } = self;
        let counted = [shims, images, layers, layer_bytes, subscribers, retained];
        counted.into_iter().chain([descriptors, most_descriptors, tasks, threads, resident, heap])
    }

    fn set(&self, counters: &Counters) {
        self.shims.set(signed(counters.shims));
        self.images.set(signed(counters.images));
        self.layers.set(signed(counters.image_layers));
        self.layer_bytes.set(signed(counters.image_layer_bytes));
        self.subscribers.set(signed(counters.event_listeners));
        self.retained.set(signed(counters.events_retained));
        self.descriptors.set(signed(process::descriptors()));
        self.most_descriptors.set(signed(process::most_descriptors()));
        self.tasks.set(signed(process::tasks()));
        self.threads.set(signed(process::threads()));
        let heap = davit_runtime::heap();
        self.heap.set(signed(count(heap.used.saturating_add(heap.mapped))));
    }
}

/// Brings a counter to what is counted elsewhere.
fn grown(counter: &IntCounter, to: u64) {
    counter.inc_by(to.saturating_sub(counter.get()));
}

/// Nothing that is counted here comes near the limit.
fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
