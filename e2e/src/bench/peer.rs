//! containerd, as the runtime to compare with.
//!
//! Owns one `containerd` with its CRI plugin: its configuration (all paths in the run's directory, the same OCI runtime, CNI
//! configuration and registry as davit has), and its process. All else is as containerd ships it.

use crate::daemon::Settings;
use crate::host::eventually;
use crate::images::catalog;
use crate::registry::{Registry, write_whole};
use crate::tools;
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long it may take to end.
const STOP: Duration = Duration::from_secs(20);
/// The pause image, which holds a pod's namespaces there; [`catalog`] has one of this name.
const PAUSE: &str = "pause:3.10";

/// A containerd that runs, or ran.
#[derive(Debug)]
pub(super) struct Containerd {
    settings: Settings,
    program: PathBuf,
    child: Option<Child>,
}

impl Containerd {
    /// Writes its configuration and starts it.
    pub(super) fn start(settings: Settings, registry: &Registry) -> Result<Self> {
        let program = catalog::cache().join("bin/containerd");
        if !program.is_file() {
            bail!("{} is missing: hack/bench --peer containerd builds it", program.display());
        }
        let runtime = accept_spec_version(&settings, tools::oci_runtime(&settings.handler)?)?;
        let text = config(&settings, &runtime.to_string_lossy(), &registry.reference(PAUSE));
        write_whole(&settings.config(), text.as_bytes())?;
        let mut containerd = Self { settings, program, child: None };
        containerd.launch()?;
        Ok(containerd)
    }

    /// Starts it, for the first time or again, without waiting for it.
    pub(super) fn launch(&mut self) -> Result<()> {
        let path = self.settings.log();
        let log = OpenOptions::new().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("open {}", path.display()))?;
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(self.settings.config());
        // It finds its shim there.
        let mut path =
            self.program.parent().map(PathBuf::from).unwrap_or_default().into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        command.env("PATH", path);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().context("start containerd")?);
        Ok(())
    }

    /// Its pid, while it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Ends it with a signal.
    pub(super) fn end(&mut self, signal: Signal) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("containerd's pid is none")?, signal)
            .context("signal containerd")?;
        let ended = eventually(STOP, "containerd ends", || Ok(child.try_wait()?));
        if ended.is_err() {
            child.kill().context("kill containerd")?;
            child.wait().context("wait for containerd")?;
        }
        ended.map(drop)
    }
}

impl Drop for Containerd {
    /// For a run that could not be finished.
    fn drop(&mut self) {
        drop(self.end(Signal::KILL));
    }
}

/// The program that containerd runs as its OCI runtime: `program` itself, or what makes an old crun take containerd's specs. It
/// is a static program of a few lines, so that the peer does not pay for it.
fn accept_spec_version(settings: &Settings, program: PathBuf) -> Result<PathBuf> {
    let version = tools::run(Command::new(&program).arg("--version"))?;
    let first = version.lines().next().unwrap_or_default();
    let minor = first.strip_prefix("crun version 1.").and_then(|rest| rest.split('.').next());
    let Some(minor) = minor else { return Ok(program) };
    if minor.parse::<u32>().with_context(|| format!("read crun's version {first:?}"))? >= 9 {
        return Ok(program);
    }
    let (source, wrapper) = (settings.dir.join("old-crun.c"), settings.dir.join("old-crun"));
    write_whole(&source, include_bytes!("old-crun.c"))?;
    let define = format!("-DCRUN={:?}", program.to_string_lossy());
    let mut compile = Command::new("cc");
    compile.args(["-O2", "-static", &define, "-o"]).arg(&wrapper).arg(&source);
    tools::run(&mut compile)?;
    Ok(wrapper)
}

/// `restrict_oom_score_adj`: not every machine lets its root lower it.
fn config(settings: &Settings, runtime: &str, pause: &str) -> String {
    let dir = settings.dir.display();
    let (root, state) = (settings.root(), settings.state());
    let (socket, certs) = (settings.socket(), settings.registry_config_dir());
    let (cni, plugins) = (settings.cni_conf_dir.display(), settings.cni_bin_dir.display());
    format!(
        r#"version = 3
root = {root:?}
state = {state:?}
[grpc]
address = {socket:?}
[ttrpc]
address = "{dir}/run/ttrpc.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "{dir}/opt"
[plugins."io.containerd.nri.v1.nri"]
socket_path = "{dir}/run/nri.sock"
plugin_path = "{dir}/nri/plugins"
plugin_config_path = "{dir}/nri/conf.d"
[plugins."io.containerd.shim.v1.manager"]
socket_dir = "{dir}/s"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{pause}"
[plugins."io.containerd.cri.v1.images".registry]
config_path = {certs:?}
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{plugins}"]
conf_dir = "{cni}"
[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "bench"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.bench]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.bench.options]
BinaryName = "{runtime}"
Root = "{dir}/oci"
"#
    )
}
