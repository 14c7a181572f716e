//! This davit's id: the same for as long as its root is kept.

use super::{StoreError, read_plain, write_bytes};
use crate::id::SandboxId;
use std::io;
use std::path::Path;

/// Below the root.
pub(super) const FILE: &str = "id";
/// As many hexadecimal digits as a UUID has.
const DIGITS: usize = 32;

/// The id of what is kept below `root`; made unless it is there. One that is none is replaced, and said so: nothing hangs on it.
///
/// # Errors
/// [`StoreError::Io`].
pub(crate) fn ensure_id(root: &Path) -> Result<String, StoreError> {
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
    let id: String = id.as_str().chars().take(DIGITS).collect();
    write_bytes(&path, format!("{id}\n").as_bytes(), 0o600)?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_stays_and_what_is_none_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let first = ensure_id(root.path()).unwrap();
        assert_eq!((first.len(), ensure_id(root.path()).unwrap()), (DIGITS, first.clone()));
        write_bytes(&root.path().join(FILE), b"torn", 0o600).unwrap();
        let second = ensure_id(root.path()).unwrap();
        assert!(second != first && ensure_id(root.path()).unwrap() == second);
    }
}
