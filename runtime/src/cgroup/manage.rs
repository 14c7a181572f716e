//! Making and removing cgroups.
//!
//! Files of cgroupfs answer in microseconds, so they are written in place rather than on another thread; only the waits are async.

use super::group::Group;
use super::layout::{Hierarchy, Layout, Version};
use super::{CgroupError, kill};
use std::ffi::OsStr;
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// How long a cgroup may stay busy after its last process was reaped: the kernel empties it behind the exit.
const REMOVE_DEADLINE: Duration = Duration::from_secs(2);
/// How deep cgroups are followed.
const DEPTH: usize = 32;
/// What crun calls the cgroup that it makes in a scope.
const CRUN_SUBGROUP: &str = "container";
/// How long systemd may take over one slice.
const SYSTEMD_DEADLINE: Duration = Duration::from_secs(10);

/// The host's cgroups.
#[derive(Debug, Clone)]
pub struct Cgroups {
    layout: Layout,
}

/// What [`Cgroups::ensure`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ensured {
    /// The directories that were not there before, parents first. For the record, and for [`Cgroups::remove`].
    pub made: Vec<PathBuf>,
    /// Controllers of cgroup2 that could not be handed down, with the directory that kept them. A container that asks for such a
    /// limit is refused by its OCI runtime; the others are none the worse.
    pub withheld: Vec<(PathBuf, String)>,
}

impl Cgroups {
    /// Those of `layout`.
    #[must_use]
    pub fn new(layout: Layout) -> Self {
        Self { layout }
    }

    /// The hierarchies.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Whether a cgroup was frozen, by itself and not with one above it; `None` if the kernel doesn't tell.
    #[must_use]
    pub fn is_frozen(&self, group: &Group) -> Option<bool> {
        let v1 = self.layout.v1.iter().find(|one| one.has("freezer"));
        let (hierarchy, file) = match (v1, &self.layout.v2) {
            (Some(v1), _) => (v1, "freezer.self_freezing"),
            (None, Some(v2)) => (v2, "cgroup.freeze"),
            (None, None) => return None,
        };
        let file = innermost(&hierarchy.mount.join(group.path())).join(file);
        let told = fs::read(file).ok()?;
        Some(told.trim_ascii() == b"1")
    }

    /// Makes the cgroup, in every hierarchy, where it is missing. Idempotent. A failure leaves nothing that was not there before.
    ///
    /// # Errors
    /// [`CgroupError`] with the file that refused.
    pub async fn ensure(&self, group: &Group) -> Result<Ensured, CgroupError> {
        let mut ensured = Ensured::default();
        let result = match group.slice_name() {
            Some(slice) => self.ensure_slice(group, slice, &mut ensured).await,
            None => self.ensure_directories(group, &mut ensured),
        };
        match result {
            Ok(()) => Ok(ensured),
            Err(error) => match self.remove(&ensured.made).await {
                Ok(_) => Err(error),
                Err(undo) => Err(CgroupError::Several {
                    first: Box::new(error),
                    more: if matches!(undo, CgroupError::Several { .. }) { 2 } else { 1 },
                }),
            },
        }
    }

    /// Removes what [`Self::ensure`] made, children first. What others have filled since stays and is told back.
    ///
    /// # Errors
    /// [`CgroupError::Busy`] if the innermost does not become empty in time; all others are tried nevertheless.
    pub async fn remove(&self, made: &[PathBuf]) -> Result<Vec<PathBuf>, CgroupError> {
        let (mut left, mut errors) = (Vec::new(), Vec::new());
        let deadline = Instant::now() + REMOVE_DEADLINE;
        for path in made.iter().rev() {
            if !self.may_remove(path) {
                errors.push(CgroupError::Foreign { path: path.clone() });
                continue;
            }
            let above = made.iter().any(|other| other != path && other.starts_with(path));
            let place = if above { Place::Above } else { Place::Innermost };
            match remove_one(path, place, deadline).await {
                Ok(true) => {}
                Ok(false) => left.push(path.clone()),
                Err(error) => errors.push(error),
            }
        }
        CgroupError::of_all(errors).map(|()| left)
    }

    /// The `cgroup.procs` file of the group in every hierarchy that has it: what a process writes itself into to move there. On
    /// cgroup2 only a cgroup without children takes processes: use a [`Group::child`].
    #[must_use]
    pub fn procs_files(&self, group: &Group) -> Vec<PathBuf> {
        let files =
            self.layout.hierarchies().map(|one| one.mount.join(group.path()).join("cgroup.procs"));
        files.filter(|file| file.exists()).collect()
    }

    /// As [`Self::procs_files`], for a process that is to be in the group itself, beside its children. On cgroup2 alone it would keep the group from handing
    /// controllers down to those, and may not move there once that was done: it goes `elsewhere`.
    #[must_use]
    pub fn procs_beside(&self, group: &Group, elsewhere: &[PathBuf]) -> Vec<PathBuf> {
        match self.layout.version() {
            Version::V2 => elsewhere.to_vec(),
            Version::V1 | Version::Hybrid => self.procs_files(group),
        }
    }

    /// Ends every process in the group and below with SIGKILL, and says how many it found (`None` where the kernel does it at one
    /// stroke and doesn't say). A group that is not there has none. Does not wait for them to be gone.
    ///
    /// # Errors
    /// [`CgroupError::Io`] if the kernel refuses.
    pub fn kill(&self, group: &Group) -> Result<Option<usize>, CgroupError> {
        kill::all(&self.layout, group.path())
    }

    fn ensure_directories(&self, group: &Group, ensured: &mut Ensured) -> Result<(), CgroupError> {
        self.layout.v1.iter().try_for_each(|one| ensure_v1(one, group, ensured))?;
        match (self.layout.version(), &self.layout.v2) {
            (Version::V2, Some(unified)) => ensure_v2(unified, group, ensured),
            // Nobody uses the controllers that a hybrid host leaves in it; handed down, they could not leave it for v1 any more.
            (Version::Hybrid, Some(unified)) => {
                levels(unified, group).iter().try_for_each(|(_, at)| make(at, ensured).map(|_| ()))
            }
            (Version::V1 | Version::V2 | Version::Hybrid, _) => Ok(()),
        }
    }

    /// A record is a file, and files can be damaged: nothing outside of the hierarchies is ever removed, nor are their roots.
    fn may_remove(&self, path: &Path) -> bool {
        let plain =
            path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        plain
            && self
                .layout
                .hierarchies()
                .any(|one| path != one.mount && path.starts_with(&one.mount))
    }

    async fn ensure_slice(
        &self,
        group: &Group,
        slice: &str,
        ensured: &mut Ensured,
    ) -> Result<(), CgroupError> {
        let Some(directory) = self.systemd_directory(group) else { return Ok(()) };
        if directory.exists() {
            return Ok(());
        }
        systemctl("start", slice).await?;
        ensured.made.push(directory);
        Ok(())
    }

    /// Where systemd's own hierarchy shows the slice.
    fn systemd_directory(&self, group: &Group) -> Option<PathBuf> {
        let own = match self.layout.version() {
            Version::V2 => self.layout.v2.as_ref(),
            Version::V1 | Version::Hybrid => {
                self.layout.v1.iter().find(|one| one.has("name=systemd"))
            }
        };
        own.map(|one| one.mount.join(group.path()))
    }
}

/// Where a container's processes are, what it was given is set, and whence it is paused: in systemd's scope crun makes one more cgroup unless it is told
/// otherwise, and runc makes none. What it uses is the scope's too, and a limit of systemd's own is only there. A container that has made one of that name
/// itself is in the scope still.
pub(super) fn innermost(group: &Path) -> PathBuf {
    let deeper = group.join(CRUN_SUBGROUP);
    let is_scope = group.extension().is_some_and(|kind| kind == "scope");
    let is_empty = || fs::read(group.join("cgroup.procs")).unwrap_or_default().is_empty();
    if is_scope && deeper.is_dir() && is_empty() { deeper } else { group.to_owned() }
}

/// The directory above and the directory, for each part of the group's path.
fn levels(hierarchy: &Hierarchy, group: &Group) -> Vec<(PathBuf, PathBuf)> {
    let mut at = hierarchy.mount.clone();
    let step = |part| {
        let above = at.clone();
        at.push(part);
        (above, at.clone())
    };
    group.path().iter().map(step).collect()
}

fn ensure_v1(
    hierarchy: &Hierarchy,
    group: &Group,
    ensured: &mut Ensured,
) -> Result<(), CgroupError> {
    for (above, at) in levels(hierarchy, group) {
        let is_new = make(&at, ensured)?;
        if hierarchy.has("cpuset") {
            inherit_cpuset(&above, &at)?;
            if is_new {
                // Those below, the OCI runtime's too, have their values from the start then. For each that is written later the kernel goes through
                // all cpusets that there are. One that does not do this only takes longer.
                let _ = write(&at.join("cgroup.clone_children"), b"1");
            }
        }
    }
    Ok(())
}

fn ensure_v2(
    hierarchy: &Hierarchy,
    group: &Group,
    ensured: &mut Ensured,
) -> Result<(), CgroupError> {
    for (above, at) in levels(hierarchy, group) {
        if make(&at, ensured)? {
            hand_down(hierarchy, &above, ensured);
        }
    }
    Ok(())
}

/// Whether it had to be made.
fn make(path: &Path, ensured: &mut Ensured) -> Result<bool, CgroupError> {
    match fs::create_dir(path) {
        Ok(()) => {
            ensured.made.push(path.to_owned());
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(source) => Err(CgroupError::Io { verb: "make cgroup", path: path.to_owned(), source }),
    }
}

/// Enables for the children of `above` every controller that it has. One by one: a single refusal would void them all.
fn hand_down(hierarchy: &Hierarchy, above: &Path, ensured: &mut Ensured) {
    let file = above.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&file).unwrap_or_default();
    for controller in &hierarchy.controllers {
        if enabled.split_ascii_whitespace().any(|have| have == controller) {
            continue;
        }
        if write(&file, format!("+{controller}").as_bytes()).is_err() {
            ensured.withheld.push((above.to_owned(), controller.clone()));
        }
    }
}

/// On v1 a new cpuset is empty, and no process may join an empty one: it takes its parent's values (cpuset(7)).
fn inherit_cpuset(above: &Path, path: &Path) -> Result<(), CgroupError> {
    // Mounted with `noprefix` the files have no prefix.
    for names in [["cpuset.cpus", "cpuset.mems"], ["cpus", "mems"]] {
        for name in names {
            let own = path.join(name);
            let Ok(value) = fs::read(&own) else { continue };
            if !value.trim_ascii().is_empty() {
                continue;
            }
            let from = above.join(name);
            let inherited = fs::read(&from).map_err(|source| CgroupError::Io {
                verb: "read",
                path: from,
                source,
            })?;
            write(&own, inherited.trim_ascii()).map_err(|source| CgroupError::Io {
                verb: "write",
                path: own,
                source,
            })?;
        }
    }
    Ok(())
}

/// In one write(2), as cgroupfs demands.
pub(super) fn write(path: &Path, value: &[u8]) -> std::io::Result<()> {
    fs::OpenOptions::new().write(true).open(path)?.write_all(value)
}

/// Where a cgroup stands among those removed with it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Nothing of ours is below: what keeps it busy is about to end.
    Innermost,
    /// It held one of ours; what else is in it may be there to stay.
    Above,
}

/// Whether it is gone; `false`: it is left to others who use it.
async fn remove_one(path: &Path, place: Place, deadline: Instant) -> Result<bool, CgroupError> {
    if let Some(slice) =
        path.file_name().and_then(OsStr::to_str).filter(|name| name.ends_with(".slice"))
    {
        return systemctl("stop", slice).await.map(|()| true);
    }
    let mut pause = Duration::from_millis(1);
    loop {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
            Err(error) if error.kind() == ErrorKind::ResourceBusy => {
                if place == Place::Innermost {
                    remove_empty_below(path, DEPTH);
                }
            }
            Err(source) => {
                return Err(CgroupError::Io {
                    verb: "remove cgroup",
                    path: path.to_owned(),
                    source,
                });
            }
        }
        if place == Place::Above && has_children(path) {
            return Ok(false);
        }
        if Instant::now() >= deadline {
            let waited_ms = u64::try_from(REMOVE_DEADLINE.as_millis()).unwrap_or(u64::MAX);
            return Err(CgroupError::Busy { path: path.to_owned(), waited_ms });
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// What an OCI runtime made below and could not remove, because somebody took his time to reap a process that was killed. What is used stays.
fn remove_empty_below(path: &Path, depth: usize) {
    let Some(deeper) = depth.checked_sub(1) else { return };
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty_below(&entry.path(), deeper);
            // One that is busy is told as its parent's being so.
            drop(fs::remove_dir(entry.path()));
        }
    }
}

fn has_children(path: &Path) -> bool {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
}

/// systemd makes a slice that no unit file describes when it is started by name. Asked through its own client rather than D-Bus: this
/// happens only for parents that no kubelet made, and not worth a dependency.
async fn systemctl(verb: &'static str, slice: &str) -> Result<(), CgroupError> {
    let failed = |reason: String| CgroupError::Systemd { verb, slice: slice.to_owned(), reason };
    let mut command = tokio::process::Command::new("systemctl");
    command.args([verb, "--quiet", "--no-ask-password", "--", slice]).kill_on_drop(true);
    command.stdin(std::process::Stdio::null());
    let output = tokio::time::timeout(SYSTEMD_DEADLINE, command.output())
        .await
        .map_err(|elapsed| failed(elapsed.to_string()))?
        .map_err(|error| failed(format!("run systemctl: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(failed(text.trim().chars().take(500).collect()))
}
