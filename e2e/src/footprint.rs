//! What a process holds of the machine: memory, descriptors, threads.
//!
//! Owns reading that from `/proc`. Sizes are in KiB, as the kernel tells them.

use anyhow::{Context, Result, bail};
use std::fmt;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// Resident memory, KiB.
    pub rss: u64,
    /// Its share of memory: pages that others map too count in part. KiB.
    pub pss: u64,
    /// Memory of its own, with no file behind it, KiB.
    pub anonymous: u64,
    /// The most resident memory that it ever had, KiB.
    pub peak: u64,
    /// Open file descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: u64,
}

impl Footprint {
    /// Of this process, now.
    ///
    /// # Errors
    /// If it is gone.
    pub fn of(pid: u32) -> Result<Self> {
        let status = read(pid, "status")?;
        let rollup = read(pid, "smaps_rollup")?;
        let descriptors = crate::host::names_in(format!("/proc/{pid}/fd").as_ref())?.len();
        Ok(Self {
            rss: field(&status, "VmRSS:")?,
            pss: field(&rollup, "Pss:")?,
            anonymous: field(&rollup, "Anonymous:")?,
            peak: field(&status, "VmHWM:")?,
            descriptors,
            threads: field(&status, "Threads:")?,
        })
    }

    /// The most memory of its own that it ever had, KiB: how much of the program's file is mapped is the kernel's to say, which maps more of it on one machine
    /// than on another. It is taken to have been as much then as now.
    #[must_use]
    pub fn own_peak(&self) -> u64 {
        self.peak.saturating_sub(self.rss.saturating_sub(self.anonymous))
    }
}

/// A process's memory of its own, which no file stands behind, in KiB: pages of code come and go. Cheap enough to be looked at often.
///
/// # Errors
/// If it is gone.
pub fn own_memory(pid: u32) -> Result<u64> {
    let text = read(pid, "statm")?;
    let page = u64::try_from(rustix::param::page_size())? / 1024;
    let pages: Vec<u64> =
        text.split_whitespace().map(str::parse).collect::<Result<_, _>>().context("read statm")?;
    let [_, resident, of_files, ..] = pages[..] else { bail!("statm of {pid}: {text:?}") };
    Ok(resident.saturating_sub(of_files) * page)
}

impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rss, pss, anonymous, peak, descriptors, threads } = self;
        write!(
            f,
            "rss {rss} KiB, pss {pss} KiB, anonymous {anonymous} KiB, peak {peak} KiB, {descriptors} descriptors, {threads} threads"
        )
    }
}

fn read(pid: u32, file: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{file}");
    std::fs::read_to_string(&path).with_context(|| format!("read {path}"))
}

fn field(text: &str, name: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let word = line.and_then(|line| line.split_whitespace().next());
    word.and_then(|word| word.parse().ok()).with_context(|| format!("there is no {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_holds_something() -> Result<()> {
        let before = Footprint::of(std::process::id())?;
        assert!(before.pss > 0 && before.pss <= before.rss && before.rss <= before.peak);
        assert!(before.own_peak() >= before.anonymous);
        let held: Vec<_> =
            (0..50).map(|_| std::fs::File::open("/dev/null")).collect::<Result<_, _>>()?;
        let after = Footprint::of(std::process::id())?;
        assert!(after.descriptors >= before.descriptors.saturating_sub(20) + held.len());
        assert!(after.threads >= 1);
        Ok(())
    }
}
