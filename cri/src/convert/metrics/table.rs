//! The metrics that the kubelet hands on as `/metrics/cadvisor`: cAdvisor's names, labels and units.
//!
//! Owns the table of what there is, which never changes while davit runs; every metric that is told is made from its row, so no value can be without a description
//! or have other labels than that. Values are whole numbers by the interface's own type: of seconds the fraction is lost.

/// What one metric is.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    /// Besides those that all have.
    pub(super) labels: &'static [&'static str],
    pub(super) kind: Kind,
}

/// How a metric moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// The labels that all have: what cAdvisor and the kubelet call them.
pub(super) const LABELS: [&str; 6] = ["id", "name", "image", "pod", "namespace", "container"];

const fn counter(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Row {
    Row { name, help, labels, kind: Kind::Counter }
}

const fn gauge(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Row {
    Row { name, help, labels, kind: Kind::Gauge }
}

/// All of them.
pub(super) const ROWS: [Row; 56] = [
    counter("container_cpu_user_seconds_total", "CPU time spent in programs, in seconds", &[]),
    counter("container_cpu_system_seconds_total", "CPU time spent in the kernel, in seconds", &[]),
    counter("container_cpu_usage_seconds_total", "CPU time, in seconds", &["cpu"]),
    counter("container_cpu_cfs_periods_total", "Periods of the CPU quota", &[]),
    counter(
        "container_cpu_cfs_throttled_periods_total",
        "Periods in which the CPU quota was used up",
        &[],
    ),
    counter(
        "container_cpu_cfs_throttled_seconds_total",
        "Time that the CPU quota withheld, in seconds",
        &[],
    ),
    gauge("container_memory_cache", "Page cache, in bytes", &[]),
    gauge("container_memory_rss", "Anonymous memory, in bytes", &[]),
    gauge("container_memory_kernel_usage", "The kernel's memory, in bytes", &[]),
    gauge("container_memory_mapped_file", "Mapped files, in bytes", &[]),
    gauge("container_memory_swap", "Swapped out, in bytes", &[]),
    counter("container_memory_failcnt", "How often the memory limit was hit", &[]),
    gauge("container_memory_usage_bytes", "Memory, page cache included, in bytes", &[]),
    gauge("container_memory_max_usage_bytes", "The most memory there ever was, in bytes", &[]),
    gauge(
        "container_memory_working_set_bytes",
        "Memory without the inactive pages of files, in bytes",
        &[],
    ),
    gauge("container_memory_total_active_file_bytes", "Pages of files used lately, in bytes", &[]),
    gauge(
        "container_memory_total_inactive_file_bytes",
        "Pages of files not used lately, in bytes",
        &[],
    ),
    counter("container_memory_failures_total", "Page faults", &["failure_type", "scope"]),
    counter("container_oom_events_total", "How often the OOM killer struck", &[]),
    gauge("container_fs_usage_bytes", "The writable layer, in bytes", &["device"]),
    gauge(
        "container_fs_limit_bytes",
        "The file system of the writable layer, in bytes",
        &["device"],
    ),
    gauge("container_fs_inodes_free", "Free inodes of that file system", &["device"]),
    gauge("container_fs_inodes_total", "Inodes of that file system", &["device"]),
    counter("container_fs_reads_bytes_total", "Read from disks, in bytes", &["device"]),
    counter("container_fs_reads_total", "Read requests to disks", &["device"]),
    counter("container_fs_writes_bytes_total", "Written to disks, in bytes", &["device"]),
    counter("container_fs_writes_total", "Write requests to disks", &["device"]),
    counter(
        "container_blkio_device_usage_total",
        "Read from and written to disks, in bytes",
        &["device", "major", "minor", "operation"],
    ),
    gauge("container_file_descriptors", "Open descriptors", &[]),
    gauge("container_processes", "Processes", &[]),
    gauge("container_sockets", "Open sockets", &[]),
    gauge("container_threads", "Threads", &[]),
    gauge(
        "container_threads_max",
        "How many threads there may be; 0: no limit of the container's own",
        &[],
    ),
    gauge("container_ulimits_soft", "Soft limits of the first process", &["ulimit"]),
    gauge("container_last_seen", "When it was measured, in seconds since the epoch", &[]),
    gauge("container_start_time_seconds", "When it was started, in seconds since the epoch", &[]),
    gauge("container_spec_cpu_period", "Period of the CPU quota, in microseconds", &[]),
    gauge("container_spec_cpu_quota", "CPU quota, in microseconds", &[]),
    gauge("container_spec_cpu_shares", "CPU shares", &[]),
    gauge("container_spec_memory_limit_bytes", "Memory limit, in bytes; 0: none", &[]),
    gauge(
        "container_spec_memory_reservation_limit_bytes",
        "Memory reservation, in bytes; 0: none",
        &[],
    ),
    gauge(
        "container_spec_memory_swap_limit_bytes",
        "Limit of memory and swap together, in bytes; 0: none",
        &[],
    ),
    counter(
        "container_pressure_cpu_waiting_seconds_total",
        "Time in which a task waited for a CPU, in seconds",
        &[],
    ),
    counter(
        "container_pressure_cpu_stalled_seconds_total",
        "Time in which all tasks waited for a CPU, in seconds",
        &[],
    ),
    counter(
        "container_pressure_memory_waiting_seconds_total",
        "Time in which a task waited for memory, in seconds",
        &[],
    ),
    counter(
        "container_pressure_memory_stalled_seconds_total",
        "Time in which all tasks waited for memory, in seconds",
        &[],
    ),
    counter(
        "container_pressure_io_waiting_seconds_total",
        "Time in which a task waited for a disk, in seconds",
        &[],
    ),
    counter(
        "container_pressure_io_stalled_seconds_total",
        "Time in which all tasks waited for a disk, in seconds",
        &[],
    ),
    counter("container_network_receive_bytes_total", "Received: bytes", &["interface"]),
    counter("container_network_receive_packets_total", "Received: packets", &["interface"]),
    counter(
        "container_network_receive_packets_dropped_total",
        "Received: packets dropped",
        &["interface"],
    ),
    counter(
        "container_network_receive_errors_total",
        "Received: packets with errors",
        &["interface"],
    ),
    counter("container_network_transmit_bytes_total", "Sent: bytes", &["interface"]),
    counter("container_network_transmit_packets_total", "Sent: packets", &["interface"]),
    counter(
        "container_network_transmit_packets_dropped_total",
        "Sent: packets dropped",
        &["interface"],
    ),
    counter("container_network_transmit_errors_total", "Sent: packets with errors", &["interface"]),
];
