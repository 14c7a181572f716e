//! What the daemon holds at one moment, and whether that stays the same.
//!
//! Owns the figures and the bounds. Descriptors, threads and tasks must come back to what they were: they are counted, and one more for each pod
//! would be thousands. Memory of its own is the allocator's: it may grow by a twentieth, or a MiB, between the middle and the end, which a leak of
//! a page for each cycle would not keep to. The rest is pages of files, which come and go, and whose share grows when somebody else who has mapped them ends: told
//! and not judged.

use crate::footprint::Footprint;
use crate::host::pause;
use crate::test::Test;
use anyhow::{Context, Result};
use davit_proto::admin::InfoRequest;
use davit_proto::admin::davit_client::DavitClient;
use std::fmt;
use std::time::{Duration, Instant};

/// Idle threads of the executor's pool end after ten seconds, and a sweep every twelve seconds needs one.
const SETTLE: Duration = Duration::from_secs(15);
/// Between two looks.
const STEP: Duration = Duration::from_millis(500);
/// By how much what is counted may differ: a connection that has just been opened or is just being closed.
const COUNTS: u64 = 4;
/// By how much memory may grow from the middle to the end, in KiB, if a twentieth is less.
const MEMORY: u64 = 1024;

/// At one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// After how many cycles.
    pub cycles: u32,
    /// What the kernel says.
    pub held: Footprint,
    /// The executor's tasks.
    pub tasks: u64,
}

/// All of them, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Samples {
    all: Vec<Sample>,
    /// Events that were heard.
    pub(super) events: u64,
}

impl Samples {
    /// The least of each figure while nobody works, once what lingers on purpose has gone.
    pub(super) fn take(&mut self, test: &Test, cycles: u32) -> Result<()> {
        let pid = test.daemon().pid().context("the daemon runs")?;
        let end = Instant::now() + SETTLE;
        let mut least = Sample { cycles, held: Footprint::of(pid)?, tasks: tasks(test)? };
        while Instant::now() < end {
            pause(STEP);
            let held = Footprint::of(pid)?;
            least.tasks = least.tasks.min(tasks(test)?);
            least.held = Footprint {
                rss: least.held.rss.min(held.rss),
                pss: least.held.pss.min(held.pss),
                anonymous: least.held.anonymous.min(held.anonymous),
                peak: held.peak,
                descriptors: least.held.descriptors.min(held.descriptors),
                threads: least.held.threads.min(held.threads),
            };
        }
        self.all.push(least);
        Ok(())
    }

    /// What has grown beyond its bound, each in one line; nothing if all is flat.
    #[must_use]
    pub fn growth(&self) -> Vec<String> {
        let (Some(first), Some(middle), Some(last)) =
            (self.all.first(), self.all.get(self.all.len() / 2), self.all.last())
        else {
            return vec!["there are no samples".to_owned()];
        };
        let count = |sample: &Sample| u64::try_from(sample.held.descriptors).unwrap_or(u64::MAX);
        let memory = |before: u64| before + MEMORY.max(before / 20);
        let figures = [
            ("descriptors", count(first) + COUNTS, count(last)),
            ("threads", first.held.threads + COUNTS, last.held.threads),
            ("tasks", first.tasks + COUNTS, last.tasks),
            ("memory of its own (KiB)", memory(middle.held.anonymous), last.held.anonymous),
        ];
        let grown = figures.iter().filter(|(_, most, is)| is > most);
        grown.map(|(what, most, is)| format!("{what}: {is}, more than {most}")).collect()
    }
}

/// Tasks as davit counts them.
fn tasks(test: &Test) -> Result<u64> {
    let mut davit = DavitClient::new(test.cri.channel());
    let info = test.cri.wait(davit.info(InfoRequest::default())).context("Info")?;
    Ok(info.counters.context("there are no counters")?.tasks)
}

impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| cycles | rss KiB | pss KiB | anonymous KiB | peak KiB | descriptors | threads | tasks |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|---|")?;
        for Sample { cycles, held, tasks } in &self.all {
            let Footprint { rss, pss, anonymous, peak, descriptors, threads } = held;
            writeln!(
                f,
                "| {cycles} | {rss} | {pss} | {anonymous} | {peak} | {descriptors} | {threads} | {tasks} |"
            )?;
        }
        write!(f, "{} events heard", self.events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(cycles: u32, anonymous: u64, descriptors: usize, tasks: u64) -> Sample {
        // What is not its own grows without end.
        let rss = anonymous + u64::from(cycles) * 9000;
        let held = Footprint { rss, pss: rss, anonymous, peak: rss, descriptors, threads: 5 };
        Sample { cycles, held, tasks }
    }

    #[test]
    fn what_grows_beyond_its_bound_is_named() {
        let flat = [sample(1, 9000, 20, 12), sample(2, 15_000, 22, 14), sample(3, 15_900, 24, 16)];
        assert!(Samples { all: flat.to_vec(), events: 0 }.growth().is_empty());
        let mut grown = flat;
        grown[2] = sample(3, 16_100, 25, 17);
        let grown = Samples { all: grown.to_vec(), events: 0 }.growth();
        assert_eq!(grown.len(), 3, "{grown:?}");
        assert_eq!(grown[0], "descriptors: 25, more than 24");
        assert_eq!(Samples::default().growth(), ["there are no samples"]);
    }
}
