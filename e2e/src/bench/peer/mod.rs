//! Other CRI runtimes, to compare with.
//!
//! Owns their processes: one daemon each, with all its paths in the run's directory, and the OCI runtime, CNI configuration and
//! registry that davit has. [`containerd`] and [`crio`] have their configurations; all that is not named there is as they ship it.

mod containerd;
mod crio;

use crate::daemon::Settings;
use crate::host::eventually;
use crate::registry::{Registry, write_whole};
use crate::tools;
use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long it may take to end.
const STOP: Duration = Duration::from_secs(20);
/// The pause image, which holds a pod's namespaces there; the catalog of images has one of this name.
const PAUSE: &str = "pause:3.10";

/// Which runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Containerd,
    Crio,
}

impl Kind {
    /// Its program, which hack/bench builds.
    pub(super) fn program(self) -> PathBuf {
        let name = match self {
            Self::Containerd => "containerd",
            Self::Crio => "crio",
        };
        crate::images::catalog::cache().join("bin").join(name)
    }

    /// What it says of its version, in one line.
    pub(super) fn version(self) -> Result<String> {
        let told = tools::run(Command::new(self.program()).arg("--version"))?;
        let first = told.lines().next().unwrap_or_default().to_owned();
        Ok(match self {
            // `containerd github.com/containerd/containerd/v2 2.3.4 …`
            Self::Containerd => {
                let version = first.split_whitespace().nth(2).unwrap_or_default();
                format!("containerd {}", version.trim_start_matches('v'))
            }
            Self::Crio => first.replacen("crio version", "CRI-O", 1),
        })
    }
}

/// A daemon that runs, or ran.
#[derive(Debug)]
pub(super) struct Peer {
    kind: Kind,
    settings: Settings,
    child: Option<Child>,
}

impl Peer {
    /// Writes its configuration and starts it.
    pub(super) fn start(kind: Kind, settings: Settings, registry: &Registry) -> Result<Self> {
        let program = kind.program();
        ensure!(program.is_file(), "{} is missing: hack/bench --peer builds it", program.display());
        let runtime = accept_spec_version(&settings, tools::oci_runtime(&settings.handler)?)?;
        let pause = registry.reference(PAUSE);
        let text = match kind {
            Kind::Containerd => containerd::config(&settings, &runtime, &pause),
            Kind::Crio => {
                crio::write_files(&settings, registry)?;
                crio::config(&settings, &runtime, &pause)?
            }
        };
        write_whole(&settings.config(), text.as_bytes())?;
        let mut peer = Self { kind, settings, child: None };
        peer.launch()?;
        Ok(peer)
    }

    /// Starts it, for the first time or again, without waiting for it.
    pub(super) fn launch(&mut self) -> Result<()> {
        let path = self.settings.log();
        let log = OpenOptions::new().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("open {}", path.display()))?;
        let program = self.kind.program();
        let mut command = Command::new(&program);
        command.arg("--config").arg(self.settings.config());
        if self.kind == Kind::Crio {
            crio::arguments(&mut command, &self.settings);
        }
        // It finds its helpers there.
        let mut path = program.parent().map(PathBuf::from).unwrap_or_default().into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        command.env("PATH", path);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().with_context(|| format!("start {}", program.display()))?);
        Ok(())
    }

    /// Its pid, while it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Where its OCI runtime keeps its own state.
    pub(super) fn oci_root(&self) -> PathBuf {
        let root = self.settings.dir.join("oci");
        match self.kind {
            Kind::Containerd => root.join("k8s.io"),
            Kind::Crio => root,
        }
    }

    /// Ends it with a signal.
    pub(super) fn end(&mut self, signal: Signal) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("the daemon's pid is none")?, signal)
            .context("signal the daemon")?;
        let ended = eventually(STOP, "the daemon ends", || Ok(child.try_wait()?));
        if ended.is_err() {
            child.kill().context("kill the daemon")?;
            child.wait().context("wait for the daemon")?;
        }
        ended.map(drop)
    }
}

impl Drop for Peer {
    /// For a run that could not be finished.
    fn drop(&mut self) {
        drop(self.end(Signal::KILL));
    }
}

/// The program that a peer runs as its OCI runtime: `program` itself, or what makes an old crun take the peer's specs. It is a static
/// program of a few lines, so that the peer does not pay for it.
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

/// A path as TOML has it.
fn quoted(path: &Path) -> String {
    format!("{:?}", path.to_string_lossy())
}
