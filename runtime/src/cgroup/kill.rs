//! Ending all processes of a cgroup.
//!
//! Three ways, the surest that the host has: `cgroup.kill` (Linux 5.14, cgroup2), the v1 freezer, so that nothing forks meanwhile, and
//! else repeated rounds. A pid is only signalled through a pidfd that was opened before the pid was found in the cgroup a second
//! time, so that a reused one is never hit.

use super::CgroupError;
use super::layout::{Hierarchy, Layout};
use super::manage::write;
use crate::proc;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, pidfd_send_signal};
use std::collections::HashSet;
use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

/// How often a cgroup is gone through that can't be frozen: a fork bomb may win against one round, not against this many.
const ROUNDS: usize = 32;
/// How deep cgroups are followed. The kernel's own limit (`cgroup.max.depth`) may be infinite.
const DEPTH: usize = 32;

pub(super) fn all(layout: &Layout, group: &Path) -> Result<Option<usize>, CgroupError> {
    let v2 = layout.v2.as_ref().map(|one| one.mount.join(group));
    let mut told = None;
    if let Some(directory) = v2.filter(|path| path.is_dir()) {
        match write(&directory.join("cgroup.kill"), b"1") {
            Ok(()) if layout.v1.is_empty() => return Ok(None),
            Ok(()) => {}
            // Older than 5.14, or gone since.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                told = Some(rounds(&directory, group)?)
            }
            Err(source) => return Err(refused("write", &directory.join("cgroup.kill"), source)),
        }
    }
    // On a hybrid host the v1 hierarchies count: not every runtime puts its processes into the unified one.
    let Some(hierarchy) = best(&layout.v1) else { return Ok(told) };
    let directory = hierarchy.mount.join(group);
    if !directory.is_dir() {
        return Ok(Some(told.unwrap_or(0)));
    }
    let count = if hierarchy.has("freezer") {
        frozen(&directory, group)?
    } else {
        rounds(&directory, group)?
    };
    Ok(Some(count + told.unwrap_or(0)))
}

/// The hierarchy that knows best who is in the group.
fn best(v1: &[Hierarchy]) -> Option<&Hierarchy> {
    ["freezer", "pids", "memory"]
        .iter()
        .find_map(|controller| v1.iter().find(|one| one.has(controller)))
        .or_else(|| v1.first())
}

/// With the v1 freezer: nothing can fork, exit or have its pid reused between being found and being signalled. The signals act at the thaw.
fn frozen(directory: &Path, group: &Path) -> Result<usize, CgroupError> {
    let state = directory.join("freezer.state");
    let failed = |source| refused("write", &state, source);
    // One descriptor for both: there may be none left when it is to thaw.
    let mut file = fs::OpenOptions::new().write(true).open(&state).map_err(failed)?;
    file.write_all(b"FROZEN").map_err(failed)?;
    let count = rounds(directory, group);
    let thawed = file.write_all(b"THAWED").map_err(failed);
    let count = count?;
    thawed?;
    Ok(count)
}

/// Until a round finds nobody new.
fn rounds(directory: &Path, group: &Path) -> Result<usize, CgroupError> {
    let (mut seen, mut unseen) = (HashSet::new(), None);
    for _ in 0..ROUNDS {
        let before = seen.len();
        // One that can't be looked at. The others get their signal first.
        unseen = None;
        for pid in pids(directory, DEPTH)? {
            match kill_one(pid, group) {
                Ok(true) => drop(seen.insert(pid)),
                Ok(false) => {}
                Err(source) => unseen = Some((pid, source)),
            }
        }
        if seen.len() == before {
            break;
        }
    }
    match unseen {
        None => Ok(seen.len()),
        Some((pid, source)) => {
            Err(refused("look at", &PathBuf::from(format!("/proc/{}", pid.as_raw_pid())), source))
        }
    }
}

/// Whether it got its signal: not if it has ended, or is none of the group's any more.
fn kill_one(pid: Pid, group: &Path) -> io::Result<bool> {
    let Some(pidfd) = proc::hold(pid)? else { return Ok(false) };
    // ESRCH: it ended by itself.
    Ok(is_in(pid, group)? && pidfd_send_signal(&pidfd, Signal::KILL).is_ok())
}

/// Whether the process runs, and in the group or below: a pid that was reused is elsewhere, and one that has ended nowhere.
pub(super) fn runs_in(pid: u32, group: &Path) -> io::Result<bool> {
    let Some(pid) = proc::number(pid) else { return Ok(false) };
    let runs = proc::stat(pid)?.is_some_and(|fields| !fields.starts_with(['Z', 'X']));
    Ok(runs && is_in(pid, group)?)
}

/// Whether the process is (still) in the group or below, in any hierarchy.
fn is_in(pid: Pid, group: &Path) -> io::Result<bool> {
    let text = proc::read(pid, "cgroup")?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    Ok(paths.any(|path| Path::new(path.trim_start_matches('/')).starts_with(group)))
}

fn pids(directory: &Path, depth: usize) -> Result<Vec<Pid>, CgroupError> {
    let file = directory.join("cgroup.procs");
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        // ENODEV: removed while being read.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NODEV) => return Ok(Vec::new()),
        Err(source) => return Err(refused("read", &file, source)),
    };
    // A process of another PID namespace is listed as 0, and can't be named.
    let mut found: Vec<Pid> =
        text.lines().filter_map(|line| line.parse().ok().and_then(Pid::from_raw)).collect();
    let Some(deeper) = depth.checked_sub(1) else { return Ok(found) };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(found),
        Err(source) => return Err(refused("list", directory, source)),
    };
    for entry in entries {
        let entry = entry.map_err(|source| refused("list", directory, source))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(pids(&entry.path(), deeper)?);
        }
    }
    Ok(found)
}

fn refused(verb: &'static str, path: &Path, source: std::io::Error) -> CgroupError {
    CgroupError::Io { verb, path: path.to_owned(), source }
}
