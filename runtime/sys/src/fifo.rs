//! A start without a process: where an OCI runtime's `start` does no more than tell the container's init to go on, davit tells it.
//!
//! Owns the writing, in the order in which crun does it. The daemon tries it with a container of its own, the shim does it with a pod's; whatever is amiss
//! there, the runtime's own `start` is called and says what it is.

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat, unlink};
use std::path::{Path, PathBuf};

/// The name of the file in the container's directory below the runtime's root.
const NAME: &str = "exec.fifo";

/// Where the init of container `id` waits.
#[must_use]
pub fn path(root: &Path, id: &str) -> PathBuf {
    root.join(id).join(NAME)
}

/// Lets the init that waits at `path` go on; `false`: there is none, or none that can be reached. The file goes first: that it is gone is how the
/// runtime tells that the container was started.
#[must_use]
pub fn release(path: &Path) -> bool {
    // Without blocking: where nobody reads, nobody waits.
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(fifo) = openat(CWD, path, flags, Mode::empty()) else { return false };
    let is_fifo =
        fstat(&fifo).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
    is_fifo && unlink(path).is_ok() && rustix::io::write(&fifo, &[0]) == Ok(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{mknodat, open};

    #[test]
    fn who_waits_goes_on_and_where_nobody_does_nothing_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path(), "0a");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        assert!(!release(&path), "there is none");
        std::fs::File::create(&path).unwrap();
        assert!(!release(&path) && path.is_file(), "a file");
        std::fs::remove_file(&path).unwrap();
        mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert!(!release(&path) && path.exists(), "nobody reads");
        let reader = open(&path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).unwrap();
        assert!(release(&path) && !path.exists());
        assert_eq!(rustix::io::read(&reader, &mut [1; 8]), Ok(1));
    }
}
