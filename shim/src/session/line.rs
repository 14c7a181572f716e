//! A session's connection: messages and descriptors in, messages out.

use davit_proto::session::{FrameError, Frames, OPENING_LIMIT, REQUEST_LIMIT, encode};
use davit_proto::shim::{SessionAnswer, SessionRequest, session_answer, session_request};
use davit_sys::passing;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;
use tokio::net::UnixStream;

/// A message of the shim's fits the socket's buffer many times over, so that the daemon's slowness is no reason to wait.
const SAY_LIMIT: Duration = Duration::from_secs(5);

/// Why there is no next message.
#[derive(Debug, thiserror::Error)]
pub(super) enum LineError {
    #[error("the connection ended")]
    End,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Line {
    stream: UnixStream,
    frames: Frames,
    descriptors: Vec<OwnedFd>,
    /// Some descriptors did not arrive.
    pub(super) truncated: bool,
}

impl Line {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, frames: Frames::default(), descriptors: Vec::new(), truncated: false }
    }

    /// The first message. What comes with it is kept for [`Self::take_descriptors`].
    pub(super) async fn opening(&mut self) -> Result<SessionRequest, LineError> {
        loop {
            if let Some(request) = self.frames.next(OPENING_LIMIT)? {
                return Ok(request);
            }
            let mut buffer = vec![0; 16 * 1024];
            let received = passing::receive(&self.stream, &mut buffer).await?;
            if received.bytes == 0 {
                return Err(LineError::End);
            }
            // Surplus ones close here: no more are kept than one call brings, one more than a message may have.
            self.descriptors.extend(received.descriptors);
            self.descriptors.truncate(passing::MOST);
            self.truncated |= received.truncated;
            self.frames.feed(buffer.get(..received.bytes).unwrap_or_default());
        }
    }

    pub(super) fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.descriptors)
    }

    /// The next message after the first; descriptors that come with it are closed. Nothing is lost if the future is dropped.
    pub(super) async fn next(&mut self) -> Result<Option<session_request::Kind>, LineError> {
        loop {
            if let Some(request) = self.frames.next::<SessionRequest>(REQUEST_LIMIT)? {
                return Ok(request.kind);
            }
            let mut buffer = [0; 256];
            let received = passing::receive(&self.stream, &mut buffer).await?;
            if received.bytes == 0 {
                return Err(LineError::End);
            }
            self.frames.feed(buffer.get(..received.bytes).unwrap_or_default());
        }
    }

    /// Sends a message. That nobody is there to hear it shows at the next read.
    pub(super) async fn say(&self, kind: session_answer::Kind) {
        self.hand_over(kind, &[]).await;
    }

    /// The same, with descriptors.
    pub(super) async fn hand_over(
        &self,
        kind: session_answer::Kind,
        descriptors: &[BorrowedFd<'_>],
    ) {
        let bytes = encode(&SessionAnswer { kind: Some(kind) });
        let sending = passing::send(&self.stream, &bytes, descriptors);
        let _ = tokio::time::timeout(SAY_LIMIT, sending).await;
    }
}
