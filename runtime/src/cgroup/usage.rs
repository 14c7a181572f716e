//! What the processes of a cgroup use, read from the kernel's files in one pass.
//!
//! Owns the files' names and formats in both versions, and cAdvisor's formulas, which the kubelet's eviction counts on. Keeps nothing and runs nothing:
//! a handful of reads per cgroup, each a few microseconds. They are files of the kernel, and yet not all of them are there on every host: what is
//! missing is told as `None`.

use super::group::Group;
use super::layout::Version;
use super::manage::{Cgroups, innermost};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// No file that is read here is longer; memory.stat has some 4 kB.
const LONGEST: u64 = 64 * 1024;
/// From here on a limit of version 1 is none: the kernel writes "no limit" as the largest multiple of a page.
const UNLIMITED: u64 = 1 << 62;
const PER_MICROSECOND: u64 = 1000;

/// What a cgroup uses, those below it included.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Usage {
    /// CPU time.
    pub cpu: Option<CpuUse>,
    /// Memory.
    pub memory: Option<MemoryUse>,
    /// Swap; `None` where the host doesn't account for it.
    pub swap: Option<SwapUse>,
    /// Waiting for disks; only version 2 tells.
    pub io_pressure: Option<Pressure>,
}

/// CPU time.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CpuUse {
    /// Nanoseconds of all cores; only grows.
    pub nanoseconds: u64,
    /// Waiting for a core; only version 2 tells.
    pub pressure: Option<Pressure>,
}

/// Memory. Bytes, unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct MemoryUse {
    /// All of it, page cache included.
    pub usage: u64,
    /// [`Self::usage`] without the inactive pages of files.
    pub working_set: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// A count; only grows.
    pub page_faults: u64,
    /// A count of those that waited for a disk; only grows.
    pub major_page_faults: u64,
    /// `None`: none.
    pub limit: Option<u64>,
    /// Waiting for memory; only version 2 tells.
    pub pressure: Option<Pressure>,
}

impl MemoryUse {
    /// What is left below the limit; 0 without one.
    #[must_use]
    pub fn available(&self) -> u64 {
        self.limit.map_or(0, |limit| limit.saturating_sub(self.working_set))
    }
}

/// Swap, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SwapUse {
    /// What is swapped out.
    pub usage: u64,
    /// `None`: none.
    pub limit: Option<u64>,
}

/// Pressure stall information (Documentation/accounting/psi.rst).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Pressure {
    /// While at least one task waited.
    pub some: Stall,
    /// While all did.
    pub full: Stall,
}

/// One line of it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Stall {
    /// Nanoseconds; only grows.
    pub total: u64,
    /// Percent, over the last 10 seconds.
    pub avg10: f64,
    /// Percent, over the last minute.
    pub avg60: f64,
    /// Percent, over the last 5 minutes.
    pub avg300: f64,
}

impl Cgroups {
    /// What this cgroup uses now. One that is not there uses nothing that could be told.
    #[must_use]
    pub fn usage(&self, group: &Group) -> Usage {
        match self.layout().version() {
            Version::V2 => self.directory("", group).map(|at| of_v2(&at)).unwrap_or_default(),
            Version::V1 | Version::Hybrid => self.of_v1(group),
        }
    }

    /// How many tasks are in this cgroup, as the kernel counts them: a thread is one. By itself, since nobody asks it of a container, and each file read is time.
    #[must_use]
    pub fn tasks(&self, group: &Group) -> Option<u64> {
        self.directory("pids", group).and_then(|at| number(&at.join("pids.current")))
    }

    fn of_v1(&self, group: &Group) -> Usage {
        let nanoseconds =
            self.directory("cpuacct", group).and_then(|at| number(&at.join("cpuacct.usage")));
        let (memory, swap) = match self.directory("memory", group) {
            Some(at) => (
                number(&at.join("memory.usage_in_bytes")),
                text(&at.join("memory.stat")).map(|stat| memory_of_v1(&stat)),
            ),
            None => (None, None),
        };
        let (rest, swap) = swap.unwrap_or_default();
        Usage {
            cpu: nanoseconds.map(|nanoseconds| CpuUse { nanoseconds, pressure: None }),
            memory: memory.map(|usage| rest.with_usage(usage)),
            swap,
            io_pressure: None,
        }
    }
}

fn of_v2(at: &Path) -> Usage {
    let own = innermost(at);
    let pressure = |file: &str| text(&at.join(file)).and_then(|text| pressure_of(&text));
    let cpu = text(&at.join("cpu.stat")).and_then(|stat| value(&stat, "usage_usec"));
    let memory = number(&at.join("memory.current")).map(|usage| {
        let mut memory = text(&at.join("memory.stat")).map(|stat| memory_of_v2(&stat));
        let memory = memory.get_or_insert_default();
        memory.limit = number(&own.join("memory.max"));
        memory.pressure = pressure("memory.pressure");
        memory.with_usage(usage)
    });
    let swap = number(&at.join("memory.swap.current"));
    Usage {
        cpu: cpu.map(|microseconds| CpuUse {
            nanoseconds: microseconds.saturating_mul(PER_MICROSECOND),
            pressure: pressure("cpu.pressure"),
        }),
        memory,
        swap: swap.map(|usage| SwapUse { usage, limit: number(&own.join("memory.swap.max")) }),
        io_pressure: pressure("io.pressure"),
    }
}

impl MemoryUse {
    /// The inactive pages of files have stood in `working_set` until now.
    fn with_usage(self, usage: u64) -> Self {
        Self { usage, working_set: usage.saturating_sub(self.working_set), ..self }
    }
}

fn memory_of_v1(stat: &str) -> (MemoryUse, Option<SwapUse>) {
    let (mut memory, mut swap, mut memsw) = (MemoryUse::default(), None, None);
    let limit = |value: u64| (value < UNLIMITED).then_some(value);
    for (key, value) in pairs(stat) {
        match key {
            "total_inactive_file" => memory.working_set = value,
            "total_rss" => memory.rss = value,
            "total_pgfault" => memory.page_faults = value,
            "total_pgmajfault" => memory.major_page_faults = value,
            "hierarchical_memory_limit" => memory.limit = limit(value),
            "hierarchical_memsw_limit" => memsw = Some(limit(value)),
            "total_swap" => swap = Some(value),
            _ => {}
        }
    }
    // Version 1 limits memory and swap together. Without a limit of that there is no accounting for swap either.
    let swap = swap.zip(memsw).map(|(usage, both)| SwapUse {
        usage,
        limit: both.zip(memory.limit).map(|(both, memory)| both.saturating_sub(memory)),
    });
    (memory, swap)
}

fn memory_of_v2(stat: &str) -> MemoryUse {
    let mut memory = MemoryUse::default();
    for (key, value) in pairs(stat) {
        match key {
            "inactive_file" => memory.working_set = value,
            "anon" => memory.rss = value,
            "pgfault" => memory.page_faults = value,
            "pgmajfault" => memory.major_page_faults = value,
            _ => {}
        }
    }
    memory
}

fn pairs(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key, value.trim().parse().ok()?))
    })
}

pub(super) fn value(text: &str, wanted: &str) -> Option<u64> {
    pairs(text).find(|(key, _)| *key == wanted).map(|(_, value)| value)
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and a line `full`, which cpu.pressure got only with Linux 5.13.
fn pressure_of(text: &str) -> Option<Pressure> {
    let mut pressure = None::<Pressure>;
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let (kind, mut stall) = (words.next()?, Stall::default());
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            match key {
                "avg10" => stall.avg10 = value.parse().ok()?,
                "avg60" => stall.avg60 = value.parse().ok()?,
                "avg300" => stall.avg300 = value.parse().ok()?,
                "total" => {
                    stall.total = value.parse::<u64>().ok()?.saturating_mul(PER_MICROSECOND);
                }
                _ => {}
            }
        }
        let pressure = pressure.get_or_insert_default();
        match kind {
            "some" => pressure.some = stall,
            "full" => pressure.full = stall,
            _ => {}
        }
    }
    pressure
}

/// A file that holds one number; `max` is none.
pub(super) fn number(path: &Path) -> Option<u64> {
    text(path)?.trim().parse().ok()
}

pub(super) fn text(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(LONGEST).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_reckoned_as_cadvisor_does_it() {
        let stat = "anon 4096\nfile 8192\ninactive_file 3000\npgfault 7\npgmajfault 2\n";
        let memory = memory_of_v2(stat).with_usage(10_000);
        assert_eq!((memory.working_set, memory.rss, memory.available()), (7000, 4096, 0));
        assert_eq!((memory.page_faults, memory.major_page_faults), (7, 2));
        let limited = MemoryUse { limit: Some(8000), ..memory };
        assert_eq!(limited.available(), 1000);
        let little = memory_of_v2(stat).with_usage(10);
        assert_eq!(little.working_set, 0, "never below 0");
        assert_eq!(MemoryUse { limit: Some(10), ..memory }.available(), 0, "never below 0");
    }

    #[test]
    fn version_1_counts_those_below_and_swap_with_memory() {
        let stat = "cache 1\nrss 2\ninactive_file 1\nhierarchical_memory_limit 1000\n\
            hierarchical_memsw_limit 1500\ntotal_rss 300\ntotal_inactive_file 100\ntotal_swap 50\n\
            total_pgfault 7\ntotal_pgmajfault 2\n";
        let (memory, swap) = memory_of_v1(stat);
        let memory = memory.with_usage(600);
        assert_eq!((memory.working_set, memory.rss, memory.available()), (500, 300, 500));
        assert_eq!(swap, Some(SwapUse { usage: 50, limit: Some(500) }));
        let (memory, swap) = memory_of_v1(
            "hierarchical_memory_limit 9223372036854771712\ntotal_swap 0\ntotal_rss 1\n",
        );
        assert_eq!((memory.limit, swap), (None, None));
    }

    #[test]
    fn pressure_is_told_in_nanoseconds() {
        let text = "some avg10=1.50 avg60=0.25 avg300=0.05 total=123\n\
            full avg10=0.00 avg60=0.00 avg300=0.00 total=4\n";
        let pressure = pressure_of(text).unwrap();
        assert_eq!((pressure.some.total, pressure.full.total), (123_000, 4000));
        assert!((pressure.some.avg10 - 1.5).abs() < 1e-9);
        assert_eq!(pressure_of("some total=1\n").unwrap().full, Stall::default());
        assert_eq!(pressure_of(""), None);
        assert_eq!(pressure_of("some total=x\n"), None);
    }

    #[test]
    fn version_2_is_read_file_by_file_and_what_is_missing_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(of_v2(dir.path()), Usage::default());
        let put = |name: &str, text: &str| {
            use std::io::Write as _;
            File::create(dir.path().join(name)).unwrap().write_all(text.as_bytes()).unwrap();
        };
        put("cpu.stat", "usage_usec 5\nuser_usec 3\n");
        put("memory.current", "1000\n");
        put("memory.max", "max\n");
        put("memory.swap.current", "7\n");
        put("memory.swap.max", "10\n");
        put("io.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=2\n");
        let usage = of_v2(dir.path());
        assert_eq!(usage.cpu, Some(CpuUse { nanoseconds: 5000, pressure: None }));
        let memory = usage.memory.unwrap();
        assert_eq!((memory.usage, memory.working_set, memory.limit), (1000, 1000, None));
        assert_eq!(usage.swap, Some(SwapUse { usage: 7, limit: Some(10) }));
        assert_eq!(usage.io_pressure.unwrap().some.total, 2000);
        put("memory.max", "2000\n");
        assert_eq!(of_v2(dir.path()).memory.unwrap().available(), 1000);
        let scope = dir.path().join("davit-x.scope");
        std::fs::create_dir_all(scope.join("container")).unwrap();
        put("davit-x.scope/memory.current", "1000\n");
        put("davit-x.scope/memory.max", "max\n");
        put("davit-x.scope/container/memory.max", "1500\n");
        assert_eq!(of_v2(&scope).memory.unwrap().limit, Some(1500), "where crun sets it");
    }
}
