//! A container's start.
//!
//! Owns what becomes of one that fails: the init waits still and nothing will ever start it, so it goes. A start may have been begun by a daemon that is no
//! more; the shim lets this one join it. A shim that is older than that refuses: then it is asked how the other went.

use super::StartContainerError;
use crate::clock;
use crate::id::ContainerId;
use crate::shim::{ShimClient, ShimError};
use crate::store::reach;
use std::time::Duration;

/// Between two questions to an older shim.
const PAUSE: Duration = Duration::from_millis(20);

/// Starts a container and answers when that was, in nanoseconds since the epoch. The OCI runtime gets `limit` for it.
///
/// # Errors
/// [`StartContainerError::Shim`]: it has ended, or is about to; but for [`ShimError::Short`], with which it is as it was.
pub(crate) async fn start(
    client: &ShimClient,
    id: &ContainerId,
    limit: Duration,
) -> Result<i64, StartContainerError> {
    let store = |source| StartContainerError::Store { id: id.clone(), source };
    reach("start.asked").map_err(store)?;
    let source = match client.start(id.as_str(), limit).await {
        Ok(at) => {
            reach("start.started").map_err(store)?;
            return Ok(at);
        }
        Err(refused @ ShimError::State { .. }) => {
            match tokio::time::timeout(limit, begun_before(client, id)).await {
                Ok(Some(at)) => return Ok(at),
                Ok(None) | Err(_) => refused,
            }
        }
        Err(source @ ShimError::Short { .. }) => {
            return Err(StartContainerError::Shim { id: id.clone(), source });
        }
        Err(
            source @ (ShimError::Unknown { .. }
            | ShimError::Runtime { .. }
            | ShimError::Deadline { .. }
            | ShimError::Gone { .. }
            | ShimError::Old
            | ShimError::Failed { .. }),
        ) => source,
    };
    // That it may not go is the removal's to tell.
    drop(client.delete(id.as_str()).await);
    Err(StartContainerError::Shim { id: id.clone(), source })
}

/// When a start has succeeded that was begun before; `None` if it has failed, or never was.
async fn begun_before(client: &ShimClient, id: &ContainerId) -> Option<i64> {
    loop {
        let state = client.state().await.ok()?;
        let container = state.containers.into_iter().find(|one| one.id == id.as_str())?;
        let ended = container.exit.as_ref().map(|exit| exit.finished_at);
        match (container.started, ended) {
            (true, _) if container.started_at > 0 => return Some(container.started_at),
            // When it was is not known: not later than its end.
            (true, Some(ended)) => return Some(ended.min(clock::now())),
            (true, None) => return Some(clock::now()),
            (false, Some(_)) => return None,
            (false, None) => tokio::time::sleep(PAUSE).await,
        }
    }
}
