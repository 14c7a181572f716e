//! Whether davit stays what it was: thousands of pods' lives, and what the daemon holds at the start, in the middle and at the end.
//!
//! Owns the run and the verdict. Workers live one life after the other (`cycle`), each with its own mix of what a node does; somebody listens to
//! events all the time. At each sample the workers stand still until what lingers on purpose (idle threads, connections that are being closed) has
//! gone. An error of any call ends the run.
//!
//! ```text
//! workers ──cycle──► daemon ◄──/proc, counters── sample: nobody works
//!    └──── gate ◄──────────────────────────────────┘
//! ```

mod cycle;
mod sample;

use crate::test::Test;
use anyhow::{Context, Result, bail};
use cycle::Lives;
use k8s_cri::v1::GetEventsRequest;
pub use sample::{Sample, Samples};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// What a run is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How many pods live and die.
    pub cycles: u32,
    /// The OCI runtime: `crun` or `runc`.
    pub handler: String,
    /// How many pods live at a time.
    pub workers: u32,
    /// How many samples are taken, the first after the warm-up and the last at the end; 3 or more.
    pub samples: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { cycles: 2000, handler: "crun".to_owned(), workers: 4, samples: 9 }
    }
}

/// A silent stream is listened to for so long before it is asked whether the run is over.
const PATIENCE: Duration = Duration::from_millis(200);

/// Lives so many lives on a daemon of its own and tells what it held meanwhile.
///
/// # Errors
/// If a call failed, or something was left behind, or the daemon complained. One that is not flat is no error: [`Samples::growth`] tells.
pub fn run(options: &Options) -> Result<Samples> {
    if options.samples < 3 || options.cycles < options.samples {
        bail!("{} cycles are too few for {} samples", options.cycles, options.samples);
    }
    let mut samples = None;
    let ran = crate::test::run(
        &options.handler,
        |settings| {
            // Among the pods, and while a sample is taken, so that what is free in the heap is not taken for what is held; with longer pauses than idle
            // threads live.
            settings.keys.push_str("sweep_interval = \"12s\"\n");
            Ok(())
        },
        |test| {
            samples = Some(soak(test, options)?);
            Ok(())
        },
    );
    match (ran, samples) {
        (Ok(()), Some(samples)) => Ok(samples),
        (Err(error), Some(samples)) => Err(error).with_context(|| samples.to_string()),
        (Err(error), None) => Err(error),
        (Ok(()), None) => bail!("the run told nothing"),
    }
}

fn soak(test: &Test, options: &Options) -> Result<Samples> {
    let lives = Lives::new(test)?;
    let (over, heard) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let listener = scope.spawn(|| listen(test, &over, &heard));
        let samples = legs(&lives, options);
        over.store(true, Ordering::SeqCst);
        let listened =
            listener.join().map_err(|_panic| anyhow::anyhow!("the listener panicked"))?;
        let mut samples = samples?;
        listened?;
        samples.events = heard.load(Ordering::SeqCst);
        Ok(samples)
    })
}

/// The way from one sample to the next, all of them. The first leg is the warm-up: caches, pools and the allocator find their size.
fn legs(lives: &Lives<'_>, options: &Options) -> Result<Samples> {
    let mut samples = Samples::default();
    let number = AtomicU32::new(0);
    for leg in 1..=options.samples {
        let until = options.cycles * leg / options.samples;
        std::thread::scope(|scope| {
            let work = || -> Result<()> {
                loop {
                    let number = number.fetch_add(1, Ordering::SeqCst);
                    if number >= until {
                        return Ok(());
                    }
                    lives.live(number).with_context(|| format!("cycle {number}"))?;
                }
            };
            let workers: Vec<_> = (0..options.workers).map(|_| scope.spawn(work)).collect();
            for worker in workers {
                worker.join().map_err(|_panic| anyhow::anyhow!("a worker panicked"))??;
            }
            anyhow::Ok(())
        })?;
        // Each worker has drawn one number too many.
        number.store(until, Ordering::SeqCst);
        samples.take(lives.test, until)?;
    }
    Ok(samples)
}

/// Reads events as long as the run lasts; a stream that ends or says that something was missed is an error.
fn listen(test: &Test, over: &AtomicBool, heard: &AtomicU64) -> Result<()> {
    let mut client = test.cri.runtime();
    let call = client.get_container_events(GetEventsRequest {});
    let mut events = test.cri.wait(call).context("listen to events")?;
    while !over.load(Ordering::SeqCst) {
        let next =
            test.cri.block_on(async { tokio::time::timeout(PATIENCE, events.message()).await });
        let Ok(event) = next else { continue };
        event.context("listen to events")?.context("the events have ended")?;
        heard.fetch_add(1, Ordering::SeqCst);
    }
    Ok(())
}
