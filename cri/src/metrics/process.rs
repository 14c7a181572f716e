//! What the kernel and the executor know about this process.
//!
//! A number that can't be read is 0: these are for debugging, and a scrape must not fail over them.

/// CPU time and memory.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Usage {
    /// User and system time since the start.
    pub(crate) cpu_seconds: f64,
    /// Resident memory.
    pub(crate) resident_bytes: u64,
}

/// The process's open file descriptors, the one that counts them left out.
pub(crate) fn descriptors() -> u64 {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return 0 };
    u64::try_from(entries.count()).unwrap_or(u64::MAX).saturating_sub(1)
}

/// How many descriptors the process may have open.
pub(crate) fn most_descriptors() -> u64 {
    use rustix::process::{Resource, getrlimit};
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The executor's live tasks; 0 outside of one.
pub(crate) fn tasks() -> u64 {
    let Ok(handle) = tokio::runtime::Handle::try_current() else { return 0 };
    u64::try_from(handle.metrics().num_alive_tasks()).unwrap_or(u64::MAX)
}

/// The process's threads.
pub(crate) fn threads() -> u64 {
    let Ok(entries) = std::fs::read_dir("/proc/self/task") else { return 0 };
    u64::try_from(entries.count()).unwrap_or(u64::MAX)
}

/// One thread.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Thread {
    pub(crate) id: u32,
    pub(crate) name: String,
    /// `R` runs, `S` sleeps, `D` waits for the kernel: proc_pid_stat(5).
    pub(crate) state: String,
    pub(crate) cpu_seconds: f64,
}

/// The process's threads, by id. Those that end meanwhile are left out.
pub(crate) fn thread_list() -> Vec<Thread> {
    let Ok(entries) = std::fs::read_dir("/proc/self/task") else { return Vec::new() };
    let one = |path: std::path::PathBuf| {
        let stat = std::fs::read_to_string(path.join("stat")).ok()?;
        let (head, rest) = stat.rsplit_once(')')?;
        let (id, name) = head.split_once(" (")?;
        Some(Thread {
            id: id.parse().ok()?,
            name: name.to_owned(),
            state: rest.split_ascii_whitespace().next()?.to_owned(),
            cpu_seconds: parse(&stat)?.cpu_seconds,
        })
    };
    let mut threads: Vec<_> = entries.flatten().filter_map(|entry| one(entry.path())).collect();
    threads.sort_by_key(|thread| thread.id);
    threads
}

/// What the kernel counts of the process's memory, in bytes: the fields of `/proc/self/smaps_rollup`.
pub(crate) fn memory() -> std::collections::BTreeMap<String, u64> {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let field = |line: &str| {
        let (name, value) = line.split_once(':')?;
        let kibibytes: u64 = value.trim().strip_suffix(" kB")?.trim().parse().ok()?;
        Some((name.to_owned(), kibibytes.saturating_mul(1024)))
    };
    text.lines().filter_map(field).collect()
}

/// When the process was started, in seconds since the epoch; 0 if that can't be had.
pub(crate) fn started() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let booted = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    started_at(&stat, &booted).unwrap_or_default()
}

/// Field 22 of proc_pid_stat(5), in ticks since the boot, and `btime` of proc_stat(5).
fn started_at(stat: &str, booted: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let ticks: f64 = rest.split_ascii_whitespace().nth(19)?.parse().ok()?;
    let booted: f64 = booted.lines().find_map(|line| line.strip_prefix("btime "))?.parse().ok()?;
    let per_second = u32::try_from(rustix::param::clock_ticks_per_second()).ok()?;
    Some(booted + ticks / f64::from(per_second.max(1)))
}

/// The process's CPU time and memory.
pub(crate) fn usage() -> Usage {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    parse(&stat).unwrap_or_default()
}

/// Fields 14 (utime), 15 (stime) and 24 (rss) of proc_pid_stat(5). The second field may hold anything, so counting starts after its `)`.
fn parse(stat: &str) -> Option<Usage> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number.checked_sub(3)?)?.parse::<u64>().ok();
    let ticks = u32::try_from(field(14)?.checked_add(field(15)?)?).ok()?;
    let per_second = u32::try_from(rustix::param::clock_ticks_per_second()).ok()?;
    let page = u64::try_from(rustix::param::page_size()).ok()?;
    Some(Usage {
        cpu_seconds: f64::from(ticks) / f64::from(per_second.max(1)),
        resident_bytes: field(24)?.checked_mul(page)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_any_name_is_read() {
        let stat = "7 (a) b (c) S 1 1 1 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 1 0 5 1000 300 184";
        let usage = parse(stat).unwrap();
        assert!((usage.cpu_seconds - 2.0).abs() < f64::EPSILON, "{usage:?}");
        assert_eq!(usage.resident_bytes, 300 * 4096);
        assert_eq!(parse("7 (x) S 1"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn this_process_was_started_not_long_ago() {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let age = now.as_secs_f64() - started();
        assert!((-2.0..86_400.0).contains(&age), "{age}");
        assert_eq!(started_at("7 (x) S 1", "btime 5"), None);
    }

    #[test]
    fn threads_and_memory_are_told() {
        let threads = thread_list();
        assert!(!threads.is_empty() && threads.iter().all(|thread| thread.id > 0), "{threads:?}");
        assert!(super::threads().abs_diff(threads.len() as u64) < 64);
        assert!(memory().get("Rss").is_some_and(|bytes| *bytes > 0));
    }

    #[tokio::test]
    async fn this_process_has_memory_descriptors_and_tasks() {
        assert!(usage().resident_bytes > 0);
        // Other tests open and close files meanwhile, so only what must be there is counted.
        assert!(descriptors() >= 3);
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let task = tokio::spawn(ended);
        assert!(tasks() >= 1);
        end.send(()).unwrap();
        task.await.unwrap().unwrap();
    }
}
