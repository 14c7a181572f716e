//! Whether containers' roots can be written to where the writable layers are.
//!
//! An overlay keeps what a container changes on the filesystem of its writable layer, and not every one will do: another overlay, most network and all
//! FAT filesystems lack what it takes. Found out at the start and named, rather than at each create.

use super::{StoreError, ensure_dir, remove_tree};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsopen};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;

/// Makes an overlay that is never mounted, with what it writes in `directory`. On a disk without room it isn't tried: that is no reason to leave alone what runs
/// here, and will pass.
///
/// # Errors
/// [`StoreError::Io`]: it can't be made, or `directory` can't be written to.
pub(crate) fn probe_overlay(directory: &Path) -> Result<(), StoreError> {
    let trial = directory.join(".probe");
    let made = ["lower", "upper", "work"]
        .iter()
        .try_for_each(|part| ensure_dir(&trial.join(part)))
        .and_then(|()| overlay(&trial).map_err(StoreError::io("try an overlay in", directory)));
    // The kernel leaves a directory in `work`.
    let removed = remove_tree(&trial);
    match made {
        Err(StoreError::Io { source, .. }) if is_full(&source) => {
            tracing::warn!(directory = %directory.display(), error = %source, "an overlay could not be tried");
            removed
        }
        made => made.and(removed),
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn overlay(trial: &Path) -> io::Result<()> {
    let context = match fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC) {
        // Older than the call: the first create will tell.
        Err(Errno::NOSYS) => return Ok(()),
        other => other?,
    };
    // By way of descriptors, which need no care about what a path may hold.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // Before Linux 6.5 the kernel looks paths up when it creates, so they stay open until then.
    let mut open = Vec::new();
    for (key, part) in [("lowerdir", "lower"), ("upperdir", "upper"), ("workdir", "work")] {
        let directory = rustix::fs::open(trial.join(part), flags, Mode::empty())?;
        fsconfig_set_string(&context, key, format!("/proc/self/fd/{}", directory.as_raw_fd()))?;
        open.push(directory);
    }
    // Its end would else write out the whole filesystem, which takes seconds where others write much. A kernel older than 5.10 doesn't know it.
    let _ = fsconfig_set_flag(&context, "volatile");
    Ok(fsconfig_create(&context)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use davit_sys::namespace::{Namespace, unshare};
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    use std::ffi::CString;

    #[test]
    fn a_filesystem_that_will_not_do_is_named_and_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = std::fs::canonicalize(folder.path()).unwrap();
        probe_overlay(&path).unwrap();
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
        // A thread can have a mount namespace of its own; nothing of this is seen by the others.
        let inside = std::thread::spawn(move || {
            unshare(Namespace::Mount).unwrap();
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
            for part in ["l", "u", "w", "over", "fixed"] {
                std::fs::create_dir(path.join(part)).unwrap();
            }
            let fixed = path.join("fixed");
            mount("tmpfs", &fixed, "tmpfs", MountFlags::RDONLY, None).unwrap();
            let refused = probe_overlay(&fixed).unwrap_err().to_string();
            assert!(refused.contains(&*fixed.to_string_lossy()), "{refused}");
            // An overlay can't be written through to another one.
            let options = format!("lowerdir={0}/l,upperdir={0}/u,workdir={0}/w", path.display());
            let options = CString::new(options).unwrap();
            let over = path.join("over");
            let flags = MountFlags::empty();
            mount("overlay", &over, "overlay", flags, Some(options.as_c_str())).unwrap();
            let refused = probe_overlay(&over).unwrap_err().to_string();
            assert_eq!(refused, format!("try an overlay in {}", over.display()));
            assert_eq!(std::fs::read_dir(&over).unwrap().count(), 0);
        });
        inside.join().unwrap();
    }
}
