//! Files written whole or not at all, and trees removed whole.

use rustix::fs::{Mode, OFlags};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// More than any record or spec takes: a call of the interface has at most 16 MiB.
const LIMIT: u64 = 64 << 20;

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

/// [`davit_sys::failpoint::reach`], with an error that every operation has.
pub(crate) fn reach(step: &'static str) -> Result<(), StoreError> {
    davit_sys::failpoint::reach(step).map_err(StoreError::io("pass", Path::new(step)))
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
    let bytes = read_plain(path).map_err(StoreError::io("read", path))?;
    serde_json::from_slice(&bytes)
        .map_err(|source| StoreError::Broken { path: path.to_owned(), source })
}

/// The content of a file that is nothing else: no link to one elsewhere, no pipe that never says anything, none without an end.
pub(crate) fn read_plain(path: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LIMIT {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("longer than {LIMIT} bytes"),
        ));
    }
    Ok(bytes)
}

/// Removes a directory and all below it; one that isn't there is gone already. Follows no symbolic link and enters no mount: what is mounted there
/// is an error and keeps its content.
///
/// # Errors
/// [`StoreError::Io`].
pub fn remove_tree(path: &Path) -> Result<(), StoreError> {
    crate::image::remove_tree(path).map_err(StoreError::io("remove", path))
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
    fn what_is_mounted_in_a_tree_or_is_its_top_keeps_its_content() {
        use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().join("top");
        let inside = top.join("a/b");
        fs::create_dir_all(&inside).unwrap();
        mount("none", &inside, "tmpfs", MountFlags::empty(), None).unwrap();
        File::create(inside.join("kept")).unwrap();
        for path in [&top, &inside] {
            let refused = remove_tree(path).unwrap_err();
            assert!(refused.to_string().starts_with("remove "), "{refused}");
            assert!(inside.join("kept").exists(), "{}", path.display());
        }
        unmount(&inside, UnmountFlags::empty()).unwrap();
        remove_tree(&top).unwrap();
        remove_tree(&top).unwrap();
        assert!(!top.exists());
    }

    #[test]
    fn a_record_that_cannot_be_written_is_named() {
        let error = write_json(Path::new("/proc/nowhere/one.json"), &1).unwrap_err();
        assert_eq!(error.to_string(), "write /proc/nowhere/one.json");
    }

    #[test]
    fn what_is_no_plain_file_is_not_read_as_a_record() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        write_json(&path("real.json"), &1).unwrap();
        std::os::unix::fs::symlink(path("real.json"), path("link.json")).unwrap();
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, path("pipe.json"), fifo, Mode::RWXU, 0).unwrap();
        fs::create_dir(path("directory.json")).unwrap();
        let endless = File::create(path("endless.json")).unwrap();
        endless.set_len(LIMIT + 1).unwrap();
        for name in ["link.json", "pipe.json", "directory.json", "endless.json", "none.json"] {
            let error = read_json::<u32>(&path(name)).unwrap_err();
            assert!(error.to_string().ends_with(name), "{error}");
            assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
        }
    }

    #[test]
    fn removing_what_is_gone_is_no_error() {
        remove_tree(Path::new("/nowhere/at/all")).unwrap();
    }
}
