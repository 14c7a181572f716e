//! PID 1 of a pod's shared PID namespace: reaps, and nothing else.
//!
//! Processes of the pod see it as their PID 1, through whose `/proc/1/root` and `/proc/1/exe` they must reach nothing of the
//! host's. So it runs as a user that owns nothing, without capabilities, in a mount namespace that holds an empty directory, and
//! its executable is seen through a read-only mount that has no place.
//!
//! The parent ends it with SIGKILL, and so does the parent's own end. SIGTERM ends it too, if it comes from outside of the namespace: the pod's own processes
//! must not be able to end each other this way.

use davit_proto::disk::{IdMapping, IdMappings};
use davit_sys::mount::Change;
use davit_sys::namespace::{Namespace, unshare};
use davit_sys::signal::{Signals, Wait, Watched};
use rustix::fs::CWD;
use rustix::mount::{
    MountFlags, MountPropagationFlags, OpenTreeFlags, UnmountFlags, mount, mount_change,
};
use rustix::process::WaitOptions;
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::os::fd::{AsFd as _, OwnedFd};

/// Whom it runs as: the user whom the pause images take.
const NOBODY: u32 = 65535;

/// Why there is no init.
#[derive(Debug, thiserror::Error)]
#[error("init of the pod: {step}")]
pub(crate) struct InitError {
    step: &'static str,
    source: std::io::Error,
}

fn step<E: Into<std::io::Error>>(step: &'static str) -> impl FnOnce(E) -> InitError {
    move |e| InitError { step, source: e.into() }
}

/// The shim's executable in a read-only mount of its own, which is attached nowhere: in a user namespace none of the directories above the
/// executable need be open to anybody. By the process's own link: a shim may have waited while the file was replaced.
pub(crate) fn executable() -> std::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let file = rustix::mount::open_tree(CWD, "/proc/self/exe", flags)?;
    davit_sys::mount::change(file.as_fd(), Change { read_only: true, ..Change::default() })?;
    Ok(file)
}

/// Whom it runs as in a pod with these mappings: as usual, if that is anybody there, else as the last who is.
pub(crate) fn user_in(mappings: Option<&IdMappings>) -> u32 {
    let last = |ranges: &[IdMapping]| ranges.iter().map(|one| one.length.saturating_sub(1)).min();
    let both = mappings.and_then(|both| last(&both.uids).zip(last(&both.gids)));
    both.map_or(NOBODY, |(uids, gids)| NOBODY.min(uids).min(gids))
}

/// The part in front of the exec, which still needs the libraries of the host: a mount namespace that tells nobody.
pub(crate) fn leave_mounts() -> Result<(), InitError> {
    unshare(Namespace::Mount).map_err(step("leave the host's mounts"))?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(step("make all mounts private"))
}

/// Reaps until told to end, as this user.
pub(crate) fn run(user: u32) -> Result<(), InitError> {
    let signals = Signals::new(Wait::Yes).map_err(step("watch signals"))?;
    leave_root()?;
    drop_privileges(user)?;
    loop {
        let received = signals.next().map_err(step("read a signal"))?;
        match received.map(|r| (r.signal, r.sender)) {
            Some((Watched::Child, _)) => reap(),
            Some((Watched::Terminate, 0)) => return Ok(()),
            Some((Watched::Terminate | Watched::Hangup, _)) | None => {}
        }
    }
}

fn reap() {
    while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
}

/// Makes an empty, read-only directory the root and detaches everything else.
fn leave_root() -> Result<(), InitError> {
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("tmpfs", "/proc", "tmpfs", flags, Some(c"size=4k,mode=0555"))
        .map_err(step("mount an empty root"))?;
    rustix::process::chdir("/proc").map_err(step("enter the empty root"))?;
    rustix::process::pivot_root(".", ".").map_err(step("pivot to the empty root"))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(step("detach the host's mounts"))?;
    rustix::process::chdir("/").map_err(step("enter the root"))
}

fn drop_privileges(user: u32) -> Result<(), InitError> {
    use rustix::fs::{Gid, Uid};
    use rustix::process::{
        DumpableBehavior, Signal, set_dumpable_behavior, set_parent_process_death_signal,
    };
    use rustix::thread;
    let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
    thread::set_no_new_privs(true).map_err(step("forbid new privileges"))?;
    thread::set_thread_groups(&[]).map_err(step("drop groups"))?;
    thread::set_thread_res_gid(gid, gid, gid).map_err(step("set the group"))?;
    thread::set_thread_res_uid(uid, uid, uid).map_err(step("set the user"))?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    thread::set_capabilities(None, none).map_err(step("drop capabilities"))?;
    // Only who may trace anything can look at it: its files in /proc then belong to root.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(step("forbid tracing"))?;
    // Whatever ends the shim ends the pod's processes. Last, because a change of user would undo it.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(step("die with the shim"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_runs_as_somebody_who_is_there() {
        let of = |uids, gids| {
            let range = |length| vec![IdMapping { inside: 0, host: 100_000, length }];
            user_in(Some(&IdMappings { uids: range(uids), gids: range(gids) }))
        };
        assert_eq!(user_in(None), NOBODY);
        assert_eq!([of(65536, 100_000), of(10, 65536), of(7, 5), of(1, 1)], [NOBODY, 9, 4, 0]);
    }
}
