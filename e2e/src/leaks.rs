//! What a daemon has left behind.
//!
//! Owns the search: processes, mounts, pinned namespaces, links, cgroups, nft rules and files that bear a test's names. Each finding
//! is one line. [`sweep`] takes away what was found, and what may stay (the bridge, the table, the parent cgroups), so that
//! one failed test does not fail the next.

use crate::daemon::Settings;
use crate::host::{names_in, read_optional};
use anyhow::{Context, Result};
use davit_proto::ready;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Files longer than this are not searched for ids: they are layers' content.
const SEARCHED: u64 = 256 << 10;

/// All that is left of a daemon's pods after each was removed, while it still runs as process `daemon`.
///
/// # Errors
/// If the machine cannot be searched.
pub fn find(settings: &Settings, daemon: Option<u32>, ids: &[String]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for pid in others(settings, daemon)? {
        found.push(format!("process {pid}: {}", command_line(pid)));
    }
    // The first three are mounts themselves; and a test may have given the root a disk.
    let shms = settings.state().join("shm");
    let own = [settings.netns_dir(), settings.state(), shms, settings.root()];
    let expected = |mount: &&PathBuf| own.contains(mount) || settings.disks.contains(mount);
    for mount in mounts(&settings.dir, daemon)?.iter().filter(|mount| !expected(mount)) {
        found.push(format!("mount {}", mount.display()));
    }
    for name in names_in(&settings.netns_dir())? {
        found.push(format!("network namespace {}", settings.netns_dir().join(name).display()));
    }
    let to_come = to_come(settings, daemon)?;
    let ports = names_in(&Path::new("/sys/class/net").join(settings.tag()).join("brif"))?;
    for port in ports.iter().filter(|port| !to_come.contains(port)) {
        found.push(format!("link {port} on bridge {}", settings.tag()));
    }
    found.extend(cgroups_in_use(settings, |pid| is_part_of(pid, daemon))?);
    found.extend(rules(settings)?);
    for dir in [settings.root(), settings.state()] {
        search_files(&dir, ids, &mut found)?;
    }
    Ok(found)
}

/// Takes away everything that bears the test's names, kills included.
///
/// # Errors
/// What could not be taken away.
pub fn sweep(settings: &Settings) -> Result<()> {
    for pid in processes(settings)? {
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            // Gone by itself in between: that is all that is wanted.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    crate::host::eventually(
        std::time::Duration::from_secs(5),
        "the killed processes are gone",
        || Ok(processes(settings)?.is_empty().then_some(())),
    )?;
    for mount in mounts(&settings.dir, None)?.iter().rev() {
        unmount(mount, UnmountFlags::DETACH)
            .with_context(|| format!("unmount {}", mount.display()))?;
    }
    let mut cgroups = cgroups(settings)?;
    cgroups.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    for cgroup in cgroups {
        remove_cgroup(&cgroup).with_context(|| format!("remove cgroup {}", cgroup.display()))?;
    }
    let tag = settings.tag();
    for link in names_in(Path::new("/sys/class/net"))?.iter().filter(|link| link.starts_with(&tag))
    {
        crate::tools::run(Command::new("ip").args(["link", "delete", link]))?;
    }
    for family in table_families(&tag)? {
        crate::tools::run(Command::new("nft").args(["delete", "table", &family, &tag]))?;
    }
    Ok(())
}

/// Processes that name the directory in their arguments or environment, have their root or working directory there, or are in
/// a cgroup of this test.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn processes(settings: &Settings) -> Result<Vec<u32>> {
    let dir = settings.dir.to_string_lossy().into_owned();
    let tag = settings.tag();
    let own = std::process::id();
    let mut found = Vec::new();
    for name in names_in(Path::new("/proc"))? {
        let Ok(pid) = name.parse::<u32>() else { continue };
        if pid != own && belongs(pid, &dir, &tag) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// A process that is gone belongs to nobody: each file may vanish between two looks.
fn belongs(pid: u32, dir: &str, tag: &str) -> bool {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let text = |file: &str| std::fs::read(proc.join(file)).unwrap_or_default();
    let contains = |file: &str, what: &str| String::from_utf8_lossy(&text(file)).contains(what);
    let status = String::from_utf8_lossy(&text("stat")).into_owned();
    let zombie = status.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'));
    if zombie || exits(&text("status"), &text("cmdline")) {
        return false;
    }
    contains("cmdline", dir)
        || contains("environ", dir)
        || contains("cgroup", tag)
        || ["cwd", "root"].iter().any(|link| {
            std::fs::read_link(proc.join(link))
                .is_ok_and(|path| path.to_string_lossy().contains(dir))
        })
}

/// The processes of a test that are neither its daemon nor a shim that this keeps ready for a pod to come.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn others(settings: &Settings, daemon: Option<u32>) -> Result<Vec<u32>> {
    let mut found = processes(settings)?;
    found.retain(|pid| !is_part_of(*pid, daemon));
    Ok(found)
}

/// The shims that this daemon keeps ready for pods to come.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn waiting(settings: &Settings, daemon: u32) -> Result<Vec<u32>> {
    let mut found = processes(settings)?;
    found.retain(|pid| waits(*pid, daemon));
    Ok(found)
}

/// The links that this daemon keeps ready for pods to come.
fn to_come(settings: &Settings, daemon: Option<u32>) -> Result<Vec<String>> {
    let Some(daemon) = daemon else { return Ok(Vec::new()) };
    let waiting = waiting(settings, daemon)?;
    let pod = |pid: u32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let directory = String::from_utf8(words).ok()?;
        let id = directory.trim_end_matches('\0').rsplit('/').next()?.get(..11)?.to_owned();
        Some(format!("dv{id}"))
    };
    Ok(waiting.into_iter().filter_map(pod).collect())
}

fn is_part_of(pid: u32, daemon: Option<u32>) -> bool {
    daemon.is_some_and(|daemon| pid == daemon || waits(pid, daemon))
}

/// It ends with the daemon.
fn waits(pid: u32, daemon: u32) -> bool {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}"));
    let parent = format!("PPid:\t{daemon}");
    read("comm").is_ok_and(|name| name.trim_end().as_bytes() == ready::NAME.to_bytes())
        && read("status").is_ok_and(|status| status.lines().any(|line| line == parent))
}

/// PID 1 of a namespace that was killed and has let go of its memory: all that it waits for is that the machine's own init reaps those who were in there.
fn exits(status: &[u8], command_line: &[u8]) -> bool {
    const KILL: u64 = 1 << 8;
    let status = String::from_utf8_lossy(status).into_owned();
    let pending = status.lines().filter_map(|line| {
        let bits = line.strip_prefix("ShdPnd:").or_else(|| line.strip_prefix("SigPnd:"))?;
        u64::from_str_radix(bits.trim(), 16).ok()
    });
    command_line.is_empty() && pending.fold(0, |all, bits| all | bits) & KILL != 0
}

fn command_line(pid: u32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// Mount points below a directory as this process sees them, or ours, in the order of the kernel's table.
fn mounts(dir: &Path, of: Option<u32>) -> Result<Vec<PathBuf>> {
    let of = of.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let table = read_optional(&PathBuf::from(format!("/proc/{of}/mountinfo")))?.unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    Ok(points.filter(|point| point.starts_with(dir)).collect())
}

/// The cgroups of this test, in every hierarchy.
fn cgroups(settings: &Settings) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let top = Path::new("/sys/fs/cgroup");
    search_cgroups(top, &settings.tag(), 4, &mut found)?;
    Ok(found)
}

fn search_cgroups(dir: &Path, tag: &str, depth: u32, found: &mut Vec<PathBuf>) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(()) };
    for entry in entries.flatten() {
        // `cpu` and `cpuacct` may be links to one hierarchy; a link is not followed.
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        let ours = path.to_string_lossy().contains(tag);
        if ours {
            found.push(path.clone());
        }
        if let Some(depth) = if ours { Some(depth) } else { depth.checked_sub(1) } {
            search_cgroups(&path, tag, depth, found)?;
        }
    }
    Ok(())
}

/// A process leaves its cgroup a little after it has left the table.
fn remove_cgroup(path: &Path) -> Result<()> {
    crate::host::eventually(std::time::Duration::from_secs(5), "the cgroup is empty", || {
        match std::fs::remove_dir(path) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => Ok(None),
            other => Ok(Some(other?)),
        }
    })
}

/// The parents (shims' and pods') may stay, empty; nothing else may.
fn cgroups_in_use(settings: &Settings, known: impl Fn(u32) -> bool) -> Result<Vec<String>> {
    let tag = settings.tag();
    // As they are called with the cgroupfs driver and with systemd's, where a slice lies in the one that its name begins with.
    let parents = [
        format!("{tag}-shims"),
        format!("{tag}-pods"),
        format!("{tag}-pods.slice"),
        format!("{tag}.slice"),
    ];
    let mut found = Vec::new();
    for path in cgroups(settings)? {
        let parent = path
            .file_name()
            .is_some_and(|name| parents.iter().any(|parent| name == parent.as_str()));
        let pids = read_optional(&path.join("cgroup.procs"))?.unwrap_or_default();
        let in_there = pids.split_whitespace();
        let pids: Vec<_> = in_there.filter(|pid| !pid.parse().is_ok_and(&known)).collect();
        if !parent || !pids.is_empty() {
            found.push(format!("cgroup {} with {pids:?}", path.display()));
        }
    }
    Ok(found)
}

/// Host ports of pods that are gone.
fn rules(settings: &Settings) -> Result<Vec<String>> {
    let tag = settings.tag();
    let mut found = Vec::new();
    for family in table_families(&tag)? {
        let rules = crate::tools::run(Command::new("nft").args(["list", "table", &family, &tag]))?;
        let left =
            rules.lines().filter(|line| line.contains("elements =") || line.contains("dnat to "));
        // A rule that looks its target up in a map is the table's own; one with an address is a pod's.
        let left = left.filter(|line| !line.contains(" map @") && !line.contains(" map {"));
        found.extend(left.map(|line| format!("nft table {family} {tag}: {}", line.trim())));
    }
    Ok(found)
}

fn table_families(table: &str) -> Result<Vec<String>> {
    let tables = crate::tools::run(Command::new("nft").args(["list", "tables"]))?;
    Ok(tables
        .lines()
        .filter_map(|line| line.strip_prefix("table ")?.split_once(' '))
        .filter(|(_, name)| *name == table)
        .map(|(family, _)| family.to_owned())
        .collect())
}

/// Files and directories named after a pod or container that is gone, or that still speak of it. The stored events do: that is
/// what they are for.
fn search_files(dir: &Path, ids: &[String], found: &mut Vec<String>) -> Result<()> {
    for name in names_in(dir)? {
        let path = dir.join(&name);
        let Ok(metadata) = std::fs::symlink_metadata(&path) else { continue };
        let named = ids.iter().any(|id| name.contains(id.as_str()));
        if named {
            found.push(format!("file {}", path.display()));
        } else if metadata.is_dir() && !matches!(&*name, "layers" | "events") {
            search_files(&path, ids, found)?;
        } else if metadata.is_file() && metadata.len() <= SEARCHED {
            let text = read_optional(&path)?.unwrap_or_default();
            if let Some(id) = ids.iter().find(|id| text.contains(id.as_str())) {
                found.push(format!("file {} speaks of {id}", path.display()));
            }
        }
    }
    Ok(())
}
