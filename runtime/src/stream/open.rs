//! Opening a session: the pipes, the request, the shim's word on it.
//!
//! Nothing is left of a session that does not come to be: its pipes and its connection close with what held them.

use super::io::{Input, Output};
use super::line::{self, AnswerError, Control, Hold, Verdict, next_answer};
use super::{Session, Wanted};
use crate::shim::{ShimClient, ShimError};
use davit_proto::session::{Frames, encode};
use davit_proto::shim::session_answer::Kind;
use davit_proto::shim::{OpenAttach, OpenExec, SessionRequest, session_request};
use davit_sys::passing;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

/// What a pipe may hold, in bytes: with four times the usual, command and daemon wait for each other less often.
const PIPE: usize = 256 * 1024;

/// What to open.
#[derive(Debug)]
pub enum Opening {
    /// A command.
    Exec {
        /// The container's id, whole.
        id: String,
        /// Unique among the container's commands; 64 hexadecimal digits.
        exec_id: String,
        /// The OCI process, as JSON. Its `terminal` is that of what is wanted.
        process: Vec<u8>,
    },
    /// A container.
    Attach {
        /// Its id, whole.
        id: String,
    },
}

/// Why a session does not come to be.
#[derive(Debug, thiserror::Error)]
pub enum OpenFailure {
    /// The pipes could not be made.
    #[error("make pipes")]
    Pipes(#[from] io::Error),
    /// The shim or the OCI runtime refused.
    #[error(transparent)]
    Shim(#[from] ShimError),
}

/// Opens a session with a shim that has them. If the future is dropped, so is the session.
///
/// Once the command or container has ended, output is read for at most `drain`, in case that another process holds its stream.
///
/// # Errors
/// [`OpenFailure`].
pub async fn open(
    client: &ShimClient,
    opening: Opening,
    wanted: Wanted,
    drain: Duration,
) -> Result<Session, OpenFailure> {
    let socket = client.session().await?;
    let terminal = wanted.terminal && matches!(opening, Opening::Exec { .. });
    let (ours, theirs) = if terminal { Default::default() } else { pipes(wanted)? };
    let (id, request) = request(opening, wanted);
    let gone = |error: AnswerError| ShimError::Gone { message: error.to_string() };
    let borrowed: Vec<_> = theirs.iter().map(OwnedFd::as_fd).collect();
    passing::send(&socket, &encode(&request), &borrowed).await.map_err(|e| gone(e.into()))?;
    drop(borrowed);
    drop(theirs);
    let mut frames = Frames::default();
    let (answer, mut descriptors) = next_answer(&socket, &mut frames).await.map_err(gone)?;
    match answer.kind {
        Some(Kind::Opened(_)) => {}
        Some(Kind::Refused(refused)) => {
            return Err(ShimError::refused(&id, refused.code, refused.message).into());
        }
        Some(Kind::Exit(_) | Kind::Detached(_)) | None => return Err(nonsense("no answer").into()),
    }
    let ours = if terminal {
        let master = descriptors.pop().ok_or_else(|| nonsense("no terminal"))?;
        terminal_ends(master, wanted)?
    } else {
        ours
    };
    let (hold, verdict) = line::spawn(socket, frames);
    Ok(ours.into_session(hold, verdict, drain)?)
}

fn nonsense(what: &str) -> ShimError {
    ShimError::Failed { message: format!("it opened a stream with {what}") }
}

fn request(opening: Opening, wanted: Wanted) -> (String, SessionRequest) {
    use session_request::Kind;
    let Wanted { stdin, stdout, stderr, terminal } = wanted;
    let (id, kind) = match opening {
        Opening::Exec { id, exec_id, process } if terminal => {
            let (stdin, stdout, stderr) = (false, false, false);
            let exec =
                OpenExec { id: id.clone(), exec_id, process, terminal, stdin, stdout, stderr };
            (id, Kind::Exec(exec))
        }
        Opening::Exec { id, exec_id, process } => {
            let exec =
                OpenExec { id: id.clone(), exec_id, process, terminal, stdin, stdout, stderr };
            (id, Kind::Exec(exec))
        }
        Opening::Attach { id } => {
            (id.clone(), Kind::Attach(OpenAttach { id, stdin, stdout, stderr }))
        }
    };
    (id, SessionRequest { kind: Some(kind) })
}

/// The daemon's ends.
#[derive(Debug, Default)]
struct Ends {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl Ends {
    fn into_session(self, hold: Hold, verdict: Verdict, drain: Duration) -> io::Result<Session> {
        let output = |fd| Output::new(fd, hold.clone(), verdict.clone(), drain);
        let (stdout, stderr) =
            (self.stdout.map(output).transpose()?, self.stderr.map(output).transpose()?);
        let stdin = self.stdin.map(|fd| Input::new(fd, hold.clone())).transpose()?;
        Ok(Session { stdin, stdout, stderr, control: Control::new(hold, verdict) })
    }
}

/// The daemon's ends of pipes, which don't block, and the other ends in the order of the request, which do.
fn pipes(wanted: Wanted) -> io::Result<(Ends, Vec<OwnedFd>)> {
    let (mut ends, mut theirs) = (Ends::default(), Vec::new());
    if wanted.stdin {
        let (reader, writer) = pipe()?;
        ends.stdin = Some(nonblocking(writer)?);
        theirs.push(reader);
    }
    for (wanted, end) in [(wanted.stdout, &mut ends.stdout), (wanted.stderr, &mut ends.stderr)] {
        if wanted {
            let (reader, writer) = pipe()?;
            *end = Some(nonblocking(reader)?);
            theirs.push(writer);
        }
    }
    Ok((ends, theirs))
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    // An administrator may have set limits; then it is as small as any.
    let _ = fcntl_setpipe_size(&writer, PIPE);
    Ok((reader, writer))
}

/// A descriptor each for reading and writing: an event loop watches each for one of them.
fn terminal_ends(master: OwnedFd, wanted: Wanted) -> io::Result<Ends> {
    let master = nonblocking(master)?;
    let stdin = wanted.stdin.then(|| master.try_clone()).transpose()?;
    let stdout = wanted.stdout.then_some(master);
    Ok(Ends { stdin, stdout, stderr: None })
}

fn nonblocking(fd: OwnedFd) -> io::Result<OwnedFd> {
    let flags = fcntl_getfl(&fd)?;
    fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
    Ok(fd)
}
