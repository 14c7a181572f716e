//! A container's states and how one follows another.
//!
//! Owns the decision, not the deed: [`ContainerState::next`] is pure; the pod's task ([`crate::sandbox`]) performs. CRI's states are
//! functions of these and stored nowhere. One that is paused runs: its processes are there and end like any other's. So that is a part of
//! `Running`, which an older davit reads as what it is; a state of its own would make it put the record aside.
//!
//! ```text
//! Creating ──made──► Created{pid} ──started──► Running{pid, since} ──exited──► Exited{code, at, why}
//!     │                  │  │                     ▲ paused, resumed: Running{paused_at}  │
//!     │                  │  └──start refused / exited────────────────────────────────▲
//!     └──undone─► (gone) └──────────────────────────removed──────► (gone) ◄──removed─┘
//! ```

use serde::{Deserialize, Serialize};

/// 128 + SIGTERM. A container may have lost a process to the OOM killer and go on; stopped long after, it was not killed for that.
const STOPPED: i32 = 143;
/// 128 + SIGKILL.
const KILLED: i32 = 137;
/// No code is known. The one that the kubelet knows from other runtimes for it.
const UNKNOWN: i32 = 255;

/// Where a container is in its life. Times are nanoseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ContainerState {
    /// Its steps are under way; nobody is told of it yet.
    Creating,
    /// Its init exists and waits for the start.
    Created {
        /// Of its init.
        pid: u32,
    },
    /// Its command runs.
    Running {
        /// Of its init.
        pid: u32,
        /// When it was started.
        started_at: i64,
        /// Since when it is frozen, if it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        paused_at: Option<i64>,
    },
    /// It has ended, or never came to run.
    Exited(Exit),
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// When it was started; `None` if it never was.
    pub started_at: Option<i64>,
    /// When it ended.
    pub finished_at: i64,
    /// The exit code, or 128 + the signal's number.
    pub code: i32,
    /// Why.
    pub reason: ExitReason,
    /// For people; often empty.
    pub message: String,
}

/// Why a container ended, in the words that the kubelet shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitReason {
    /// With code 0.
    Completed,
    /// With another code, or by a signal.
    Error,
    /// The kernel's OOM killer struck.
    OomKilled,
    /// It could not be started.
    StartError,
    /// Its shim is gone and left no record: it was killed for that, or how it ended is not known.
    Lost,
}

impl ExitReason {
    /// As CRI tells it. `OOMKilled` is spelled so by the interface; the others are what people know, but for `ShimLost`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OomKilled => "OOMKilled",
            Self::StartError => "StartError",
            Self::Lost => "ShimLost",
        }
    }
}

/// What happened to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerEvent {
    /// Its init exists.
    Made {
        /// Of its init.
        pid: u32,
    },
    /// Its command runs.
    Started {
        /// When.
        at: i64,
    },
    /// It was frozen.
    Paused {
        /// When.
        at: i64,
    },
    /// It goes on.
    Resumed,
    /// It could not be started.
    StartRefused {
        /// When.
        at: i64,
        /// Why, for people.
        message: String,
    },
    /// Its init was reaped.
    Exited {
        /// When.
        at: i64,
        /// The exit code, or 128 + the signal's number.
        code: i32,
        /// The OOM killer struck.
        oom_killed: bool,
    },
    /// Its shim is gone and left no record.
    Lost {
        /// When that was noticed.
        at: i64,
        /// What its init has come to.
        end: LostEnd,
    },
}

/// What is known of the end of a container without a shim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LostEnd {
    /// Its init still ran and was killed for it: only so its exit code is known.
    Killed,
    /// It had ended already.
    Unknown,
}

/// An event that cannot happen in this state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a container that is {state} cannot have {event}")]
pub struct Denied {
    state: &'static str,
    event: &'static str,
}

impl ContainerState {
    /// The state after `event`.
    ///
    /// # Errors
    /// [`Denied`] if the event makes no sense here. An exit that is told twice is not an error: the first word stands.
    pub fn next(&self, event: ContainerEvent) -> Result<Self, Denied> {
        match (self, event) {
            (Self::Creating, ContainerEvent::Made { pid }) => Ok(Self::Created { pid }),
            (Self::Created { pid }, ContainerEvent::Started { at }) => {
                Ok(Self::Running { pid: *pid, started_at: at, paused_at: None })
            }
            (Self::Running { pid, started_at, paused_at }, ContainerEvent::Paused { at }) => {
                let paused_at = paused_at.or(Some(at));
                Ok(Self::Running { pid: *pid, started_at: *started_at, paused_at })
            }
            (Self::Running { pid, started_at, paused_at: _ }, ContainerEvent::Resumed) => {
                Ok(Self::Running { pid: *pid, started_at: *started_at, paused_at: None })
            }
            (Self::Created { .. }, ContainerEvent::StartRefused { at, message }) => {
                Ok(Self::Exited(Exit {
                    started_at: None,
                    finished_at: at,
                    code: 128,
                    reason: ExitReason::StartError,
                    message,
                }))
            }
            (
                Self::Created { .. } | Self::Running { .. },
                ContainerEvent::Exited { at, code, oom_killed },
            ) => {
                let reason = if oom_killed && code != 0 && code != STOPPED {
                    ExitReason::OomKilled
                } else if code == 0 {
                    ExitReason::Completed
                } else {
                    ExitReason::Error
                };
                Ok(Self::Exited(Exit {
                    started_at: self.started_at(),
                    finished_at: at,
                    code,
                    reason,
                    message: String::new(),
                }))
            }
            (Self::Created { .. } | Self::Running { .. }, ContainerEvent::Lost { at, end }) => {
                Ok(Self::Exited(self.lost(at, end)))
            }
            // A command that ends at once may be reaped before the start's answer is here: it did run.
            (Self::Exited(exit), ContainerEvent::Started { at })
                if exit.reason != ExitReason::StartError =>
            {
                let started_at = exit.started_at.or(Some(at.min(exit.finished_at)));
                Ok(Self::Exited(Exit { started_at, ..exit.clone() }))
            }
            (Self::Exited(exit), ContainerEvent::Exited { .. } | ContainerEvent::Lost { .. }) => {
                Ok(Self::Exited(exit.clone()))
            }
            (state, event) => Err(Denied { state: state.name(), event: event.name() }),
        }
    }

    fn lost(&self, at: i64, end: LostEnd) -> Exit {
        let (code, message) = match end {
            LostEnd::Killed => {
                (KILLED, "the pod's shim has died, and so this container was killed")
            }
            LostEnd::Unknown => {
                (UNKNOWN, "the pod's shim is gone and left no record of how this container ended")
            }
        };
        Exit {
            started_at: self.started_at(),
            finished_at: at,
            code,
            reason: ExitReason::Lost,
            message: message.to_owned(),
        }
    }

    /// In one word, for messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Creating => "being created",
            Self::Created { .. } => "created",
            Self::Running { paused_at: None, .. } => "running",
            Self::Running { paused_at: Some(_), .. } => "paused",
            Self::Exited(_) => "exited",
        }
    }

    /// The init's pid while there is one.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        match self {
            Self::Created { pid } | Self::Running { pid, .. } => Some(*pid),
            Self::Creating | Self::Exited(_) => None,
        }
    }

    /// Since when it is frozen, if it is.
    #[must_use]
    pub fn paused_at(&self) -> Option<i64> {
        match self {
            Self::Running { paused_at, .. } => *paused_at,
            Self::Creating | Self::Created { .. } | Self::Exited(_) => None,
        }
    }

    /// When it was started, if it was.
    #[must_use]
    pub fn started_at(&self) -> Option<i64> {
        match self {
            Self::Running { started_at, .. } => Some(*started_at),
            Self::Exited(exit) => exit.started_at,
            Self::Creating | Self::Created { .. } => None,
        }
    }

    /// Whether it has ended because the OOM killer struck.
    #[must_use]
    pub fn was_oom_killed(&self) -> bool {
        matches!(self, Self::Exited(exit) if exit.reason == ExitReason::OomKilled)
    }
}

impl ContainerEvent {
    fn name(&self) -> &'static str {
        match self {
            Self::Made { .. } => "been made",
            Self::Started { .. } => "started",
            Self::Paused { .. } => "been paused",
            Self::Resumed => "been resumed",
            Self::StartRefused { .. } => "refused to start",
            Self::Exited { .. } => "exited",
            Self::Lost { .. } => "been lost",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn exited(code: i32) -> ContainerEvent {
        ContainerEvent::Exited { at: 30, code, oom_killed: false }
    }

    fn exit(state: &ContainerState) -> &Exit {
        match state {
            ContainerState::Exited(exit) => exit,
            other @ (ContainerState::Creating
            | ContainerState::Created { .. }
            | ContainerState::Running { .. }) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_container_is_made_started_and_ends() {
        let state = ContainerState::Creating.next(ContainerEvent::Made { pid: 7 }).unwrap();
        let state = state.next(ContainerEvent::Started { at: 20 }).unwrap();
        assert_eq!(state, ContainerState::Running { pid: 7, started_at: 20, paused_at: None });
        for (code, oom_killed, reason) in [
            (0, false, "Completed"),
            (3, false, "Error"),
            (137, true, "OOMKilled"),
            (137, false, "Error"),
        ] {
            let ended = state.next(ContainerEvent::Exited { at: 30, code, oom_killed }).unwrap();
            assert_eq!(
                (exit(&ended).reason.as_str(), exit(&ended).code, exit(&ended).started_at),
                (reason, code, Some(20))
            );
        }
    }

    #[test]
    fn an_exit_that_overtakes_the_answer_to_the_start_loses_no_start_time() {
        let state = ContainerState::Created { pid: 7 }.next(exited(0)).unwrap();
        let state = state.next(ContainerEvent::Started { at: 20 }).unwrap();
        assert_eq!(exit(&state).started_at, Some(20));
    }

    #[test]
    fn a_refused_start_is_told_as_one_and_stays_one() {
        let refused = ContainerEvent::StartRefused { at: 20, message: "no such file".to_owned() };
        let state = ContainerState::Created { pid: 7 }.next(refused).unwrap();
        let state = state.next(exited(137)).unwrap();
        assert_eq!(
            (exit(&state).code, exit(&state).reason, exit(&state).started_at),
            (128, ExitReason::StartError, None)
        );
    }

    #[test]
    fn one_whose_shim_is_gone_has_a_code_only_if_it_was_killed() {
        let state = ContainerState::Running { pid: 7, started_at: 20, paused_at: None };
        for (end, code) in [(LostEnd::Killed, 137), (LostEnd::Unknown, 255)] {
            let lost = state.next(ContainerEvent::Lost { at: 30, end }).unwrap();
            let told = (exit(&lost).code, exit(&lost).reason.as_str(), exit(&lost).started_at);
            assert_eq!(told, (code, "ShimLost", Some(20)));
            assert_eq!(lost.next(exited(0)).unwrap(), lost, "what is told stays");
        }
    }

    #[test]
    fn one_that_is_paused_runs_and_ends_like_any_other() {
        let running = ContainerState::Running { pid: 7, started_at: 20, paused_at: None };
        let paused = running.next(ContainerEvent::Paused { at: 25 }).unwrap();
        assert_eq!(
            (paused.name(), paused.paused_at(), paused.pid()),
            ("paused", Some(25), Some(7))
        );
        assert_eq!(paused.next(ContainerEvent::Paused { at: 26 }).unwrap(), paused);
        assert_eq!(paused.next(ContainerEvent::Resumed).unwrap(), running);
        assert_eq!(running.next(ContainerEvent::Resumed).unwrap(), running);
        let ended = paused.next(exited(137)).unwrap();
        assert_eq!((exit(&ended).code, exit(&ended).started_at), (137, Some(20)));
        assert_eq!(ended.paused_at(), None);
        for state in [ContainerState::Creating, ContainerState::Created { pid: 7 }, ended] {
            assert!(state.next(ContainerEvent::Paused { at: 31 }).is_err(), "{}", state.name());
        }
    }

    #[test]
    fn a_record_from_before_there_was_a_pause_is_read() {
        let old = r#"{"state":"running","pid":7,"started_at":20}"#;
        let state: ContainerState = serde_json::from_str(old).unwrap();
        assert_eq!(state, ContainerState::Running { pid: 7, started_at: 20, paused_at: None });
        assert_eq!(serde_json::to_string(&state).unwrap(), old);
    }

    fn any_event() -> impl Strategy<Value = ContainerEvent> {
        prop_oneof![
            any::<u32>().prop_map(|pid| ContainerEvent::Made { pid }),
            (1..100_i64).prop_map(|at| ContainerEvent::Started { at }),
            (1..100_i64).prop_map(|at| ContainerEvent::StartRefused { at, message: String::new() }),
            (1..100_i64).prop_map(|at| ContainerEvent::Paused { at }),
            Just(ContainerEvent::Resumed),
            (1..100_i64).prop_map(|at| ContainerEvent::Lost { at, end: LostEnd::Killed }),
            (1..100_i64).prop_map(|at| ContainerEvent::Lost { at, end: LostEnd::Unknown }),
            (1..100_i64, any::<i32>(), any::<bool>())
                .prop_map(|(at, code, oom_killed)| ContainerEvent::Exited { at, code, oom_killed }),
        ]
    }

    proptest! {
        #[test]
        fn an_exit_once_told_never_changes(events in proptest::collection::vec(any_event(), 0..20)) {
            let mut state = ContainerState::Creating;
            for event in events {
                let Ok(next) = state.next(event) else { continue };
                if let ContainerState::Exited(before) = &state {
                    let after = exit(&next);
                    prop_assert_eq!((before.code, before.finished_at, before.reason), (after.code, after.finished_at, after.reason));
                    prop_assert!(before.started_at.is_none() || before.started_at == after.started_at);
                }
                state = next;
            }
        }
    }
}
