//! What the shim makes of its own process before it serves.

use crate::files;
use davit_sys::process::SpawnError;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Why the process could not be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProcessError {
    #[error("{step}")]
    Step { step: &'static str, source: std::io::Error },
    #[error("move the shim into the cgroup of {}", path.display())]
    Cgroup { path: PathBuf, source: std::io::Error },
}

/// Becomes the reaper of all that descends from it, leaves the daemon's session and directory.
pub(crate) fn settle(oom_score_adj: Option<i32>) -> Result<(), ProcessError> {
    let step = |step| move |e: rustix::io::Errno| ProcessError::Step { step, source: e.into() };
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(step("become a subreaper"))?;
    // EPERM: it leads a session or a process group already, which serves as well.
    match rustix::process::setsid() {
        Ok(_) | Err(rustix::io::Errno::PERM) => {}
        Err(e) => return Err(step("start a session")(e)),
    }
    rustix::process::chdir("/").map_err(step("change to /"))?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    if let Some(value) = oom_score_adj {
        // The daemon probed what can be set; where it is refused all the same, a shim in more danger beats none.
        if let Err(e) =
            files::write_kernel(Path::new("/proc/self/oom_score_adj"), &value.to_string())
        {
            crate::say(&ProcessError::Step { step: "set oom_score_adj of the shim", source: e });
        }
    }
    Ok(())
}

/// Has a child move this process into the cgroups whose `cgroup.procs` files these are. Answers where it is heard: it says nothing and ends if all is well; `None`:
/// there is nothing to do. The kernel makes whoever moves a
/// process first in a while wait for all processors to have taken notice, ten milliseconds or more, which the shim can use. What an OCI runtime moves
/// soon after goes at once.
pub(crate) fn begin_move(cgroup_procs: &[PathBuf]) -> Result<Option<OwnedFd>, SpawnError> {
    if cgroup_procs.is_empty() {
        return Ok(None);
    }
    let shim = rustix::process::getpid().as_raw_pid().to_string();
    let mover = davit_sys::process::fork(|| {
        let moved = cgroup_procs.iter().try_for_each(|path| {
            files::write_kernel(path, &shim)
                .map_err(|source| ProcessError::Cgroup { path: path.clone(), source })
        });
        moved.map_err(|error| crate::error::chain(&error))
    })?;
    Ok(Some(mover.failure))
}

/// Moves this process into the cgroups whose `cgroup.procs` files these are.
pub(crate) fn join_cgroups(cgroup_procs: &[PathBuf]) -> Result<(), ProcessError> {
    for path in cgroup_procs {
        files::write_kernel(path, "0")
            .map_err(|source| ProcessError::Cgroup { path: path.clone(), source })?;
    }
    Ok(())
}

/// Nanoseconds since the epoch.
pub(crate) fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// `/dev/null`, for reading and writing.
pub(crate) fn null() -> std::io::Result<std::os::fd::OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    Ok(rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}
