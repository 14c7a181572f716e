//! What cAdvisor tells of a cgroup beyond [`super::usage`]: how CPU time was spent and withheld, what memory consists of, disks, tasks.
//!
//! Read for metrics only, which are asked for more rarely and may cost more. What a version of the kernel's interface does not tell is `None`.

use super::CgroupError;
use super::group::Group;
use super::layout::Version;
use super::manage::{Cgroups, innermost};
use super::usage::{number, text, value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const NANOS_PER_MICRO: u64 = 1000;
/// Version 1 counts user and system time in ticks of `USER_HZ`, which is 100 for every program, whatever the kernel's own.
const NANOS_PER_TICK: u64 = 10_000_000;
/// Disks that are told.
const MOST_DISKS: usize = 256;

/// The figures.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Detail {
    /// CPU time.
    pub cpu: CpuDetail,
    /// Memory.
    pub memory: MemoryDetail,
    /// Each disk that was used.
    pub disks: Vec<DiskUse>,
    /// Tasks: a thread is one.
    pub threads: Option<u64>,
    /// How many tasks there may be; `None`: as many as the host has.
    pub threads_max: Option<u64>,
}

/// CPU time, in nanoseconds, and periods of the CFS quota, in counts. All of it only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuDetail {
    /// In programs.
    pub user: Option<u64>,
    /// In the kernel.
    pub system: Option<u64>,
    /// Periods that began.
    pub periods: Option<u64>,
    /// Periods in which the quota was used up.
    pub throttled_periods: Option<u64>,
    /// Time that was withheld.
    pub throttled: Option<u64>,
}

/// Memory, in bytes, unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryDetail {
    /// Pages of files.
    pub cache: Option<u64>,
    /// Pages of files that are mapped.
    pub mapped: Option<u64>,
    /// Pages of files used lately.
    pub active_file: Option<u64>,
    /// Pages of files not used lately.
    pub inactive_file: Option<u64>,
    /// The kernel's own.
    pub kernel: Option<u64>,
    /// What is swapped out.
    pub swap: Option<u64>,
    /// The most there ever was.
    pub peak: Option<u64>,
    /// How often the limit was hit; only grows.
    pub limit_hits: Option<u64>,
    /// How often the OOM killer struck; only grows.
    pub oom_kills: Option<u64>,
}

/// One disk's share. All of it only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskUse {
    /// Its number.
    pub major: u32,
    /// Its number.
    pub minor: u32,
    /// Bytes.
    pub read_bytes: u64,
    /// Requests.
    pub reads: u64,
    /// Bytes.
    pub write_bytes: u64,
    /// Requests.
    pub writes: u64,
}

impl Cgroups {
    /// The figures of this cgroup. One that is not there has none.
    #[must_use]
    pub fn detail(&self, group: &Group) -> Detail {
        match self.layout().version() {
            Version::V2 => self.directory("", group).map(|at| of_v2(&at)).unwrap_or_default(),
            Version::V1 | Version::Hybrid => self.detail_of_v1(group),
        }
    }

    /// Its processes; those of cgroups below it are not among them.
    ///
    /// # Errors
    /// [`CgroupError::Io`] if it is not there.
    pub fn processes(&self, group: &Group) -> Result<Vec<u32>, CgroupError> {
        let directory = self.directory("pids", group).unwrap_or_default();
        let path = innermost(&directory).join("cgroup.procs");
        let text = std::fs::read_to_string(&path).map_err(|source| CgroupError::Io {
            verb: "read",
            path,
            source,
        })?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect())
    }

    fn detail_of_v1(&self, group: &Group) -> Detail {
        let at = |controller: &str, file: &str| -> PathBuf {
            self.directory(controller, group).unwrap_or_default().join(file)
        };
        let bytes = text(&at("blkio", "blkio.throttle.io_service_bytes_recursive"));
        let requests = text(&at("blkio", "blkio.throttle.io_serviced_recursive"));
        let times = text(&at("cpuacct", "cpuacct.stat")).unwrap_or_default();
        let quota = text(&at("cpu", "cpu.stat")).unwrap_or_default();
        let memory = text(&at("memory", "memory.stat")).unwrap_or_default();
        let ticks = |key| value(&times, key).map(|ticks| ticks.saturating_mul(NANOS_PER_TICK));
        let killed = text(&at("memory", "memory.oom_control"));
        Detail {
            cpu: CpuDetail {
                user: ticks("user"),
                system: ticks("system"),
                periods: value(&quota, "nr_periods"),
                throttled_periods: value(&quota, "nr_throttled"),
                throttled: value(&quota, "throttled_time"),
            },
            memory: MemoryDetail {
                cache: value(&memory, "total_cache"),
                mapped: value(&memory, "total_mapped_file"),
                active_file: value(&memory, "total_active_file"),
                inactive_file: value(&memory, "total_inactive_file"),
                kernel: number(&at("memory", "memory.kmem.usage_in_bytes")),
                swap: value(&memory, "total_swap"),
                peak: number(&at("memory", "memory.max_usage_in_bytes")),
                limit_hits: number(&at("memory", "memory.failcnt")),
                oom_kills: killed.and_then(|text| value(&text, "oom_kill")),
            },
            disks: disks_of_v1(&bytes.unwrap_or_default(), &requests.unwrap_or_default()),
            threads: number(&at("pids", "pids.current")),
            threads_max: number(&at("pids", "pids.max")),
        }
    }
}

fn of_v2(at: &Path) -> Detail {
    let read = |file: &str| text(&at.join(file)).unwrap_or_default();
    let (cpu, memory, events) = (read("cpu.stat"), read("memory.stat"), read("memory.events"));
    let micros = |key| value(&cpu, key).map(|micros| micros.saturating_mul(NANOS_PER_MICRO));
    Detail {
        cpu: CpuDetail {
            user: micros("user_usec"),
            system: micros("system_usec"),
            periods: value(&cpu, "nr_periods"),
            throttled_periods: value(&cpu, "nr_throttled"),
            throttled: micros("throttled_usec"),
        },
        memory: MemoryDetail {
            cache: value(&memory, "file"),
            mapped: value(&memory, "file_mapped"),
            active_file: value(&memory, "active_file"),
            inactive_file: value(&memory, "inactive_file"),
            kernel: value(&memory, "kernel"),
            swap: number(&at.join("memory.swap.current")),
            peak: number(&at.join("memory.peak")),
            limit_hits: value(&events, "max"),
            oom_kills: value(&events, "oom_kill"),
        },
        disks: disks_of_v2(&read("io.stat")),
        threads: number(&at.join("pids.current")),
        threads_max: number(&at.join("pids.max")),
    }
}

fn device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `8:0 Read 4096`, for bytes in one file and for requests in another.
fn disks_of_v1(bytes: &str, requests: &str) -> Vec<DiskUse> {
    let mut disks: BTreeMap<(u32, u32), DiskUse> = BTreeMap::new();
    let mut add = |text: &str, set: fn(&mut DiskUse, &str, u64)| {
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some(device), Some(operation), Some(count)) =
                (words.next().and_then(device), words.next(), words.next())
            else {
                continue;
            };
            let (major, minor) = device;
            let disk =
                disks.entry(device).or_insert(DiskUse { major, minor, ..DiskUse::default() });
            set(disk, operation, count.parse().unwrap_or_default());
        }
    };
    add(bytes, |disk, operation, count| match operation {
        "Read" => disk.read_bytes = count,
        "Write" => disk.write_bytes = count,
        _ => {}
    });
    add(requests, |disk, operation, count| match operation {
        "Read" => disk.reads = count,
        "Write" => disk.writes = count,
        _ => {}
    });
    disks.into_values().take(MOST_DISKS).collect()
}

/// `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`.
fn disks_of_v2(text: &str) -> Vec<DiskUse> {
    let disk = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (major, minor) = device(words.next()?)?;
        let mut disk = DiskUse { major, minor, ..DiskUse::default() };
        for (key, count) in words.filter_map(|word| word.split_once('=')) {
            let count = count.parse().unwrap_or_default();
            match key {
                "rbytes" => disk.read_bytes = count,
                "wbytes" => disk.write_bytes = count,
                "rios" => disk.reads = count,
                "wios" => disk.writes = count,
                _ => {}
            }
        }
        Some(disk)
    };
    text.lines().filter_map(disk).take(MOST_DISKS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_read_from_either_version() {
        let disk = DiskUse {
            major: 8,
            minor: 16,
            read_bytes: 4096,
            reads: 1,
            write_bytes: 8192,
            writes: 2,
        };
        let bytes = "8:16 Read 4096\n8:16 Write 8192\n8:16 Sync 1\n8:16 Total 12288\nTotal 12288\n";
        assert_eq!(disks_of_v1(bytes, "8:16 Read 1\n8:16 Write 2\nTotal 3\n"), [disk]);
        let text = "8:16 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\nnonsense\n";
        assert_eq!(disks_of_v2(text), [disk]);
        assert_eq!(disks_of_v1("", ""), []);
    }

    #[test]
    fn version_2_is_read_file_by_file() {
        use std::io::Write as _;
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(of_v2(dir.path()), Detail::default());
        let put = |name: &str, text: &str| {
            let mut file = std::fs::File::create(dir.path().join(name)).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        };
        put(
            "cpu.stat",
            "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 4\nthrottled_usec 1\n",
        );
        put("memory.stat", "file 10\nfile_mapped 4\nkernel 3\n");
        put("memory.events", "low 0\nmax 6\noom 1\noom_kill 1\n");
        put("pids.max", "max\n");
        put("pids.current", "2\n");
        let detail = of_v2(dir.path());
        assert_eq!((detail.cpu.user, detail.cpu.system), (Some(3000), Some(2000)));
        assert_eq!((detail.cpu.periods, detail.cpu.throttled), (Some(4), Some(1000)));
        assert_eq!((detail.memory.cache, detail.memory.kernel), (Some(10), Some(3)));
        assert_eq!((detail.memory.limit_hits, detail.memory.oom_kills), (Some(6), Some(1)));
        assert_eq!((detail.threads, detail.threads_max), (Some(2), None));
    }
}
