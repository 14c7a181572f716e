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

/// The executor's live tasks; 0 outside of one.
pub(crate) fn tasks() -> u64 {
    let Ok(handle) = tokio::runtime::Handle::try_current() else { return 0 };
    u64::try_from(handle.metrics().num_alive_tasks()).unwrap_or(u64::MAX)
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
