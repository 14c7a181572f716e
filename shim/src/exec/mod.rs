//! Commands in a running container, and ExecSync: one with its output as a stream of messages, and its end as the last.
//!
//! ```text
//! request ─► task: OCI runtime's exec --detach ─► pid adopted ─► ended │ time up │ client gone
//!              │ (refused: an error)                                └──────┴──► killed with its session
//!              └─ two pumps: pipe → bounded channel → client               │
//!                 until the end of the pipe or drain_ms after the exit ◄───┘ ─► End
//! ```
//!
//! The task owns the process: it ends only when the process has, whoever listens. The client's slowness stops the pumps
//! and so the exec'd process, and nothing else. A command with streams of its client's is [`crate::session`]'s.

pub(crate) mod command;
mod kill;
mod output;

use crate::container::Verdict;
use crate::error::{Invalid, Refusal};
use crate::oci::OciError;
use crate::pod::Pod;
use crate::stdio::stream::{self, Reader};
use command::{Begun, Command, Streams};
use davit_proto::shim::exec_sync_output::Kind;
use davit_proto::shim::{ExecSyncEnd, ExecSyncOutput, ExecSyncRequest};
use output::{Drain, Pump};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
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
        let last = match exec.begin(&pod).await {
            Ok((begun, outputs)) => exec.see_through(begun, outputs, &sender).await,
            Err(error) => Err(error),
        };
        drop(exec);
        pod.worked();
        // Nobody there any more: then there is nobody to tell.
        let _ = sender.send(last).await;
    });
    Ok(receiver)
}

/// A request that was checked.
struct Exec {
    command: Command,
    timeout: Option<Duration>,
    output_limit: u64,
    drain: Duration,
}

impl Exec {
    fn checked(pod: &Pod, request: ExecSyncRequest) -> Result<Self, ExecError> {
        let ExecSyncRequest { id, exec_id, process, timeout_ms, output_limit, drain_ms } = request;
        let command = Command::claim(pod, &id, exec_id, process)?;
        let timeout = (timeout_ms > 0).then(|| Duration::from_millis(timeout_ms));
        Ok(Self { command, timeout, output_limit, drain: Duration::from_millis(drain_ms) })
    }

    /// Starts the command; answers with the ends of its standard output and error, too.
    async fn begin(&self, pod: &Pod) -> Result<(Begun, [OwnedFd; 2]), ExecError> {
        let step = |step| self.command.step(step);
        let (stdout, their_stdout) = stream::pipe_to_read().map_err(step("make a pipe"))?;
        let (stderr, their_stderr) = stream::pipe_to_read().map_err(step("make a pipe"))?;
        let stdin = crate::process::null().map_err(step("open /dev/null"))?;
        let streams = Streams::Given([stdin, their_stdout, their_stderr]);
        Ok((self.command.begin(pod, streams).await?, [stdout, stderr]))
    }

    /// Streams the output until the command has ended, and answers how it did.
    async fn see_through(
        &self,
        begun: Begun,
        [stdout, stderr]: [OwnedFd; 2],
        sender: &mpsc::Sender<Message>,
    ) -> Message {
        let Begun { mut ended, target, terminal: _ } = begun;
        let drain = Drain::default();
        let pump = |fd, kind: fn(Vec<u8>) -> Kind| -> Result<_, ExecError> {
            let reader = Reader::new(fd).map_err(self.command.step("read its output"))?;
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
        let reaped = result.map_err(|_dropped| {
            self.command.step("learn its end")(io::ErrorKind::NotFound.into())
        })?;
        let verdict = Verdict { ended: reaped, oom_killed: false };
        let end = ExecSyncEnd { exit: Some(verdict.to_proto()), timed_out, dropped };
        Ok(ExecSyncOutput { kind: Some(Kind::End(end)) })
    }
}
