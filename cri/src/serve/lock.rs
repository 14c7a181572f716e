//! One daemon per root and per state directory.
//!
//! The lock is a flock(2) on `<directory>/lock`: the kernel lets go of it however the daemon ends, so a stale one can't exist. The file
//! holds the owner's pid, for the message alone.

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why the directory is not ours.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    /// Another daemon has it.
    #[error("{key} {} is in use by another davit{}", directory.display(), pid(owner))]
    Taken {
        /// `root` or `state`.
        key: &'static str,
        /// Which.
        directory: PathBuf,
        /// Its pid, as far as known.
        owner: String,
    },
    /// The kernel refused.
    #[error("lock {key} {}: {step}", directory.display())]
    Io {
        /// `root` or `state`.
        key: &'static str,
        /// Which.
        directory: PathBuf,
        /// What was tried.
        step: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

fn pid(owner: &str) -> String {
    if owner.is_empty() { String::new() } else { format!(" (pid {owner})") }
}

/// Held for as long as this lives.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "the open file is the lock")] File);

/// Makes the directory (0700) unless it is there, and takes it.
///
/// # Errors
/// [`LockError::Taken`] if another daemon lives in it.
pub(crate) fn take(key: &'static str, directory: &Path) -> Result<Lock, LockError> {
    let failed = |step| {
        move |source: io::Error| LockError::Io {
            key,
            directory: directory.to_owned(),
            step,
            source,
        }
    };
    // A directory that is there keeps its mode: it may be one that others have a say in.
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(directory).map_err(failed("make it"))?;
    let mut file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(directory.join("lock"))
        .map_err(failed("open its lock"))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut owner = String::new();
            // What can't be read is not told.
            drop((&mut file).take(20).read_to_string(&mut owner));
            let owner = owner.trim().to_owned();
            return Err(LockError::Taken { key, directory: directory.to_owned(), owner });
        }
        Err(error) => return Err(failed("flock")(error.into())),
    }
    let note = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    note(&mut file).map_err(failed("write the pid"))?;
    Ok(Lock(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_daemon_and_the_second_is_told_which() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("deep/root");
        let first = take("root", &root).unwrap();
        let error = take("root", &root).unwrap_err().to_string();
        assert!(error.contains(&root.display().to_string()), "{error}");
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        drop(first);
        take("root", &root).unwrap();
    }
}
