//! Keeping mounts below the state root to ourselves.
//!
//! Under systemd every mount is shared: what is mounted below `/run` appears in every mount namespace that has a copy of it, and stays there for as long as
//! that lives. Pods' `/dev/shm` and the rootfs of a container that is being created are nobody else's business, so the state root is a mount of its
//! own, which tells nobody.

use super::StoreError;
use crate::oci::mountinfo;
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const MOUNTINFO: &str = "/proc/thread-self/mountinfo";

/// Sees to it that what is mounted below `directory` stays here. Where that is so already nothing is done; what was done is found done at the next start, and
/// outlives the daemon as the mounts below it do.
///
/// # Errors
/// [`StoreError::Io`].
pub fn keep_mounts_private(directory: &Path) -> Result<(), StoreError> {
    let own = fs::canonicalize(directory).map_err(StoreError::io("find", directory))?;
    let mounts = fs::read(MOUNTINFO).map_err(StoreError::io("read", Path::new(MOUNTINFO)))?;
    let mounts = mountinfo::parse(&mounts);
    let Some(mount) = mountinfo::holding(&mounts, &own).filter(|mount| mount.shared || mount.slave)
    else {
        return Ok(());
    };
    let is_own = mount.point == own;
    let changed = (|| -> io::Result<()> {
        if !is_own {
            mount_bind(&own, &own)?;
        }
        Ok(mount_change(&own, MountPropagationFlags::PRIVATE)?)
    })();
    changed.map_err(StoreError::io("make a private mount of", directory))
}

/// Undoes [`keep_mounts_private`]. A mount that an administrator made there stays: it is another file system than what is above it.
///
/// # Errors
/// [`StoreError::Io`].
pub fn stop_keeping_mounts_private(directory: &Path) -> Result<(), StoreError> {
    let undone = (|| -> io::Result<()> {
        let own = match fs::canonicalize(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found?,
        };
        let above = own.parent().unwrap_or(&own);
        let is_of_above = fs::metadata(&own)?.dev() == fs::metadata(above)?.dev();
        let mounts = mountinfo::parse(&fs::read(MOUNTINFO)?);
        if is_of_above && mounts.iter().any(|mount| mount.point == own) {
            // Whoever still has a file open in it keeps what he has.
            rustix::mount::unmount(&own, rustix::mount::UnmountFlags::DETACH)?;
        }
        Ok(())
    })();
    undone.map_err(StoreError::io("undo the private mount of", directory))
}

#[cfg(test)]
mod tests {
    use super::*;
    use davit_sys::namespace::{Namespace, unshare};

    fn is_shared(path: &Path) -> bool {
        let mounts = mountinfo::parse(&fs::read(MOUNTINFO).unwrap());
        mountinfo::holding(&mounts, path).unwrap().shared
    }

    #[test]
    fn on_a_host_whose_mounts_are_shared_the_state_root_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(folder.path()).unwrap();
        // A thread can have a mount namespace of its own; nothing of this is seen by the others.
        let inside = std::thread::spawn(move || {
            unshare(Namespace::Mount).unwrap();
            mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC).unwrap();
            assert!(is_shared(&path));
            keep_mounts_private(&path).unwrap();
            assert!(!is_shared(&path));
            let count = || mountinfo::parse(&fs::read(MOUNTINFO).unwrap()).len();
            let before = count();
            keep_mounts_private(&path).unwrap();
            assert_eq!(count(), before, "mounted again");
            stop_keeping_mounts_private(&path).unwrap();
            assert_eq!(count(), before - 1);
            stop_keeping_mounts_private(&path).unwrap();
            assert_eq!(count(), before - 1, "an administrator's mount was undone");
        });
        inside.join().unwrap();
    }
}
