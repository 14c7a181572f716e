//! Whether anything is ever lost: the kubelet's work at random, while daemon and shims are killed at random.
//!
//! Owns the run. Workers live pods' lives one after the other, each with names of its own that it uses again and again; the killer ends the daemon with
//! SIGKILL and starts it at once; the auditor stops the world now and then and compares all that davit tells with what the workers know. A call that
//! a kill has cut off is sent again, as the kubelet does it, with the same attempt. An error that no kill explains is a loss, too.
//!
//! ```text
//! workers ──calls──► World::call ──► daemon ◄──SIGKILL, start── killer
//!    │ truths            ▲ epoch                                  │
//!    ▼                   └────────────────────────────────────────┘
//!  registry ◄──compares── auditor (holds the gate: no call is under way)        listener: each event once, in order
//! ```
//!
//! The same seed makes the same decisions; what the machine's scheduler does with them is its own.

mod audit;
mod containers;
mod dice;
mod life;
mod listener;
mod shims;
mod tally;
mod world;

use crate::bench::write_cni;
use crate::test::Test;
use anyhow::{Context, Result, bail};
use dice::Dice;
use std::sync::atomic::Ordering;
use std::time::Duration;
pub use tally::{Loss, Summary};
use world::World;

/// What a run is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How often the daemon is killed.
    pub kills: u32,
    /// Decides everything.
    pub seed: u64,
    /// The OCI runtime: `crun` or `runc`.
    pub handler: String,
    /// With CNI plugins in the place of the built-in network.
    pub cni: bool,
    /// Of a hundred pods, how many lose their shim.
    pub shim_kills: u32,
    /// How many pods live at a time.
    pub workers: u32,
    /// How long the end of a shim may take to be told and dealt with.
    pub shim_end: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            kills: 50,
            seed: 1,
            handler: "crun".to_owned(),
            cni: false,
            shim_kills: 0,
            workers: 4,
            shim_end: Duration::from_secs(1),
        }
    }
}

/// The longest time between two kills, in milliseconds. Half of the kills come within an eighth of it: during the recovery from the one before.
const BETWEEN: u64 = 800;
/// After how many kills the world is stopped and looked at.
const AUDIT: u32 = 5;

/// Runs chaos on a daemon of its own and tells what was lost.
///
/// # Errors
/// If it could not be run to its end, or something was left behind, or the daemon complained. A loss is no error: it is in the summary.
pub fn run(options: &Options) -> Result<Summary> {
    let mut summary = None;
    let mut subnet = None;
    let cni = options.cni;
    let ran = crate::test::run(
        &options.handler,
        |settings| {
            if cni {
                subnet = Some(write_cni(settings)?);
            }
            Ok(())
        },
        |test| {
            summary = Some(storm(test, options)?);
            Ok(())
        },
    );
    match (ran, summary) {
        (Ok(()), Some(summary)) => Ok(summary),
        (Err(error), Some(summary)) => Err(error).with_context(|| summary.to_string()),
        (Err(error), None) => Err(error),
        (Ok(()), None) => bail!("the run told nothing"),
    }
}

fn storm(test: &Test, options: &Options) -> Result<Summary> {
    if options.shim_kills > 0 {
        test.allow_log("the pod's shim");
    }
    test.pull("davit-test/busybox:latest")?;
    let world = World::new(test, options)?;
    let killed = std::thread::scope(|scope| {
        let listener = scope.spawn(|| listener::listen(&world));
        let workers: Vec<_> = (0..options.workers)
            .map(|number| {
                let world = &world;
                scope.spawn(move || life::work(world, number))
            })
            .collect();
        let killed = kill_all_the_time(&world, options);
        world.over.store(true, Ordering::SeqCst);
        for worker in workers {
            if worker.join().is_err() {
                world.tally.lose(Loss::Refused, "a worker panicked".to_owned());
            }
        }
        // The last look, when nothing moves any more.
        let audited = audit::look(&world);
        world.deaf.store(true, Ordering::SeqCst);
        drop(listener.join());
        killed.and(audited)
    });
    killed?;
    audit::nothing_left(&world)?;
    Ok(world.tally.summary(options))
}

fn kill_all_the_time(world: &World<'_>, options: &Options) -> Result<()> {
    let mut dice = Dice::new(options.seed);
    for kill in 1..=options.kills {
        let most = if dice.one_in(2) { BETWEEN / 8 } else { BETWEEN };
        crate::host::pause(Duration::from_millis(dice.below(most)));
        world.kill_daemon()?;
        if kill % AUDIT == 0 {
            audit::look(world)?;
        }
    }
    Ok(())
}
