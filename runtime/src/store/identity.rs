//! This davit's id: the same for as long as its root is kept.

use super::{StoreError, read_plain, write_bytes};
use crate::id::SandboxId;
use std::io;
use std::path::Path;

/// Below the root.
pub(super) const FILE: &str = "id";
/// As many hexadecimal digits as a UUID has.
const DIGITS: usize = 32;

/// The id of what is kept below `root`; made unless it is there. One that is none is replaced, and said so: nothing hangs on it. Where none can be
/// kept, on a full disk say, this daemon has one of its own, and the next one tries again.
pub(crate) fn ensure_id(root: &Path) -> String {
    kept_id(root).unwrap_or_else(|error| {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "davit has an id for this start only"
        );
        SandboxId::random().map(|id| shortened(&id)).unwrap_or_default()
    })
}

fn shortened(id: &SandboxId) -> String {
    id.as_str().chars().take(DIGITS).collect()
}

fn kept_id(root: &Path) -> Result<String, StoreError> {
    let path = root.join(FILE);
    match read_plain(&path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes).trim().to_owned();
            if text.len() == DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Ok(text);
            }
            tracing::warn!(path = %path.display(), "it holds no id: davit gets a new one");
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(StoreError::Io { verb: "read", path, source }),
    }
    let id = SandboxId::random().map_err(|error| StoreError::Io {
        verb: "draw an id for",
        path: path.clone(),
        source: io::Error::other(error),
    })?;
    let id = shortened(&id);
    write_bytes(&path, format!("{id}\n").as_bytes(), 0o600)?;
    // Once in the life of a root: it is to be the same after a power cut, too.
    let synced = std::fs::File::open(&path).and_then(|file| file.sync_all());
    synced.map_err(|source| StoreError::Io { verb: "sync", path, source })?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_stays_and_what_is_none_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let first = ensure_id(root.path());
        assert_eq!((first.len(), ensure_id(root.path())), (DIGITS, first.clone()));
        write_bytes(&root.path().join(FILE), b"torn", 0o600).unwrap();
        let second = ensure_id(root.path());
        assert!(second != first && ensure_id(root.path()) == second);
    }

    #[test]
    fn where_none_can_be_kept_there_is_one_for_this_start() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(FILE)).unwrap();
        let (one, other) = (ensure_id(root.path()), ensure_id(root.path()));
        assert!(one.len() == DIGITS && other.len() == DIGITS && one != other, "{one} {other}");
    }
}
