//! ExecSync: a command in a running container, its output as a stream, its end as the last message.
//!
//! ```text
//! request ─► task: OCI runtime's exec --detach ─► pid adopted ─► ended │ time up │ client gone
//!              │ (refused: an error)                                └──────┴──► killed with its session
//!              └─ two pumps: pipe → bounded channel → client               │
//!                 until the end of the pipe or drain_ms after the exit ◄───┘ ─► End
//! ```
//!
//! The task owns the process: it ends only when the process has, whoever listens. The client's slowness stops the pumps
//! and so the exec'd process, and nothing else.

mod kill;
mod output;

use crate::container::create::read_pid;
use crate::container::{Container, Init, Verdict};
use crate::error::{Invalid, Refusal, checked_name};
use crate::files;
use crate::oci::{Call, CallStdio, OciError, Verb};
use crate::pod::Pod;
use crate::reaper::Ended;
use crate::stdio::stream::{self, Reader};
use davit_proto::shim::exec_sync_output::Kind;
use davit_proto::shim::{ExecSyncEnd, ExecSyncOutput, ExecSyncRequest};
use kill::Target;
use output::{Drain, Pump};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Messages that may wait for the client, each at most one chunk.
const QUEUE: usize = 2;

/// Why a command was not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecError {
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Oci(#[from] OciError),
    #[error("exec in container {id}: {step}")]
    Step { id: String, step: &'static str, source: io::Error },
}

/// What the client gets: output, and an error if the command was not run.
pub(crate) type Message = Result<ExecSyncOutput, ExecError>;

/// Begins an exec in a task of its own, which sends to the answered channel. The process is killed when that is closed.
pub(crate) fn spawn(
    pod: &Arc<Pod>,
    request: ExecSyncRequest,
) -> Result<mpsc::Receiver<Message>, ExecError> {
    let exec = Exec::checked(pod, request)?;
    let pod = Arc::clone(pod);
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let begun = exec.begin(&pod).await;
        let last = match begun {
            Ok(begun) => exec.see_through(begun, &sender).await,
            Err(error) => Err(error),
        };
        exec.container.end_exec(&exec.name);
        pod.worked();
        // Nobody there any more: then there is nobody to tell.
        let _ = sender.send(last).await;
    });
    Ok(receiver)
}

/// A request that was checked, and the claim to its name.
struct Exec {
    container: Arc<Container>,
    init: Arc<Init>,
    name: String,
    process: Vec<u8>,
    timeout: Option<Duration>,
    output_limit: u64,
    drain: Duration,
}

/// A command that runs, or did.
struct Begun {
    ended: oneshot::Receiver<Ended>,
    target: Target,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Exec {
    fn checked(pod: &Pod, request: ExecSyncRequest) -> Result<Self, ExecError> {
        let ExecSyncRequest { id, exec_id: name, process, timeout_ms, output_limit, drain_ms } =
            request;
        checked_name("exec_id", &name)?;
        let container = pod.container(&id)?;
        let init = container.running()?;
        if !container.begin_exec(&name) {
            return Err(Refusal::ExecExists { id, exec: name }.into());
        }
        let timeout = (timeout_ms > 0).then(|| Duration::from_millis(timeout_ms));
        let drain = Duration::from_millis(drain_ms);
        Ok(Self { container, init, name, process, timeout, output_limit, drain })
    }

    /// Has the runtime start the command; what it needs for that is gone when this answers.
    async fn begin(&self, pod: &Pod) -> Result<Begun, ExecError> {
        let [process, pid_file, log] = ["json", "pid", "log"].map(|kind| self.file(kind));
        let result = self.call(pod, &process, &pid_file, log).await;
        for file in [process, pid_file] {
            let _ = files::remove_if_there(&file);
        }
        result
    }

    async fn call(
        &self,
        pod: &Pod,
        process: &Path,
        pid_file: &Path,
        log: PathBuf,
    ) -> Result<Begun, ExecError> {
        let step = |step| self.step(step);
        files::write_new(process, &self.process).map_err(step("write its process"))?;
        let (stdout, their_stdout) = stream::pipe_to_read().map_err(step("make a pipe"))?;
        let (stderr, their_stderr) = stream::pipe_to_read().map_err(step("make a pipe"))?;
        let stdin = crate::process::null().map_err(step("open /dev/null"))?;
        let stdio = CallStdio::Theirs { stdio: [stdin, their_stdout, their_stderr], errors: None };
        let call =
            Call { verb: Verb::Exec { process, pid_file }, id: &self.container.id, log, stdio };
        let expecting = pod.reaper.expect_unknown();
        let adjusted = oom_score_adj_of(&self.init);
        // As the container's, and not the shim's, which the runtime would pass on. Best effort: raising is always allowed.
        let prepare = || {
            if let Some(value) = &adjusted {
                let _ = files::write_kernel(Path::new("/proc/self/oom_score_adj"), value);
            }
            Ok::<(), std::convert::Infallible>(())
        };
        if let Err(error) = self.container.oci.run(&pod.reaper, call, prepare).await {
            // Killed because it took too long, it may have started the command all the same.
            if let Ok(pid) = read_pid(pid_file) {
                Target::find(pid, Arc::clone(&self.init)).kill().await;
            }
            return Err(error.into());
        }
        let pid = read_pid(pid_file).map_err(step("read its pid"))?;
        let ended = expecting.adopt(pid);
        let target = Target::find(pid, Arc::clone(&self.init));
        Ok(Begun { ended, target, stdout, stderr })
    }

    /// Streams the output until the command has ended, and answers how it did.
    async fn see_through(&self, begun: Begun, sender: &mpsc::Sender<Message>) -> Message {
        let Begun { mut ended, target, stdout, stderr } = begun;
        let drain = Drain::default();
        let pump = |fd, kind: fn(Vec<u8>) -> Kind| -> Result<_, ExecError> {
            let reader = Reader::new(fd).map_err(self.step("read its output"))?;
            let pump = Pump {
                reader,
                kind,
                left: self.output_limit,
                sender: sender.clone(),
                drain: drain.clone(),
            };
            Ok(tokio::spawn(pump.run()))
        };
        let pumps = [pump(stdout, Kind::Stdout), pump(stderr, Kind::Stderr)];
        let time_up = async {
            match self.timeout {
                Some(timeout) => tokio::time::sleep(timeout).await,
                None => std::future::pending().await,
            }
        };
        let (result, timed_out) = tokio::select! {
            biased;
            ended = &mut ended => (Some(ended), false),
            () = time_up => (None, true),
            () = sender.closed() => (None, false),
        };
        let result = match result {
            Some(ended) => ended,
            None => {
                target.kill().await;
                ended.await
            }
        };
        drain.until(Instant::now() + self.drain);
        let mut dropped = 0;
        for pump in pumps {
            dropped += pump?.await.unwrap_or(0);
        }
        let reaped = result
            .map_err(|_dropped| self.step("learn its end")(io::ErrorKind::NotFound.into()))?;
        let verdict = Verdict { ended: reaped, oom_killed: false };
        let end = ExecSyncEnd { exit: Some(verdict.to_proto()), timed_out, dropped };
        Ok(ExecSyncOutput { kind: Some(Kind::End(end)) })
    }

    fn file(&self, kind: &str) -> PathBuf {
        self.container.bundle.join(format!("exec-{}.{kind}", self.name))
    }

    fn step(&self, step: &'static str) -> impl FnOnce(io::Error) -> ExecError + use<> {
        let id = self.container.id.clone();
        move |source| ExecError::Step { id, step, source }
    }
}

fn oom_score_adj_of(init: &Init) -> Option<String> {
    files::read_small(Path::new(&format!("/proc/{}/oom_score_adj", init.pid.as_raw_pid())), 32).ok()
}
