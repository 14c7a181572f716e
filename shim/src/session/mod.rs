//! Sessions: connections that carry no calls, but one command's or one attached client's streams.
//!
//! ```text
//! first byte 0 ─► opening message, descriptors ─► checked ─► exec │ attach ─► Opened ─► … ─► Exit, Detached, or hung up
//!                                                    └─ Refused
//! ```
//!
//! Owns the beginning, the bound on how many there are, and the last word. Each is a task of its own, which ends with what it began.

mod attach;
mod exec;
mod line;

use crate::error::{Invalid, Refusal, chain};
use crate::exec::ExecError;
use crate::pod::Pod;
use crate::service::ToStatus;
use davit_proto::session::{DESCRIPTORS, FrameError};
use davit_proto::shim::session_answer::Kind;
use davit_proto::shim::{Refused, session_request};
use line::{Line, LineError};
use rustix::fs::{FileType, fstat};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;

/// Sessions at a time. Each holds a few descriptors, of which a process may have 1024.
pub(crate) const SESSIONS: usize = 128;
/// How long the opening message may take: the daemon sends it at once.
const OPENING_TIME: Duration = Duration::from_secs(10);

/// Why a session does not come to be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Exec(#[from] ExecError),
    #[error("open a session")]
    Frame(#[from] FrameError),
    #[error("open a session: {0}")]
    Unknown(&'static str),
    #[error("attach to container {id}: {step}")]
    Attach { id: String, step: &'static str, source: io::Error },
}

/// Serves one session from its opening message to its end.
pub(crate) async fn serve(pod: &Arc<Pod>, stream: UnixStream) {
    let mut line = Line::new(stream);
    let opening = match tokio::time::timeout(OPENING_TIME, line.opening()).await {
        Ok(Ok(opening)) => opening,
        // It went away, or says nothing.
        Ok(Err(LineError::End | LineError::Io(_))) | Err(_) => return,
        Ok(Err(LineError::Frame(error))) => return refuse(&line, &error.into()).await,
    };
    let Ok(_place) = pod.sessions.try_acquire() else {
        return refuse(&line, &Refusal::Sessions(SESSIONS).into()).await;
    };
    let served = match opening.kind {
        Some(session_request::Kind::Exec(request)) => exec::serve(pod, &mut line, request).await,
        Some(session_request::Kind::Attach(request)) => {
            attach::serve(pod, &mut line, request).await
        }
        Some(session_request::Kind::Resize(_)) => {
            Err(OpenError::Unknown("a size is no opening message"))
        }
        None => Err(OpenError::Unknown("this shim does not know its kind")),
    };
    pod.worked();
    match served {
        Ok(Some(last)) => line.say(last).await,
        Ok(None) => {}
        Err(error) => refuse(&line, &error).await,
    }
}

async fn refuse(line: &Line, error: &OpenError) {
    let refused = Refused { code: i32::from(error.code()), message: chain(error) };
    line.say(Kind::Refused(refused)).await;
}

/// The descriptors of an opening message, for those streams that are wanted.
fn descriptors(
    line: &mut Line,
    wanted: [bool; DESCRIPTORS],
) -> Result<[Option<OwnedFd>; DESCRIPTORS], Invalid> {
    let invalid = |count: usize, reason| Invalid::new("descriptors", count.to_string(), reason);
    let came = line.take_descriptors();
    let count = came.len();
    if line.truncated {
        return Err(invalid(count, "more came than a message may have, or than the shim may open"));
    }
    if count != wanted.into_iter().filter(|wanted| *wanted).count() {
        return Err(invalid(count, "not as many as the message speaks of"));
    }
    let is_pipe = |fd: &OwnedFd| {
        fstat(fd).is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Fifo)
    };
    if !came.iter().all(is_pipe) {
        return Err(invalid(count, "one of them is no pipe"));
    }
    let mut came = came.into_iter();
    Ok(wanted.map(|wanted| if wanted { came.next() } else { None }))
}
