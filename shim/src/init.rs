//! PID 1 of a pod's shared PID namespace: reaps, and nothing else.
//!
//! Processes of the pod see it as their PID 1, through whose `/proc/1/root` and `/proc/1/exe` they must reach nothing of the
//! host's. So it runs as a user that owns nothing, without capabilities, in a mount namespace that holds an empty directory, and
//! its executable is seen through a read-only mount.
//!
//! The parent ends it with SIGKILL, and so does the parent's own end. SIGTERM ends it too, if it comes from outside of the namespace: the pod's own processes
//! must not be able to end each other this way.

use davit_sys::namespace::{Namespace, unshare};
use davit_sys::signal::{Signals, Wait, Watched};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, mount_remount,
};
use rustix::process::WaitOptions;
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::path::Path;

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

/// The part in front of the exec: a mount namespace in which the shim's executable is read-only at `seen_as`.
pub(crate) fn hide_executable(executable: &Path, seen_as: &Path) -> Result<(), InitError> {
    unshare(Namespace::Mount).map_err(step("leave the host's mounts"))?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(step("make all mounts private"))?;
    mount_bind(executable, seen_as).map_err(step("mount the executable"))?;
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    mount_remount(seen_as, flags, "").map_err(step("make the executable read-only"))
}

/// Reaps until told to end.
pub(crate) fn run() -> Result<(), InitError> {
    let signals = Signals::new(Wait::Yes).map_err(step("watch signals"))?;
    leave_root()?;
    drop_privileges()?;
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

fn drop_privileges() -> Result<(), InitError> {
    use rustix::fs::{Gid, Uid};
    use rustix::process::{
        DumpableBehavior, Signal, set_dumpable_behavior, set_parent_process_death_signal,
    };
    use rustix::thread;
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
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
