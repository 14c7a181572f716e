//! SPDY/3.1 as Kubernetes' clients speak it, the server's half.
//!
//! Owns sessions: one connection each, on which the peer opens streams. Doesn't know what the streams are for, nor how the connection
//! came about (an HTTP upgrade, a WebSocket that tunnels).
//!
//! | file | owns |
//! |---|---|
//! | [`limits`] | what a session may cost; why there is no flow control |
//! | [`frame`], [`headers`], [`dictionary`] | the wire |
//! | [`state`], [`outbox`] | streams, what is unread and unsent: no I/O |
//! | [`driver`] | the task with the connection |
//! | [`stream`] | the handles |
//!
//! Invariants, whatever the peer sends: memory is bounded by [`Limits`]; nothing is allocated by a number that the peer names; the
//! session ends when the peer goes, breaks the rules, or is silent for too long, and every handle finds out.

mod dictionary;
mod driver;
mod frame;
mod headers;
mod limits;
mod outbox;
mod state;
mod stream;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use {
    headers::Headers,
    limits::Limits,
    stream::{Incoming, Reader, Stream, Writer},
};

use driver::{Driver, Shared};
use std::sync::Arc;
use std::task::Poll;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;

/// Speaks SPDY/3.1 on a connection whose peer opens the streams. Must be called within a tokio runtime.
pub(crate) fn serve<IO>(io: IO, limits: Limits) -> Session
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let shared = Arc::new(Shared::new(limits));
    let driven = Arc::clone(&shared);
    let task = tokio::spawn(async move {
        let end = Driver::new(io, limits, &driven).run().await;
        tracing::debug!(%end, "SPDY session");
        driven.end();
    });
    Session { shared, task }
}

/// A connection and its streams; dropping it ends both at once.
#[derive(Debug)]
pub(crate) struct Session {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Session {
    /// The next stream that the peer opens; `None` when there will be no more. May be dropped at its await.
    pub(crate) async fn accept(&mut self) -> Option<Incoming> {
        std::future::poll_fn(|cx| match self.shared.lock().next_arrival(cx.waker()) {
            Ok(Some((id, headers))) => {
                Poll::Ready(Some(Incoming::new(Arc::clone(&self.shared), id, headers)))
            }
            Ok(None) => Poll::Pending,
            Err(()) => Poll::Ready(None),
        })
        .await
    }

    /// Ends the session from elsewhere.
    pub(crate) fn closer(&self) -> Closer {
        Closer { shared: Arc::clone(&self.shared) }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.end();
    }
}

/// Ends a session in good order.
#[derive(Debug, Clone)]
pub(crate) struct Closer {
    shared: Arc<Shared>,
}

impl Closer {
    /// Sends what is written by now, says GOAWAY, shuts our half, and waits for the peer to shut its own, for as long as
    /// [`Limits::idle`]. Nothing can be written and no stream opened from here on. Dropping the future stops the waiting and not the
    /// closing; dropping the session does.
    pub(crate) async fn close(&self) {
        self.shared.lock().close();
        self.shared.ended.cancelled().await;
    }
}
