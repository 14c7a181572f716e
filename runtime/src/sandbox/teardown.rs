//! Taking a pod down, piece by piece.
//!
//! Owns each piece's end; every one is idempotent, because it serves as the undo of a creation that failed, as the pod's stop and removal, and as
//! the end of what a crash left. Order is the caller's.

use super::error::StopSandboxError;
use super::shim::Shim;
use crate::cgroup::CgroupError;
use crate::id::SandboxId;
use crate::network::DetachError;
use crate::shared::Shared;
use crate::shim::ProcessHandle;
use crate::store::{SandboxRecord, StoreError, read_json, remove_tree};
use rustix::mount::{UnmountFlags, unmount};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The pod's directory.
pub(super) async fn files(shared: Arc<Shared>, id: SandboxId) -> Result<(), StoreError> {
    remove_tree_off(shared.layout.pod(&id)).await
}

/// Trees can be deep: removed where blocking is allowed.
async fn remove_tree_off(path: PathBuf) -> Result<(), StoreError> {
    let removed = tokio::task::spawn_blocking({
        let path = path.clone();
        move || remove_tree(&path)
    });
    removed.await.unwrap_or_else(|error| {
        Err(StoreError::Io { verb: "remove", path, source: io::Error::other(error) })
    })
}

/// The cgroups that davit made for the pod.
pub(super) async fn cgroups(shared: Arc<Shared>, made: Vec<PathBuf>) -> Result<(), CgroupError> {
    // What others have filled since is theirs now.
    shared.host.cgroups.remove(&made).await.map(drop)
}

/// The pod's network.
pub(super) async fn network(
    shared: Arc<Shared>,
    id: SandboxId,
    netns: Option<PathBuf>,
) -> Result<(), DetachError> {
    shared.network.detach(&id, netns.as_deref()).await
}

/// A shim of which perhaps only its record knows: killed, and what it had mounted released.
pub(super) async fn unborn_shim(
    shared: Arc<Shared>,
    id: SandboxId,
    netns: Option<PathBuf>,
) -> Result<(), StopSandboxError> {
    let record: Option<SandboxRecord> = read_json(&shared.layout.sandbox_record(&id)).ok();
    if let Some(process) = record
        .and_then(|record| record.shim)
        .and_then(|shim| ProcessHandle::open(shim).ok().flatten())
    {
        let killed = process.kill();
        let release = |source| StopSandboxError::Release {
            id: id.clone(),
            path: PathBuf::from("the shim"),
            source,
        };
        killed.map_err(release)?;
        // Its mounts and namespaces are free only once it is gone.
        process.ended().await;
    }
    release(&shared, &id, netns.as_deref())
}

/// A shim that serves, or did: asked to end, killed if it won't.
pub(super) async fn shim(
    shared: &Shared,
    id: &SandboxId,
    shim: Option<&Shim>,
    netns: Option<&Path>,
) -> Result<(), StopSandboxError> {
    if let Some(shim) = shim {
        let asked = shim.client.shutdown().await;
        let deadline = shared.config.deadlines.shim;
        if asked.is_err() || tokio::time::timeout(deadline, shim.process.ended()).await.is_err() {
            shim.process.kill().map_err(|source| StopSandboxError::Release {
                id: id.clone(),
                path: PathBuf::from(format!("shim process {}", shim.pid)),
                source,
            })?;
            if tokio::time::timeout(deadline, shim.process.ended()).await.is_err() {
                let message = format!("process {} has not ended after SIGKILL", shim.pid);
                return Err(StopSandboxError::Shim {
                    id: id.clone(),
                    source: crate::shim::ShimError::Deadline { message },
                });
            }
        }
    }
    release(shared, id, netns)
}

/// What a shim mounts in the host's mount namespace: it releases both itself unless it was killed.
fn release(shared: &Shared, id: &SandboxId, netns: Option<&Path>) -> Result<(), StopSandboxError> {
    let error = |path: &Path| {
        let path = path.to_owned();
        move |source| StopSandboxError::Release { id: id.clone(), path, source }
    };
    let shm = shared.layout.shm(id);
    detach_mount(&shm).map_err(error(&shm))?;
    if let Some(netns) = netns {
        detach_mount(netns).map_err(error(netns))?;
        match std::fs::remove_file(netns) {
            Err(failed) if failed.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(error(netns))?,
        }
    }
    Ok(())
}

/// Unmounts all that is mounted there; nothing mounted, or nothing there, is no error.
fn detach_mount(path: &Path) -> io::Result<()> {
    use rustix::io::Errno;
    // Several mounts may lie on one another; a bound keeps a mistake from looping.
    for _ in 0..16 {
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
