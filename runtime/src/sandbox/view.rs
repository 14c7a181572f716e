//! A pod as everybody but its own task sees it: immutable, replaced whole at each change.

use super::{SandboxSpec, Trouble};
use crate::container::ContainerView;
use crate::id::{ContainerId, SandboxId};
use crate::stats::Meter;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// One pod and its containers at one moment.
#[derive(Debug, Clone)]
pub struct SandboxView {
    /// Its id.
    pub id: SandboxId,
    /// What it was asked to be.
    pub spec: Arc<SandboxSpec>,
    /// The runtime handler it has: never empty, the default one by its name.
    pub handler: String,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Where it is in its life.
    pub state: SandboxState,
    /// Why it is not ready, if nobody has stopped it.
    pub trouble: Option<Trouble>,
    /// Its addresses, the primary one first; empty with the host's network.
    pub ips: Vec<IpAddr>,
    /// Its pinned network namespace; `None` with the host's.
    pub netns: Option<PathBuf>,
    /// Its shim's pid; `None` once that is gone.
    pub shim_pid: Option<u32>,
    /// Its containers, those being created left out.
    pub containers: BTreeMap<ContainerId, Arc<ContainerView>>,
    /// What was measured of it last.
    pub meter: Meter,
}

/// Where a pod is in its life, as far as others see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxState {
    /// Containers can be created in it.
    Ready,
    /// Stopped, or in [`Trouble`], or its creation or removal could not be finished.
    NotReady,
}
