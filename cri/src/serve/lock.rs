//! One daemon per root and per state directory.
//!
//! The lock is a flock(2) on `<directory>/lock`: the kernel lets go of it however the daemon ends, so a stale one can't exist. But a child that a daemon was
//! just about to make when it was killed holds it until it becomes another program; that is waited for. The file holds the owner's pid, for the
//! message and to tell the one from the other.

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a killed daemon's children may take to become other programs.
const ORPHANS: Duration = Duration::from_secs(5);

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
    let until = Instant::now() + ORPHANS;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(Errno::WOULDBLOCK) => {}
            Err(error) => return Err(failed("flock")(error.into())),
        }
        let mut owner = String::new();
        // What can't be read is not told.
        drop(file.rewind().and_then(|()| (&mut file).take(20).read_to_string(&mut owner)));
        let owner = owner.trim().to_owned();
        if lives(&owner) || Instant::now() >= until {
            return Err(LockError::Taken { key, directory: directory.to_owned(), owner });
        }
        let pause = rustix::thread::Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
        // Cut short by a signal: then it is looked at again sooner.
        let _: rustix::thread::NanosleepRelativeResult = rustix::thread::nanosleep(&pause);
    }
    let note = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    note(&mut file).map_err(failed("write the pid"))?;
    Ok(Lock(file))
}

/// Whether the owner, as far as it is known, is there: a process that has ended may still wait for its parent.
fn lives(owner: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{owner}/stat"));
    match stat {
        Ok(stat) => {
            !stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
        }
        Err(error) => owner.is_empty() || error.kind() != io::ErrorKind::NotFound,
    }
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

    #[test]
    fn what_a_dead_daemons_child_still_holds_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let held = take("root", dir.path()).unwrap();
        // A pid that no process has: the owner is gone, and its lock is not.
        let mut file =
            std::fs::OpenOptions::new().write(true).open(dir.path().join("lock")).unwrap();
        file.set_len(0).unwrap();
        writeln!(file, "4194305").unwrap();
        let releases = std::thread::spawn(move || {
            let pause = rustix::thread::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            let _: rustix::thread::NanosleepRelativeResult = rustix::thread::nanosleep(&pause);
            drop(held);
        });
        take("root", dir.path()).unwrap();
        releases.join().unwrap();
    }
}
