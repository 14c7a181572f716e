//! What is written down of a pod and of a container.

use crate::container::{ContainerFacts, ContainerSpec, ContainerState};
use crate::id::{ContainerId, SandboxId};
use crate::sandbox::{SandboxSpec, Trouble};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::PathBuf;

/// The version of both records.
pub const VERSION: u32 = 1;

/// A pod as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// [`VERSION`].
    pub version: u32,
    /// Its id.
    pub id: SandboxId,
    /// What it was asked to be.
    pub spec: SandboxSpec,
    /// The handler it has, by its own name.
    pub handler: String,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// How far it has come.
    pub phase: SandboxPhase,
    /// Where its network namespace is pinned; `None` with the host's network.
    pub netns: Option<PathBuf>,
    /// Its shim, once it was spawned.
    pub shim: Option<ShimRecord>,
    /// Its addresses, the primary one first.
    pub ips: Vec<IpAddr>,
    /// The cgroups that davit made for it and so may remove, parents first.
    pub cgroups: Vec<PathBuf>,
    /// What keeps it from ever being ready again, although nobody has stopped it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Trouble>,
}

/// How far a pod has come. What lies between two of these is finished or undone after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SandboxPhase {
    /// Its steps are under way: a crash now undoes them.
    Creating,
    /// It was given to the caller: a crash now leaves it as it is.
    Ready,
    /// It was stopped, or is being stopped: what is left of it is torn down at the next stop or removal.
    NotReady,
}

/// A shim, so that it can be told from a later process with the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimRecord {
    /// Its pid.
    pub pid: u32,
    /// When it started, in clock ticks since the boot (field 22 of proc_pid_stat(5)).
    pub start_time: u64,
}

/// A container as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// [`VERSION`].
    pub version: u32,
    /// Its id.
    pub id: ContainerId,
    /// The pod it is in.
    pub sandbox: SandboxId,
    /// What it was asked to be.
    pub spec: ContainerSpec,
    /// What was decided when it was created.
    pub facts: ContainerFacts,
    /// Where it is in its life.
    pub state: ContainerState,
}
