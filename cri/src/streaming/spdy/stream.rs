//! The handles of one stream: offered, taken, and its two directions.
//!
//! Each holds the stream's place in the session; the last one that goes frees it, and tells the peer if that was no proper end.

use super::driver::Shared;
use super::frame::Reason;
use super::headers::Headers;
use super::state::{Failure, Put, Taken};
use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf,
};

/// Pieces for one write: more than a pipe holds.
const PIECES: usize = 16;

/// A stream that the peer opened and that waits for an answer. Dropping it refuses it.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// What the peer opened it with.
    pub(crate) headers: Headers,
    offer: Offer,
}

/// What is left to do if nobody answers.
#[derive(Debug)]
struct Offer {
    shared: Arc<Shared>,
    id: u32,
    answered: Answered,
}

#[derive(Debug, PartialEq, Eq)]
enum Answered {
    Yes,
    No,
}

impl Drop for Offer {
    fn drop(&mut self) {
        if self.answered == Answered::No {
            self.shared.lock().let_go(self.id, Reason::Refused);
        }
    }
}

impl Incoming {
    pub(super) fn new(shared: Arc<Shared>, id: u32, headers: Headers) -> Self {
        let answered = Answered::No;
        Self { headers, offer: Offer { shared, id, answered } }
    }

    /// The stream's number: odd, and higher than those of all before it.
    pub(crate) fn id(&self) -> u32 {
        self.offer.id
    }

    /// Takes the stream: SYN_REPLY.
    pub(crate) fn accept(mut self) -> Stream {
        self.offer.answered = Answered::Yes;
        self.offer.shared.lock().accept(self.offer.id);
        let shared = Arc::clone(&self.offer.shared);
        let id = self.offer.id;
        Stream {
            reader: Reader { shared: Arc::clone(&shared), id, piece: Bytes::new() },
            writer: Writer { shared, id },
        }
    }

    /// Does not: RST_STREAM, refused.
    pub(crate) fn refuse(self) {
        drop(self);
    }
}

/// A stream in use.
#[derive(Debug)]
pub(crate) struct Stream {
    reader: Reader,
    writer: Writer,
}

impl Stream {
    /// Its two directions, which end each for itself.
    pub(crate) fn split(self) -> (Reader, Writer) {
        (self.reader, self.writer)
    }

    /// Resolves when the stream can't be used any more, also for somebody who is neither reading nor writing just then. Holds nothing.
    /// One such future at a time is told.
    pub(crate) fn broken(&self) -> impl Future<Output = ()> + Send + use<> {
        let shared = Arc::clone(&self.reader.shared);
        let id = self.reader.id;
        std::future::poll_fn(move |cx| match shared.lock().watch(id, cx.waker()) {
            Some(_) => Poll::Ready(()),
            None => Poll::Pending,
        })
    }

    /// Gives it up, with what was written to it and not yet sent: RST_STREAM, cancelled.
    pub(crate) fn reset(self) {
        self.writer.shared.lock().reset(self.writer.id);
    }
}

/// What the peer writes. At its end when the peer has ended its half; an error when the stream was reset or the connection lost first.
/// Dropping it lets go of what comes: the peer is not held up by it.
#[derive(Debug)]
pub(crate) struct Reader {
    shared: Arc<Shared>,
    id: u32,
    piece: Bytes,
}

impl Reader {
    /// Passes on everything that the peer writes, straight from the buffers that the session has read into: several pieces at a time, as a
    /// frame of the clients' is an eighth of what a pipe holds.
    ///
    /// # Errors
    /// Those of both sides.
    pub(crate) async fn pass_on(&mut self, into: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let mut pieces = VecDeque::with_capacity(PIECES);
        while !self.fill_buf().await?.is_empty() {
            pieces.push_back(std::mem::take(&mut self.piece));
            while !pieces.is_empty() {
                self.more(&mut pieces);
                write_some(&mut pieces, into).await?;
            }
        }
        Ok(())
    }

    /// What has come meanwhile, for the same write.
    fn more(&self, pieces: &mut VecDeque<Bytes>) {
        let mut state = self.shared.lock();
        while pieces.len() < PIECES
            && let Some(piece) = state.read_now(self.id)
        {
            pieces.push_back(piece);
        }
    }
}

/// Writes what `into` takes at once, and drops that from the front.
async fn write_some(
    pieces: &mut VecDeque<Bytes>,
    into: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut slices = [IoSlice::new(&[]); PIECES];
    let mut count = 0;
    for (slot, piece) in slices.iter_mut().zip(pieces.iter()) {
        *slot = IoSlice::new(piece);
        count += 1;
    }
    let slices = slices.get(..count).unwrap_or_default();
    let written = into.write_vectored(slices).await?;
    if written == 0 {
        return Err(io::ErrorKind::WriteZero.into());
    }
    let mut left = written;
    while let Some(piece) = pieces.front_mut() {
        let amount = left.min(piece.len());
        piece.advance(amount);
        left = left.saturating_sub(amount);
        if !piece.is_empty() {
            break;
        }
        pieces.pop_front();
    }
    Ok(())
}

impl AsyncBufRead for Reader {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        if this.piece.is_empty() {
            let taken = this.shared.lock().read(this.id, cx.waker());
            match taken {
                Taken::Bytes(piece) => this.piece = piece,
                Taken::End => {}
                Taken::Failed(failure) => return Poll::Ready(Err(failed(failure))),
                Taken::Later => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(&this.piece))
    }

    fn consume(self: Pin<&mut Self>, amount: usize) {
        let this = self.get_mut();
        this.piece.advance(amount.min(this.piece.len()));
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let piece = ready!(self.as_mut().poll_fill_buf(cx))?;
        let piece = piece.get(..into.remaining()).unwrap_or(piece);
        into.put_slice(piece);
        let amount = piece.len();
        self.consume(amount);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.lock().drop_reader(self.id);
    }
}

/// What this side writes. Shutting it down ends this half. It goes out by itself; flushing waits for nothing.
#[derive(Debug)]
pub(crate) struct Writer {
    shared: Arc<Shared>,
    id: u32,
}

impl AsyncWrite for Writer {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        match self.shared.lock().write(self.id, bytes, cx.waker()) {
            Put::Bytes(count) => Poll::Ready(Ok(count)),
            Put::Failed(failure) => Poll::Ready(Err(failed(failure))),
            Put::Finished => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Put::Later => Poll::Pending,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.shared.lock().finish(self.id).map_err(failed))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.lock().drop_writer(self.id);
    }
}

fn failed(failure: Failure) -> io::Error {
    match failure {
        Failure::Reset => io::ErrorKind::ConnectionReset.into(),
        Failure::Gone => io::ErrorKind::ConnectionAborted.into(),
    }
}
