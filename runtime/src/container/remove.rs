//! A container's removal.
//!
//! Owns the order: its process, what the OCI runtime holds, its files, the record last: a crash in between leaves a record, and so the way to go on.

use super::stop::exited;
use super::{RemoveContainerError, StopContainerError};
use crate::id::{ContainerId, SandboxId};
use crate::program;
use crate::sandbox::SandboxView;
use crate::shared::Shared;
use crate::shim::{ProcessHandle, ShimClient, ShimError};
use crate::shortage;
use crate::store::{SandboxRecord, StoreError, reach, remove_tree};
use std::io;
use std::sync::Arc;
use tokio::sync::watch;

/// What a removal works with.
pub(crate) struct Removal {
    pub(crate) shared: Arc<Shared>,
    pub(crate) sandbox: SandboxId,
    /// The pod's handler, for what a shim that is gone has left.
    pub(crate) handler: String,
    pub(crate) id: ContainerId,
    /// `None` if the pod has no shim any more.
    pub(crate) client: Option<ShimClient>,
}

/// Ends a container, if it has not, and all that there is of it but its pod's knowledge.
///
/// # Errors
/// [`RemoveContainerError`]: it is there still.
pub(crate) async fn remove(
    removal: Removal,
    view: watch::Receiver<Option<Arc<SandboxView>>>,
) -> Result<(), RemoveContainerError> {
    let files = |source| RemoveContainerError::Files { id: removal.id.clone(), source };
    reach("remove.asked").map_err(files)?;
    if let Some(client) = &removal.client {
        match client.delete(removal.id.as_str()).await {
            Ok(()) | Err(ShimError::Unknown { .. } | ShimError::Gone { .. }) => {}
            Err(
                source @ (ShimError::State { .. }
                | ShimError::Runtime { .. }
                | ShimError::Deadline { .. }
                | ShimError::Short { .. }
                | ShimError::Old
                | ShimError::Failed { .. }),
            ) => {
                return Err(RemoveContainerError::Shim { id: removal.id.clone(), source });
            }
        }
    }
    reach("remove.deleted").map_err(files)?;
    // Its exit is told and written down before the record goes.
    let kill = removal.shared.config.deadlines.kill;
    if tokio::time::timeout(kill, exited(view, &removal.id)).await.is_err() {
        return Err(StopContainerError::Alive { id: removal.id, after: kill }.into());
    }
    remove_files(&removal)
        .await
        .map_err(|source| RemoveContainerError::Files { id: removal.id.clone(), source })
}

/// Ends and removes what an interrupted creation has left, whatever that is.
pub(crate) async fn undo(shared: Arc<Shared>, sandbox: SandboxRecord, id: ContainerId) {
    let mut removal = Removal {
        shared,
        sandbox: sandbox.id.clone(),
        handler: sandbox.handler.clone(),
        id,
        client: None,
    };
    // One that can't be looked at may be alive.
    let alive = |shim| !matches!(ProcessHandle::open(shim), Ok(None));
    if sandbox.shim.is_some_and(alive) {
        let pod = removal.shared.layout.pod(&removal.sandbox);
        let client = ShimClient::new(&pod, removal.shared.config.deadlines.shim);
        // What the shim can't delete is the pod's own to end; but it is to be asked.
        while let Err(ShimError::Short { .. }) = client.delete(removal.id.as_str()).await {
            tokio::time::sleep(shortage::PAUSE).await;
        }
        removal.client = Some(client);
    }
    match remove_files(&removal).await {
        Ok(()) => tracing::info!(container = %removal.id, "undone: its creation was interrupted"),
        Err(error) => {
            tracing::error!(container = %removal.id, error = &error as &dyn std::error::Error, "an interrupted creation could not be undone")
        }
    }
}

/// Removes what is on disk of a container that has no process.
pub(crate) async fn remove_files(removal: &Removal) -> Result<(), StoreError> {
    delete_without_shim(removal).await;
    let writable = removal.shared.layout.writable(&removal.id);
    let bundle = removal.shared.layout.bundle(&removal.sandbox, &removal.id);
    let removed = tokio::task::spawn_blocking({
        let bundle = bundle.clone();
        move || {
            reach("remove.exited")?;
            remove_tree(&writable)?;
            reach("remove.writable")?;
            remove_tree(&bundle)?;
            reach("remove.bundle")
        }
    });
    removed.await.unwrap_or_else(|error| {
        Err(StoreError::Io { verb: "remove", path: bundle, source: io::Error::other(error) })
    })
}

/// The shim deletes what it had created when that exits, and nothing is left to do; one that was killed could not. The OCI runtime forgets an id that it doesn't know, so
/// asking once too often does no harm, and that it may fail is no reason to keep the files.
async fn delete_without_shim(removal: &Removal) {
    let Ok(handler) = removal.shared.handlers.get(&removal.handler) else { return };
    if !handler.root.join(removal.id.as_str()).exists() {
        return;
    }
    let mut command = tokio::process::Command::new(&handler.path);
    command.arg("--root").arg(&handler.root);
    if handler.systemd_cgroup {
        command.arg("--systemd-cgroup");
    }
    command.args(&handler.args).args(["delete", "--force", removal.id.as_str()]);
    let deadline = removal.shared.config.deadlines.runtime;
    match program::output(command, deadline).await {
        Ok(Some(output)) if output.status.success() => {}
        other => {
            tracing::warn!(container = %removal.id, ?other, ?deadline, "the OCI runtime could not delete what a lost shim had left")
        }
    }
}
