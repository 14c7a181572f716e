//! Leaving namespaces.
//!
//! Entering one is `rustix::thread::move_into_link_name_space`, which is safe.

use rustix::thread::UnshareFlags;

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

/// Moves the calling thread into a new namespace of that kind.
pub fn unshare(namespace: Namespace) -> rustix::io::Result<()> {
    // SAFETY: what is unsafe about it is CLONE_FILES, after which threads disagree about descriptors; `flag` never has it.
    unsafe { rustix::thread::unshare_unsafe(namespace.flag()) }
}
