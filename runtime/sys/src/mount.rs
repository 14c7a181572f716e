//! Attributes of mounts that are not attached anywhere yet: mount_setattr(2).

use nix::libc;
use rustix::io::Errno;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// What is to be changed of a mount. What isn't named stays as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Change<'a> {
    /// Owners are mapped as in this user namespace: an id of the file system is taken for one inside, and shown as what that is outside. A mount can
    /// be mapped once, and only before it is attached.
    pub map_ids: Option<BorrowedFd<'a>>,
    /// It can't be written.
    pub read_only: bool,
}

/// Changes the mount whose root is open as `mount`, and none of those below it. Linux 5.12.
///
/// # Errors
/// What the kernel says: `INVAL` if the file system can't have its ids mapped, `PERM` if they are mapped already.
pub fn change(mount: BorrowedFd<'_>, change: Change<'_>) -> Result<(), Errno> {
    let mut attributes =
        libc::mount_attr { attr_set: 0, attr_clr: 0, propagation: 0, userns_fd: 0 };
    if let Some(namespace) = change.map_ids {
        attributes.attr_set |= libc::MOUNT_ATTR_IDMAP;
        attributes.userns_fd = u64::from(namespace.as_raw_fd().unsigned_abs());
    }
    if change.read_only {
        attributes.attr_set |= libc::MOUNT_ATTR_RDONLY;
    }
    set(mount, 0, &attributes)
}

/// Makes the mount whose root is open as `mount`, and all those below it, private: nothing that is mounted on them goes to others, nor comes from them. Linux 5.12.
///
/// # Errors
/// What the kernel says.
pub fn make_private(mount: BorrowedFd<'_>) -> Result<(), Errno> {
    let attributes =
        libc::mount_attr { attr_set: 0, attr_clr: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    set(mount, libc::AT_RECURSIVE, &attributes)
}

fn set(mount: BorrowedFd<'_>, flags: i32, attributes: &libc::mount_attr) -> Result<(), Errno> {
    // SAFETY: the kernel reads the empty path, which is terminated, and as many bytes of `attributes` as it is told, which is all of it; both live
    // until it returns. It writes nothing. The descriptors are open for as long as they are borrowed: that in `attributes` by whoever has made them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            &raw const *attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    nix::errno::Errno::result(result)
        .map(drop)
        .map_err(|error| Errno::from_raw_os_error(error as i32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, Mode, OFlags};
    use rustix::mount::{OpenTreeFlags, open_tree};
    use std::os::fd::AsFd as _;

    #[test]
    fn a_detached_copy_can_be_made_read_only_and_the_original_stays_as_it_is() {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let copy = open_tree(CWD, "/tmp", flags).unwrap();
        let make = |at: BorrowedFd<'_>, name: &str| {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
            rustix::fs::openat(at, name, flags, Mode::RUSR).map(drop)
        };
        let name = format!("davit-sys-mount-{}", std::process::id());
        make(copy.as_fd(), &name).unwrap();
        rustix::fs::unlinkat(&copy, &name, rustix::fs::AtFlags::empty()).unwrap();
        // A child of another test's, not yet at its exec, may still have the file open.
        let read_only = || change(copy.as_fd(), Change { read_only: true, ..Change::default() });
        let mut tries = std::iter::repeat_with(read_only).take(500).inspect(|tried| {
            if tried.is_err() {
                let pause = rustix::thread::Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
                let _ = rustix::thread::nanosleep(&pause);
            }
        });
        tries.find(|tried| !matches!(tried, Err(Errno::BUSY))).unwrap().unwrap();
        assert_eq!(make(copy.as_fd(), &name), Err(Errno::ROFS));
        make(rustix::fs::open("/tmp", OFlags::PATH, Mode::empty()).unwrap().as_fd(), &name)
            .unwrap();
        rustix::fs::unlink(format!("/tmp/{name}")).unwrap();
    }

    #[test]
    fn what_the_kernel_refuses_is_told() {
        let file = rustix::fs::open("/proc/self/ns/user", OFlags::RDONLY, Mode::empty()).unwrap();
        let none = Change { map_ids: Some(file.as_fd()), ..Change::default() };
        assert!(change(file.as_fd(), none).is_err());
    }
}
