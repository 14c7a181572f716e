//! Running a program that may misbehave: CNI plugins and nft.
//!
//! Owns the bounds. The program gets a process group of its own, a deadline and a limit on what it may say; whoever breaks one is
//! killed with the whole group and all that it has started. One that has ended by itself has been reaped: its number may mean another by
//! then, so what it has left behind, with its output held open, is left alone.

use crate::program;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// The most that a program may say on its standard output.
pub(super) const MAX_OUTPUT: usize = 1 << 20;
/// What is kept of its standard error; the rest is read and dropped.
const MAX_STDERR: usize = 16 << 10;
/// How long output is still read once the program has ended: a child that it left behind may hold the pipe for ever.
const TAIL: Duration = Duration::from_secs(1);
/// How long a killed process may take to go.
const BURIAL: Duration = Duration::from_secs(5);

/// Why a program gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// It could not be started.
    #[error("start {program}", program = program.display())]
    Start {
        /// Its path.
        program: PathBuf,
        /// The system call's word.
        #[source]
        source: io::Error,
    },
    /// It did not end in time and was killed.
    #[error("did not end within {0:?}; killed")]
    Deadline(Duration),
    /// It said too much and was killed.
    #[error("wrote more than {0} bytes; killed")]
    TooMuch(usize),
    /// Talking to it failed; it was killed.
    #[error("talk to the process")]
    Talk(#[source] io::Error),
}

/// A program that came to its end.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

/// Runs `command` with `input` on its standard input.
///
/// # Errors
/// [`ChildError`]; nothing of the program's process group is left then.
pub(super) async fn run(
    mut command: Command,
    input: &[u8],
    time: Duration,
) -> Result<Finished, ChildError> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    let mut child = command.spawn().map_err(|source| ChildError::Start {
        program: PathBuf::from(command.as_std().get_program()),
        source,
    })?;
    let outcome = match timeout(time, talk(&mut child, input)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(ChildError::Deadline(time)),
    };
    if outcome.is_err() {
        program::kill(&child);
        drop(timeout(BURIAL, child.wait()).await);
    }
    outcome
}

async fn talk(child: &mut Child, input: &[u8]) -> Result<Finished, ChildError> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (mut said, mut complained) = (Vec::new(), Vec::new());
    let status = {
        let write = async {
            if let Some(mut stdin) = stdin {
                // A program need not read what it is told: its answer counts.
                drop(stdin.write_all(input).await);
            }
            Ok(())
        };
        let pipes = async {
            tokio::try_join!(
                write,
                read_bounded(stdout, &mut said),
                read_start(stderr, &mut complained)
            )
        };
        tokio::pin!(pipes);
        tokio::select! {
            done = &mut pipes => { done?; child.wait().await }
            status = child.wait() => {
                if let Ok(done) = timeout(TAIL, pipes).await { done?; }
                status
            }
        }
    };
    let status = status.map_err(ChildError::Talk)?;
    Ok(Finished { status, stdout: said, stderr: complained })
}

async fn read_bounded(
    pipe: Option<impl AsyncRead + Unpin>,
    into: &mut Vec<u8>,
) -> Result<(), ChildError> {
    let Some(pipe) = pipe else { return Ok(()) };
    pipe.take(MAX_OUTPUT as u64 + 1).read_to_end(into).await.map_err(ChildError::Talk)?;
    if into.len() > MAX_OUTPUT { Err(ChildError::TooMuch(MAX_OUTPUT)) } else { Ok(()) }
}

async fn read_start(
    pipe: Option<impl AsyncRead + Unpin>,
    into: &mut Vec<u8>,
) -> Result<(), ChildError> {
    let Some(mut pipe) = pipe else { return Ok(()) };
    let mut chunk = [0; 4096];
    loop {
        let read = pipe.read(&mut chunk).await.map_err(ChildError::Talk)?;
        if read == 0 {
            return Ok(());
        }
        let room = MAX_STDERR.saturating_sub(into.len());
        into.extend(chunk.iter().take(read.min(room)));
    }
}

/// What a program said, as one line that is safe to show: bounded, without control characters.
pub(super) fn printable(bytes: &[u8]) -> String {
    const MOST: usize = 2048;
    let text = String::from_utf8_lossy(bytes);
    let line: String =
        text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST + 1).collect();
    if line.chars().count() > MOST {
        line.chars().take(MOST).chain(['…']).collect()
    } else {
        line
    }
}
