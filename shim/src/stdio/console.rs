//! A container's or a command's terminal: the OCI runtime makes it and passes its master side over a socket.
//!
//! The socket's path must be shorter than a bundle's may be; so it is named through a descriptor of its directory.

use super::stream::nonblocking;
use davit_sys::passing;
use rustix::termios::{Winsize, tcsetwinsize};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixListener;

/// How long the terminal may take to arrive once the runtime has ended successfully: it was sent before.
const LIMIT: Duration = Duration::from_secs(5);

/// The socket on which the terminal comes. Its file is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Console {
    listener: UnixListener,
    file: PathBuf,
    short: PathBuf,
    _directory: OwnedFd,
}

impl Console {
    /// Listens in `bundle`, as `name`.
    pub(crate) fn listen(bundle: &Path, name: &str) -> io::Result<Self> {
        use rustix::fs::{Mode, OFlags};
        let file = bundle.join(name);
        crate::files::remove_if_there(&file)?;
        let directory = rustix::fs::open(
            bundle,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let own = rustix::process::getpid().as_raw_pid();
        let short = PathBuf::from(format!("/proc/{own}/fd/{}/{name}", directory.as_raw_fd()));
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
        // The terminal's name comes with it, and means nothing outside of the container.
        let received = passing::receive(&stream, &mut [0; 256]).await?;
        let none =
            || io::Error::new(io::ErrorKind::InvalidData, "the OCI runtime sent no terminal");
        received.descriptors.into_iter().next().ok_or_else(none)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = crate::files::remove_if_there(&self.file);
    }
}

/// Changes the size of a terminal, in characters, by its master side. A size of 0 is ignored, and so is what no terminal can have.
pub(crate) fn resize(master: &OwnedFd, width: u32, height: u32) {
    if let (Ok(ws_col @ 1..), Ok(ws_row @ 1..)) = (u16::try_from(width), u16::try_from(height)) {
        // It fails only for what is no terminal.
        let _ = tcsetwinsize(master, Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 });
    }
}
