//! What the daemon before has written down of pods and containers, and what becomes of what can't be read.
//!
//! Owns that a record that makes no sense is put aside and hinders nobody else, and that one which could not be read for want of descriptors is none of these.

use super::OpenError;
use crate::id::{ContainerId, SandboxId};
use crate::sandbox::end_shim;
use crate::shared::Shared;
use crate::shortage::is_shortage;
use crate::store::{
    ContainerRecord, SandboxRecord, StoreError, VERSION, ensure_dir, read_json, remove_tree,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) fn names(directory: &Path) -> Result<Vec<String>, StoreError> {
    let failed = || StoreError::io("list", directory);
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed())? {
        // Half a list is none: what it lacks would be taken for gone.
        names.extend(entry.map_err(failed())?.file_name().into_string());
    }
    Ok(names)
}

/// All of them, before any is taken up: who lacks descriptors for one takes up none.
pub(super) async fn read_pods(
    shared: &Arc<Shared>,
) -> Result<Vec<(SandboxRecord, Containers)>, OpenError> {
    let mut records = Vec::new();
    for name in names(&shared.layout.pods())? {
        let directory = shared.layout.pods().join(&name);
        let (record, error) = match read_pod(shared, name) {
            Ok(record) => match read_containers(shared, &record.id) {
                Ok(containers) => {
                    records.push((record, containers));
                    continue;
                }
                Err(error) => (Some(record), error),
            },
            Err(error) => (None, error),
        };
        if is_shortage(&error) {
            return Err(OpenError::Short(error.into()));
        }
        // What a link leads to is not davit's.
        if !matches!(error, ReadError::NoDirectory) {
            abandon(shared, &directory, record).await?;
        }
        if let Err(failed) = put_away(shared, &directory, &error) {
            // It is in nobody's way but its own; the next start tries again.
            tracing::error!(directory = %directory.display(), error = &failed as &dyn std::error::Error, "a pod without a record stays");
        }
    }
    Ok(records)
}

fn put_away(shared: &Shared, directory: &Path, error: &ReadError) -> Result<(), StoreError> {
    if error.is_absent() {
        // Its creation had hardly begun, or its removal was all but done: the record comes first and goes early.
        tracing::info!(directory = %directory.display(), "swept: a pod that was not yet, or no more");
        remove_tree(directory)
    } else {
        quarantine(shared, directory, error)
    }
}

/// Why a pod's directory can't be taken up.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Id(#[from] crate::id::InvalidId),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("it is no directory")]
    NoDirectory,
    #[error("the record is of {0}")]
    Other(SandboxId),
    #[error("the record names {} as the network namespace", .0.display())]
    Netns(PathBuf),
    #[error("the record is of container {id} in pod {sandbox}")]
    OtherContainer { id: ContainerId, sandbox: SandboxId },
}

impl ReadError {
    /// There is no record at all.
    fn is_absent(&self) -> bool {
        match self {
            Self::Store(StoreError::Io { source, .. }) => {
                source.kind() == std::io::ErrorKind::NotFound
            }
            Self::Store(StoreError::Broken { .. } | StoreError::Version { .. })
            | Self::Id(_)
            | Self::NoDirectory
            | Self::Other(_)
            | Self::Netns(_)
            | Self::OtherContainer { .. } => false,
        }
    }
}

fn read_pod(shared: &Shared, name: String) -> Result<SandboxRecord, ReadError> {
    let id = SandboxId::try_from(name)?;
    must_be_directory(&shared.layout.pod(&id))?;
    let path = shared.layout.sandbox_record(&id);
    let record: SandboxRecord = read_json(&path)?;
    if record.version != VERSION {
        return Err(StoreError::Version { path, found: record.version, known: VERSION }.into());
    }
    if record.id != id {
        return Err(ReadError::Other(record.id));
    }
    // It will be unmounted and removed. The directory may have been another when the pod was made; the name never was.
    let pin = shared.netns(&id);
    match record.netns {
        Some(path) if !path.is_absolute() || path.file_name() != pin.file_name() => {
            Err(ReadError::Netns(path))
        }
        Some(_) | None => Ok(record),
    }
}

fn must_be_directory(path: &Path) -> Result<(), ReadError> {
    let metadata = fs::symlink_metadata(path).map_err(StoreError::io("look at", path))?;
    if metadata.is_dir() { Ok(()) } else { Err(ReadError::NoDirectory) }
}

/// Ends what can be known, even without its record, to be a pod's: the shim that answers in its directory with all that it holds, what that had mounted, the
/// cgroup that only davit makes. Its network is detached with those of all pods that are not taken up.
async fn abandon(
    shared: &Arc<Shared>,
    directory: &Path,
    record: Option<SandboxRecord>,
) -> Result<(), OpenError> {
    let name = directory.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Ok(id) = SandboxId::try_from(name.to_owned()) else { return Ok(()) };
    let told = |error: &dyn std::error::Error| tracing::error!(sandbox = %id, error = crate::error::chain(error), "left of a pod without a record");
    let mut cgroups = shared.own_cgroups(&id);
    let (mut netns, mut shim) = (Some(shared.netns(&id)), None);
    if let Some(record) = record {
        (netns, shim) = (record.netns, record.shim);
        cgroups.extend(record.cgroups);
    }
    match end_shim(Arc::clone(shared), id.clone(), netns, shim).await {
        Ok(()) => {}
        // Nobody would find it any more without the directory.
        Err(error) if is_shortage(&error) => return Err(OpenError::Short(error.into())),
        Err(error) => told(&error),
    }
    if let Err(error) = shared.host.cgroups.remove(&cgroups).await {
        told(&error);
    }
    Ok(())
}

fn quarantine(shared: &Shared, directory: &Path, error: &ReadError) -> Result<(), StoreError> {
    let quarantine = shared.layout.quarantine();
    ensure_dir(&quarantine)?;
    let to = quarantine.join(directory.file_name().unwrap_or_default());
    tracing::error!(directory = %directory.display(), to = %to.display(), error = error as &dyn std::error::Error, "put aside: the record can't be read");
    fs::rename(directory, &to).map_err(StoreError::io("put aside", directory))
}

pub(super) type Containers = Vec<(ContainerId, Result<ContainerRecord, ReadError>)>;

/// The records of a pod's containers. One that can't be read is no error, but for a shortage.
fn read_containers(shared: &Shared, sandbox: &SandboxId) -> Result<Containers, ReadError> {
    let names = match names(&shared.layout.containers(sandbox)) {
        // Its removal was under way.
        Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Vec::new()
        }
        names => names?,
    };
    let mut read = Vec::with_capacity(names.len());
    for id in names.into_iter().filter_map(|name| ContainerId::try_from(name).ok()) {
        match read_container(shared, sandbox, &id) {
            Err(error) if is_shortage(&error) => return Err(error),
            record => read.push((id, record)),
        }
    }
    Ok(read)
}

fn read_container(
    shared: &Shared,
    sandbox: &SandboxId,
    id: &ContainerId,
) -> Result<ContainerRecord, ReadError> {
    must_be_directory(&shared.layout.bundle(sandbox, id))?;
    let path = shared.layout.container_record(sandbox, id);
    let record: ContainerRecord = read_json(&path)?;
    if record.version != VERSION {
        return Err(StoreError::Version { path, found: record.version, known: VERSION }.into());
    }
    if record.id != *id || record.sandbox != *sandbox {
        return Err(ReadError::OtherContainer { id: record.id, sandbox: record.sandbox });
    }
    Ok(record)
}

/// The record is kept for people; what it was of can't be known, and so can't go on.
pub(super) fn put_away_container(
    shared: &Shared,
    sandbox: &SandboxId,
    id: &ContainerId,
    error: &ReadError,
) {
    if error.is_absent() {
        // Its creation had hardly begun, or its removal was all but done.
        return;
    }
    let to = shared.layout.quarantine().join(format!("{id}.json"));
    let kept = ensure_dir(&shared.layout.quarantine()).and_then(|()| {
        let from = match error {
            ReadError::NoDirectory => shared.layout.bundle(sandbox, id),
            ReadError::Id(_)
            | ReadError::Store(_)
            | ReadError::Other(_)
            | ReadError::Netns(_)
            | ReadError::OtherContainer { .. } => shared.layout.container_record(sandbox, id),
        };
        fs::rename(&from, &to).map_err(StoreError::io("put aside", &from))
    });
    tracing::error!(%sandbox, container = %id, to = %to.display(), kept = kept.is_ok(), error = error as &dyn std::error::Error, "put aside: the record can't be read; the container ends");
}
