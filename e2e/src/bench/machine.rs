//! What the kernel says about the machine and about processes.
//!
//! Owns reading `/proc`, and [`Gate`]: nothing is measured while somebody else keeps the machine busy, as far as that can be seen
//! and for as long as patience lasts. What was measured all the same is counted and told.

use crate::host::{pause, read_optional};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::time::{Duration, Instant};

/// The unit of `/proc/stat`: `USER_HZ`, 100 on every architecture that davit is built for.
const TICK_MS: f64 = 10.0;
/// How long the machine is looked at before a block.
const LOOK: Duration = Duration::from_millis(250);
/// A machine busier than this share of all of its cores is somebody else's.
const BUSY: f64 = 0.10;

/// Ticks since boot, of all cores together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Ticks {
    busy: u64,
    steal: u64,
    total: u64,
}

impl Ticks {
    /// Reads `/proc/stat`.
    pub(super) fn now() -> Result<Self> {
        let text = std::fs::read_to_string("/proc/stat").context("read /proc/stat")?;
        Self::parse(&text).with_context(|| format!("read /proc/stat: {:?}", text.lines().next()))
    }

    /// The first line: `cpu user nice system idle iowait irq softirq steal …`; `guest` is in `user` already.
    fn parse(text: &str) -> Result<Self> {
        let line = text.lines().next().and_then(|line| line.strip_prefix("cpu "));
        let fields = line.context("no `cpu` line")?.split_whitespace().take(8).map(str::parse);
        let fields = fields.collect::<std::result::Result<Vec<u64>, _>>()?;
        let [user, nice, system, idle, iowait, irq, softirq, steal] = fields.as_slice() else {
            bail!("fewer than 8 fields");
        };
        let busy = user + nice + system + irq + softirq;
        Ok(Self { busy, steal: *steal, total: busy + idle + iowait + steal })
    }

    fn since(self, before: Self) -> Self {
        Self {
            busy: self.busy.saturating_sub(before.busy),
            steal: self.steal.saturating_sub(before.steal),
            total: self.total.saturating_sub(before.total),
        }
    }

    /// Milliseconds that the cores have worked since `before`, added up.
    pub(super) fn busy_ms_since(self, before: Self) -> f64 {
        float(self.since(before).busy) * TICK_MS
    }

    /// The share of time, in percent, that the hypervisor gave to others since `before`.
    pub(super) fn steal_percent_since(self, before: Self) -> f64 {
        let since = self.since(before);
        100.0 * float(since.steal) / float(since.total.max(1))
    }

    fn share_busy_since(self, before: Self) -> f64 {
        let since = self.since(before);
        float(since.busy + since.steal) / float(since.total.max(1))
    }
}

/// Keeps blocks of measurements off a machine that is busy already.
#[derive(Debug)]
pub(super) struct Gate {
    patience: Duration,
    /// Blocks begun.
    pub(super) blocks: u32,
    /// Of these, begun although the machine was busy.
    pub(super) busy: u32,
}

impl Gate {
    /// Waits no longer than `patience` in all.
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, blocks: 0, busy: 0 }
    }

    /// Waits until the machine is idle or patience is at its end.
    pub(super) fn pass(&mut self) -> Result<()> {
        self.blocks += 1;
        loop {
            let (start, before) = (Instant::now(), Ticks::now()?);
            pause(LOOK);
            if Ticks::now()?.share_busy_since(before) <= BUSY {
                return Ok(());
            }
            if self.patience.is_zero() {
                self.busy += 1;
                return Ok(());
            }
            self.patience = self.patience.saturating_sub(start.elapsed());
        }
    }
}

/// The load averages, as the kernel writes them.
pub(super) fn load() -> Result<String> {
    let text = std::fs::read_to_string("/proc/loadavg").context("read /proc/loadavg")?;
    Ok(text.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
}

/// A process's share of memory in MiB: pages that others map too count in part. `None` if it is gone.
pub(super) fn pss_mib(pid: u32) -> Result<Option<f64>> {
    let Some(text) = read_optional(Path::new(&format!("/proc/{pid}/smaps_rollup")))? else {
        return Ok(None);
    };
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let word = line.and_then(|line| line.split_whitespace().next());
    let kib: u64 = word.with_context(|| format!("process {pid} has no Pss"))?.parse()?;
    Ok(Some(float(kib) / 1024.0))
}

/// Ticks that a process has run, in its own code and the kernel's; 0 if it is gone.
pub(super) fn ticks(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let Some(text) = read_optional(Path::new(&path))? else { return Ok(0) };
    // Its name is in parentheses and may hold any; `utime` is the 14th field.
    let (_, rest) = text.rsplit_once(')').with_context(|| format!("{path} has no name"))?;
    let mut fields = rest.split_whitespace().skip(11).map(str::parse::<u64>);
    let mut next = || fields.next().with_context(|| format!("{path} is short"));
    Ok(next()?? + next()??)
}

/// Nanoseconds that all threads of a process have run; 0 if it is gone. Finer than the ticks of `/proc/PID/stat`.
pub(super) fn run_ns(pid: u32) -> Result<u64> {
    let mut sum = 0_u64;
    let tasks = format!("/proc/{pid}/task");
    for task in crate::host::names_in(Path::new(&tasks))? {
        let text = read_optional(Path::new(&format!("{tasks}/{task}/schedstat")))?;
        let word = text.as_deref().and_then(|text| text.split_whitespace().next());
        sum += word.map_or(Ok(0), str::parse)?;
    }
    Ok(sum)
}

/// The file name of a process's program; nothing if it is gone.
pub(super) fn program(pid: u32) -> String {
    let path = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// A count as a number to divide by.
#[expect(clippy::cast_precision_loss, reason = "figures of six digits: 52 bits are plenty")]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_read_from_the_first_line() -> Result<()> {
        let before = Ticks::parse("cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 0 0 0 0 0 0 0 0")?;
        assert_eq!(before, Ticks { busy: 19, steal: 8, total: 36 });
        let after = Ticks::parse("cpu  11 2 3 14 5 6 7 28 9 10\n")?;
        assert!((after.busy_ms_since(before) - 100.0).abs() < 1e-9);
        assert!((after.steal_percent_since(before) - 50.0).abs() < 1e-9);
        for wrong in ["", "cpu0 1 2 3 4 5 6 7 8", "cpu  1 2 3", "cpu  1 2 3 4 5 6 7 x"] {
            assert!(Ticks::parse(wrong).is_err(), "{wrong:?}");
        }
        Ok(())
    }

    #[test]
    fn a_process_has_memory_and_has_run() -> Result<()> {
        let own = std::process::id();
        assert!(pss_mib(own)?.is_some_and(|mib| mib > 0.1));
        assert!(run_ns(own)? > 0);
        assert!(!program(own).is_empty());
        assert_eq!(pss_mib(u32::MAX)?, None);
        assert_eq!(run_ns(u32::MAX)?, 0);
        assert_eq!(ticks(u32::MAX)?, 0);
        let (begun, before) = (Instant::now(), ticks(own)?);
        while begun.elapsed() < Duration::from_secs(20) && ticks(own)? < before + 2 {}
        assert!(ticks(own)? >= before + 2);
        Ok(())
    }
}
