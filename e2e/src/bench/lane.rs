//! A runtime under measurement.
//!
//! Owns a daemon of davit or a peer with everything of its own (directory, socket, bridge, cgroups) and the promise that nothing of it
//! stays: [`Subject::finish`] looks for it, and a subject that is dropped before is swept away.

use super::peer::{self, Peer};
use super::pods;
use crate::cri::Cri;
use crate::daemon::{Daemon, Settings};
use crate::host::{eventually, pause};
use crate::registry::{Registry, write_whole};
use crate::subnet::{self, SubnetLock};
use crate::{leaks, test};
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};
use std::process::Command;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

/// How long a daemon may take until Status answers Ready.
const READY: Duration = Duration::from_secs(30);
/// What is being taken away may need this long to be gone.
const GRACE: Duration = Duration::from_secs(5);

/// What is compared: a runtime with a network for its pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    /// davit with its built-in network.
    DavitBridge,
    /// davit with the plugins bridge and portmap.
    DavitCni,
    /// containerd with the same plugins and the same OCI runtime.
    Containerd,
    /// containerd with runc, whatever the others have.
    ContainerdRunc,
    /// CRI-O with the same plugins and the same OCI runtime.
    Crio,
}

impl Lane {
    /// As it stands in a table's head.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::DavitBridge => "davit, built-in network",
            Self::DavitCni => "davit, CNI",
            Self::Containerd => "containerd, CNI",
            Self::ContainerdRunc => "containerd with runc, CNI",
            Self::Crio => "CRI-O, CNI",
        }
    }

    /// As it stands in JSON.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::DavitBridge => "davit-builtin",
            Self::DavitCni => "davit-cni",
            Self::Containerd => "containerd-cni",
            Self::ContainerdRunc => "containerd-runc-cni",
            Self::Crio => "crio-cni",
        }
    }

    /// Whether this is davit.
    pub(super) fn is_ours(self) -> bool {
        self.peer().is_none()
    }

    /// Whose it is, if not davit's.
    pub(super) fn peer(self) -> Option<peer::Kind> {
        match self {
            Self::DavitBridge | Self::DavitCni => None,
            Self::Containerd | Self::ContainerdRunc => Some(peer::Kind::Containerd),
            Self::Crio => Some(peer::Kind::Crio),
        }
    }

    /// Its OCI runtime, where the others have this one.
    fn runtime(self, of_all: &str) -> &str {
        match self {
            Self::ContainerdRunc => "runc",
            Self::DavitBridge | Self::DavitCni | Self::Containerd | Self::Crio => of_all,
        }
    }
}

#[derive(Debug)]
enum Process {
    Davit(Daemon),
    Peer(Peer),
}

/// A runtime that is up, with busybox pulled.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) lane: Lane,
    pub(super) settings: Settings,
    pub(super) cri: Cri,
    /// Numbers the pods, so that no two have the same name.
    pub(super) pods: AtomicU32,
    /// The image of all containers.
    pub(super) image: String,
    /// `None` once it is finished.
    process: Option<Process>,
    /// The subnet of the CNI configuration is ours while this is locked.
    _subnet: Option<SubnetLock>,
    /// The last to be dropped.
    _dir: tempfile::TempDir,
}

impl Subject {
    /// Starts one, with this OCI runtime, and waits until it is ready.
    pub(super) fn start(lane: Lane, runtime: &str, registry: &Registry) -> Result<Self> {
        Self::start_with(lane, runtime, registry, |_| Ok(()))
    }

    /// The same with a changed configuration.
    pub(super) fn start_with(
        lane: Lane,
        runtime: &str,
        registry: &Registry,
        change: impl FnOnce(&mut Settings) -> Result<()>,
    ) -> Result<Self> {
        // Short, as the path of a shim's socket below it has to fit into 108 bytes.
        let dir = tempfile::Builder::new().prefix("db").rand_bytes(6).tempdir_in("/tmp");
        let dir = dir.context("make a directory")?;
        let mut settings = Settings::new(dir.path(), lane.runtime(runtime));
        crate::disk::in_memory(&mut settings)?;
        change(&mut settings)?;
        if lane == Lane::Crio {
            // Its storage keeps this mounted for as long as it runs.
            settings.disks.push(settings.root().join("overlay"));
        }
        std::fs::create_dir_all(&settings.cni_conf_dir).context("make the CNI directory")?;
        test::write_hosts(&settings, registry)?;
        let subnet = match lane {
            Lane::DavitBridge => None,
            Lane::DavitCni | Lane::Containerd | Lane::ContainerdRunc | Lane::Crio => {
                Some(write_cni(&settings)?)
            }
        };
        let process = match lane.peer() {
            None => Process::Davit(Daemon::start(settings.clone())?),
            Some(kind) => Process::Peer(Peer::start(kind, settings.clone(), registry)?),
        };
        let subject = Self {
            lane,
            cri: Cri::new(&settings.socket())?,
            settings,
            pods: AtomicU32::new(0),
            image: registry.reference("davit-test/busybox:latest"),
            process: Some(process),
            _subnet: subnet,
            _dir: dir,
        };
        subject.wait_until_ready()?;
        subject.cri.pull(&subject.image).context("pull busybox")?;
        Ok(subject)
    }

    /// Waits until Status tells that runtime and network are ready.
    fn wait_until_ready(&self) -> Result<()> {
        let end = Instant::now() + READY;
        loop {
            let request = k8s_cri::v1::StatusRequest { verbose: false };
            let answer = self.cri.wait(self.cri.runtime().status(request));
            let last = match answer {
                Ok(answer) => {
                    let conditions = answer.status.unwrap_or_default().conditions;
                    if pods::ready(&conditions) {
                        return Ok(());
                    }
                    format!("{conditions:?}")
                }
                Err(status) => status.to_string(),
            };
            if Instant::now() >= end {
                bail!("{}: not ready in {READY:?}: {last}", self.lane.title());
            }
            // Finer than `eventually`: what is measured with it takes tens of milliseconds.
            pause(Duration::from_millis(1));
        }
    }

    /// The daemon's pid.
    pub(super) fn pid(&self) -> Result<u32> {
        let pid = match &self.process {
            Some(Process::Davit(daemon)) => daemon.pid(),
            Some(Process::Peer(peer)) => peer.pid(),
            None => None,
        };
        pid.with_context(|| format!("{} is not running", self.lane.title()))
    }

    /// The OCI runtime's command line for a look or an act beside the daemon's.
    pub(super) fn oci(&self) -> Result<Command> {
        let root = match &self.process {
            Some(Process::Peer(peer)) => peer.oci_root(),
            Some(Process::Davit(_)) | None => {
                self.settings.state().join("oci").join(&self.settings.handler)
            }
        };
        let mut command = Command::new(crate::tools::oci_runtime(&self.settings.handler)?);
        command.arg("--root").arg(root);
        Ok(command)
    }

    /// The process of a container, as the host numbers it.
    pub(super) fn process_of(&self, container: &str) -> Result<Pid> {
        let info = self.cri.container_info(container).context("ContainerStatus")?;
        let text = info.get("info").context("a verbose ContainerStatus has no info")?;
        let json: serde_json::Value =
            serde_json::from_str(text).context("read a verbose ContainerStatus")?;
        let pid = json.get("pid").and_then(serde_json::Value::as_i64);
        let pid = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        pid.context("a verbose ContainerStatus has no pid")
    }

    /// Kills the daemon and starts it again: the time from the start of the new one until Status answers Ready.
    pub(super) fn restart(&mut self) -> Result<Duration> {
        match self.process.as_mut().context("restart what is finished")? {
            Process::Davit(daemon) => daemon.kill()?,
            Process::Peer(peer) => peer.end(Signal::KILL)?,
        }
        let start = Instant::now();
        match self.process.as_mut().context("restart what is finished")? {
            Process::Davit(daemon) => daemon.launch()?,
            Process::Peer(peer) => peer.launch()?,
        }
        // Another connection: the old one waits longer and longer before it tries again.
        self.cri = Cri::new(&self.settings.socket())?;
        self.wait_until_ready()?;
        Ok(start.elapsed())
    }

    /// The daemon, and what it keeps ready for pods to come.
    pub(super) fn daemon(&self) -> Result<Vec<u32>> {
        let daemon = self.pid()?;
        let mut pids = leaks::waiting(&self.settings, daemon)?;
        pids.push(daemon);
        Ok(pids)
    }

    /// All other processes of it, as (pid, program), in the order of their pids.
    pub(super) fn processes(&self) -> Result<Vec<(u32, String)>> {
        let mut pids = leaks::others(&self.settings, Some(self.pid()?))?;
        pids.sort_unstable();
        Ok(pids.into_iter().map(|pid| (pid, super::machine::program(pid))).collect())
    }

    /// Removes its pods, looks for what is left, and ends it.
    pub(super) fn finish(mut self) -> Result<()> {
        for pod in self.cri.pods(None)? {
            self.cri.stop_pod(&pod.id)?;
            self.cri.remove_pod(&pod.id)?;
        }
        let daemon = self.pid()?;
        let mut left = Vec::new();
        let looked = eventually(GRACE, "nothing is left", || {
            left = leaks::find(&self.settings, Some(daemon), &[])?;
            Ok(left.is_empty().then_some(()))
        });
        looked.with_context(|| format!("{} left behind: {left:#?}", self.lane.title()))?;
        match self.process.take() {
            Some(Process::Davit(mut daemon)) => daemon.stop()?,
            Some(Process::Peer(mut peer)) => peer.end(Signal::TERM)?,
            None => {}
        }
        leaks::sweep(&self.settings)
    }
}

impl Drop for Subject {
    /// After [`Self::finish`] there is nothing to do.
    fn drop(&mut self) {
        if self.process.take().is_some() {
            drop(leaks::sweep(&self.settings));
        }
    }
}

/// The plugins bridge and portmap, on a bridge and a subnet of the subject's own.
pub(crate) fn write_cni(settings: &Settings) -> Result<SubnetLock> {
    let (lock, subnet) = subnet::take(settings.room)?;
    let (tag, ipam) = (settings.tag(), settings.dir.join("ipam"));
    let text = serde_json::json!({
        "cniVersion": "1.0.0",
        "name": tag,
        "plugins": [
            {
                "type": "bridge", "bridge": format!("{tag}c"), "isGateway": true, "ipMasq": false, "hairpinMode": true,
                "ipam": {
                    "type": "host-local", "dataDir": ipam, "ranges": [[{"subnet": subnet}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    });
    write_whole(
        &settings.cni_conf_dir.join("10-bench.conflist"),
        &serde_json::to_vec_pretty(&text).context("write the CNI configuration")?,
    )?;
    Ok(lock)
}
