//! A container as everybody but its pod's task sees it: immutable, replaced whole at each change.

use super::{ContainerSpec, ContainerState, Signal};
use crate::id::{ContainerId, SandboxId};
use crate::image::Digest;
use crate::stats::Meter;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;

/// One container at one moment.
#[derive(Debug, Clone)]
pub struct ContainerView {
    /// Its id.
    pub id: ContainerId,
    /// The pod it is in.
    pub sandbox: SandboxId,
    /// What it was asked to be.
    pub spec: Arc<ContainerSpec>,
    /// What was decided when it was created, and holds for its life.
    pub facts: Arc<ContainerFacts>,
    /// Where it is in its life.
    pub state: ContainerState,
    /// How much of its log could not be written since it was created, in bytes, as far as its shim has told.
    pub log_dropped: u64,
    /// What was measured of it last.
    pub meter: Meter,
}

/// What is decided once, at creation, and kept in the container's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerFacts {
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// The image's id (its config's digest).
    pub image_id: Digest,
    /// The name to tell as the image: its first tag, else what was asked for.
    pub image_name: String,
    /// Its first `name@digest`, else its id.
    pub image_ref: String,
    /// Its layers, so that they stay while this container does, whatever happens to the image.
    pub layers: Vec<Digest>,
    /// Those of the images that are its volumes, one after the other, for the same reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volume_layers: Vec<Digest>,
    /// Where its log is; absolute.
    pub log_path: Option<PathBuf>,
    /// Sent to stop it.
    pub stop_signal: Signal,
    /// Whom its command runs as.
    pub user: User,
    /// It sees none but its own processes, so they all end with its init.
    pub own_pid_namespace: bool,
}

/// Whom a container's command runs as, resolved to numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// The other groups.
    pub groups: Vec<u32>,
}
