//! A trial container: whether an OCI runtime can make one here at all.
//!
//! Owns the smallest bundle that goes through everything that depends on the host: namespaces, mounts, the device rules and the cgroup.
//! It is created and deleted; what it would start is no program, but an empty file with the permission to be executed. Invariant: whatever happens, the container, its bundle and its cgroup are gone afterwards.
//!
//! Recursive read-only mounts are looked for in the trial container rather than believed: an OCI runtime that doesn't know the option
//! may well pass it over, and crun has it without announcing anything. So is what a start by FIFO does ([`super::Features::start_fifo`]).

use super::command::leave;
use super::probe::Candidate;
use crate::cgroup::{Cgroups, Driver, Group};
use crate::id::ContainerId;
use crate::oci::mountinfo;
use crate::sandbox::CgroupParent;
use crate::shim::{ProcessHandle, start_time};
use crate::store::{ShimRecord, remove_tree};
use davit_sys::fifo;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// How long making one may take: hundreds of times what it takes.
const CREATE_DEADLINE: Duration = Duration::from_secs(10);
const DELETE_DEADLINE: Duration = Duration::from_secs(10);
/// How long the init may take to run what is no program.
const START_DEADLINE: Duration = Duration::from_secs(2);
/// How much of an error is read.
const ERROR_LIMIT: u64 = 64 << 10;

/// What a trial showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each was seen, or not, by itself")]
pub(super) struct Shown {
    pub(super) recursive_read_only: bool,
    pub(super) start_fifo: bool,
}

/// Where trials are made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// A directory of davit's own.
    pub(super) state: &'a Path,
    /// The cgroup that trials are made below; the caller's to make and remove.
    pub(super) group: &'a Group,
    /// Where layers are.
    pub(super) root: &'a Path,
    /// The shim's executable.
    pub(super) shim: &'a Path,
}

/// Makes a container with `candidate` and removes it.
pub(super) async fn run(candidate: &Candidate, place: &Place<'_>) -> Result<Shown, String> {
    let id = ContainerId::random().map_err(|error| error.to_string())?;
    let directory = place.state.join(format!(
        "trial-{}-{}",
        candidate.name,
        id.as_str().get(..12).unwrap_or_default()
    ));
    let trial = Trial { candidate, id, directory };
    let result = trial.go(place.group).await;
    let cleaned = trial.clean().await;
    let shown = result?;
    cleaned.map(|()| shown)
}

struct Trial<'a> {
    candidate: &'a Candidate,
    id: ContainerId,
    directory: PathBuf,
}

impl Trial<'_> {
    async fn go(&self, group: &Group) -> Result<Shown, String> {
        self.write_bundle(group)
            .map_err(|error| format!("write the trial container's bundle: {error}"))?;
        let mut command = self.command();
        command
            .args(["create", "--bundle"])
            .arg(&self.directory)
            .arg("--pid-file")
            .arg(self.pid_file());
        command.arg(self.id.as_str());
        let stderr = self.directory.join("stderr");
        if !leave(command, &stderr, CREATE_DEADLINE).await? {
            return Err(self.error(&stderr));
        }
        let table =
            self.mounts().ok_or("it says that it made a trial container, but made no container")?;
        let recursive_read_only = self.is_recursive(&table);
        // Last: the container has ended then.
        Ok(Shown { recursive_read_only, start_fifo: self.starts_by_fifo().await })
    }

    /// Whether the init runs its command once a byte is written to its FIFO: it ends then, as what it finds is no program.
    async fn starts_by_fifo(&self) -> bool {
        let Some(Ok(Some(init))) = self.init().map(ProcessHandle::open) else { return false };
        let told = fifo::release(&fifo::path(&self.directory.join("root"), self.id.as_str()));
        told && tokio::time::timeout(START_DEADLINE, init.ended()).await.is_ok()
    }

    fn init(&self) -> Option<ShimRecord> {
        let pid = head(&self.pid_file()).trim().parse().ok()?;
        Some(ShimRecord { pid, start_time: start_time(pid).ok()?? })
    }

    fn pid_file(&self) -> PathBuf {
        self.directory.join("pid")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.candidate.path);
        // A root of its own: a state directory that can't be used is found when the first container is made, and told then.
        command.arg("--root").arg(self.directory.join("root"));
        if self.candidate.systemd_cgroup {
            command.arg("--systemd-cgroup");
        }
        command.args(&self.candidate.args);
        command.arg("--log").arg(self.directory.join("log")).args(["--log-format", "json"]);
        command
    }

    fn write_bundle(&self, group: &Group) -> std::io::Result<()> {
        let rootfs = self.directory.join("rootfs");
        fs::create_dir_all(&rootfs)?;
        let program = fs::File::create(rootfs.join("trial"))?;
        program.set_permissions(fs::Permissions::from_mode(0o755))?;
        let spec = serde_json::to_vec(&spec(&rootfs, group, &self.id))?;
        fs::File::create(self.directory.join("config.json"))?.write_all(&spec)
    }

    /// The container's mount table, as its init sees it.
    fn mounts(&self) -> Option<Vec<mountinfo::Mount>> {
        let pid: u32 = head(&self.pid_file()).trim().parse().ok()?;
        let table = fs::read(format!("/proc/{pid}/mountinfo")).ok()?;
        Some(mountinfo::parse(&table))
    }

    /// Whether what is mounted below `/dev` became read-only with it.
    fn is_recursive(&self, table: &[mountinfo::Mount]) -> bool {
        let below = |mount: &&mountinfo::Mount| mount.point.starts_with("/rro");
        let readonly =
            |mount: &mountinfo::Mount| mount.options.split(',').any(|option| option == "ro");
        let found: Vec<&mountinfo::Mount> = table.iter().filter(below).collect();
        found.len() > 1 && found.into_iter().all(readonly)
    }

    /// The runtime's own last word, from its log, else what it wrote to its standard error.
    fn error(&self, stderr: &Path) -> String {
        let log = head(&self.directory.join("log"));
        let last = log.lines().rev().find_map(|line| {
            let entry: Value = serde_json::from_str(line).ok()?;
            Some(entry.get("msg")?.as_str()?.to_owned())
        });
        let text = last.unwrap_or_else(|| head(stderr));
        let text = text.trim();
        if text.is_empty() {
            return "it fails to make a trial container and doesn't say why".to_owned();
        }
        text.chars().take(500).collect()
    }

    async fn clean(&self) -> Result<(), String> {
        let mut command = self.command();
        command.args(["delete", "--force", self.id.as_str()]);
        let made = self.pid_file().exists();
        let deleted = leave(command, &self.directory.join("delete-stderr"), DELETE_DEADLINE).await;
        fs::remove_dir_all(&self.directory)
            .map_err(|error| format!("remove {}: {error}", self.directory.display()))?;
        match deleted {
            // What was never made can't be deleted, and some runtimes call that a failure.
            Ok(true) => Ok(()),
            Ok(false) | Err(_) if !made => Ok(()),
            Ok(false) => Err("it can't delete its trial container".to_owned()),
            Err(error) => Err(format!("delete the trial container: {error}")),
        }
    }
}

fn head(path: &Path) -> String {
    let mut text = Vec::new();
    if let Ok(file) = fs::File::open(path) {
        let _cut_off = file.take(ERROR_LIMIT).read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Written out rather than built: a trial has no pod, and takes the default of nothing.
fn spec(rootfs: &Path, group: &Group, id: &ContainerId) -> Value {
    let of_kernel = |destination: &str, kind: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": kind, "options": options });
    json!({
        "ociVersion": "1.0.2",
        "root": { "path": rootfs, "readonly": true },
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": ["/trial"],
            "cwd": "/",
            "capabilities": { "bounding": [], "effective": [], "permitted": [], "inheritable": [], "ambient": [] },
            "noNewPrivileges": true,
        },
        "mounts": [
            of_kernel("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            of_kernel("/dev", "tmpfs", &["nosuid", "mode=755", "size=64k"]),
            of_kernel("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            // Of all directories this is the one that has something mounted below it on every host (/dev/pts).
            { "destination": "/rro", "type": "bind", "source": "/dev", "options": ["rbind", "rprivate", "rro"] },
        ],
        "linux": {
            "cgroupsPath": group.cgroups_path(id),
            "namespaces": [
                { "type": "mount" }, { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "network" },
            ],
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
        },
    })
}

/// The cgroup for the trials of the daemon whose state directory this is, named after it: one that a killed daemon left is found by the next.
pub(super) fn group(driver: Driver, state: &Path) -> Result<Group, String> {
    let name = hex::encode(Sha256::digest(state.as_os_str().as_bytes()));
    let short = name.get(..12).unwrap_or_default();
    match driver {
        Driver::Cgroupfs => {
            Group::at(&format!("/davit-trial-{short}")).map_err(|error| error.to_string())
        }
        Driver::Systemd => {
            let parent = CgroupParent::try_from("system.slice".to_owned())
                .map_err(|error| error.to_string())?;
            Group::of_parent(driver, &parent).map_err(|error| error.to_string())
        }
    }
}

/// Ends what the trials of a daemon have left that was killed meanwhile. Its state directory is locked now, so it is nobody else's.
pub(super) async fn sweep(cgroups: &Cgroups, group: &Group, state: &Path) {
    if group.made_by() == Driver::Cgroupfs {
        let mut made = Vec::new();
        for file in cgroups.procs_files(group) {
            file.parent().into_iter().for_each(|top| with_all_below(top.to_owned(), &mut made));
        }
        let killed = if made.is_empty() { Ok(None) } else { cgroups.kill(group) };
        let removed = cgroups.remove(&made).await;
        for error in killed.map(drop).err().into_iter().chain(removed.map(drop).err()) {
            tracing::warn!(error = &error as &dyn std::error::Error, "a trial's cgroup is left");
        }
    }
    let entries = fs::read_dir(state).into_iter().flatten().flatten();
    let trials = entries.filter(|entry| entry.file_name().as_bytes().starts_with(b"trial-"));
    for directory in trials.map(|entry| entry.path()) {
        if let Err(error) = remove_tree(&directory) {
            tracing::warn!(error = &error as &dyn std::error::Error, "a trial's files are left");
        }
    }
}

/// A directory, then those below it, each before its own.
fn with_all_below(directory: PathBuf, into: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let below: Vec<PathBuf> = directories.map(|entry| entry.path()).collect();
    into.push(directory);
    below.into_iter().for_each(|one| with_all_below(one, into));
}
