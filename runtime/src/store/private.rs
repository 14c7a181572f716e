//! Who else sees the mounts below davit's directories: those below the state root nobody, those in the directory of network namespaces whoever asks for it.
//!
//! Owns how these directories are mounted; what is mounted in them is the shims' business.
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
    let Some(mount) =
        mountinfo::holding(&mounts, &own).filter(|mount| mount.group.is_some() || mount.slave)
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

/// Sees to it that what is mounted in `directory` is seen by whoever has it mounted so that he is told: a mount of its own, as `ip netns` makes of it (ip-netns(8)), but
/// for one thing. That one leaves it a peer of what it lies in, where each mount would be there a second time; it is set apart.
///
/// # Errors
/// [`davit_sys::pin::PinError`], or [`StoreError::Io`].
pub(crate) fn share_mounts(directory: &Path) -> Result<(), ShareError> {
    davit_sys::pin::share(directory)?;
    let own = fs::canonicalize(directory).map_err(StoreError::io("find", directory))?;
    let mounts = fs::read(MOUNTINFO).map_err(StoreError::io("read", Path::new(MOUNTINFO)))?;
    let mounts = mountinfo::parse(&mounts);
    let group = |path| mountinfo::holding(&mounts, path).and_then(|mount| mount.group);
    if group(&own).is_some() && group(&own) == own.parent().and_then(group) {
        for how in [MountPropagationFlags::PRIVATE, MountPropagationFlags::SHARED] {
            mount_change(&own, how)
                .map_err(|error| StoreError::io("set apart", directory)(error.into()))?;
        }
    }
    Ok(())
}

/// Why a directory's mounts can't be shared.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// It can't be made a mount.
    #[error(transparent)]
    Mount(#[from] davit_sys::pin::PinError),
    /// Where it is mounted can't be seen or changed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Undoes [`keep_mounts_private`], and any mount of a directory on itself. A mount that an administrator made there stays: it is another file system than what is above it.
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
    use std::collections::BTreeSet;

    fn is_shared(path: &Path) -> bool {
        let mounts = mountinfo::parse(&fs::read(MOUNTINFO).unwrap());
        mountinfo::holding(&mounts, path).unwrap().group.is_some()
    }

    /// Gives this thread mounts of its own, shared among themselves and with nobody else.
    fn apart() {
        unshare(Namespace::Mount).unwrap();
        let change = |how| mount_change("/", how | MountPropagationFlags::REC).unwrap();
        // What was shared on the host would stay so with the copy.
        change(MountPropagationFlags::PRIVATE);
        change(MountPropagationFlags::SHARED);
    }

    #[test]
    fn on_a_host_whose_mounts_are_shared_the_state_root_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(folder.path()).unwrap();
        // A thread can have a mount namespace of its own; nothing of this is seen by the others.
        let inside = std::thread::spawn(move || {
            apart();
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

    #[test]
    fn a_directory_that_ip_netns_had_before_is_set_apart_and_who_was_told_of_it_is_told_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(folder.path()).unwrap();
        let inside = std::thread::spawn(move || {
            apart();
            let (pins, elsewhere) = (path.join("pins"), path.join("elsewhere"));
            for directory in [&pins, &elsewhere] {
                fs::create_dir(directory).unwrap();
            }
            mount_bind(&pins, &pins).unwrap();
            mount_change(&pins, MountPropagationFlags::SHARED).unwrap();
            let points = || {
                let mounts = mountinfo::parse(&fs::read(MOUNTINFO).unwrap());
                let below = mounts.into_iter().filter(|mount| mount.point.starts_with(&path));
                below.map(|mount| mount.point).collect::<Vec<_>>()
            };
            let pin = |name: &str| {
                let at = pins.join(name);
                fs::create_dir(&at).unwrap();
                mount_bind(&at, &at).unwrap();
                at
            };
            pin("before");
            assert_eq!(points().iter().filter(|at| at.ends_with("before")).count(), 2);
            for _ in 0..2 {
                share_mounts(&pins).unwrap();
                assert!(is_shared(&pins));
            }
            mount_bind(&pins, &elsewhere).unwrap();
            let at = pin("after");
            let seen = points().into_iter().filter(|at| at.ends_with("after"));
            assert_eq!(seen.collect::<BTreeSet<_>>(), [at, elsewhere.join("after")].into());
        });
        inside.join().unwrap();
    }
}
