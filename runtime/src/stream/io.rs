//! The ends of pipes and terminals that a session's client reads and writes.

use super::line::{Hold, Verdict};
use davit_sys::readiness;
use rustix::io::Errno;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What may still be read once the time to drain is over: as much as the biggest pipe holds, so that a child that goes on writing
/// cannot keep the stream open.
const LAST_LOOK: usize = 1 << 20;

/// What the client writes to. Dropping it, or shutting it down, ends a pipe; a terminal has no such end, and only the end of the
/// session hangs it up. Writing fails with `BrokenPipe` if nobody reads there: the process has closed it or ended.
#[derive(Debug)]
pub struct Input {
    fd: Option<AsyncFd<OwnedFd>>,
    _hold: Hold,
}

impl Input {
    /// `fd` must not block.
    pub(super) fn new(fd: OwnedFd, hold: Hold) -> io::Result<Self> {
        Ok(Self { fd: Some(readiness::writable(fd)?), _hold: hold })
    }
}

impl AsyncWrite for Input {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Some(fd) = &self.fd else { return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) };
        loop {
            let mut guard = ready!(fd.poll_write_ready(context))?;
            match guard.try_io(|fd| write_now(fd.get_ref(), slices)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.fd = None;
        Poll::Ready(Ok(()))
    }
}

fn write_now(fd: &OwnedFd, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    match rustix::io::writev(fd, slices) {
        // A terminal whose other side is closed.
        Err(Errno::IO) => Err(io::ErrorKind::BrokenPipe.into()),
        other => Ok(other?),
    }
}

/// What the client reads from. Ends with the stream; or, if a child of the command keeps the stream open, some time after the
/// command has ended.
pub struct Output {
    fd: AsyncFd<OwnedFd>,
    over: Over,
    _hold: Hold,
}

/// Whether the session has ended so long ago that nobody waits for more.
enum Over {
    NotYet(Pin<Box<dyn Future<Output = ()> + Send + Sync>>),
    /// So much may still be read of what is there.
    Since {
        left: usize,
    },
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output").field("fd", &self.fd).finish_non_exhaustive()
    }
}

impl Output {
    /// `fd` must not block. Reading ends at the latest `drain` after the verdict.
    pub(super) fn new(
        fd: OwnedFd,
        hold: Hold,
        verdict: Verdict,
        drain: Duration,
    ) -> io::Result<Self> {
        let over = async move {
            verdict.known().await;
            tokio::time::sleep(drain).await;
        };
        Ok(Self { fd: readiness::readable(fd)?, over: Over::NotYet(Box::pin(over)), _hold: hold })
    }
}

impl AsyncRead for Output {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Over::NotYet(over) = &mut this.over
            && over.as_mut().poll(context).is_ready()
        {
            this.over = Over::Since { left: LAST_LOOK };
        }
        if let Over::Since { left } = &mut this.over {
            return Poll::Ready(last_look(this.fd.get_ref(), left, buffer));
        }
        loop {
            let mut guard = ready!(this.fd.poll_read_ready(context))?;
            match guard.try_io(|fd| read_now(fd.get_ref(), buffer)) {
                Ok(result) => return Poll::Ready(result.map(drop)),
                Err(_would_block) => {}
            }
        }
    }
}

fn last_look(fd: &OwnedFd, left: &mut usize, buffer: &mut ReadBuf<'_>) -> io::Result<()> {
    if *left == 0 {
        return Ok(());
    }
    match read_now(fd, buffer) {
        Ok(read) => *left = left.saturating_sub(read),
        // Nothing is there, and no more is waited for.
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => *left = 0,
        Err(e) => return Err(e),
    }
    Ok(())
}

fn read_now(fd: &OwnedFd, buffer: &mut ReadBuf<'_>) -> io::Result<usize> {
    let read = davit_sys::terminal::read(|| rustix::io::read(fd, buffer.initialize_unfilled()))?;
    buffer.advance(read);
    Ok(read)
}
