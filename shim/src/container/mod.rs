//! One container: its phase, and what the shim holds for it. One file per operation.
//!
//! ```text
//! Creating ──► Created ──► Starting ──► Running   (from a checkpoint: Creating ──► Running)
//!    │            │ ▲          │ │         │
//!    ▼            │ └─ failed ─┘ │         │
//!   Gone ◄──┐     └──────────────┼─────────┴──► Exited ──delete──► Gone
//!           └─ failed            └────────────────▲
//! ```
//!
//! `Exited` is entered by one task only, the container's watch in [`exit`], after the output was drained, what is left of the
//! container was killed, its OOM counter was read and its exit record written. Whoever waits for the end waits for the phase.

pub(crate) mod checkpoint;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod exit;
pub(crate) mod loss;
pub(crate) mod pause;
pub(crate) mod restore;
pub(crate) mod signal;
pub(crate) mod start;
pub(crate) mod update;

use crate::cgroup::Cgroup;
use crate::error::Refusal;
use crate::oci::Oci;
use crate::reaper::Ended;
use crate::stdio::console;
use crate::stdio::feed::{Ends, Feed, Mouth};
use crate::stdio::log::Log;
use crate::stdio::tee::Tee;
use davit_proto::shim::{ContainerState, Exit};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Pid;
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OnceCell, oneshot, watch};
use tokio::task::JoinHandle;

/// See the module.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) oci: Oci,
    pub(crate) pids: PidNamespace,
    pub(crate) log: Arc<Log>,
    pub(crate) tee: Arc<Tee>,
    phase: watch::Sender<Phase>,
    held: Mutex<Held>,
    /// Set once the OCI runtime has deleted the container: whoever wants that joins the one that does it.
    deleted: OnceCell<()>,
}

/// What is let go with the container.
#[derive(Debug, Default)]
struct Held {
    /// The other end of its standard input: as long as it is open, reading there waits.
    stdin: Option<Feed>,
    /// The master side of its terminal, to change its size.
    terminal: Option<OwnedFd>,
    logging: Vec<JoinHandle<()>>,
    execs: BTreeSet<String>,
    /// A checkpoint has frozen it: dropped when it goes on.
    frozen: Option<oneshot::Sender<()>>,
    /// It is being paused or resumed.
    pausing: bool,
    /// Nanoseconds since the epoch.
    started_at: Option<i64>,
}

/// A container's first process.
#[derive(Debug)]
pub(crate) struct Init {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    pub(crate) cgroup: Option<Cgroup>,
}

impl Init {
    /// Whether it has not ended yet, be that known here or not.
    pub(crate) fn lives(&self) -> bool {
        let mut ended = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut ended, Some(&at_once)).is_ok_and(|count| count == 0)
    }

    /// Whether the kernel keeps its container frozen, or is about to; not where that can't be told.
    pub(crate) fn is_frozen(&self) -> bool {
        self.cgroup.as_ref().and_then(Cgroup::is_frozen).unwrap_or(false)
    }
}

/// Where a container is in its life.
#[derive(Debug, Clone)]
pub(crate) enum Phase {
    Creating,
    Created(Arc<Init>),
    Starting(Arc<Init>),
    Running(Arc<Init>),
    Exited(Arc<Death>),
    Gone,
}

/// How a container ended.
#[derive(Debug)]
pub(crate) struct Death {
    pub(crate) verdict: Verdict,
    pub(crate) started: bool,
    cgroup: Option<Cgroup>,
}

/// How a process ended, and whether the kernel's OOM killer struck in its container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) ended: Ended,
    pub(crate) oom_killed: bool,
}

impl Verdict {
    /// As it goes over the wire.
    pub(crate) fn to_proto(self) -> Exit {
        let Self { ended: Ended { code, signal, at: finished_at }, oom_killed } = self;
        Exit { code, signal: signal.unwrap_or(0), finished_at, oom_killed }
    }
}

/// Whose PID namespace a container is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PidNamespace {
    /// Its own: the kernel ends the rest of it with its init.
    Own,
    /// The pod's, another container's or the host's: the shim ends the rest.
    Joined,
}

impl Container {
    fn new(id: String, bundle: PathBuf, oci: Oci, pids: PidNamespace, log: Log) -> Self {
        Self {
            id,
            bundle,
            oci,
            pids,
            log: Arc::new(log),
            tee: Arc::default(),
            phase: watch::Sender::new(Phase::Creating),
            held: Mutex::default(),
            deleted: OnceCell::new(),
        }
    }

    /// The first process, which is there.
    pub(crate) fn living(&self) -> Result<Arc<Init>, Refusal> {
        match &*self.phase.borrow() {
            Phase::Created(init) | Phase::Starting(init) | Phase::Running(init) => {
                Ok(Arc::clone(init))
            }
            Phase::Creating => Err(Refusal::Creating(self.id.clone())),
            Phase::Exited(_) => Err(Refusal::Exited(self.id.clone())),
            Phase::Gone => Err(Refusal::NoContainer(self.id.clone())),
        }
    }

    /// The first process, which runs the container's own command, or soon will.
    pub(crate) fn running(&self) -> Result<Arc<Init>, Refusal> {
        match &*self.phase.borrow() {
            Phase::Starting(init) | Phase::Running(init) => Ok(Arc::clone(init)),
            Phase::Creating | Phase::Created(_) => Err(Refusal::NotRunning(self.id.clone())),
            Phase::Exited(_) => Err(Refusal::Exited(self.id.clone())),
            Phase::Gone => Err(Refusal::NoContainer(self.id.clone())),
        }
    }

    /// Waits for as long as `time`, and refuses once it has ended.
    pub(crate) async fn outlives(&self, time: Duration) -> Result<(), Refusal> {
        let mut phase = self.phase.subscribe();
        let ended = phase.wait_for(|phase| match phase {
            Phase::Exited(_) | Phase::Gone => true,
            Phase::Creating | Phase::Created(_) | Phase::Starting(_) | Phase::Running(_) => false,
        });
        match tokio::time::timeout(time, ended).await {
            Ok(_) => Err(Refusal::Exited(self.id.clone())),
            Err(_) => Ok(()),
        }
    }

    /// How it ended, if it has.
    pub(crate) fn death(&self) -> Option<Arc<Death>> {
        match &*self.phase.borrow() {
            Phase::Exited(death) => Some(Arc::clone(death)),
            Phase::Creating
            | Phase::Created(_)
            | Phase::Starting(_)
            | Phase::Running(_)
            | Phase::Gone => None,
        }
    }

    /// Whether a process of it may live.
    pub(crate) fn may_live(&self) -> bool {
        match &*self.phase.borrow() {
            Phase::Creating | Phase::Created(_) | Phase::Starting(_) | Phase::Running(_) => true,
            Phase::Exited(_) | Phase::Gone => false,
        }
    }

    /// What State answers; `None` for one that is not there yet, or not any more.
    pub(crate) fn to_proto(&self) -> Option<ContainerState> {
        let (started_at, checkpointed) = {
            let held = self.held();
            (held.started_at.unwrap_or_default(), held.frozen.is_some())
        };
        let state = |pid: u32, started, exit| ContainerState {
            id: self.id.clone(),
            pid,
            started,
            exit,
            started_at,
            starting: false,
            log_dropped: self.log.loss().map_or(0, |loss| loss.dropped),
            paused: false,
            ended: false,
        };
        let of = |init: &Init, started| ContainerState {
            ended: !init.lives(),
            ..state(pid_number(init.pid), started, None)
        };
        Some(match &*self.phase.borrow() {
            Phase::Creating | Phase::Gone => return None,
            Phase::Created(init) => of(init, false),
            Phase::Starting(init) => ContainerState { starting: true, ..of(init, false) },
            Phase::Running(init) => {
                ContainerState { paused: !checkpointed && init.is_frozen(), ..of(init, true) }
            }
            Phase::Exited(death) => state(0, death.started, Some(death.verdict.to_proto())),
        })
    }

    /// Moves to the phase that `next` answers, if it answers one.
    fn advance(&self, next: impl FnOnce(&Phase) -> Option<Phase>) {
        self.phase.send_if_modified(|phase| match next(phase) {
            Some(next) => {
                *phase = next;
                true
            }
            None => false,
        });
    }

    /// Waits until `wanted` holds of the phase.
    pub(crate) async fn wait_until(&self, wanted: impl Fn(&Phase) -> bool) {
        // The sender lives as long as `self`, so this cannot fail.
        let _ = self.phase.subscribe().wait_for(wanted).await;
    }

    /// Notes that it is about to be frozen; the other end of `thaw` learns when it goes on.
    pub(crate) fn freeze(&self, thaw: oneshot::Sender<()>) -> Result<(), Refusal> {
        let mut held = self.held();
        Self::may_freeze(&self.id, &held)?;
        held.frozen = Some(thaw);
        Ok(())
    }

    fn may_freeze(id: &str, held: &Held) -> Result<(), Refusal> {
        if held.frozen.is_some() {
            return Err(Refusal::Frozen(id.to_owned()));
        }
        if held.pausing {
            return Err(Refusal::Pausing(id.to_owned()));
        }
        Ok(())
    }

    /// Notes that it is about to be paused or resumed: no checkpoint begins meanwhile, and none is under way.
    pub(crate) fn begin_pausing(&self) -> Result<(), Refusal> {
        let mut held = self.held();
        Self::may_freeze(&self.id, &held)?;
        held.pausing = true;
        Ok(())
    }

    /// It is paused or resumed, or neither could be done.
    pub(crate) fn end_pausing(&self) {
        self.held().pausing = false;
    }

    /// Whether a checkpoint has frozen it.
    pub(crate) fn is_frozen(&self) -> bool {
        self.held().frozen.is_some()
    }

    /// It goes on.
    pub(crate) fn thawed(&self) {
        self.held().frozen = None;
    }

    /// Takes an exec's id; answers whether it was free.
    pub(crate) fn begin_exec(&self, exec: &str) -> bool {
        self.held().execs.insert(exec.to_owned())
    }

    pub(crate) fn end_exec(&self, exec: &str) {
        self.held().execs.remove(exec);
    }

    /// A client's way into its standard input; `None` if that is closed, or never was open.
    pub(crate) fn mouth(&self) -> Option<Mouth> {
        self.held().stdin.as_ref()?.tap().ok()
    }

    /// A client's input has ended.
    pub(crate) fn fed(&self) {
        let mut held = self.held();
        match held.stdin.as_ref().map(|feed| feed.ends) {
            Some(Ends::WithTheFirst) => held.stdin = None,
            Some(Ends::Never) | None => {}
        }
    }

    /// Whether its output is one terminal's.
    pub(crate) fn has_terminal(&self) -> bool {
        self.held().terminal.is_some()
    }

    /// Changes the size of its terminal, if it has one.
    pub(crate) fn resize(&self, width: u32, height: u32) {
        if let Some(master) = &self.held().terminal {
            console::resize(master, width, height);
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pid as it goes over the wire.
pub(crate) fn pid_number(pid: Pid) -> u32 {
    pid.as_raw_pid().unsigned_abs()
}
