//! Ends an exec'd process and what it started.
//!
//! OCI runtimes give an exec'd process a session of its own, which its children stay in unless they leave it on
//! purpose. So its session's members within the container's cgroup are it and its children. Walking from parent to child
//! would miss those whose parent has ended.

use crate::container::Init;
use davit_sys::session::session as session_of;
use davit_sys::shortage::is_shortage;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, pidfd_open, pidfd_send_signal,
    waitid,
};
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
    /// For want of descriptors: it is found by its number, which is its own until it is reaped, here.
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
                Held::Not => is_reaped(self.pid) || kill_process(self.pid, Signal::KILL).is_err(),
            };
            if self.kill_session() && gone {
                return;
            }
            tokio::time::sleep(ROUND).await;
        }
    }

    /// Whether nobody of it is left.
    fn kill_session(&self) -> bool {
        let (Some(session), Some(cgroup)) = (self.session, &self.init.cgroup) else { return true };
        matches!(cgroup.signal_those(9, |pid| session_of(pid) == Some(session)), Ok(0))
    }
}

/// Whether it is no child any more: nobody but this thread reaps, and it does nothing else meanwhile.
fn is_reaped(pid: Pid) -> bool {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    waitid(WaitId::Pid(pid), look).is_err()
}

/// Its session, unless that is one of others, too.
fn own_session(pid: Pid, init: &Init) -> Option<i32> {
    let shims = rustix::process::getpid();
    let foreign = [session_of(init.pid.as_raw_pid()), session_of(shims.as_raw_pid())];
    session_of(pid.as_raw_pid()).filter(|session| !foreign.contains(&Some(*session)))
}
