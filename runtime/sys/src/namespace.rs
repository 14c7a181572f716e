//! Leaving namespaces.
//!
//! Entering one is `rustix::thread::move_into_link_name_space`, which is safe.

use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags,
};
use rustix::mount::{fsconfig_create, fsconfig_set_string, fsmount, fsopen};
use rustix::mount::{mount_change, move_mount, unmount};
use rustix::process::{fchdir, pivot_root};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use std::io;
use std::os::fd::AsFd as _;

/// The kinds of namespace that [`unshare`] can make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    /// Mounts. Only a process with one thread can leave it without leaving its threads behind.
    Mount,
    /// Network devices, addresses, routes, sockets.
    Net,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Host and domain name.
    Uts,
    /// Users, groups and capabilities. Only a process with one thread can leave it. It has all capabilities in the new one, and none in the
    /// one it left.
    User,
    /// PIDs: not of the caller, but of the children it makes from now on.
    PidOfChildren,
}

impl Namespace {
    fn flag(self) -> UnshareFlags {
        match self {
            Self::Mount => UnshareFlags::NEWNS,
            Self::Net => UnshareFlags::NEWNET,
            Self::Ipc => UnshareFlags::NEWIPC,
            Self::Uts => UnshareFlags::NEWUTS,
            Self::User => UnshareFlags::NEWUSER,
            Self::PidOfChildren => UnshareFlags::NEWPID,
        }
    }
}

/// A network namespace in which nothing is, and `prepare` was done. It lives for as long as the descriptor, or a mount of it.
///
/// # Errors
/// The kernel's.
pub fn network(prepare: impl FnOnce() + Send + 'static) -> io::Result<OwnedFd> {
    apart("netns", || {
        unshare(Namespace::Net)?;
        prepare();
        file_of("net")
    })
}

/// A mount namespace in which nothing is but an empty directory, its root, that can't be written. It lives for as long as the descriptor, or somebody in it.
///
/// Every new mount namespace begins as a copy of another one, mount by mount: for one that is to have few mounts of its own this is what to copy.
///
/// # Errors
/// The kernel's: `INVAL` where the caller's own root is the first of all, which can't be exchanged.
pub fn no_mounts() -> io::Result<OwnedFd> {
    apart("mntns", || {
        unshare(Namespace::Mount)?;
        let made = file_of("mnt")?;
        // To its very root, if this process has another one.
        move_into_link_name_space(made.as_fd(), Some(LinkNameSpaceType::Mount))?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        let memory = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, value) in [("size", "4k"), ("nr_inodes", "1"), ("mode", "0555")] {
            fsconfig_set_string(&memory, key, value)?;
        }
        fsconfig_create(&memory)?;
        let closed = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let root = fsmount(&memory, FsMountFlags::FSMOUNT_CLOEXEC, closed)?;
        // Anywhere: what is there goes too.
        move_mount(&root, "", CWD, "/proc", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        fchdir(&root)?;
        pivot_root(".", ".")?;
        unmount(".", UnmountFlags::DETACH)?;
        Ok(made)
    })
}

/// Does it in a thread that ends with it: no other is ever in the wrong namespace.
fn apart<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let thread = std::thread::Builder::new().name(name.to_owned()).stack_size(64 << 10);
    let made = thread.spawn(work)?;
    made.join().unwrap_or_else(|_panic| Err(io::Error::other("the thread panicked")))
}

/// The calling thread's namespace of this kind.
fn file_of(kind: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(format!("/proc/thread-self/ns/{kind}"), flags, Mode::empty())?)
}

/// Moves the calling thread into a new namespace of that kind.
pub fn unshare(namespace: Namespace) -> rustix::io::Result<()> {
    // SAFETY: what is unsafe about it is CLONE_FILES, after which threads disagree about descriptors; `flag` never has it.
    unsafe { rustix::thread::unshare_unsafe(namespace.flag()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_without_mounts_can_be_entered_and_has_none() {
        let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let empty = no_mounts().unwrap();
        let inside = apart("test", move || {
            unshare(Namespace::Mount)?;
            let proc = rustix::fs::open("/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            move_into_link_name_space(empty.as_fd(), Some(LinkNameSpaceType::Mount))?;
            assert_eq!(std::fs::read_dir("/")?.count(), 0);
            let new = std::fs::create_dir("/x").unwrap_err();
            assert_eq!(new.kind(), io::ErrorKind::ReadOnlyFilesystem);
            let table = "thread-self/mountinfo";
            let table = rustix::fs::openat(&proc, table, OFlags::RDONLY, Mode::empty())?;
            io::read_to_string(std::fs::File::from(table))
        });
        let inside = inside.unwrap();
        assert!(inside.lines().count() == 1 && inside.contains(" / / ro,"), "{inside}");
        assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
    }
}
