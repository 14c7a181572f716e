//! A WebSocket as a connection: what its binary messages carry, one after the other.
//!
//! Where messages begin and end means nothing. Text is no part of it. Our half ends with a Close frame that says "normal", which is what
//! the clients take for an end rather than a failure.

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Sink, Stream};
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

/// Bytes of one message. A client writes one for each piece it is given, which is 32 KiB; it is held whole here.
const MESSAGE: usize = 1024 * 1024;
/// Bytes of one message of ours.
const WRITE: usize = 128 * 1024;

/// What a WebSocket for port forwarding is to be opened with.
pub(crate) fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(64 * 1024)
        // Messages are large and there is nothing to be gained by gathering them once more.
        .write_buffer_size(0)
        .max_write_buffer_size(4 * MESSAGE)
        .max_message_size(Some(MESSAGE))
        .max_frame_size(Some(MESSAGE))
}

/// The connection.
#[derive(Debug)]
pub(crate) struct Tunnel<IO> {
    socket: WebSocketStream<IO>,
    message: Bytes,
    closing: Closing,
}

#[derive(Debug, PartialEq, Eq)]
enum Closing {
    No,
    /// The Close frame is on its way.
    Said,
}

impl<IO> Tunnel<IO> {
    pub(crate) fn new(socket: WebSocketStream<IO>) -> Self {
        Self { socket, message: Bytes::new(), closing: Closing::No }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Tunnel<IO> {
    fn socket(&mut self) -> Pin<&mut WebSocketStream<IO>> {
        Pin::new(&mut self.socket)
    }

    fn send(&mut self, cx: &mut Context<'_>, message: Bytes) -> Poll<io::Result<usize>> {
        let length = message.len();
        match self.socket().start_send(Message::Binary(message)) {
            Ok(()) => {}
            Err(error) => return Poll::Ready(Err(failed(error))),
        }
        // On its way at once; that not all of it is yet is for the next write to wait for.
        match self.socket().poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(failed(error))),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(length)),
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tunnel<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.message.is_empty() {
            match ready!(self.socket().poll_next(cx)) {
                Some(Ok(Message::Binary(message))) => self.message = message,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Ok(Message::Text(_) | Message::Frame(_))) => {
                    let error =
                        io::Error::new(ErrorKind::InvalidData, "a message that is not binary");
                    return Poll::Ready(Err(error));
                }
                Some(Err(error)) => return Poll::Ready(Err(failed(error))),
            }
        }
        let piece = self.message.get(..into.remaining()).unwrap_or(&self.message);
        into.put_slice(piece);
        let count = piece.len();
        self.message.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Tunnel<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.socket().poll_ready(cx)).map_err(failed)?;
        let mut message = BytesMut::with_capacity(WRITE);
        for slice in slices {
            let room = WRITE.saturating_sub(message.len());
            message.extend_from_slice(slice.get(..room).unwrap_or(slice));
        }
        self.send(cx, message.freeze())
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket().poll_flush(cx).map_err(failed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.closing == Closing::No {
            match ready!(self.socket().poll_ready(cx)) {
                Ok(()) => {}
                Err(error) => return Poll::Ready(ended(error)),
            }
            self.closing = Closing::Said;
            if let Err(error) = self.socket().start_send(Message::Close(Some(normal()))) {
                return Poll::Ready(ended(error));
            }
        }
        match ready!(self.socket().poll_flush(cx)) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(ended(error)),
        }
    }
}

/// "Nothing more, and nothing wrong."
pub(super) fn normal() -> CloseFrame {
    CloseFrame { code: CloseCode::Normal, reason: "".into() }
}

/// A peer that has closed first has closed.
fn ended(error: Error) -> io::Result<()> {
    if matches!(error, Error::ConnectionClosed | Error::AlreadyClosed) {
        return Ok(());
    }
    Err(failed(error))
}

fn failed(error: Error) -> io::Error {
    if let Error::Io(error) = error {
        return error;
    }
    io::Error::new(ErrorKind::InvalidData, error)
}
