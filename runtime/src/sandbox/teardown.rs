//! Taking a pod down, piece by piece.
//!
//! Owns each piece's end; every one is idempotent, because it serves as the undo of a creation that failed, as the pod's stop and removal, and as
//! the end of what a crash left. Order is the caller's.

use super::error::StopSandboxError;
use super::shim::Shim;
use crate::cgroup::CgroupError;
use crate::id::SandboxId;
use crate::network::DetachError;
use crate::proc;
use crate::shared::Shared;
use crate::shim::{ProcessHandle, ShimClient, ShimError, start_time};
use crate::shortage::is_shortage;
use crate::store::{SandboxRecord, ShimRecord, StoreError, read_json, remove_tree};
use rustix::mount::{UnmountFlags, unmount};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long a shim may take to end once it was asked to.
const GRACE: Duration = Duration::from_secs(2);

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

/// A shim of which the record may not know yet, or know no more than its pid: whoever answers on the pod's socket is asked to end what it has and
/// itself, whoever was `started` or the record names is killed, and what it had mounted is released.
pub(crate) async fn unborn_shim(
    shared: Arc<Shared>,
    id: SandboxId,
    netns: Option<PathBuf>,
    started: Option<ShimRecord>,
) -> Result<(), StopSandboxError> {
    let record: Option<SandboxRecord> = match read_json(&shared.layout.sandbox_record(&id)) {
        Err(source) if is_shortage(&source) => return Err(StopSandboxError::Store { id, source }),
        record => record.ok(),
    };
    // A record that is another pod's names another pod's shim.
    let recorded = record.filter(|record| record.id == id).and_then(|record| record.shim);
    let recorded = started.or(recorded);
    dismiss(&shared, &id, &shared.layout.pod(&id), recorded).await?;
    release(&id, &shared.layout.shm(&id), netns.as_deref())
}

/// Ends the shim that serves in `directory`, and all that it holds; and the one that was recorded, if that is another or did not answer.
async fn dismiss(
    shared: &Shared,
    id: &SandboxId,
    directory: &Path,
    recorded: Option<ShimRecord>,
) -> Result<(), StopSandboxError> {
    let client = ShimClient::new(directory, shared.config.deadlines.shim);
    let mut found = recorded;
    // Nobody listens where no shim ever was, and that is told at once.
    let state = match client.state().await {
        Err(source @ ShimError::Short { .. }) => {
            return Err(StopSandboxError::Shim { id: id.clone(), source });
        }
        // It is there, and nothing but its socket says which it is.
        Err(source @ ShimError::Deadline { .. }) if recorded.is_none() => {
            return Err(StopSandboxError::Shim { id: id.clone(), source });
        }
        state => state.ok(),
    };
    if let Some(state) = state
        && is_shim_of(state.pid, directory).map_err(unseen(id, state.pid))?
    {
        let seen = start_time(state.pid).map_err(unseen(id, state.pid))?;
        found = seen.map(|start_time| ShimRecord { pid: state.pid, start_time });
        for container in state.containers {
            // What it can't delete it is killed with, below.
            drop(client.delete(&container.id).await);
        }
        drop(client.shutdown().await);
    }
    for record in recorded.into_iter().chain(found) {
        let process = ProcessHandle::open(record).map_err(unseen(id, record.pid))?;
        let Some(process) = process else { continue };
        end_process(shared, id, &process, record.pid).await?;
    }
    Ok(())
}

/// A shim that can't be looked at, for want of descriptors say, may be there.
fn unseen(id: &SandboxId, pid: u32) -> impl FnOnce(io::Error) -> StopSandboxError {
    let (id, path) = (id.clone(), PathBuf::from(format!("shim process {pid}")));
    move |source| StopSandboxError::Release { id, path, source }
}

/// Whether the process was started as the shim of the pod in `directory`: who else may answer on its socket is neither asked nor ended.
fn is_shim_of(pid: u32, directory: &Path) -> io::Result<bool> {
    let Some(pid) = proc::number(pid) else { return Ok(false) };
    let line = proc::read(pid, "cmdline")?.unwrap_or_default();
    let mut words = line.split(|byte| *byte == 0).skip(1);
    let first = words.next() == Some(b"--pod-dir");
    Ok(first && words.next() == Some(directory.as_os_str().as_bytes()))
}

/// A little time to end by itself, then SIGKILL; its mounts and namespaces are free only once it is gone.
async fn end_process(
    shared: &Shared,
    id: &SandboxId,
    process: &ProcessHandle,
    pid: u32,
) -> Result<(), StopSandboxError> {
    if tokio::time::timeout(GRACE, process.ended()).await.is_ok() {
        return Ok(());
    }
    // With what it has under way: a call of an OCI runtime that hangs would outlive it.
    process.kill_with_kin().map_err(|source| StopSandboxError::Release {
        id: id.clone(),
        path: PathBuf::from(format!("shim process {pid}")),
        source,
    })?;
    let ended = tokio::time::timeout(shared.config.deadlines.shim, process.ended()).await;
    ended.map_err(|_elapsed| StopSandboxError::Shim {
        id: id.clone(),
        source: ShimError::Deadline {
            message: format!("process {pid} has not ended after SIGKILL"),
        },
    })
}

/// A shim that serves, or did: asked to end, killed if it won't.
pub(super) async fn shim(
    shared: &Shared,
    id: &SandboxId,
    shim: Option<&Shim>,
    netns: Option<&Path>,
) -> Result<(), StopSandboxError> {
    if let Some(shim) = shim {
        // One that refuses is killed all the same: its containers have ended.
        drop(shim.client.shutdown().await);
        end_process(shared, id, &shim.process, shim.pid).await?;
    }
    release(id, &shared.layout.shm(id), netns)
}

/// What a shim mounts in the host's mount namespace: it releases both itself unless it was killed. `shm` may be none any more.
pub(crate) fn release(
    id: &SandboxId,
    shm: &Path,
    netns: Option<&Path>,
) -> Result<(), StopSandboxError> {
    detach_mount(shm).map_err(unreleased(id, shm))?;
    // Not empty if somebody had unmounted it before a container wrote there.
    if shm.is_dir() {
        remove_tree(shm).map_err(|error| unreleased(id, shm)(io::Error::other(error)))?;
    }
    netns.map_or(Ok(()), |netns| unpin(id, netns))
}

/// The pin of a pod's network namespace goes; none is no error.
pub(super) fn unpin(id: &SandboxId, netns: &Path) -> Result<(), StopSandboxError> {
    detach_mount(netns).map_err(unreleased(id, netns))?;
    match std::fs::remove_file(netns) {
        Err(failed) if failed.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(unreleased(id, netns)),
    }
}

fn unreleased(id: &SandboxId, path: &Path) -> impl FnOnce(io::Error) -> StopSandboxError {
    let (id, path) = (id.clone(), path.to_owned());
    move |source| StopSandboxError::Release { id, path, source }
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
