//! What davit costs, measured: alone, or beside a peer in the same run.
//!
//! Owns the order of a run. Client, images, registry, OCI runtime and CNI plugins are the same for all that is compared, and blocks of
//! one and the other take turns: milliseconds are this machine's, ratios are worth something elsewhere too.
//!
//! ```text
//! round ─┬─ lifecycles   all runtimes up, few pods: [davit, davit CNI, peers] × [own network, host network], then ExecSync and events
//!        ├─ crowd        one runtime up at a time, fresh, with 50 pods: throughput, memory, lists, idling, restart
//!        ├─ full         one runtime up at a time, fresh, in the first round: one pod more with 0, 100, 250 and 500 there, lists
//!        ├─ streams      davit with the built-in network, and peers: idle streams, 100 commands at once, 1 GiB each way by client-go
//!        ├─ logs         all runtimes up: a container that writes lines as fast as it can
//!        ├─ metrics      davit alone: starts with metrics, events and traces in turns with starts without, a scrape of 500 pods
//!        └─ pull         all runtimes up: remove the image, pull it
//! ```

mod commands;
mod figures;
mod full;
mod images;
mod keep;
mod lane;
mod logs;
mod machine;
mod measure;
mod metrics;
mod peer;
mod pods;
mod report;
mod rows;
mod streams;

use crate::images::catalog;
use crate::registry::{Registry, Store};
use crate::subnet::Room;
use anyhow::{Context, Result, bail};
use images::Pulled;
pub use keep::keep;
pub(crate) use lane::write_cni;
use lane::{Lane, Subject};
use measure::Bench;
use pods::Network;
use report::{Before, Report};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What to measure, and how much of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Beside these.
    pub peers: BTreeSet<Peer>,
    /// The OCI runtime of all: `crun` or `runc`.
    pub runtime: String,
    /// How many pods a crowd is; each subnet has 254 addresses.
    pub pods: usize,
    /// How many pods a full node has.
    pub full: usize,
    /// How many bytes go through a stream: a multiple of 1 MiB.
    pub transfer: u64,
    /// How many lines a container writes into its log.
    pub lines: u64,
    /// How many times each block is done.
    pub rounds: u32,
    /// How many pods one after the other are a block.
    pub block: u32,
    /// How long nothing is done to see what that costs.
    pub idle: Duration,
    /// Between the last start and a look at memory and processor: what a start leaves to be done is done then.
    pub settle: Duration,
    /// How long to wait, in all, for a quiet machine.
    pub patience: Duration,
    /// Only this part of each round.
    pub only: Option<Part>,
}

/// What davit is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// containerd with the OCI runtime that davit has: the one that ratios are of.
    Containerd,
    /// containerd with runc.
    ContainerdRunc,
    /// CRI-O with the OCI runtime that davit has.
    Crio,
}

/// A part of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Pods one after the other, and commands in them.
    Lifecycles,
    /// Many pods.
    Crowd,
    /// As many pods as a node can have.
    Full,
    /// Commands with streams.
    Streams,
    /// What containers write.
    Logs,
    /// What looking at davit costs.
    Metrics,
    /// Images.
    Pull,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            peers: BTreeSet::new(),
            runtime: "crun".to_owned(),
            pods: 50,
            full: 500,
            transfer: 1 << 30,
            lines: 2_000_000,
            rounds: 3,
            block: 7,
            idle: Duration::from_secs(10),
            settle: Duration::from_secs(4),
            patience: Duration::from_secs(30),
            only: None,
        }
    }
}

impl Options {
    /// Little of everything: whether it works, not what it costs.
    #[must_use]
    pub fn quick(self) -> Self {
        Self {
            pods: 5,
            full: 20,
            transfer: 64 << 20,
            lines: 100_000,
            rounds: 1,
            block: 2,
            idle: Duration::from_secs(1),
            settle: Duration::from_millis(100),
            patience: Duration::from_secs(1),
            ..self
        }
    }
}

/// The figures of a run, written down.
#[derive(Debug)]
pub struct Figures {
    /// A table in Markdown, with the state of the machine above it.
    pub markdown: String,
    /// The same as JSON.
    pub json: String,
}

/// Set by [`interrupt`], looked at before each block.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Makes a run end before its next block, cleaning up.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

fn check_interrupt() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

/// Measures.
///
/// # Errors
/// If a runtime fails at anything, or leaves anything behind.
pub fn run(options: Options) -> Result<Figures> {
    let dir = tempfile::Builder::new().prefix("davit-bench").tempdir_in("/tmp");
    let dir = dir.context("make a directory")?;
    let store = Store::open_above(dir.path(), &catalog::ensure(&catalog::cache())?)?;
    let registry = Registry::start(store)?;
    let mut lanes = vec![Lane::DavitBridge, Lane::DavitCni];
    lanes.extend(options.peers.iter().map(|peer| match peer {
        Peer::Containerd => Lane::Containerd,
        Peer::ContainerdRunc => Lane::ContainerdRunc,
        Peer::Crio => Lane::Crio,
    }));
    let wanted = |part: Part| options.only.is_none_or(|only| only == part);
    let images = if wanted(Part::Pull) { images::push(registry.store())? } else { Vec::new() };
    let before = Before::now()?;
    let (rounds, only) = (options.rounds, options.only);
    let wanted = |part: Part| only.is_none_or(|only| only == part);
    let gate = machine::Gate::new(options.patience);
    let (samples, failed) = (figures::Samples::default(), BTreeSet::new());
    let mut bench = Bench { options, gate, samples, failed };
    for round in 0..rounds {
        if wanted(Part::Lifecycles) {
            lifecycles(&mut bench, &lanes, &registry)?;
        }
        if wanted(Part::Crowd) {
            crowds(&mut bench, &lanes, &registry)?;
        }
        // Ten times as long as all else, and each figure of it has samples enough.
        if round == 0 && wanted(Part::Full) {
            full(&mut bench, &lanes, &registry)?;
        }
        if wanted(Part::Streams) {
            streams(&mut bench, &lanes, &registry)?;
        }
        if wanted(Part::Logs) {
            logs(&mut bench, &lanes, &registry)?;
        }
        if wanted(Part::Metrics) {
            bench.metrics(&registry)?;
        }
        if wanted(Part::Pull) {
            pulls(&mut bench, &lanes, &registry, &images)?;
        }
        // The next round begins with another: none is always the first.
        lanes.rotate_left(1);
    }
    lanes.sort_unstable();
    let report = Report { bench: &bench, lanes: &lanes, before };
    Ok(Figures { markdown: report.markdown()?, json: report.json()? })
}

/// One of each, all up at once.
fn start_all(bench: &Bench, lanes: &[Lane], registry: &Registry) -> Result<Vec<Subject>> {
    lanes.iter().map(|lane| Subject::start(*lane, &bench.options.runtime, registry)).collect()
}

fn lifecycles(bench: &mut Bench, lanes: &[Lane], registry: &Registry) -> Result<()> {
    let subjects = start_all(bench, lanes, registry)?;
    for subject in &subjects {
        // The first pod makes bridge, table and parent cgroups.
        for network in [Network::Own, Network::Host] {
            pods::remove(subject, &pods::run(subject, network)?)?;
        }
    }
    for network in [Network::Own, Network::Host] {
        for subject in &subjects {
            bench.lifecycles(subject, network)?;
        }
    }
    for subject in &subjects {
        bench.execs(subject)?;
        bench.streamed_execs(subject)?;
        bench.events(subject)?;
    }
    subjects.into_iter().try_for_each(Subject::finish)
}

/// One at a time: an idle one may not be idle.
fn crowds(bench: &mut Bench, lanes: &[Lane], registry: &Registry) -> Result<()> {
    for lane in lanes {
        let mut subject = Subject::start(*lane, &bench.options.runtime, registry)?;
        bench.crowd(&mut subject)?;
        subject.finish()?;
    }
    Ok(())
}

fn full(bench: &mut Bench, lanes: &[Lane], registry: &Registry) -> Result<()> {
    for lane in lanes {
        let subject = Subject::start_with(*lane, &bench.options.runtime, registry, |settings| {
            settings.room = Room::Wide;
            Ok(())
        })?;
        bench.full(&subject)?;
        subject.finish()?;
    }
    Ok(())
}

/// One at a time: what idles is looked at closely.
fn streams(bench: &mut Bench, lanes: &[Lane], registry: &Registry) -> Result<()> {
    for lane in without_network(lanes) {
        let subject = Subject::start(lane, &bench.options.runtime, registry)?;
        bench.streams(&subject)?;
        subject.finish()?;
    }
    Ok(())
}

fn logs(bench: &mut Bench, lanes: &[Lane], registry: &Registry) -> Result<()> {
    let subjects = start_all(bench, &without_network(lanes), registry)?;
    for subject in &subjects {
        bench.logs(subject)?;
    }
    subjects.into_iter().try_for_each(Subject::finish)
}

fn pulls(bench: &mut Bench, lanes: &[Lane], registry: &Registry, images: &[Pulled]) -> Result<()> {
    let subjects = start_all(bench, &without_network(lanes), registry)?;
    for image in images {
        for subject in &subjects {
            bench.pull(subject, registry, image)?;
        }
    }
    subjects.into_iter().try_for_each(Subject::finish)
}

/// The lanes for what the network plays no part in: each runtime stands there once.
fn without_network(lanes: &[Lane]) -> Vec<Lane> {
    let twice = [Lane::DavitCni, Lane::ContainerdRunc];
    lanes.iter().copied().filter(|lane| !twice.contains(lane)).collect()
}
