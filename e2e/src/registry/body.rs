//! An answer's body: a part of a file, or bytes, in chunks, as well or as badly as a fault wants it.
//!
//! Owns the order of what is sent: the file's part, with the last byte changed if so wanted, then the padding. Then it
//! ends, breaks off or hangs ([`End`]).

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::fs::File;
use std::io::{self, Read as _};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// Bytes per frame.
const CHUNK: u64 = 256 << 10;
/// Between the last byte and a cut.
const FLUSH: Duration = Duration::from_millis(50);

/// What comes after the last byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The end.
    Clean,
    /// An error, which cuts the connection, once what was sent is on its way.
    Cut,
    /// The same, now.
    Torn,
    /// Nothing, for ever.
    Hang,
}

/// Where bytes come from.
#[derive(Debug)]
pub(super) enum Source {
    /// These.
    Bytes(Bytes),
    /// A file, from where it is.
    File(File),
}

/// A body.
#[derive(Debug)]
pub(super) struct Reply {
    source: Source,
    /// Bytes of the source still to send.
    left: u64,
    /// Spaces to send after them.
    padding: u64,
    /// Bit flipped in the first byte that is sent.
    flip: bool,
    /// What `Content-Length` says.
    announced: u64,
    pace: Option<Duration>,
    chunk: u64,
    waiting: Option<Pin<Box<tokio::time::Sleep>>>,
    end: End,
}

impl Reply {
    pub(super) fn bytes(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Self::new(Source::Bytes(bytes), length)
    }

    pub(super) fn file(file: File, length: u64) -> Self {
        Self::new(Source::File(file), length)
    }

    fn new(source: Source, length: u64) -> Self {
        Self {
            source,
            left: length,
            padding: 0,
            flip: false,
            announced: length,
            pace: None,
            chunk: CHUNK,
            waiting: None,
            end: End::Clean,
        }
    }

    /// What `Content-Length` has to say.
    pub(super) fn announced(&self) -> u64 {
        self.announced
    }

    /// Changes one bit of the first byte.
    pub(super) fn flipped(mut self) -> Self {
        self.flip = true;
        self
    }

    /// Adds spaces.
    pub(super) fn padded(mut self, by: u64) -> Self {
        self.padding = by;
        self.announced = self.announced.saturating_add(by);
        self
    }

    /// Ends so after half of it.
    pub(super) fn halved(mut self, end: End) -> Self {
        self.left /= 2;
        self.end = end;
        self
    }

    /// Sends so many bytes per second.
    pub(super) fn slowed(mut self, per_second: u64) -> Self {
        self.chunk = (per_second / 10).max(1);
        self.pace = Some(Duration::from_millis(100));
        self
    }

    fn next_chunk(&mut self) -> io::Result<Bytes> {
        let want = self.left.min(self.chunk);
        let size = usize::try_from(want).unwrap_or(usize::MAX);
        let chunk = match &mut self.source {
            Source::Bytes(bytes) => bytes.split_to(size.min(bytes.len())),
            Source::File(file) => {
                let mut buffer = vec![0; size];
                file.read_exact(&mut buffer)?;
                Bytes::from(buffer)
            }
        };
        self.left = self.left.saturating_sub(want);
        if !std::mem::take(&mut self.flip) {
            return Ok(chunk);
        }
        let mut changed = chunk.to_vec();
        if let Some(byte) = changed.first_mut() {
            *byte ^= 1;
        }
        Ok(Bytes::from(changed))
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if this.end == End::Cut && this.left == 0 {
            this.end = End::Torn;
            // An error at once would take the bytes before it along: they are still in the connection's buffer.
            this.waiting = Some(Box::pin(tokio::time::sleep(FLUSH)));
        }
        if let Some(waiting) = &mut this.waiting {
            std::task::ready!(waiting.as_mut().poll(context));
            this.waiting = None;
        }
        if this.left > 0 {
            this.waiting = this.pace.map(|pace| Box::pin(tokio::time::sleep(pace)));
            return Poll::Ready(Some(this.next_chunk().map(Frame::data)));
        }
        if this.padding > 0 {
            let size = this.padding.min(this.chunk);
            this.padding = this.padding.saturating_sub(size);
            let spaces = vec![b' '; usize::try_from(size).unwrap_or(usize::MAX)];
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from(spaces)))));
        }
        match this.end {
            End::Clean => Poll::Ready(None),
            End::Cut | End::Torn => Poll::Ready(Some(Err(io::Error::other("cut off on purpose")))),
            End::Hang => Poll::Pending,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.announced)
    }
}
