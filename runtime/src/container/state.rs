//! A container's states and how one follows another.
//!
//! Owns the decision, not the deed: [`ContainerState::next`] is pure; the pod's task ([`crate::sandbox`]) performs. CRI's states are
//! functions of these and stored nowhere.
//!
//! ```text
//! Creating ──made──► Created{pid} ──started──► Running{pid, since} ──exited──► Exited{code, at, why}
//!     │                  │  └──start refused / exited────────────────────────────────▲
//!     └──undone─► (gone) └──────────────────────────removed──────► (gone) ◄──removed─┘
//! ```

use serde::{Deserialize, Serialize};

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
    /// Its shim is gone and left no record: how it ended is not known.
    Lost,
}

impl ExitReason {
    /// As CRI tells it. `OOMKilled` is spelled so by the interface; the others are what people know.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OomKilled => "OOMKilled",
            Self::StartError => "StartError",
            Self::Lost => "Unknown",
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
    },
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
                Ok(Self::Running { pid: *pid, started_at: at })
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
                let reason = if oom_killed {
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
            (Self::Created { .. } | Self::Running { .. }, ContainerEvent::Lost { at }) => {
                Ok(Self::Exited(Exit {
                    started_at: self.started_at(),
                    finished_at: at,
                    code: 255,
                    reason: ExitReason::Lost,
                    message:
                        "the pod's shim is gone and left no record of how this container ended"
                            .to_owned(),
                }))
            }
            (
                Self::Exited(exit),
                ContainerEvent::Exited { .. }
                | ContainerEvent::Lost { .. }
                | ContainerEvent::Started { .. },
            ) => Ok(Self::Exited(exit.clone())),
            (state, event) => Err(Denied { state: state.name(), event: event.name() }),
        }
    }

    /// In one word, for messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Creating => "being created",
            Self::Created { .. } => "created",
            Self::Running { .. } => "running",
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

    /// When it was started, if it was.
    #[must_use]
    pub fn started_at(&self) -> Option<i64> {
        match self {
            Self::Running { started_at, .. } => Some(*started_at),
            Self::Exited(exit) => exit.started_at,
            Self::Creating | Self::Created { .. } => None,
        }
    }
}

impl ContainerEvent {
    fn name(&self) -> &'static str {
        match self {
            Self::Made { .. } => "been made",
            Self::Started { .. } => "started",
            Self::StartRefused { .. } => "refused to start",
            Self::Exited { .. } => "exited",
            Self::Lost { .. } => "been lost",
        }
    }
}
