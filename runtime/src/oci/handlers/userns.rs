//! A trial pod with a user namespace: whether kernel, file systems, shim and OCI runtime together can make one here.
//!
//! Owns a pod of a shim of its own, with one container that is created and never started. Tried rather than read from what runtimes announce: the mounts
//! are mapped by the shim, so that also an OCI runtime does that can't map any; what else it takes depends on the kernel and on the file systems of both
//! of davit's directories. Invariant: whatever happens, pod and files are gone afterwards.

use super::probe::Candidate;
use super::trial::Place;
use crate::id::ContainerId;
use crate::shim::{ProcessHandle, ShimClient, end_child, last_words, spawn};
use crate::store::{Layout, new_dir, remove_tree, write_bytes, write_json};
use davit_proto::disk::{self, IdMapping, IdMappings, ShimConfig};
use davit_proto::shim::{CreateRequest, MappedMount, OciRuntime, Rootfs};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Far from what anybody is given.
const MAPPING: IdMapping = IdMapping { inside: 0, host: 1_900_000_000, length: 65_536 };
/// In the names of these trials' directories.
const MARK: &str = "-userns-";
/// For one call of the shim: hundreds of times what it takes.
const DEADLINE: Duration = Duration::from_secs(10);
/// From a shim's last breath to its end.
const ENDING: Duration = Duration::from_millis(200);

/// Whether users who are nobody on this host can reach where their containers' roots are mounted.
pub(super) fn reachable(state: &Path) -> Result<(), String> {
    let rootfs = rootfs(state);
    for directory in rootfs.ancestors() {
        let metadata = std::fs::metadata(directory)
            .map_err(|error| format!("{} can't be looked at: {error}", directory.display()))?;
        if metadata.permissions().mode() & 0o001 == 0 {
            return Err(format!(
                "other users can't pass through {}, where it would need o+x",
                directory.display()
            ));
        }
    }
    Ok(())
}

/// Text that changes when the shim's executable does.
pub(super) fn stamp(shim: &Path) -> String {
    let of = |metadata: std::fs::Metadata| {
        format!("{} {}.{}", metadata.ino(), metadata.mtime(), metadata.mtime_nsec())
    };
    std::fs::metadata(shim).map(of).unwrap_or_default()
}

/// Makes a pod, a container in it, and removes both.
pub(super) async fn run(candidate: &Candidate, place: &Place<'_>) -> Result<(), String> {
    reachable(place.state)?;
    let id = ContainerId::random().map_err(|error| error.to_string())?;
    let name =
        format!("trial-{}{MARK}{}", candidate.name, id.as_str().get(..12).unwrap_or_default());
    let trial = Trial {
        candidate,
        place,
        id,
        pod: place.state.join(&name),
        layers: place.root.join(&name),
    };
    let made = trial.write().and_then(|()| trial.start());
    let result = match made {
        Ok(shim) => trial.use_and_end(&shim).await,
        Err(problem) => Err(problem),
    };
    let left = [remove_tree(&trial.pod), remove_tree(&trial.layers)];
    let left = left.into_iter().find_map(Result::err).map(|error| crate::error::chain(&error));
    result.and(left.map_or(Ok(()), Err))
}

/// Ends what the trials of a daemon have left that was killed meanwhile: their shims outlived it.
pub(super) async fn sweep(state: &Path, root: &Path) {
    let names = |directory: &Path| -> Vec<std::ffi::OsString> {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let ours = |name: &std::ffi::OsString| {
            let text = name.to_string_lossy();
            text.starts_with("trial-") && text.contains(MARK)
        };
        entries.map(|entry| entry.file_name()).filter(ours).collect()
    };
    for name in names(state) {
        let client = ShimClient::new(&state.join(&name), DEADLINE);
        for container in client.state().await.map(|told| told.containers).unwrap_or_default() {
            let _ = client.delete(&container.id).await;
        }
        // One that is gone doesn't answer, which is all that is wanted.
        let _ = client.shutdown().await;
    }
    let left = [state, root].map(|directory| {
        let remove = |name| remove_tree(&directory.join(name)).err();
        names(directory).into_iter().find_map(remove)
    });
    for error in left.iter().flatten() {
        tracing::warn!(
            error = error as &dyn std::error::Error,
            "a trial pod's files are left behind"
        );
    }
}

fn rootfs(state: &Path) -> PathBuf {
    Layout::new(PathBuf::new(), state.to_owned()).userns_rootfs()
}

struct Trial<'a> {
    candidate: &'a Candidate,
    place: &'a Place<'a>,
    id: ContainerId,
    pod: PathBuf,
    layers: PathBuf,
}

impl Trial<'_> {
    /// The files: a bundle, two layers, an upper directory, and a file to be mapped, in the place and manner of real ones.
    fn write(&self) -> Result<(), String> {
        let steps = || -> Result<(), crate::store::StoreError> {
            new_dir(&self.pod, 0o700)?;
            new_dir(&self.layers, 0o700)?;
            for name in ["one", "two", "upper", "work"] {
                new_dir(&self.layers.join(name), 0o755)?;
            }
            write_bytes(&self.layers.join("one/trial"), b"", 0o755)?;
            write_bytes(&self.pod.join("source"), b"", 0o644)?;
            write_bytes(&self.pod.join("target"), b"", 0o600)
        };
        steps().map_err(|error| crate::error::chain(&error))?;
        let root = Some(MAPPING.host);
        chown(self.layers.join("upper"), root, root)
            .map_err(|error| format!("set the owner of the trial's upper directory: {error}"))
    }

    fn start(&self) -> Result<ProcessHandle, String> {
        let config = ShimConfig {
            version: disk::VERSION,
            sandbox: self.id.to_string(),
            hostname: Some("trial".to_owned()),
            netns: None,
            ipc: true,
            shared_pid: false,
            shm: None,
            shm_size: 0,
            sysctls: BTreeMap::new(),
            optional_sysctls: BTreeMap::new(),
            cgroup_procs: Vec::new(),
            pod_cgroup_procs: Vec::new(),
            oom_score_adj: None,
            userns: Some(IdMappings { uids: vec![MAPPING], gids: vec![MAPPING] }),
            userns_rootfs: Some(rootfs(self.place.state)),
        };
        let record = spawn(self.place.shim, &self.pod, &config, None)
            .map_err(|error| crate::error::chain(&error))?;
        let process = ProcessHandle::open(record).inspect_err(|_| end_child(record));
        let process = process.map_err(|error| error.to_string())?;
        process.ok_or_else(|| last_words(&self.pod))
    }

    async fn use_and_end(&self, shim: &ProcessHandle) -> Result<(), String> {
        let client = ShimClient::new(&self.pod, DEADLINE);
        let result = tokio::select! {
            biased;
            result = self.make_container(&client) => result,
            () = shim.ended() => Err(last_words(&self.pod)),
        };
        // A shim that ends takes its socket along first, and what it says at its end is the reason.
        let gone = async { tokio::time::timeout(ENDING, shim.ended()).await.is_ok() };
        let result = match result {
            Err(_) if gone.await => Err(last_words(&self.pod)),
            other => other,
        };
        let ended = tokio::time::timeout(DEADLINE, async {
            if client.shutdown().await.is_err() {
                let _ = shim.kill();
            }
            shim.ended().await;
        });
        if ended.await.is_err() {
            let _ = shim.kill();
            // Else nobody would reap it.
            drop(tokio::time::timeout(ENDING, shim.ended()).await);
        }
        result
    }

    async fn make_container(&self, client: &ShimClient) -> Result<(), String> {
        let told = |error: crate::shim::ShimError| error.to_string();
        let state = client.state().await.map_err(told)?;
        write_json(&self.pod.join("config.json"), &self.spec(&state.userns_path))
            .map_err(|error| crate::error::chain(&error))?;
        let made = client.create(self.request()).await.map_err(told).map(drop);
        let deleted = client.delete(self.id.as_str()).await.map_err(told);
        made.and(deleted)
    }

    fn request(&self) -> CreateRequest {
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let layer = |name: &str| text(self.layers.join(name));
        let IdMapping { inside, host, length } = MAPPING;
        let range = davit_proto::shim::IdMapping { inside, host, length };
        let candidate = self.candidate;
        CreateRequest {
            id: self.id.to_string(),
            bundle: text(self.pod.clone()),
            runtime: Some(OciRuntime {
                path: text(candidate.path.clone()),
                root: text(self.pod.join("root")),
                systemd_cgroup: candidate.systemd_cgroup,
                args: candidate.args.clone(),
                timeout_ms: u64::try_from(DEADLINE.as_millis()).unwrap_or(u64::MAX),
                start_fifo: false,
            }),
            rootfs: Some(Rootfs {
                lower: vec![layer("one"), layer("two")],
                upper: layer("upper"),
                work: layer("work"),
                target: text(rootfs(self.place.state)),
                ..Rootfs::default()
            }),
            own_pid_namespace: true,
            mapped_mounts: vec![MappedMount {
                source: text(self.pod.join("source")),
                target: text(self.pod.join("target")),
                uids: vec![range],
                gids: vec![range],
            }],
            ..CreateRequest::default()
        }
    }

    fn spec(&self, userns: &str) -> Value {
        let of_kernel = |destination: &str, kind: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": kind, "options": options });
        let ids = json!([{ "containerID": MAPPING.inside, "hostID": MAPPING.host, "size": MAPPING.length }]);
        json!({
            "ociVersion": "1.0.2",
            "root": { "path": rootfs(self.place.state) },
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
                { "destination": "/mapped", "type": "bind", "source": self.pod.join("target"), "options": ["rbind", "rprivate", "nosuid", "nodev", "noexec"] },
            ],
            "linux": {
                "cgroupsPath": self.place.group.cgroups_path(&self.id),
                "uidMappings": ids,
                "gidMappings": ids,
                "namespaces": [
                    { "type": "mount" }, { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "network" },
                    { "type": "user", "path": userns },
                ],
                "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            },
        })
    }
}
