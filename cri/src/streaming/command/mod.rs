//! remotecommand: the protocols by which clients of Exec and Attach see a process.
//!
//! | file | owns |
//! |---|---|
//! | [`spdy`] | versions 1 to 4 over SPDY: a stream each for input, output, errors, sizes and the end |
//! | [`websocket`] | versions 1, 4 and 5 over WebSocket: a channel each in one sequence of messages |
//! | [`pump`] | bytes from the process to the client, and when there are no more |
//! | [`resize`] | the terminal's size |
//! | [`status`] | how it ended |
//!
//! Invariants, whatever the protocol: nothing is read from one side that the other has no room for, so a side that stops reading stops the
//! other, and nothing grows; all of the output is sent before the end is told, and the end before the connection is closed; a client
//! that goes takes its process with it.

pub(crate) mod pump;
pub(crate) mod resize;
pub(crate) mod spdy;
pub(crate) mod status;
pub(crate) mod websocket;

use super::activity::Activity;
use super::backend::{Backend, Session};
use super::grant::{Attach, Exec, Kind, OnEof, Wanted};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long nothing may happen on a connection that is being closed: what has been sent may still be on its way to a slow client.
const CLOSING: Duration = Duration::from_secs(10);

/// A process that begins when its streams are there.
pub(crate) struct Command {
    kind: Kind,
    wanted: Wanted,
    on_eof: OnEof,
    start: Pin<Box<dyn Future<Output = Result<Session, String>> + Send>>,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Command").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Command {
    /// A command to run.
    pub(crate) fn exec(backend: Arc<dyn Backend>, exec: Exec) -> Self {
        let wanted = exec.wanted;
        let start = Box::pin(async move { backend.exec(&exec).await });
        Self { kind: Kind::Exec, wanted, on_eof: OnEof::Stay, start }
    }

    /// A process to attach to.
    pub(crate) fn attach(backend: Arc<dyn Backend>, attach: Attach) -> Self {
        let (wanted, on_eof) = (attach.wanted, attach.on_eof);
        let start = Box::pin(async move { backend.attach(&attach).await });
        Self { kind: Kind::Attach, wanted, on_eof, start }
    }
}

/// Who ended the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Eof {
    /// There is no more.
    Client,
    /// It reads no more.
    Process,
}

/// What a connection has to put up with.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    /// How long the client may take to open its streams.
    pub(crate) creation: Duration,
    /// How long nothing may happen.
    pub(crate) idle: Duration,
    /// When something happened last.
    pub(crate) activity: Activity,
    /// The daemon's end.
    pub(crate) end: CancellationToken,
}
