//! The connection of one session to the shim, once it is open.
//!
//! Owns the task that speaks on it. Sizes go through a cell that holds the latest, so that a flood of them is one message at a time; the
//! verdict comes through another, which everybody may look at. The task ends with the verdict, or when the last [`Hold`] is dropped,
//! and with it the connection.

use super::{Ended, Size, StreamError};
use davit_proto::session::{ANSWER_LIMIT, FrameError, Frames, encode};
use davit_proto::shim::{Resize, SessionAnswer, SessionRequest, session_answer, session_request};
use davit_sys::passing;
use std::io;
use std::os::fd::OwnedFd;
use tokio::net::UnixStream;
use tokio::sync::watch;

/// A shim reads sizes at once; one that does not for so long hangs.
const SEND_LIMIT: std::time::Duration = std::time::Duration::from_secs(10);

/// Keeps the session up while it lives.
#[derive(Debug, Clone)]
pub(super) struct Hold {
    sizes: watch::Sender<Option<Size>>,
}

/// How the session ended, once that is known.
#[derive(Debug, Clone)]
pub(super) struct Verdict {
    cell: watch::Receiver<Option<Result<Ended, StreamError>>>,
}

impl Verdict {
    /// Answers once it is known, or never will be.
    pub(super) async fn known(mut self) {
        drop(self.cell.wait_for(Option::is_some).await);
    }
}

/// What a client can do with a session besides reading and writing.
#[derive(Debug)]
pub struct Control {
    hold: Hold,
    verdict: Verdict,
}

impl Control {
    pub(super) fn new(hold: Hold, verdict: Verdict) -> Self {
        Self { hold, verdict }
    }

    /// What changes the terminal's size. It keeps the session up like every other part.
    #[must_use]
    pub fn resizer(&self) -> Resizer {
        Resizer { hold: self.hold.clone() }
    }

    /// How the session ended, once it has. Output may still be there to be read. Nothing is lost if the future is dropped, and who
    /// asks again gets the same answer.
    ///
    /// # Errors
    /// [`StreamError`] if it is not known.
    pub async fn ended(&mut self) -> Result<Ended, StreamError> {
        let found = self.verdict.cell.wait_for(Option::is_some).await;
        match found.ok().and_then(|cell| cell.clone()) {
            Some(verdict) => verdict,
            None => Err(lost("the daemon is ending")),
        }
    }
}

/// Changes the size of a session's terminal. Clones are the same.
#[derive(Debug, Clone)]
pub struct Resizer {
    hold: Hold,
}

impl Resizer {
    /// Asks for a size: the latest wins. Never waits. A size of 0 is ignored, and so is one where there is no terminal.
    pub fn resize(&self, size: Size) {
        if size.width > 0 && size.height > 0 {
            self.hold.sizes.send_replace(Some(size));
        }
    }
}

/// Begins to speak on an open session's connection; `frames` holds what was read of it.
pub(super) fn spawn(socket: UnixStream, frames: Frames) -> (Hold, Verdict) {
    let (sizes, wanted) = watch::channel(None);
    let (tell, cell) = watch::channel(None);
    tokio::spawn(async move {
        if let Some(verdict) = converse(&socket, frames, wanted).await {
            tell.send_replace(Some(verdict));
        }
    });
    (Hold { sizes }, Verdict { cell })
}

/// Until the shim's last word, or until everybody has gone: then there is nobody to tell.
async fn converse(
    socket: &UnixStream,
    mut frames: Frames,
    mut sizes: watch::Receiver<Option<Size>>,
) -> Option<Result<Ended, StreamError>> {
    loop {
        tokio::select! {
            answer = next_answer(socket, &mut frames) => match answer {
                Ok((answer, _)) => if let Some(ended) = last_word(answer) {
                    return Some(Ok(ended));
                },
                Err(error) => return Some(Err(lost(&error.to_string()))),
            },
            changed = sizes.changed() => {
                changed.ok()?;
                let size = *sizes.borrow_and_update();
                if let Some(size) = size && let Err(error) = send_size(socket, size).await {
                    return Some(Err(lost(&error.to_string())));
                }
            }
        }
    }
}

async fn send_size(socket: &UnixStream, Size { width, height }: Size) -> io::Result<()> {
    let resize = Resize { width: width.into(), height: height.into() };
    let request = SessionRequest { kind: Some(session_request::Kind::Resize(resize)) };
    let bytes = encode(&request);
    match tokio::time::timeout(SEND_LIMIT, passing::send(socket, &bytes, &[])).await {
        // The shim has ended the session: its last word is there to be read.
        Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Ok(sent) => sent,
        Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
    }
}

fn last_word(answer: SessionAnswer) -> Option<Ended> {
    use session_answer::Kind;
    match answer.kind? {
        Kind::Exit(exit) => Some(Ended::Exited { code: exit.code, signal: exit.signal }),
        Kind::Detached(detached) => Some(Ended::Detached { reason: detached.reason }),
        Kind::Opened(_) | Kind::Refused(_) => None,
    }
}

fn lost(reason: &str) -> StreamError {
    StreamError::Lost { reason: reason.to_owned() }
}

/// Why the shim's next message can't be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum AnswerError {
    #[error("the connection ended")]
    End,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// The shim's next message, and the descriptors that came with it. Nothing but descriptors is lost if the future is dropped.
pub(super) async fn next_answer(
    socket: &UnixStream,
    frames: &mut Frames,
) -> Result<(SessionAnswer, Vec<OwnedFd>), AnswerError> {
    let mut descriptors = Vec::new();
    loop {
        if let Some(answer) = frames.next(ANSWER_LIMIT)? {
            return Ok((answer, descriptors));
        }
        let mut buffer = [0; 512];
        let received = passing::receive(socket, &mut buffer).await?;
        if received.bytes == 0 {
            return Err(AnswerError::End);
        }
        descriptors.extend(received.descriptors);
        descriptors.truncate(1);
        frames.feed(buffer.get(..received.bytes).unwrap_or_default());
    }
}
