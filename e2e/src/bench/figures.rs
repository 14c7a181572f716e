//! The figures: what each is called, its unit, and the budget that it has to keep.
//!
//! Owns their kinds and the arithmetic on samples; [`super::rows`] has the table, [`super::report`] writes it down.

use super::lane::Lane;
use std::collections::BTreeMap;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Metric {
    /// Milliseconds for RunPodSandbox, CreateContainer and StartContainer.
    Start,
    /// As [`Self::Start`], on the host's network.
    StartHost,
    /// As [`Self::Start`], after a while in which nothing happened.
    StartAlone,
    /// Milliseconds for ExecSync of `true`, after such a while.
    ExecAlone,
    /// As [`Self::Start`], with all other pods there.
    StartAmong,
    /// Of [`Self::Start`], RunPodSandbox.
    Sandbox,
    /// Of [`Self::Start`], CreateContainer.
    Create,
    /// Of [`Self::Start`], StartContainer.
    StartOnly,
    /// Milliseconds for StopPodSandbox and RemovePodSandbox of a pod whose container runs.
    Stop,
    /// As [`Self::Stop`], on the host's network.
    StopHost,
    /// Milliseconds of all cores per pod, from its start to its removal.
    Cpu,
    /// As [`Self::Cpu`], on the host's network.
    CpuHost,
    /// Milliseconds for ExecSync of `true`.
    Exec,
    /// Milliseconds for the OCI runtime's own `exec` of it in the same container, run by hand in turns with that.
    ExecBare,
    /// Milliseconds that one took longer than the other right after it.
    ExecBeyond,
    /// Milliseconds from the end of a container's process to its event at a subscriber.
    Event,
    /// Pods started per second.
    Up,
    /// Pods stopped and removed per second.
    Down,
    /// MiB that the daemon takes.
    DaemonMemory,
    /// MiB per pod that the processes beside its containers take.
    HelperMemory,
    /// Milliseconds for ListContainers.
    ListContainers,
    /// Milliseconds for ListPodSandbox.
    ListPods,
    /// Milliseconds for ListContainerStats.
    ListStats,
    /// Percent of one core that daemon and helpers take with nothing to do.
    Idle,
    /// Milliseconds from the start of a daemon that follows a killed one until Status answers Ready.
    Restart,
    /// Pods that the restart changed.
    Disturbed,
    /// Seconds for PullImage.
    Pull,
    /// As [`Self::Pull`], of many small files.
    PullSmall,
    /// Milliseconds for Exec of `echo`, from the call to the end of its stream.
    StreamedExec,
    /// As [`Self::ListContainers`], on a full node.
    FullContainers,
    /// As [`Self::ListPods`], on a full node.
    FullPods,
    /// As [`Self::ListStats`], on a full node.
    FullStats,
    /// As [`Self::Start`], on a node without other pods.
    GrowthEmpty,
    /// As [`Self::Start`], with a fifth of a full node's pods there.
    GrowthFifth,
    /// As [`Self::Start`], with half of them.
    GrowthHalf,
    /// As [`Self::Start`], with all of them.
    GrowthFull,
    /// The median of the last in percent of that of the first.
    Growth,
    /// As [`Self::StartAlone`], on a node without other pods.
    GrowthAloneEmpty,
    /// As [`Self::StartAlone`], with all pods of a full node there.
    GrowthAloneFull,
    /// The median of the last in percent of that of the first.
    GrowthAlone,
    /// Thousands of lines per second that a container writes into its log.
    LogRate,
    /// Lines that are not in the log.
    LogLost,
    /// Ticks of processor time that daemon and helpers take for streams on which nothing happens.
    IdleStreams,
    /// Seconds for 100 calls of ExecSync at once.
    Execs,
    /// Of these, how many failed.
    ExecsFailed,
    /// Seconds for 100 calls of Exec, with their streams, at once.
    Streams,
    /// Of these, how many failed.
    StreamsFailed,
    /// Gigabytes per second through Exec.
    Rate(Way),
    /// Gigabytes per second that the client itself can do.
    ClientRate(Way),
    /// The one in percent of the other, or of 1 GB/s if that is less.
    OfPromised(Way),
    /// MiB by which the daemon is bigger while that goes through.
    StreamMemory,
    /// As [`Self::Start`], of a daemon that nobody looks at.
    UnobservedStart,
    /// As [`Self::Start`], with metrics, events and traces.
    ObservedStart,
    /// The one in percent of the other, which was started right before or after it.
    ObservedShare,
    /// Milliseconds for a scrape of a full node.
    Scrape,
}

/// How a command's bytes go, to or from client-go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// Output, over SPDY.
    SpdyOut,
    /// Input, over SPDY.
    SpdyIn,
    /// Output, over WebSocket.
    WebsocketOut,
    /// Input, over WebSocket.
    WebsocketIn,
}

impl Way {
    pub(super) const ALL: [Self; 4] =
        [Self::SpdyOut, Self::SpdyIn, Self::WebsocketOut, Self::WebsocketIn];

    /// Those that everybody serves.
    pub(super) const SPDY: [Self; 2] = [Self::SpdyOut, Self::SpdyIn];

    /// As `streampeer` calls it.
    pub(super) fn words(self) -> [&'static str; 2] {
        match self {
            Self::SpdyOut => ["spdy", "out"],
            Self::SpdyIn => ["spdy", "in"],
            Self::WebsocketOut => ["websocket", "out"],
            Self::WebsocketIn => ["websocket", "in"],
        }
    }
}

/// Which of the samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stat {
    /// Half of them are not above it.
    P50,
    /// 95 of 100 are not above it.
    P95,
    /// None is above it.
    Worst,
    /// None is below it: on a machine that others use too, what the least disturbed one took.
    Best,
}

/// A budget: what must not be passed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Budget {
    /// Nothing is promised.
    None,
    /// At most this, whichever network.
    Most(f64),
    /// At most this: with the built-in network, with CNI plugins.
    MostOf(f64, f64),
    /// At least this: with the built-in network, with CNI plugins.
    LeastOf(f64, f64),
}

/// A figure.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    /// Its name in JSON.
    pub(super) key: &'static str,
    pub(super) title: &'static str,
    pub(super) unit: &'static str,
    pub(super) metric: Metric,
    pub(super) stat: Stat,
    pub(super) budget: Budget,
    /// How many times better than containerd it must be: with the built-in network, with CNI plugins.
    pub(super) ahead: Option<(f64, f64)>,
}

impl Budget {
    /// The limit for this lane; peers have none.
    pub(super) fn limit(self, lane: Lane) -> Option<f64> {
        let (bridge, cni) = match self {
            Self::None => return None,
            Self::Most(limit) => (limit, limit),
            Self::MostOf(bridge, cni) | Self::LeastOf(bridge, cni) => (bridge, cni),
        };
        match lane {
            Lane::DavitBridge => Some(bridge),
            Lane::DavitCni => Some(cni),
            Lane::Containerd | Lane::ContainerdRunc | Lane::Crio => None,
        }
    }

    /// Whether the figure keeps it; nothing without a limit.
    pub(super) fn kept(self, lane: Lane, value: f64) -> Option<bool> {
        let limit = self.limit(lane)?;
        Some(match self {
            Self::LeastOf(..) => value >= limit,
            Self::None | Self::Most(_) | Self::MostOf(..) => value <= limit,
        })
    }
}

impl Row {
    /// With this promise.
    pub(super) const fn ahead(self, bridge: f64, cni: f64) -> Self {
        Self { ahead: Some((bridge, cni)), ..self }
    }

    /// How many times better than containerd this lane must be.
    pub(super) fn least_ratio(&self, lane: Lane) -> Option<f64> {
        let (bridge, cni) = self.ahead?;
        match lane {
            Lane::DavitBridge => Some(bridge),
            Lane::DavitCni => Some(cni),
            Lane::Containerd | Lane::ContainerdRunc | Lane::Crio => None,
        }
    }

    /// How many times better `ours` is than `theirs`; nothing where one of them is nothing.
    pub(super) fn ratio(&self, ours: f64, theirs: f64) -> Option<f64> {
        if self.unit == "%" {
            return None;
        }
        // A rate is better if it is higher.
        let rate = self.unit.ends_with("/s");
        let (over, under) = if rate { (ours, theirs) } else { (theirs, ours) };
        (over > 0.0 && under > 0.0).then(|| over / under)
    }
}

/// All that was measured.
#[derive(Debug, Default)]
pub(super) struct Samples(BTreeMap<(Metric, Lane), Vec<f64>>);

impl Samples {
    pub(super) fn add(&mut self, lane: Lane, metric: Metric, value: f64) {
        self.0.entry((metric, lane)).or_default().push(value);
    }

    /// How many samples a figure stands on.
    pub(super) fn count(&self, lane: Lane, row: &Row) -> usize {
        self.0.get(&(row.metric, lane)).map_or(0, Vec::len)
    }

    /// The figure; nothing without samples.
    pub(super) fn get(&self, lane: Lane, row: &Row) -> Option<f64> {
        let samples = self.0.get(&(row.metric, lane))?;
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let percent = match row.stat {
            Stat::P50 => 50,
            Stat::P95 => 95,
            Stat::Worst => 100,
            Stat::Best => 0,
        };
        // The nearest rank: a sample, not a number between two.
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::rows::ROWS;

    fn of(row: &str) -> Row {
        ROWS.into_iter().find(|it| it.key == row).unwrap()
    }

    #[test]
    fn a_figure_is_the_sample_of_its_rank() {
        let mut samples = Samples::default();
        for value in [5.0, 1.0, 4.0, 2.0, 3.0] {
            samples.add(Lane::DavitCni, Metric::Start, value);
        }
        assert_eq!(samples.get(Lane::DavitCni, &of("start_p50")), Some(3.0));
        assert_eq!(samples.get(Lane::DavitCni, &of("start_p95")), Some(5.0));
        assert_eq!(samples.get(Lane::DavitCni, &of("start_best")), Some(1.0));
        assert_eq!(samples.count(Lane::DavitCni, &of("start_p95")), 5);
        assert_eq!(samples.get(Lane::Containerd, &of("start_p50")), None);
    }

    #[test]
    fn a_budget_is_of_its_lane_and_has_a_direction() {
        let (start, up) = (of("start_p50").budget, of("up").budget);
        assert_eq!(start.kept(Lane::DavitBridge, 20.0), Some(true));
        assert_eq!(start.kept(Lane::DavitBridge, 20.1), Some(false));
        assert_eq!(start.kept(Lane::DavitCni, 60.0), Some(true));
        assert_eq!(start.kept(Lane::Containerd, 1.0), None);
        assert_eq!(up.kept(Lane::DavitBridge, 49.9), Some(false));
        assert_eq!(up.kept(Lane::DavitCni, 24.0), Some(true));
        assert_eq!(of("start_p95").budget.kept(Lane::DavitCni, 1.0), None);
    }

    #[test]
    fn a_ratio_says_how_many_times_better() {
        assert_eq!(of("start_p50").ratio(10.0, 40.0), Some(4.0));
        assert_eq!(of("up").ratio(40.0, 10.0), Some(4.0));
        assert_eq!(of("idle").ratio(0.0, 7.0), None);
    }

    #[test]
    fn no_two_figures_have_the_same_key() {
        let keys: std::collections::BTreeSet<_> = ROWS.iter().map(|row| row.key).collect();
        assert_eq!(keys.len(), ROWS.len());
    }
}
