//! What is used → metrics. What was not measured has no metric, never one of 0.

mod table;

use davit_proto::cri;
use davit_runtime::container::Resources;
use davit_runtime::sandbox::SandboxView;
use davit_runtime::stats::{
    ContainerDetail, Detail, DiskSpace, DiskUse, InterfaceUse, MemoryUse, Pressure, ProcessUse,
    SandboxDetail, Stall, Traffic,
};
use table::{Kind, LABELS, ROWS, Row};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// What metrics there are.
pub(crate) fn descriptors() -> Vec<cri::MetricDescriptor> {
    let descriptor = |row: &Row| cri::MetricDescriptor {
        name: row.name.to_owned(),
        help: row.help.to_owned(),
        label_keys: LABELS.iter().chain(row.labels).map(|label| (*label).to_owned()).collect(),
    };
    ROWS.iter().map(descriptor).collect()
}

/// A pod's, and its containers'.
pub(crate) fn pod_metrics(pod: &SandboxDetail) -> cri::PodSandboxMetrics {
    let view = &pod.used.sandbox;
    let containers = pod.containers.iter().map(|container| cri::ContainerMetrics {
        container_id: container.used.container.id.to_string(),
        metrics: of_container(view, container, pod.disk),
    });
    cri::PodSandboxMetrics {
        pod_sandbox_id: view.id.to_string(),
        metrics: of_pod(pod),
        container_metrics: containers.collect(),
    }
}

/// Metrics of one thing, whose own labels they all have.
struct Metrics {
    labels: [String; LABELS.len()],
    at: i64,
    made: Vec<cri::Metric>,
}

impl Metrics {
    /// Adds a metric that was measured. One without a row in the table is a mistake that a test finds; the kubelet would drop it.
    fn add(&mut self, name: &str, labels: &[&str], value: Option<u64>) {
        let Some((row, value)) = ROWS.iter().find(|row| row.name == name).zip(value) else {
            debug_assert!(value.is_none(), "{name} is not in the table");
            return;
        };
        debug_assert_eq!(row.labels.len(), labels.len(), "{name}");
        let labels = labels.iter().map(|label| (*label).to_owned());
        let kind = match row.kind {
            Kind::Counter => cri::MetricType::Counter,
            Kind::Gauge => cri::MetricType::Gauge,
        };
        self.made.push(cri::Metric {
            name: row.name.to_owned(),
            timestamp: self.at,
            metric_type: kind.into(),
            label_values: self.labels.iter().cloned().chain(labels).collect(),
            value: Some(cri::UInt64Value { value }),
        });
    }
}

fn seconds(nanoseconds: u64) -> u64 {
    nanoseconds / NANOS_PER_SECOND
}

/// The pod's network: containers have none of their own.
fn of_pod(pod: &SandboxDetail) -> Vec<cri::Metric> {
    let (view, key) = (&pod.used.sandbox, &pod.used.sandbox.spec.key);
    let own = ["", view.id.as_str(), "", &key.name, &key.namespace, ""].map(str::to_owned);
    let Some(network) = &pod.used.network else { return Vec::new() };
    let mut metrics = Metrics { labels: own, at: network.at, made: Vec::new() };
    for interface in network.default.iter().chain(&network.others) {
        let InterfaceUse { name, received, sent } = interface;
        for (direction, traffic) in [("receive", received), ("transmit", sent)] {
            let Traffic { bytes, packets, errors, dropped } = *traffic;
            for (what, count) in [
                ("bytes", bytes),
                ("packets", packets),
                ("packets_dropped", dropped),
                ("errors", errors),
            ] {
                let metric = format!("container_network_{direction}_{what}_total");
                metrics.add(&metric, &[name], Some(count));
            }
        }
    }
    metrics.made
}

fn of_container(
    pod: &SandboxView,
    container: &ContainerDetail,
    space: Option<DiskSpace>,
) -> Vec<cri::Metric> {
    let (view, key) = (&container.used.container, &pod.spec.key);
    let (id, image) = (view.id.as_str(), &view.facts.image_name);
    let name = &view.spec.name;
    let own = [&container.cgroup, id, image, &key.name, &key.namespace, name].map(str::to_owned);
    let at = container.used.at;
    let mut metrics = Metrics { labels: own, at, made: Vec::new() };
    add_cpu(&mut metrics, container);
    add_memory(&mut metrics, container.used.usage.memory.as_ref(), &container.detail);
    add_layer(&mut metrics, container, space);
    add_disks(&mut metrics, &container.detail.disks);
    add_processes(&mut metrics, &container.processes, &container.detail);
    add_spec(&mut metrics, &view.spec.resources);
    add_pressure(&mut metrics, container);
    let epoch = |at: i64| u64::try_from(at).ok().map(seconds);
    metrics.add("container_last_seen", &[], epoch(at));
    let started = view.state.started_at().and_then(epoch);
    metrics.add("container_start_time_seconds", &[], started);
    metrics.made
}

fn add_cpu(metrics: &mut Metrics, container: &ContainerDetail) {
    let cpu = &container.detail.cpu;
    let total = container.used.usage.cpu.map(|cpu| seconds(cpu.nanoseconds));
    metrics.add("container_cpu_usage_seconds_total", &["total"], total);
    metrics.add("container_cpu_user_seconds_total", &[], cpu.user.map(seconds));
    metrics.add("container_cpu_system_seconds_total", &[], cpu.system.map(seconds));
    metrics.add("container_cpu_cfs_periods_total", &[], cpu.periods);
    metrics.add("container_cpu_cfs_throttled_periods_total", &[], cpu.throttled_periods);
    metrics.add("container_cpu_cfs_throttled_seconds_total", &[], cpu.throttled.map(seconds));
}

fn add_memory(metrics: &mut Metrics, used: Option<&MemoryUse>, detail: &Detail) {
    let memory = &detail.memory;
    for (name, value) in [
        ("container_memory_usage_bytes", used.map(|used| used.usage)),
        ("container_memory_working_set_bytes", used.map(|used| used.working_set)),
        ("container_memory_rss", used.map(|used| used.rss)),
        ("container_memory_cache", memory.cache),
        ("container_memory_mapped_file", memory.mapped),
        ("container_memory_kernel_usage", memory.kernel),
        ("container_memory_swap", memory.swap),
        ("container_memory_max_usage_bytes", memory.peak),
        ("container_memory_failcnt", memory.limit_hits),
        ("container_memory_total_active_file_bytes", memory.active_file),
        ("container_memory_total_inactive_file_bytes", memory.inactive_file),
        ("container_oom_events_total", memory.oom_kills),
    ] {
        metrics.add(name, &[], value);
    }
    for (kind, count) in [
        ("pgfault", used.map(|used| used.page_faults)),
        ("pgmajfault", used.map(|used| used.major_page_faults)),
    ] {
        metrics.add("container_memory_failures_total", &[kind, "hierarchy"], count);
    }
}

fn add_layer(metrics: &mut Metrics, container: &ContainerDetail, space: Option<DiskSpace>) {
    let used = container.used.layer.map(|layer| layer.bytes);
    // The layer is on no device of its own; cAdvisor leaves the label empty, too, where it knows none.
    metrics.add("container_fs_usage_bytes", &[""], used);
    metrics.add("container_fs_limit_bytes", &[""], space.map(|space| space.size));
    metrics.add("container_fs_inodes_free", &[""], space.map(|space| space.inodes_free));
    metrics.add("container_fs_inodes_total", &[""], space.map(|space| space.inodes));
}

fn add_disks(metrics: &mut Metrics, disks: &[DiskUse]) {
    for disk in disks {
        let DiskUse { major, minor, read_bytes, reads, write_bytes, writes } = *disk;
        let (major, minor) = (major.to_string(), minor.to_string());
        let device = format!("{major}:{minor}");
        metrics.add("container_fs_reads_bytes_total", &[&device], Some(read_bytes));
        metrics.add("container_fs_reads_total", &[&device], Some(reads));
        metrics.add("container_fs_writes_bytes_total", &[&device], Some(write_bytes));
        metrics.add("container_fs_writes_total", &[&device], Some(writes));
        for (operation, bytes) in [("Read", read_bytes), ("Write", write_bytes)] {
            let labels = [device.as_str(), &major, &minor, operation];
            metrics.add("container_blkio_device_usage_total", &labels, Some(bytes));
        }
    }
}

fn add_processes(metrics: &mut Metrics, used: &ProcessUse, detail: &Detail) {
    let ProcessUse { processes, descriptors, sockets, open_files_limit } = *used;
    metrics.add("container_processes", &[], Some(processes));
    metrics.add("container_file_descriptors", &[], Some(descriptors));
    metrics.add("container_sockets", &[], Some(sockets));
    metrics.add("container_threads", &[], detail.threads);
    metrics.add(
        "container_threads_max",
        &[],
        detail.threads.map(|_| detail.threads_max.unwrap_or(0)),
    );
    metrics.add("container_ulimits_soft", &["max_open_files"], open_files_limit);
}

fn add_spec(metrics: &mut Metrics, limits: &Resources) {
    // "No limit" is -1 or 0 there, and 0 to cAdvisor. A limit of CPU that nobody asked for is not told at all.
    let limit = |limit: i64| u64::try_from(limit).unwrap_or(0);
    let asked = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
    metrics.add("container_spec_cpu_period", &[], asked(limits.cpu_period));
    metrics.add("container_spec_cpu_quota", &[], asked(limits.cpu_quota));
    metrics.add("container_spec_cpu_shares", &[], asked(limits.cpu_shares));
    metrics.add("container_spec_memory_limit_bytes", &[], Some(limit(limits.memory_limit)));
    metrics.add("container_spec_memory_reservation_limit_bytes", &[], Some(0));
    let both = limit(limits.memory_swap_limit);
    metrics.add("container_spec_memory_swap_limit_bytes", &[], Some(both));
}

fn add_pressure(metrics: &mut Metrics, container: &ContainerDetail) {
    let usage = &container.used.usage;
    for (what, pressure) in [
        ("cpu", usage.cpu.and_then(|cpu| cpu.pressure)),
        ("memory", usage.memory.and_then(|memory| memory.pressure)),
        ("io", usage.io_pressure),
    ] {
        let Some(Pressure { some, full }) = pressure else { continue };
        for (kind, Stall { total, .. }) in [("waiting", some), ("stalled", full)] {
            let name = format!("container_pressure_{what}_{kind}_seconds_total");
            metrics.add(&name, &[], Some(seconds(total)));
        }
    }
}

#[cfg(test)]
mod tests;
