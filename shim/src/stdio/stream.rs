//! Reading and writing descriptors without waiting: pipes and terminals.
//!
//! Buffers live only from one read to its handing on: a pod whose containers are quiet holds none.

use super::log::{Log, Source};
use super::tee::Tee;
use davit_sys::readiness;
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

/// How much is read at once.
pub(crate) const CHUNK: usize = 16 * 1024;

/// A pipe: the end to read from, which does not block, and the end to write to, which does.
pub(crate) fn pipe_to_read() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((nonblocking(reader)?, writer))
}

/// Makes reads from a descriptor answer at once.
pub(crate) fn nonblocking(fd: OwnedFd) -> io::Result<OwnedFd> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?;
    Ok(fd)
}

/// A descriptor that is read from as bytes come.
#[derive(Debug)]
pub(crate) struct Reader {
    fd: AsyncFd<OwnedFd>,
}

impl Reader {
    /// `fd` must not block.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { fd: readiness::readable(fd)? })
    }

    /// What is there, once something is; `None` at the end. Nothing is lost if the future is dropped.
    pub(crate) async fn read(&self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let mut guard = self.fd.readable().await?;
            if let Ok(result) = guard.try_io(|fd| Ok(read_now(fd.get_ref())?)) {
                return result;
            }
        }
    }

    /// What is there now, which may be nothing; `None` at the end.
    pub(crate) fn read_rest(&self) -> Result<Option<Vec<u8>>, Errno> {
        match read_now(self.fd.get_ref()) {
            Err(Errno::WOULDBLOCK) => Ok(Some(Vec::new())),
            other => other,
        }
    }
}

/// A descriptor that is written to as it takes bytes.
#[derive(Debug)]
pub(crate) struct Writer {
    fd: AsyncFd<OwnedFd>,
}

impl Writer {
    /// `fd` must not block.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { fd: readiness::writable(fd)? })
    }

    /// Writes all of it. If the future is dropped, some of it may be written.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut guard = self.fd.writable().await?;
            let written = guard.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), bytes)?));
            match written {
                Ok(Ok(written)) => bytes = bytes.get(written..).unwrap_or_default(),
                Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(e)) => return Err(e),
                Err(_would_block) => {}
            }
        }
        Ok(())
    }
}

/// What is there now; `None` at the end.
pub(super) fn read_now(fd: &OwnedFd) -> Result<Option<Vec<u8>>, Errno> {
    let mut bytes = Vec::with_capacity(CHUNK);
    loop {
        match davit_sys::terminal::read(|| rustix::io::read(fd, spare_capacity(&mut bytes))) {
            Err(Errno::INTR) => {}
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(bytes)),
            Err(e) => return Err(e),
        }
    }
}

/// Reads a pipe until it ends, into the log and to whoever is attached.
pub(crate) fn spawn_logging(
    fd: OwnedFd,
    source: Source,
    log: Arc<Log>,
    tee: Arc<Tee>,
) -> io::Result<JoinHandle<()>> {
    let reader = Reader::new(fd)?;
    Ok(tokio::spawn(async move {
        while let Ok(Some(bytes)) = reader.read().await {
            pass_on(source, bytes, &log, &tee).await;
        }
        log.end(source);
        tee.end(source);
    }))
}

/// Into the log, and to whoever is attached.
pub(super) async fn pass_on(source: Source, bytes: Vec<u8>, log: &Log, tee: &Tee) {
    log.write(source, &bytes);
    // On the heap, and only if there is somebody: every container has two tasks that do this.
    if tee.has_clients() {
        Box::pin(tee.pass_on(source, bytes)).await;
    }
    // Who writes without end has the thread for a while only: it is all that the pod's shim has.
    tokio::task::coop::consume_budget().await;
}

/// All that comes, up to `limit` bytes; what is beyond is read and dropped.
pub(crate) async fn read_to_end(fd: OwnedFd, limit: u64) -> io::Result<Vec<u8>> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let reader = Reader::new(nonblocking(fd)?)?;
    let mut all = Vec::new();
    while let Some(bytes) = reader.read().await? {
        let room = limit.saturating_sub(all.len());
        all.extend_from_slice(bytes.get(..room).unwrap_or(&bytes));
    }
    Ok(all)
}

/// The last line with something on it of what is in a pipe now.
pub(crate) fn last_line(fd: &OwnedFd) -> Option<String> {
    let mut all = Vec::new();
    // As much as a pipe holds, by default.
    while let (true, Ok(Some(bytes))) = (all.len() < 64 * 1024, read_now(fd)) {
        all.extend_from_slice(&bytes);
    }
    let text = String::from_utf8_lossy(&all);
    text.lines().map(str::trim).rfind(|l| !l.is_empty()).map(|l| l.chars().take(1024).collect())
}
