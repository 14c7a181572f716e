//! Whether the state directory's filesystem has what the state takes.
//!
//! Shims listen on Unix sockets there, OCI runtimes wait on named pipes, and what is closed to everybody but root is closed by its mode. FAT has none of
//! these, and some network filesystems lack one or another. Found out at the start and named, rather than at the first pod.

use super::{StoreError, ensure_dir, remove_tree, write_bytes};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// A way of looking at one feature in a directory.
type Try = fn(&Path) -> io::Result<()>;

/// What is tried, as it stands in the error.
const FEATURES: [(&str, Try); 3] = [
    ("keep the mode of a file in", keeps_modes),
    ("make a named pipe in", has_pipes),
    ("listen on a Unix socket in", has_sockets),
];

/// Tries each, and leaves nothing. That there is no room is no lack of a feature: what runs there goes on, and is to be taken up.
///
/// # Errors
/// [`StoreError::Io`] names what `directory` can't do.
pub(crate) fn probe_state(directory: &Path) -> Result<(), StoreError> {
    let trial = directory.join(".probe");
    // Of a start that was killed.
    remove_tree(&trial)?;
    match try_all(directory, &trial).and(remove_tree(&trial)) {
        Err(StoreError::Io { source, .. })
            if matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ) =>
        {
            remove_tree(&trial)
        }
        tried => tried,
    }
}

fn try_all(directory: &Path, trial: &Path) -> Result<(), StoreError> {
    ensure_dir(trial)?;
    write_bytes(&trial.join("file"), b"x", 0o600)?;
    FEATURES
        .iter()
        .try_for_each(|(verb, tried)| tried(trial).map_err(StoreError::io(verb, directory)))
}

fn keeps_modes(trial: &Path) -> io::Result<()> {
    for (path, mode) in [(trial.join("file"), 0o640), (trial.to_owned(), 0o711)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        let found = fs::symlink_metadata(&path)?.mode() & 0o7777;
        if found != mode {
            let what = format!("mode {mode:o} was set and is {found:o}");
            return Err(io::Error::new(io::ErrorKind::Unsupported, what));
        }
    }
    Ok(())
}

fn has_pipes(trial: &Path) -> io::Result<()> {
    Ok(mknodat(CWD, trial.join("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?)
}

fn has_sockets(trial: &Path) -> io::Result<()> {
    // By way of the directory's descriptor: its own path may be longer than an address.
    let handle = File::open(trial)?;
    let path = format!("/proc/self/fd/{}/socket", handle.as_raw_fd());
    let _listener = UnixListener::bind(&path)?;
    UnixStream::connect(&path).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use davit_sys::namespace::{Namespace, unshare};
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

    #[test]
    fn a_filesystem_that_will_not_do_is_named_and_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(folder.path()).unwrap();
        fs::create_dir(path.join(".probe")).unwrap();
        probe_state(&path).unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        // A thread can have a mount namespace of its own; nothing of this is seen by the others.
        let inside = std::thread::spawn(move || {
            unshare(Namespace::Mount).unwrap();
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
            // Its files can't be written to.
            mount("hugetlbfs", &path, "hugetlbfs", MountFlags::empty(), None).unwrap();
            let refused = probe_state(&path).unwrap_err().to_string();
            assert!(refused.contains(&*path.to_string_lossy()), "{refused}");
            // A full one will do: nothing of what it lacks is a feature.
            let options = Some(c"nr_inodes=2");
            mount("tmpfs", &path, "tmpfs", MountFlags::empty(), options).unwrap();
            probe_state(&path).unwrap();
            assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        });
        inside.join().unwrap();
    }

    #[test]
    fn each_feature_is_found_where_it_is_and_missed_where_nothing_can_be_made() {
        let folder = tempfile::tempdir().unwrap();
        File::create(folder.path().join("file")).unwrap();
        for (verb, tried) in FEATURES {
            tried(folder.path()).unwrap();
            assert!(tried(Path::new("/proc/self")).is_err(), "{verb}");
        }
    }
}
