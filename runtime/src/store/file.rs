//! Files written whole or not at all, and trees removed whole.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// A record or directory could not be written, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The kernel refused.
    #[error("{verb} {}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The file is there and makes no sense.
    #[error("read the record {}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// Where it stops making sense.
        #[source]
        source: serde_json::Error,
    },
    /// It was written by a davit that knows more than this one.
    #[error("the record {} is of version {found}; this davit knows {known}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
}

impl StoreError {
    pub(crate) fn io(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { verb, path, source }
    }
}

/// Writes `bytes` to `path` with this mode: a reader sees the old file or the new one.
///
/// # Errors
/// [`StoreError::Io`]; the temporary file is gone then.
pub fn write_bytes(path: &Path, bytes: &[u8], mode: u32) -> Result<(), StoreError> {
    let temporary = path.with_extension("tmp");
    let written = (|| {
        let mut file: File = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(bytes)?;
        fs::rename(&temporary, path)
    })();
    written.map_err(|source| {
        // Best effort: the error that matters is the first one.
        drop(fs::remove_file(&temporary));
        StoreError::Io { verb: "write", path: path.to_owned(), source }
    })
}

/// Writes a record as JSON, readable by its owner.
///
/// # Errors
/// As [`write_bytes`].
pub fn write_json(path: &Path, record: &impl Serialize) -> Result<(), StoreError> {
    let bytes = serde_json::to_vec(record)
        .map_err(|source| StoreError::Broken { path: path.to_owned(), source })?;
    write_bytes(path, &bytes, 0o600)
}

/// Reads a record.
///
/// # Errors
/// [`StoreError::Io`] if it can't be read, [`StoreError::Broken`] if it makes no sense.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, StoreError> {
    let bytes = fs::read(path).map_err(StoreError::io("read", path))?;
    serde_json::from_slice(&bytes)
        .map_err(|source| StoreError::Broken { path: path.to_owned(), source })
}

/// Removes a directory and all below it; one that isn't there is gone already. Follows no symbolic link.
///
/// # Errors
/// [`StoreError::Io`].
pub fn remove_tree(path: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(StoreError::io("remove", path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_replaced_whole_and_leaves_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("one.json");
        write_json(&path, &vec![1, 2]).unwrap();
        write_json(&path, &vec![3]).unwrap();
        assert_eq!(read_json::<Vec<u32>>(&path).unwrap(), [3]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_record_that_cannot_be_written_is_named() {
        let error = write_json(Path::new("/proc/nowhere/one.json"), &1).unwrap_err();
        assert_eq!(error.to_string(), "write /proc/nowhere/one.json");
    }

    #[test]
    fn removing_what_is_gone_is_no_error() {
        remove_tree(Path::new("/nowhere/at/all")).unwrap();
    }
}
