//! A container's terminal: the OCI runtime makes it and passes its master side over a socket.
//!
//! The socket's path must be shorter than a bundle's may be; so it is named through a descriptor of its directory.

use super::stream::nonblocking;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UnixListener;

/// How long the terminal may take to arrive once the runtime has ended successfully: it was sent before.
const LIMIT: Duration = Duration::from_secs(5);
const NAME: &str = "console.sock";

/// The socket on which the terminal comes. Its file is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Console {
    listener: UnixListener,
    file: PathBuf,
    short: PathBuf,
    _directory: OwnedFd,
}

impl Console {
    /// Listens in `bundle`.
    pub(crate) fn listen(bundle: &Path) -> io::Result<Self> {
        use rustix::fs::{Mode, OFlags};
        let file = bundle.join(NAME);
        crate::files::remove_if_there(&file)?;
        let directory = rustix::fs::open(
            bundle,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let own = rustix::process::getpid().as_raw_pid();
        let short = PathBuf::from(format!("/proc/{own}/fd/{}/{NAME}", directory.as_raw_fd()));
        let listener = UnixListener::bind(&short)?;
        Ok(Self { listener, file, short, _directory: directory })
    }

    /// The path for the runtime's `--console-socket`.
    pub(crate) fn path(&self) -> &Path {
        &self.short
    }

    /// The terminal's master side, set not to block.
    pub(crate) async fn receive(self) -> io::Result<OwnedFd> {
        match tokio::time::timeout(LIMIT, self.accept()).await {
            Ok(result) => nonblocking(result?),
            Err(_elapsed) => Err(io::Error::new(io::ErrorKind::TimedOut, "no terminal came")),
        }
    }

    async fn accept(&self) -> io::Result<OwnedFd> {
        let (stream, _) = self.listener.accept().await?;
        loop {
            stream.readable().await?;
            match stream.try_io(Interest::READABLE, || receive_descriptor(&stream)) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = crate::files::remove_if_there(&self.file);
    }
}

fn receive_descriptor(stream: &tokio::net::UnixStream) -> io::Result<OwnedFd> {
    // The terminal's name comes with it, and means nothing outside of the container.
    let mut name = [0_u8; 256];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(stream, &mut [IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message
            && let Some(fd) = descriptors.next()
        {
            return Ok(fd);
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the OCI runtime sent no terminal"))
}
