//! A container's cgroup: who is in it, killing them all, and whether the kernel's OOM killer struck.
//!
//! Found by what the kernel says of the container's init once it exists, so whatever driver made it. Works on cgroup v2, v1
//! and the hybrid. Never a cgroup that the shim itself is in, nor a root: a runtime that made none would otherwise have
//! [`Cgroup::kill`] end the node.

use crate::files;
use davit_sys::shortage::is_shortage;
use davit_sys::signal;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where distributions mount the hierarchies.
const ROOT: &str = "/sys/fs/cgroup";
/// More lines than hierarchies, by far.
const LIMIT: u64 = 64 * 1024;
/// A `cgroup.procs` longer than this (some 100 000 pids) is not read to its end; killing goes on in rounds.
const PROCS_LIMIT: u64 = 1 << 20;
/// Directories below a container's cgroup that are looked into.
const MAX_GROUPS: usize = 4096;
/// How often killing looks again, and for how many times.
const ROUND: Duration = Duration::from_millis(5);
const ROUNDS: u32 = 1000;
const SIGKILL: i32 = 9;
/// On all of the architectures that this builds for.
const SIGSTOP: i32 = 19;
/// Of the v1 hierarchies, those that tell who is in a container, the likeliest first.
const V1_ORDER: [&str; 7] =
    ["pids", "memory", "freezer", "devices", "cpu", "cpuacct", "name=systemd"];

/// Why a cgroup could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CgroupError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("kill the processes of {}: some live on after {} ms", .0.display(), (ROUND * ROUNDS).as_millis())]
    StillAlive(PathBuf),
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cgroup {
    directory: PathBuf,
    oom: Option<PathBuf>,
    /// Version 1's state of being paused. Somebody else than davit may have paused it.
    freezer: Option<PathBuf>,
}

impl Cgroup {
    /// The cgroup of a process; `None` if it has none of its own.
    pub(crate) fn of(pid: Pid) -> Result<Option<Self>, CgroupError> {
        let own = read(Path::new("/proc/self/cgroup"))?;
        let theirs = read(Path::new(&format!("/proc/{}/cgroup", pid.as_raw_pid())))?;
        let unified = Path::new(ROOT).join("cgroup.controllers").exists();
        Ok(locate(&own, &theirs, if unified { Layout::Unified } else { Layout::Hybrid }))
    }

    /// Everybody in it and below; an error only if descriptors or memory are wanting.
    fn pids(&self) -> io::Result<BTreeSet<i32>> {
        let mut found = BTreeSet::new();
        let mut groups = vec![self.directory.clone()];
        let mut seen = 0;
        while let Some(group) = groups.pop() {
            seen += 1;
            let text = unless_short(read_prefix(&group.join("cgroup.procs")))?.unwrap_or_default();
            // 0: a process of a PID namespace that cannot be seen from here.
            found.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()).filter(|p| *p > 0));
            if seen < MAX_GROUPS {
                let below =
                    unless_short(std::fs::read_dir(&group))?.into_iter().flatten().flatten();
                groups.extend(
                    below.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()),
                );
            }
        }
        Ok(found)
    }

    /// Sends a signal to everybody in it.
    ///
    /// # Errors
    /// As [`Self::signal_those`].
    pub(crate) fn signal(&self, number: i32) -> io::Result<()> {
        self.signal_those(number, |_| true).map(drop)
    }

    /// Sends a signal to those in it whom `chosen` picks; answers how many got it.
    ///
    /// # Errors
    /// A want of descriptors or memory. Some have got it all the same.
    pub(crate) fn signal_those(
        &self,
        number: i32,
        chosen: impl Fn(i32) -> bool,
    ) -> io::Result<usize> {
        let mut held = Vec::new();
        let mut short = Ok(());
        for pid in self.pids()?.into_iter().filter(|pid| chosen(*pid)) {
            let Some(raw) = Pid::from_raw(pid) else { continue };
            match pidfd_open(raw, PidfdFlags::empty()) {
                Ok(fd) => held.push((pid, fd)),
                Err(errno) if is_shortage(&errno) => {
                    // The last one's descriptor is for the list.
                    drop(held.pop());
                    short = Err(errno.into());
                    break;
                }
                Err(_gone) => {}
            }
        }
        if held.is_empty() {
            return short.map(|()| 0);
        }
        // A pid may have got to a stranger before it was opened: whoever is listed now was opened as a member.
        let still = self.pids()?;
        let members: Vec<_> = held.iter().filter(|(pid, _)| still.contains(pid)).collect();
        if number == SIGKILL {
            // Else a shell would have the time to write about its killed child.
            for (_, fd) in &members {
                let _ = signal::send(fd.as_fd(), SIGSTOP);
            }
        }
        let count =
            members.iter().filter(|(_, fd)| signal::send(fd.as_fd(), number).is_ok()).count();
        if number == SIGKILL {
            self.thaw();
        }
        short.map(|()| count)
    }

    /// Version 1 keeps even SIGKILL from who is paused, version 2 does not.
    pub(crate) fn thaw(&self) {
        if let Some(freezer) = &self.freezer {
            // Gone with the container, or its state is a parent's: whoever waits for the end tells that it didn't come.
            let _ = files::write_kernel(freezer, "THAWED");
        }
    }

    /// Whether it was frozen by itself, not by a parent; `None` if the kernel doesn't tell.
    pub(crate) fn is_frozen(&self) -> Option<bool> {
        let file = match &self.freezer {
            Some(state) => state.with_file_name("freezer.self_freezing"),
            None => self.directory.join("cgroup.freeze"),
        };
        Some(files::read_small(&file, LIMIT).ok()?.trim() == "1")
    }

    /// Kills everybody in it and waits until they are gone.
    pub(crate) async fn kill(&self) -> Result<(), CgroupError> {
        for _ in 0..ROUNDS {
            if self.pids().is_ok_and(|pids| pids.is_empty()) {
                return Ok(());
            }
            // Only version 2 has the file; there, it misses nobody who is just forking.
            if files::write_kernel(&self.directory.join("cgroup.kill"), "1").is_err() {
                // Whom this round misses, a later one finds.
                let _ = self.signal(SIGKILL);
            }
            tokio::time::sleep(ROUND).await;
        }
        Err(CgroupError::StillAlive(self.directory.clone()))
    }

    /// How often the OOM killer struck in it so far; 0 where that cannot be told.
    ///
    /// # Errors
    /// A want of descriptors or memory.
    pub(crate) fn oom_kills(&self) -> io::Result<u64> {
        let Some(path) = self.oom.as_deref() else { return Ok(0) };
        let text = unless_short(files::read_small(path, LIMIT))?;
        Ok(text.and_then(|text| oom_kills_in(&text)).unwrap_or(0))
    }
}

/// What was read, or nothing; an error only if descriptors or memory are wanting.
fn unless_short<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Err(error) if is_shortage(&error) => Err(error),
        read => Ok(read.ok()),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// Version 2 alone.
    Unified,
    /// Version 1, with or without version 2 beside it.
    Hybrid,
}

/// Picks from the two `/proc/PID/cgroup` files.
fn locate(own: &str, theirs: &str, layout: Layout) -> Option<Cgroup> {
    let distinct = |controller: &str| {
        let path = path_in(theirs, controller)?;
        (path != "/" && path_in(own, controller) != Some(path) && !path.contains("/.."))
            .then_some(path)
    };
    let below = |hierarchy: &str, path: &str| {
        Path::new(ROOT).join(hierarchy).join(path.trim_start_matches('/'))
    };
    if layout == Layout::Unified {
        let directory = below("", distinct("")?);
        let oom = Some(directory.join("memory.events"));
        return Some(Cgroup { directory, oom, freezer: None });
    }
    let freezer = distinct("freezer").map(|path| below(mount_of(theirs, "freezer"), path));
    let freezer = freezer.map(|group| group.join("freezer.state"));
    let v1_memory = distinct("memory").map(|path| below(mount_of(theirs, "memory"), path));
    // Where version 1 has no memory controller, version 2 beside it may.
    let v2_memory = || distinct("").map(|path| below("unified", path).join("memory.events"));
    let oom = v1_memory.map(|group| group.join("memory.oom_control")).or_else(v2_memory);
    let v1 = V1_ORDER.iter().find_map(|c| distinct(c).map(|path| below(mount_of(theirs, c), path)));
    let directory = v1.or_else(|| distinct("").map(|path| below("unified", path)))?;
    Some(Cgroup { directory, oom, freezer })
}

/// The path in the hierarchy that has `controller`; the empty name is version 2's.
fn path_in<'a>(text: &'a str, controller: &str) -> Option<&'a str> {
    line_of(text, controller).map(|(_, path)| path)
}

/// The directory at which the hierarchy that has `controller` is mounted: named after its controllers, as everybody does.
fn mount_of<'a>(text: &'a str, controller: &str) -> &'a str {
    let controllers = line_of(text, controller).map_or("", |(controllers, _)| controllers);
    controllers.strip_prefix("name=").unwrap_or(controllers)
}

fn line_of<'a>(text: &'a str, controller: &str) -> Option<(&'a str, &'a str)> {
    let fields = |line: &'a str| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?, fields.next()?))
    };
    text.lines()
        .filter_map(fields)
        .find(|(controllers, _)| controllers.split(',').any(|c| c == controller))
}

/// The counter is `oom_kill` in both versions' files.
fn oom_kills_in(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

fn read(path: &Path) -> Result<String, CgroupError> {
    files::read_small(path, LIMIT)
        .map_err(|source| CgroupError::Read { path: path.to_owned(), source })
}

fn read_prefix(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)?.take(PROCS_LIMIT).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str =
        "9:name=systemd:/\n8:pids:/davit\n4:memory:/davit\n1:cpu,cpuacct:/\n0::/davit\n";

    fn directory(theirs: &str, layout: Layout) -> Option<String> {
        locate(OWN, theirs, layout).map(|c| c.directory.to_string_lossy().into_owned())
    }

    #[test]
    fn the_cgroup_is_one_that_only_the_container_is_in() {
        let theirs = "8:pids:/p/c\n4:memory:/p/c\n0::/p/c\n";
        assert_eq!(directory(theirs, Layout::Hybrid).unwrap(), "/sys/fs/cgroup/pids/p/c");
        assert_eq!(directory(theirs, Layout::Unified).unwrap(), "/sys/fs/cgroup/p/c");
        assert_eq!(
            directory("8:pids:/davit\n1:cpu,cpuacct:/x\n", Layout::Hybrid).unwrap(),
            "/sys/fs/cgroup/cpu,cpuacct/x"
        );
        assert_eq!(
            directory("9:name=systemd:/x:y\n", Layout::Hybrid).unwrap(),
            "/sys/fs/cgroup/systemd/x:y"
        );
        assert_eq!(directory("0::/only\n", Layout::Hybrid).unwrap(), "/sys/fs/cgroup/unified/only");
    }

    #[test]
    fn a_root_the_shims_own_or_one_outside_is_none() {
        for theirs in [
            "",
            "8:pids:/\n0::/\n",
            OWN,
            "0::/../x\n",
            "8:pids:/davit\n4:memory:/davit\n0::/davit\n",
        ] {
            assert_eq!(directory(theirs, Layout::Hybrid), None, "{theirs}");
            assert_eq!(directory(theirs, Layout::Unified), None, "{theirs}");
        }
    }

    #[test]
    fn what_thaws_it_is_its_own_freezer_of_version_1() {
        let freezer = |theirs: &str, layout| {
            let freezer = locate(OWN, theirs, layout).unwrap().freezer;
            freezer.map(|path| path.to_string_lossy().into_owned())
        };
        let theirs = "8:pids:/p/c\n2:freezer:/p/c\n0::/p/c\n";
        let state = "/sys/fs/cgroup/freezer/p/c/freezer.state";
        assert_eq!(freezer(theirs, Layout::Hybrid).as_deref(), Some(state));
        assert_eq!(freezer(theirs, Layout::Unified), None);
        assert_eq!(freezer("8:pids:/p/c\n2:freezer:/\n", Layout::Hybrid), None);
    }

    #[test]
    fn the_oom_counter_is_where_the_memory_controller_is() {
        let oom = |theirs: &str, layout| {
            let oom = locate(OWN, theirs, layout).unwrap().oom;
            oom.map(|path| path.to_string_lossy().into_owned())
        };
        let theirs = "8:pids:/p/c\n4:memory:/p/m\n0::/p/c\n";
        for (theirs, layout, file) in [
            (theirs, Layout::Unified, Some("/sys/fs/cgroup/p/c/memory.events")),
            (theirs, Layout::Hybrid, Some("/sys/fs/cgroup/memory/p/m/memory.oom_control")),
            (
                "8:pids:/p/c\n0::/u\n",
                Layout::Hybrid,
                Some("/sys/fs/cgroup/unified/u/memory.events"),
            ),
            // The shim's own memory cgroup is nobody's verdict.
            ("8:pids:/p/c\n4:memory:/davit\n0::/davit\n", Layout::Hybrid, None),
        ] {
            assert_eq!(oom(theirs, layout).as_deref(), file, "{theirs}");
        }
    }

    #[test]
    fn the_oom_counter_is_read_from_either_version() {
        assert_eq!(oom_kills_in("low 0\noom 3\noom_kill 2\noom_group_kill 0\n"), Some(2));
        assert_eq!(oom_kills_in("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"), Some(1));
        assert_eq!(oom_kills_in("oom 1\n"), None);
    }
}
