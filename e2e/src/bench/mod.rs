//! What davit costs, measured: alone, or beside a peer in the same run.
//!
//! Owns the order of a run. Client, images, registry, OCI runtime and CNI plugins are the same for all that is compared, and blocks of
//! one and the other take turns: milliseconds are this machine's, ratios are worth something elsewhere too.
//!
//! ```text
//! round ─┬─ lifecycles   all runtimes up, few pods: [davit, davit CNI, peer] × [own network, host network], then ExecSync and events
//!        ├─ crowd        one runtime up at a time, fresh, with 50 pods: throughput, memory, lists, idling, restart
//!        ├─ full         one runtime up at a time, fresh, with 500 pods in the host's network: lists, one pod more
//!        ├─ streams      davit alone: idle streams, 100 commands at once, 1 GiB each way by client-go
//!        ├─ metrics      davit alone: starts with metrics, events and traces in turns with starts without, a scrape of 500 pods
//!        └─ pull         all runtimes up: remove the image, pull it
//! ```

mod commands;
mod figures;
mod full;
mod lane;
mod machine;
mod measure;
mod metrics;
mod peer;
mod pods;
mod report;
mod rows;
mod streams;

use crate::images::{ImageBuilder, Layer, catalog};
use crate::registry::{Digest, Registry, Store};
use anyhow::{Context, Result, bail};
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
    /// Beside containerd.
    pub peer: bool,
    /// The OCI runtime of all: `crun` or `runc`.
    pub runtime: String,
    /// How many pods a crowd is; each subnet has 254 addresses.
    pub pods: usize,
    /// How many pods a full node has.
    pub full: usize,
    /// How many bytes go through a stream: a multiple of 1 MiB.
    pub transfer: u64,
    /// How many times each block is done.
    pub rounds: u32,
    /// How many pods one after the other are a block.
    pub block: u32,
    /// How long nothing is done to see what that costs.
    pub idle: Duration,
    /// How long to wait, in all, for a quiet machine.
    pub patience: Duration,
    /// Only this part of each round.
    pub only: Option<Part>,
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
    /// What looking at davit costs.
    Metrics,
    /// Images.
    Pull,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            peer: false,
            runtime: "crun".to_owned(),
            pods: 50,
            full: 500,
            transfer: 1 << 30,
            rounds: 3,
            block: 7,
            idle: Duration::from_secs(10),
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
            rounds: 1,
            block: 2,
            idle: Duration::from_secs(1),
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
    if options.peer {
        lanes.push(Lane::Containerd);
    }
    let wanted = |part: Part| options.only.is_none_or(|only| only == part);
    let image = if wanted(Part::Pull) { Some(push_big(registry.store())?) } else { None };
    let before = Before::now()?;
    let (rounds, only) = (options.rounds, options.only);
    let wanted = |part: Part| only.is_none_or(|only| only == part);
    let gate = machine::Gate::new(options.patience);
    let (samples, failed) = (figures::Samples::default(), BTreeSet::new());
    let mut bench = Bench { options, gate, samples, failed };
    for _ in 0..rounds {
        if wanted(Part::Lifecycles) {
            lifecycles(&mut bench, &lanes, &registry)?;
        }
        if wanted(Part::Crowd) {
            crowds(&mut bench, &lanes, &registry)?;
        }
        if wanted(Part::Full) {
            full(&mut bench, &lanes, &registry)?;
        }
        if wanted(Part::Streams) {
            let subject = Subject::start(Lane::DavitBridge, &bench.options.runtime, &registry)?;
            bench.streams(&subject)?;
            subject.finish()?;
        }
        if wanted(Part::Metrics) {
            bench.metrics(&registry)?;
        }
        if let Some(image) = &image {
            pulls(&mut bench, &lanes, &registry, image)?;
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

/// Its pods are in the host's network, so davit stands there once.
fn full(bench: &mut Bench, lanes: &[Lane], registry: &Registry) -> Result<()> {
    for lane in lanes.iter().filter(|lane| **lane != Lane::DavitCni) {
        let subject = Subject::start(*lane, &bench.options.runtime, registry)?;
        bench.full(&subject)?;
        subject.finish()?;
    }
    Ok(())
}

/// The network plays no part in it, so davit stands there once.
fn pulls(
    bench: &mut Bench,
    lanes: &[Lane],
    registry: &Registry,
    image: &(String, Vec<Digest>),
) -> Result<()> {
    let lanes: Vec<Lane> = lanes.iter().copied().filter(|lane| *lane != Lane::DavitCni).collect();
    let subjects = start_all(bench, &lanes, registry)?;
    for subject in &subjects {
        bench.pull(subject, registry, image)?;
    }
    subjects.into_iter().try_for_each(Subject::finish)
}

/// An image of 256 MiB in 8 layers, of content that gzip makes half as big.
fn push_big(store: &Store) -> Result<(String, Vec<Digest>)> {
    const LAYERS: u64 = 8;
    const FILES: u64 = 32;
    let mut image = ImageBuilder::new();
    for layer in 0..LAYERS {
        let mut content = Layer::new();
        content.directory("big");
        for file in 0..FILES {
            content.file(&format!("big/{layer}-{file}"), mebibyte(layer * FILES + file));
        }
        image = image.with(&content)?;
    }
    let built = image.push(store, "davit-test/big", &["latest"])?;
    Ok(("davit-test/big:latest".to_owned(), built.layers))
}

/// 1 MiB: words of 8 bytes, every other one new, every other one seen shortly before.
fn mebibyte(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(1 << 20);
    while bytes.len() < 1 << 20 {
        // Marsaglia's xorshift.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
        bytes.extend((state % 64).wrapping_mul(0x0101_0101_0101_0101).to_le_bytes());
    }
    bytes
}
