//! The blocks of measurements.
//!
//! Owns what is done in which order, and which samples come of it; a block is of one subject, and blocks of the subjects take
//! turns, so that what else happens on the machine meets all alike.

use super::figures::{Metric, Samples};
use super::images::Pulled;
use super::lane::Subject;
use super::machine::{Gate, Ticks, float, program, pss_mib, run_ns};
use super::pods::{self, Network};
use super::{Options, check_interrupt};
use crate::host::pause;
use crate::registry::Registry;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tonic::Code;

/// For how long nothing happens before what is measured by itself.
pub(super) const ALONE: Duration = Duration::from_millis(200);
/// How many pods are started or removed at the same time.
const IN_FLIGHT: usize = 10;
/// How many times a list is asked for.
pub(super) const LISTS: usize = 30;
/// The daemons' helpers: all that runs for a pod and is not its own.
const HELPERS: [&str; 4] = ["davit-shim", "containerd-shim-runc-v2", "pause", "conmon"];

/// Where samples go, and who keeps the machine quiet.
#[derive(Debug)]
pub(super) struct Bench {
    pub(super) options: Options,
    pub(super) gate: Gate,
    pub(super) samples: Samples,
    /// What was said by calls that failed and were counted.
    pub(super) failed: BTreeSet<String>,
}

impl Bench {
    pub(super) fn add(&mut self, subject: &Subject, metric: Metric, value: f64) {
        self.samples.add(subject.lane, metric, value);
    }

    pub(super) fn begin(&mut self) -> Result<()> {
        check_interrupt()?;
        self.gate.pass()
    }

    /// Pods one after the other: start, then stop and remove.
    pub(super) fn lifecycles(&mut self, subject: &Subject, network: Network) -> Result<()> {
        let (start, stop, cpu) = match network {
            Network::Host => (Metric::StartHost, Metric::StopHost, Metric::CpuHost),
            Network::Own => (Metric::Start, Metric::Stop, Metric::Cpu),
        };
        self.begin()?;
        let before = Ticks::now()?;
        for _ in 0..self.options.block {
            let (running, steps) = pods::timed(subject, network, &pods::SLEEP)?;
            self.add(subject, start, ms(steps.whole()));
            if network == Network::Own {
                self.add(subject, Metric::Sandbox, ms(steps.sandbox));
                self.add(subject, Metric::Create, ms(steps.create));
                self.add(subject, Metric::StartOnly, ms(steps.start));
            }
            let begun = Instant::now();
            pods::remove(subject, &running)?;
            self.add(subject, stop, millis(begun));
        }
        let busy = Ticks::now()?.busy_ms_since(before);
        self.add(subject, cpu, busy / f64::from(self.options.block));
        if network == Network::Own {
            self.alone(subject, Metric::StartAlone)?;
        }
        Ok(())
    }

    /// Pods, each by itself: what the end of the one before has left the kernel to do is done. The median in milliseconds.
    pub(super) fn alone(&mut self, subject: &Subject, metric: Metric) -> Result<f64> {
        self.starts(subject, metric, (self.options.block, ALONE))
    }

    /// Starts and removes so many pods, with so long before each: the median in milliseconds.
    pub(super) fn starts(
        &mut self,
        subject: &Subject,
        metric: Metric,
        (count, apart): (u32, Duration),
    ) -> Result<f64> {
        let mut all = Vec::new();
        for _ in 0..count {
            pause(apart);
            let (running, steps) = pods::timed(subject, Network::Own, &pods::SLEEP)?;
            let took = ms(steps.whole());
            self.add(subject, metric, took);
            all.push(took);
            pods::remove(subject, &running)?;
        }
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().context("no pod was started")
    }

    /// Many pods at once.
    pub(super) fn crowd(&mut self, subject: &mut Subject) -> Result<()> {
        let count = self.options.pods;
        self.begin()?;
        let begun = Instant::now();
        let running = in_flight(count, |_| pods::run(subject, Network::Own))?;
        self.add(subject, Metric::Up, per_second(count, begun));
        pause(self.options.settle);
        self.memory(subject)?;
        self.begin()?;
        self.lists(subject)?;
        for _ in 0..self.options.block {
            let begun = Instant::now();
            let one = pods::run(subject, Network::Own)?;
            self.add(subject, Metric::StartAmong, millis(begun));
            pods::remove(subject, &one)?;
        }
        pause(self.options.settle);
        self.idle(subject)?;
        self.begin()?;
        self.restart(subject)?;
        self.begin()?;
        let begun = Instant::now();
        in_flight(count, |index| {
            pods::remove(subject, running.get(index).context("a pod that was not started")?)
        })?;
        self.add(subject, Metric::Down, per_second(count, begun));
        Ok(())
    }

    fn memory(&mut self, subject: &Subject) -> Result<()> {
        let mut daemon = 0.0;
        for pid in subject.daemon()? {
            daemon += pss_mib(pid)?.context("the daemon has no memory")?;
        }
        self.add(subject, Metric::DaemonMemory, daemon);
        let mut helpers = 0.0;
        for pid in helpers_of(subject)? {
            helpers += pss_mib(pid)?.unwrap_or_default();
        }
        self.add(subject, Metric::HelperMemory, helpers / float(self.options.pods.try_into()?));
        Ok(())
    }

    fn lists(&mut self, subject: &Subject) -> Result<()> {
        let metrics = [Metric::ListContainers, Metric::ListPods, Metric::ListStats];
        self.list(subject, self.options.pods, metrics)
    }

    /// Lists containers, pods and containers' stats, of each as many as there should be.
    pub(super) fn list(
        &mut self,
        subject: &Subject,
        count: usize,
        [containers, pods, stats]: [Metric; 3],
    ) -> Result<()> {
        for _ in 0..LISTS {
            let begun = Instant::now();
            let listed = subject.cri.containers(None)?.len();
            self.add(subject, containers, millis(begun));
            ensure!(listed == count, "{listed} containers of {count}");
            let begun = Instant::now();
            let listed = subject.cri.pods(None)?.len();
            self.add(subject, pods, millis(begun));
            ensure!(listed == count, "{listed} pods of {count}");
            let request = k8s_cri::v1::ListContainerStatsRequest { filter: None };
            let begun = Instant::now();
            match subject.cri.wait(subject.cri.runtime().list_container_stats(request)) {
                Ok(answer) => {
                    self.add(subject, stats, millis(begun));
                    ensure!(answer.stats.len() == count, "{} stats", answer.stats.len());
                }
                // Without samples, the report says that it is not served.
                Err(status) if status.code() == Code::Unimplemented => {}
                Err(status) => return Err(status).context("ListContainerStats"),
            }
        }
        Ok(())
    }

    /// What daemon and helpers use while nobody asks for anything.
    fn idle(&mut self, subject: &Subject) -> Result<()> {
        let mut pids = helpers_of(subject)?;
        pids.extend(subject.daemon()?);
        let run = || pids.iter().map(|pid| run_ns(*pid)).sum::<Result<u64>>();
        let (before, begun) = (run()?, Instant::now());
        pause(self.options.idle);
        let used = Duration::from_nanos(run()?.saturating_sub(before));
        self.add(subject, Metric::Idle, 100.0 * used.div_duration_f64(begun.elapsed()));
        Ok(())
    }

    fn restart(&mut self, subject: &mut Subject) -> Result<()> {
        let before = subject.processes()?;
        let time = subject.restart()?;
        self.add(subject, Metric::Restart, time.as_secs_f64() * 1000.0);
        let after = subject.processes()?;
        let ended = before.iter().filter(|process| !after.contains(process)).count();
        let running = subject.cri.containers(None)?;
        let lost = running.iter().filter(|it| it.state != 1).count()
            + self.options.pods.saturating_sub(running.len());
        self.add(subject, Metric::Disturbed, float((ended + lost).try_into()?));
        Ok(())
    }

    /// An image that is not there, from loopback.
    pub(super) fn pull(
        &mut self,
        subject: &Subject,
        registry: &Registry,
        image: &Pulled,
    ) -> Result<()> {
        let Pulled { name, layers, metric } = image;
        let reference = registry.reference(name);
        if subject.cri.image(&reference)?.is_some() {
            subject.cri.remove_image(&reference).context("remove the image")?;
        }
        rustix::fs::sync();
        let given = || layers.iter().map(|layer| registry.downloads(layer)).sum::<usize>();
        let before = given();
        self.begin()?;
        let begun = Instant::now();
        subject.cri.pull(&reference).with_context(|| format!("{}: pull", subject.lane.title()))?;
        self.add(subject, *metric, begun.elapsed().as_secs_f64());
        if given() < before + layers.len() {
            bail!("{}: not all layers were downloaded anew", subject.lane.title());
        }
        Ok(())
    }
}

/// Pids of what a runtime keeps for its pods.
pub(super) fn helpers_of(subject: &Subject) -> Result<Vec<u32>> {
    let of_pods = subject.processes()?.into_iter().map(|(pid, _)| pid);
    let helpers: Vec<u32> =
        of_pods.filter(|pid| HELPERS.contains(&program(*pid).as_str())).collect();
    ensure!(!helpers.is_empty(), "{}: no helper is found", subject.lane.title());
    Ok(helpers)
}

/// Does `work` for each number below `count`, [`IN_FLIGHT`] at a time.
pub(super) fn in_flight<T: Send>(
    count: usize,
    work: impl Fn(usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(count));
    std::thread::scope(|scope| {
        for _ in 0..IN_FLIGHT.min(count) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return;
                    }
                    let result = work(index);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push(result);
                }
            });
        }
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().collect()
}

pub(super) fn millis(begun: Instant) -> f64 {
    ms(begun.elapsed())
}

pub(super) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn per_second(count: usize, begun: Instant) -> f64 {
    float(count.try_into().unwrap_or(u64::MAX)) / begun.elapsed().as_secs_f64()
}
