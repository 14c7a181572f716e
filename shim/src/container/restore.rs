//! Restore: from a bundle and CRIU's images to processes that go on where they were.
//!
//! Owns what it needs beside a create, which it is in all else: the same mounts, streams, log and undo. No start follows.

use super::create::{self, CreateError};
use crate::container::pid_number;
use crate::error::{Invalid, checked_path};
use crate::pod::Pod;
use davit_proto::shim::{RestoreRequest, RestoreResponse};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Where a container's processes come from.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    /// The OCI runtime's `create`: the init waits for its start.
    New,
    /// A checkpoint, by the OCI runtime's `restore`: they run.
    Checkpoint(Images),
}

/// What CRIU restores from.
#[derive(Debug, Clone)]
pub(super) struct Images {
    pub(super) images: PathBuf,
    /// For its log.
    pub(super) work: PathBuf,
    /// How long the OCI runtime may take.
    pub(super) limit: Option<Duration>,
}

/// Restores a container. To be run in a task of its own: it must not be dropped halfway.
pub(crate) async fn restore(
    pod: &Arc<Pod>,
    request: RestoreRequest,
) -> Result<RestoreResponse, CreateError> {
    let RestoreRequest { container, images, work, timeout_ms } = request;
    let container = container.ok_or_else(|| Invalid::new("container", "", "it is missing"))?;
    checked_path("images", &images)?;
    checked_path("work", &work)?;
    let limit = (timeout_ms > 0).then(|| Duration::from_millis(timeout_ms));
    let images = Images { images: images.into(), work: work.into(), limit };
    let id = container.id.clone();
    let pid = create::from_checkpoint(pod, container, images).await?;
    // As State tells it, to the nanosecond; one that has been deleted already was there until now.
    let known = pod.container(&id).ok().and_then(|container| container.to_proto());
    let started_at = known.map_or_else(crate::process::now, |state| state.started_at);
    Ok(RestoreResponse { pid: pid_number(pid), started_at })
}
