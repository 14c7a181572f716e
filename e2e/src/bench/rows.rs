//! The table of all figures.
//!
//! Owns what each is called, its unit, and the budget that it has to keep: the one place where promises stand.

use super::figures::{Budget, Metric, Row, Stat, Way};

const fn row(
    key: &'static str,
    title: &'static str,
    unit: &'static str,
    of: (Metric, Stat),
    budget: Budget,
) -> Row {
    Row { key, title, unit, metric: of.0, stat: of.1, budget, ahead: None }
}

/// What goes through a stream.
const fn rate(key: &'static str, title: &'static str, way: Way) -> Row {
    row(key, title, "GB/s", (Metric::Rate(way), Stat::P50), Budget::None)
}

/// What the client does with a peer that costs nothing.
const fn client(key: &'static str, way: Way) -> Row {
    row(key, "what its client can do", "GB/s", (Metric::ClientRate(way), Stat::P50), Budget::None)
}

/// The promise on both.
const fn promised(key: &'static str, way: Way) -> Row {
    let title = "the first of the second or of 1 GB/s, whichever is less";
    row(key, title, "%", (Metric::OfPromised(way), Stat::P50), Budget::LeastOf(90.0, 90.0))
}

/// All figures, as they are printed.
pub(super) const ROWS: [Row; 76] = {
    use Budget::{LeastOf, Most, MostOf, None};
    use Metric as M;
    use Stat::{Best, P50, P95, Worst};
    [
        row("start_p50", "start a pod, p50", "ms", (M::Start, P50), MostOf(20.0, 70.0))
            .ahead(7.0, 2.2),
        row("start_p95", "start a pod, p95", "ms", (M::Start, P95), None),
        row("start_best", "start a pod, the fastest", "ms", (M::Start, Best), None),
        row("start_alone", "start a pod by itself, p50", "ms", (M::StartAlone, P50), None),
        row("sandbox_p50", "of it, RunPodSandbox, p50", "ms", (M::Sandbox, P50), None),
        row("create_p50", "of it, CreateContainer, p50", "ms", (M::Create, P50), None),
        row("start_only_p50", "of it, StartContainer, p50", "ms", (M::StartOnly, P50), None),
        row(
            "start_host_p50",
            "start a pod, host network, p50",
            "ms",
            (M::StartHost, P50),
            Most(20.0),
        )
        .ahead(6.0, 6.0),
        row("start_host_p95", "the same, host network, p95", "ms", (M::StartHost, P95), None),
        row(
            "start_host_best",
            "the same, host network, the fastest",
            "ms",
            (M::StartHost, Best),
            None,
        ),
        row(
            "start_among_p50",
            "start a pod among the other pods, p50",
            "ms",
            (M::StartAmong, P50),
            None,
        ),
        row("stop_p50", "stop and remove a pod, p50", "ms", (M::Stop, P50), MostOf(40.0, 100.0))
            .ahead(4.0, 1.7),
        row("stop_best", "the same, the fastest", "ms", (M::Stop, Best), None),
        row("stop_host_p50", "stop and remove, host network, p50", "ms", (M::StopHost, P50), None),
        row("cpu", "processor time per pod lifecycle", "ms", (M::Cpu, P50), MostOf(60.0, 110.0))
            .ahead(4.5, 2.5),
        row("cpu_best", "the same, the least", "ms", (M::Cpu, Best), None),
        row("cpu_host", "processor time, host network", "ms", (M::CpuHost, P50), None),
        row("up", "pods started, 10 in flight", "pods/s", (M::Up, P50), LeastOf(50.0, 24.0))
            .ahead(5.0, 2.5),
        row("down", "pods torn down, 10 in flight", "pods/s", (M::Down, P50), LeastOf(100.0, 20.0))
            .ahead(8.0, 1.7),
        row("exec_p50", "ExecSync `true`, p50", "ms", (M::Exec, P50), Most(7.5)).ahead(2.0, 2.0),
        row("exec_p95", "ExecSync `true`, p95", "ms", (M::Exec, P95), None),
        row("exec_best", "ExecSync `true`, the fastest", "ms", (M::Exec, Best), None),
        row("exec_alone", "ExecSync `true` by itself, p50", "ms", (M::ExecAlone, P50), None),
        row(
            "exec_bare",
            "the OCI runtime's own exec of `true`, p50",
            "ms",
            (M::ExecBare, P50),
            None,
        ),
        row(
            "exec_beyond",
            "ExecSync `true` beyond that, p50",
            "ms",
            (M::ExecBeyond, P50),
            Most(5.0),
        ),
        row(
            "exec_streamed_p50",
            "Exec of `echo` with its stream, p50",
            "ms",
            (M::StreamedExec, P50),
            None,
        ),
        row("event_p50", "a process's end to its event, p50", "ms", (M::Event, P50), Most(1.0)),
        row("event_p95", "a process's end to its event, p95", "ms", (M::Event, P95), None),
        row("helper_pss", "helper memory per pod (PSS)", "MiB", (M::HelperMemory, P50), Most(0.35))
            .ahead(14.0, 14.0),
        row("daemon_pss", "daemon memory (PSS)", "MiB", (M::DaemonMemory, P50), Most(20.0))
            .ahead(4.0, 4.0),
        row("list_containers_p50", "ListContainers, p50", "ms", (M::ListContainers, P50), None),
        row("list_pods_p50", "ListPodSandbox, p50", "ms", (M::ListPods, P50), None),
        row("list_stats_p50", "ListContainerStats, p50", "ms", (M::ListStats, P50), Most(3.0))
            .ahead(30.0, 30.0),
        // 0 to one decimal place.
        row(
            "idle",
            "idle processor time of daemon and helpers",
            "% of a core",
            (M::Idle, P50),
            Most(0.05),
        ),
        row(
            "restart",
            "daemon killed and restarted, until Ready",
            "ms",
            (M::Restart, P50),
            Most(100.0),
        )
        .ahead(9.0, 9.0),
        row("disturbed", "pods disturbed by that", "pods", (M::Disturbed, Worst), Most(0.0)),
        row("pull_p50", "pull 256 MiB in 8 layers, p50", "s", (M::Pull, P50), Most(0.6))
            .ahead(1.9, 1.9),
        row("pull_worst", "the same, the slowest", "s", (M::Pull, Worst), None),
        row("pull_best", "the same, the fastest", "s", (M::Pull, Best), None),
        row(
            "pull_small_p50",
            "pull 20 000 small files in 4 layers, p50",
            "s",
            (M::PullSmall, P50),
            None,
        ),
        row("pull_small_best", "the same, the fastest", "s", (M::PullSmall, Best), None),
        row("log_rate", "lines into a container's log", "1000/s", (M::LogRate, P50), None),
        row("log_lost", "of these, not there at its end", "lines", (M::LogLost, Worst), Most(0.0)),
        row("growth_0", "start a pod with no others there, p50", "ms", (M::GrowthEmpty, P50), None),
        row(
            "growth_1",
            "with a fifth of a full node's pods, p50",
            "ms",
            (M::GrowthFifth, P50),
            None,
        ),
        row("growth_2", "with half of them, p50", "ms", (M::GrowthHalf, P50), None),
        row("growth_3", "with all of them, p50", "ms", (M::GrowthFull, P50), None),
        row("growth", "the last of the first", "%", (M::Growth, P50), Most(115.0)),
        row("growth_alone", "the same of starts by themselves", "%", (M::GrowthAlone, P50), None),
        row(
            "full_containers_p50",
            "ListContainers on a full node, p50",
            "ms",
            (M::FullContainers, P50),
            Most(5.0),
        ),
        row(
            "full_pods_p50",
            "ListPodSandbox on a full node, p50",
            "ms",
            (M::FullPods, P50),
            Most(5.0),
        ),
        row(
            "full_stats_p50",
            "ListContainerStats on a full node, p50",
            "ms",
            (M::FullStats, P50),
            None,
        ),
        row(
            "idle_streams",
            "processor time of 150 idle streams in 10 s",
            "ticks",
            (M::IdleStreams, Worst),
            Most(0.0),
        ),
        row("execs", "ExecSync, 100 at once", "s", (M::Execs, P50), None),
        row("execs_failed", "of these, failed", "calls", (M::ExecsFailed, Worst), Most(0.0)),
        row("streams", "Exec with its streams, 100 at once", "s", (M::Streams, P50), None),
        row("streams_failed", "of these, failed", "calls", (M::StreamsFailed, Worst), Most(0.0)),
        rate("spdy_out", "1 GiB out of a command, SPDY", Way::SpdyOut),
        client("spdy_out_client", Way::SpdyOut),
        promised("spdy_out_promised", Way::SpdyOut),
        rate("spdy_in", "1 GiB into a command, SPDY", Way::SpdyIn),
        client("spdy_in_client", Way::SpdyIn),
        promised("spdy_in_promised", Way::SpdyIn),
        rate("websocket_out", "1 GiB out of a command, WebSocket", Way::WebsocketOut),
        client("websocket_out_client", Way::WebsocketOut),
        promised("websocket_out_promised", Way::WebsocketOut),
        rate("websocket_in", "1 GiB into a command, WebSocket", Way::WebsocketIn),
        client("websocket_in_client", Way::WebsocketIn),
        promised("websocket_in_promised", Way::WebsocketIn),
        row(
            "stream_memory",
            "what the daemon grows by meanwhile",
            "MiB",
            (M::StreamMemory, Worst),
            Most(8.0),
        ),
        row(
            "start_unobserved_p50",
            "start a pod, nobody looks, p50",
            "ms",
            (M::UnobservedStart, P50),
            None,
        ),
        row(
            "start_observed_p50",
            "the same with metrics, events and traces, p50",
            "ms",
            (M::ObservedStart, P50),
            None,
        ),
        row("start_observed_best", "the same, the fastest", "ms", (M::ObservedStart, Best), None),
        row(
            "observed_share",
            "the second of the first, pod by pod, p50",
            "%",
            (M::ObservedShare, P50),
            Most(102.0),
        ),
        row("scrape_p50", "a scrape of a full node, p50", "ms", (M::Scrape, P50), Most(10.0)),
        row("scrape_p95", "the same, p95", "ms", (M::Scrape, P95), None),
    ]
};
