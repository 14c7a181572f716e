//! Ends an exec'd process and what it started.
//!
//! OCI runtimes give an exec'd process a session of its own, which its children stay in unless they leave it on
//! purpose. So its session's members within the container's cgroup are it and its children. Walking from parent to child
//! would miss those whose parent has ended.

use crate::container::Init;
use davit_sys::shortage::is_shortage;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks for who is left, and how many there are at most.
const ROUND: Duration = Duration::from_millis(5);
const ROUNDS: u32 = 1000;

/// An exec'd process, held.
#[derive(Debug)]
pub(crate) struct Target {
    pid: Pid,
    held: Held,
    session: Option<i32>,
    init: Arc<Init>,
}

#[derive(Debug)]
enum Held {
    By(OwnedFd),
    /// It ended before it could be held.
    Gone,
    /// For want of descriptors: it is looked for in the container when it is to end.
    Not,
}

impl Target {
    /// Holds the process, which is not reaped yet or has ended before.
    pub(crate) fn find(pid: Pid, init: Arc<Init>) -> Self {
        let held = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => Held::By(fd),
            Err(errno) if is_shortage(&errno) => Held::Not,
            Err(_) => Held::Gone,
        };
        let session = own_session(pid, &init);
        Self { pid, held, session, init }
    }

    /// Kills it and its session until nobody is left.
    pub(crate) async fn kill(&self) {
        for _ in 0..ROUNDS {
            let gone = match &self.held {
                // ESRCH once it has been reaped.
                Held::By(fd) => pidfd_send_signal(fd, Signal::KILL).is_err(),
                Held::Gone => true,
                Held::Not => self.kill_those(|pid| pid == self.pid.as_raw_pid()),
            };
            if self.kill_session() && gone {
                return;
            }
            tokio::time::sleep(ROUND).await;
        }
    }

    /// Whether nobody of it is left.
    fn kill_session(&self) -> bool {
        let found = || own_session(self.pid, &self.init);
        let late = if matches!(self.held, Held::Not) { found() } else { None };
        let Some(session) = self.session.or(late) else { return true };
        self.kill_those(|pid| session_of(pid) == Some(session))
    }

    /// Whether none of those is left in the container.
    fn kill_those(&self, chosen: impl Fn(i32) -> bool) -> bool {
        let Some(cgroup) = &self.init.cgroup else { return true };
        matches!(cgroup.signal_those(9, chosen), Ok(0))
    }
}

/// Its session, unless that is one of others, too.
fn own_session(pid: Pid, init: &Init) -> Option<i32> {
    let foreign = [
        session_of(init.pid.as_raw_pid()),
        session_of(rustix::process::getpid().as_raw_pid()),
        Some(0),
    ];
    session_of(pid.as_raw_pid()).filter(|session| !foreign.contains(&Some(*session)))
}

/// The session of a process, by the sixth field of its `stat`: the one after the name, which may hold anything, and three others.
fn session_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    session_in(&stat)
}

fn session_in(stat: &[u8]) -> Option<i32> {
    let end_of_name = stat.iter().rposition(|b| *b == b')')?;
    let rest = std::str::from_utf8(stat.get(end_of_name + 1..)?).ok()?;
    rest.split_ascii_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_is_found_behind_any_name() {
        assert_eq!(session_in(b"7 (a) b) 1 2) S 5 6 42 0 -1"), Some(42));
        assert_eq!(session_in(b"7 (\xff) S 5 6 42 0 -1"), Some(42));
        assert_eq!(session_in(b"7 (a) S 5"), None);
        assert_eq!(session_in(b""), None);
    }
}
