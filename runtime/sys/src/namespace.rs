//! Leaving namespaces.
//!
//! Entering one is `rustix::thread::move_into_link_name_space`, which is safe.

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::thread::UnshareFlags;
use std::io;

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

/// A network namespace in which nothing is. It lives for as long as the descriptor, or a mount of it.
///
/// # Errors
/// The kernel's.
pub fn network() -> io::Result<OwnedFd> {
    // In a thread that ends with it: no other is ever in the wrong one.
    let thread = std::thread::Builder::new().name("netns".to_owned()).stack_size(64 << 10);
    let made = thread.spawn(|| {
        unshare(Namespace::Net)?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(rustix::fs::open("/proc/thread-self/ns/net", flags, Mode::empty())?)
    })?;
    made.join().unwrap_or_else(|_panic| Err(io::Error::other("the thread panicked")))
}

/// Moves the calling thread into a new namespace of that kind.
pub fn unshare(namespace: Namespace) -> rustix::io::Result<()> {
    // SAFETY: what is unsafe about it is CLONE_FILES, after which threads disagree about descriptors; `flag` never has it.
    unsafe { rustix::thread::unshare_unsafe(namespace.flag()) }
}
