//! What a container's processes hold open.
//!
//! Processes come and go while they are looked at, and what is gone is left out. A container with very many processes or files is counted up to a bound: each is a
//! look into `/proc`, and a metric is not worth seconds.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;

const MOST_PROCESSES: usize = 512;
const MOST_FILES: u64 = 65_536;

/// What the processes hold open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProcessUse {
    /// How many there are.
    pub processes: u64,
    /// Their descriptors, sockets included.
    pub descriptors: u64,
    /// Their sockets.
    pub sockets: u64,
    /// How many files the first may have open, softly; `None`: as many as it likes.
    pub open_files_limit: Option<u64>,
}

/// Looks at these processes; the first is the container's own.
pub(super) fn read(init: Option<u32>, pids: &[u32]) -> ProcessUse {
    let mut found = ProcessUse {
        processes: u64::try_from(pids.len()).unwrap_or(u64::MAX),
        open_files_limit: init.and_then(open_files_limit),
        ..ProcessUse::default()
    };
    for pid in pids.iter().take(MOST_PROCESSES) {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        for file in files {
            if found.descriptors >= MOST_FILES {
                return found;
            }
            found.descriptors += 1;
            let socket = fs::read_link(file.path())
                .is_ok_and(|target| target.as_os_str().as_bytes().starts_with(b"socket:"));
            found.sockets += u64::from(socket);
        }
    }
    found
}

fn open_files_limit(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_process_holds_open_is_counted() {
        let own = std::process::id();
        let before = read(Some(own), &[own]);
        let _pair = std::os::unix::net::UnixStream::pair().unwrap();
        let after = read(Some(own), &[own]);
        assert!(before.open_files_limit.is_some() && before.processes == 1);
        // Other tests of this process open and close files meanwhile.
        assert!(after.sockets >= 2 && after.descriptors > after.sockets, "{before:?} {after:?}");
        assert_eq!(read(None, &[u32::MAX]).descriptors, 0);
    }
}
