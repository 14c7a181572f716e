//! The one that waits for children: all of them, told apart by pid.
//!
//! Nothing else in the shim waits. A pid is registered in the same turn of the event loop in which its child is forked, so
//! its end cannot come before. The init of a container and an exec'd process are not forked here: the OCI runtime tells their
//! pids in a file, after they have begun and maybe ended. So while such a call is under way ([`Expecting`]) the ends of
//! unknown pids are kept, a bounded number of them; otherwise an unknown pid is an orphan, reaped and forgotten.
//!
//! ```text
//! SIGCHLD → reap: waitpid(-1) until none ──► waited for?  ──yes──► its receiver
//!                                               │no
//!                                               └► expecting? ──yes──► early ──adopt──► its receiver
//!                                                     └no──► an orphan: gone
//! ```

use rustix::process::{Pid, WaitId, WaitIdOptions, WaitOptions, WaitStatus};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// How many ends of unknown pids are kept. A create or exec waits for one; a burst of orphans meanwhile may push it out only
/// if it is longer than this.
const EARLY: usize = 1024;

/// Whether a child has ended; it stays to be waited for.
const PEEK: WaitIdOptions =
    WaitIdOptions::EXITED.union(WaitIdOptions::NOHANG).union(WaitIdOptions::NOWAIT);

/// How and when a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    /// The exit code, or 128 + the signal's number.
    pub(crate) code: i32,
    /// The signal that ended it.
    pub(crate) signal: Option<i32>,
    /// Nanoseconds since the epoch.
    pub(crate) at: i64,
}

impl Ended {
    fn new(status: WaitStatus, at: i64) -> Option<Self> {
        if let Some(code) = status.exit_status() {
            return Some(Self { code, signal: None, at });
        }
        status.terminating_signal().map(|signal| Self {
            code: 128 + signal,
            signal: Some(signal),
            at,
        })
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Reaper {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<Pid0, oneshot::Sender<Ended>>,
    early: VecDeque<(Pid0, Ended)>,
    expecting: usize,
}

/// A pid as a number, which has an order.
type Pid0 = i32;

impl Reaper {
    /// The end of `pid`, a child forked just now.
    pub(crate) fn register(&self, pid: Pid) -> oneshot::Receiver<Ended> {
        let (sender, receiver) = oneshot::channel();
        self.state().waiting.insert(pid.as_raw_pid(), sender);
        receiver
    }

    /// From now on, as long as the result lives, ends of unknown pids are kept.
    pub(crate) fn expect_unknown(self: &Arc<Self>) -> Expecting {
        self.state().expecting += 1;
        Expecting { reaper: Arc::clone(self) }
    }

    /// Waits for every child that has ended.
    pub(crate) fn reap(&self) {
        loop {
            // The moment is taken while the process is there still: who sees it gone knows that it is told to have ended before.
            match rustix::process::waitid(WaitId::All, PEEK) {
                Ok(Some(_)) => {}
                Err(rustix::io::Errno::INTR) => continue,
                // ECHILD, or none has ended.
                Ok(None) | Err(_) => return,
            }
            let at = crate::process::now();
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    if let Some(ended) = Ended::new(status, at) {
                        self.state().dispatch(pid.as_raw_pid(), ended);
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn dispatch(&mut self, pid: Pid0, ended: Ended) {
        if let Some(sender) = self.waiting.remove(&pid) {
            // Nobody listens any more: the end is dealt with all the same.
            let _ = sender.send(ended);
        } else if self.expecting > 0 {
            if self.early.len() == EARLY {
                self.early.pop_front();
            }
            self.early.push_back((pid, ended));
        }
    }

    fn adopt(&mut self, pid: Pid0) -> oneshot::Receiver<Ended> {
        let (sender, receiver) = oneshot::channel();
        match self
            .early
            .iter()
            .position(|(early, _)| *early == pid)
            .and_then(|at| self.early.remove(at))
        {
            Some((_, ended)) => drop(sender.send(ended)),
            None => drop(self.waiting.insert(pid, sender)),
        }
        receiver
    }
}

/// While it lives, the reaper keeps the ends of pids that it does not know.
#[derive(Debug)]
pub(crate) struct Expecting {
    reaper: Arc<Reaper>,
}

impl Expecting {
    /// The end of `pid`, which began after this was made; it may have ended already.
    pub(crate) fn adopt(&self, pid: Pid) -> oneshot::Receiver<Ended> {
        self.reaper.state().adopt(pid.as_raw_pid())
    }
}

impl Drop for Expecting {
    fn drop(&mut self) {
        let mut state = self.reaper.state();
        state.expecting -= 1;
        if state.expecting == 0 {
            state.early = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: Ended = Ended { code: 3, signal: None, at: 1 };

    fn pid(n: i32) -> Pid {
        Pid::from_raw(n).unwrap()
    }

    #[test]
    fn an_end_reaches_the_one_that_registered_the_pid() {
        let reaper = Reaper::default();
        let mut mine = reaper.register(pid(7));
        reaper.state().dispatch(8, END);
        assert!(mine.try_recv().is_err());
        reaper.state().dispatch(7, END);
        assert_eq!(mine.try_recv().unwrap(), END);
        assert!(reaper.state().waiting.is_empty());
    }

    #[test]
    fn an_early_end_is_kept_only_while_somebody_expects_one() {
        let reaper = Arc::new(Reaper::default());
        reaper.state().dispatch(5, END);
        let first = reaper.expect_unknown();
        let second = reaper.expect_unknown();
        reaper.state().dispatch(6, END);
        assert!(first.adopt(pid(5)).try_recv().is_err());
        drop(first);
        assert_eq!(second.adopt(pid(6)).try_recv().unwrap(), END);
        reaper.state().dispatch(9, END);
        drop(second);
        assert!(reaper.state().early.is_empty());
    }

    #[test]
    fn a_burst_of_orphans_is_kept_up_to_a_bound() {
        let reaper = Arc::new(Reaper::default());
        let _expecting = reaper.expect_unknown();
        for n in 1..=3 * i32::try_from(EARLY).unwrap() {
            reaper.state().dispatch(n, END);
        }
        assert_eq!(reaper.state().early.len(), EARLY);
    }
}
