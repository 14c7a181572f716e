//! Checkpoints that davit keeps: made, listed and removed below its own root, in `checkpoints/NAME.tar`.
//!
//! Owns the names and the directory, which nobody but root can enter: an archive holds a container's memory. The making is the runtime's. What is restored from them
//! is in [`super::restore`].

use super::status::plain_status;
use davit_proto::admin::{
    Checkpoint, CreateCheckpointRequest, CreateCheckpointResponse, ListCheckpointsResponse,
    RemoveCheckpointRequest, RemoveCheckpointResponse,
};
use davit_runtime::Runtime;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tonic::Status;

const SUFFIX: &str = ".tar";
/// A name's length; with the suffix it is a file's.
const NAME_MAX: usize = 128;
/// How long it may take, in seconds, at most.
pub(super) const TIMEOUT_MAX: u32 = 3600;

pub(super) async fn create(
    runtime: &Runtime,
    request: CreateCheckpointRequest,
) -> Result<CreateCheckpointResponse, Status> {
    let CreateCheckpointRequest { container_id, name, timeout_s } = request;
    let (_, view) = runtime.container(&container_id).map_err(|error| plain_status(&error))?;
    let name = if name.is_empty() {
        format!("{}-{}", view.spec.name, davit_runtime::now() / 1_000_000_000)
    } else {
        name
    };
    if timeout_s > TIMEOUT_MAX {
        let problem = format!("timeout_s: {timeout_s} is more than {TIMEOUT_MAX}");
        return Err(Status::invalid_argument(problem));
    }
    let path = place(runtime, &name)?;
    if path.exists() {
        return Err(Status::already_exists(format!("name: there is a checkpoint {name:?}")));
    }
    // CRIU is tried before anything is frozen, and the directory is there before that.
    let directory = directory(runtime);
    let mut builder = std::fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(&directory);
    made.map_err(|error| failed("make", &directory, &error))?;
    let limit = (timeout_s > 0).then(|| Duration::from_secs(timeout_s.into()));
    let made = runtime.checkpoint_container(view.id.as_str(), path.clone(), limit).await;
    made.map_err(|error| plain_status(&error))?;
    Ok(CreateCheckpointResponse { checkpoint: Some(told(&name, &path)?) })
}

pub(super) fn list(runtime: &Runtime) -> Result<ListCheckpointsResponse, Status> {
    let directory = directory(runtime);
    let mut checkpoints = Vec::new();
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(ListCheckpointsResponse { checkpoints });
        }
        Err(error) => return Err(failed("read", &directory, &error)),
    };
    for entry in entries {
        let path = entry.map_err(|error| failed("read", &directory, &error))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(name) = name.strip_suffix(SUFFIX).filter(|name| is_name(name)) else { continue };
        // One that is being removed is listed no more.
        checkpoints.extend(told(name, &path).ok());
    }
    checkpoints.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(ListCheckpointsResponse { checkpoints })
}

pub(super) fn remove(
    runtime: &Runtime,
    request: RemoveCheckpointRequest,
) -> Result<RemoveCheckpointResponse, Status> {
    let RemoveCheckpointRequest { name } = request;
    let path = place(runtime, &name)?;
    match std::fs::remove_file(&path) {
        Ok(()) => Ok(RemoveCheckpointResponse {}),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Status::not_found(format!("name: there is no checkpoint {name:?}")))
        }
        Err(error) => Err(failed("remove", &path, &error)),
    }
}

fn directory(runtime: &Runtime) -> PathBuf {
    runtime.config().root.join("checkpoints")
}

pub(super) fn place(runtime: &Runtime, name: &str) -> Result<PathBuf, Status> {
    if !is_name(name) {
        let shown: String = name.chars().take(NAME_MAX).collect();
        return Err(Status::invalid_argument(format!(
            "name: {shown:?} is none: up to {NAME_MAX} letters, digits, '-', '_' and '.', with a letter or digit first"
        )));
    }
    Ok(directory(runtime).join(format!("{name}{SUFFIX}")))
}

fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    name.len() <= NAME_MAX
        && name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
        && name.bytes().all(allowed)
}

fn told(name: &str, path: &Path) -> Result<Checkpoint, Status> {
    let metadata =
        std::fs::symlink_metadata(path).map_err(|error| failed("look at", path, &error))?;
    let age =
        metadata.modified().ok().and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    let created_at = age.and_then(|age| i64::try_from(age.as_nanos()).ok()).unwrap_or_default();
    Ok(Checkpoint {
        name: name.to_owned(),
        path: path.display().to_string(),
        size: metadata.len(),
        created_at,
    })
}

fn failed(verb: &str, path: &Path, error: &io::Error) -> Status {
    Status::internal(format!("{verb} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_nowhere_else() {
        for name in ["", ".", "..", "a/b", "../a", "-a", ".a", "a b", "ä", &"a".repeat(129)] {
            assert!(!is_name(name), "{name:?}");
        }
        for name in ["a", "web-1767323045", "a.b_c-d", &"a".repeat(128)] {
            assert!(is_name(name), "{name:?}");
        }
    }
}
