//! What processes have of the memory, where pages that several share count by their share (PSS).

/// Of these processes together, in bytes. One that has ended meanwhile has none. The kernel looks through all their pages, which takes some 50 µs each.
#[must_use]
pub fn proportional(pids: impl IntoIterator<Item = u32>) -> u64 {
    let of = |pid: u32| {
        let text = super::text(format!("/proc/{pid}/smaps_rollup"));
        super::meminfo_bytes(&text, "Pss")
    };
    pids.into_iter().map(of).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_some_and_none_has_none() {
        let own = proportional([std::process::id()]);
        assert!(own > 100 << 10, "{own}");
        assert_eq!(proportional([u32::MAX]), 0);
        assert_eq!(proportional([]), 0);
    }
}
