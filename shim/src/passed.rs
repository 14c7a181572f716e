//! Descriptors that the daemon passes as standard streams, which a shim has no use for as such.
//!
//! Owns that they become the shim's own, closed on exec, and that the streams are nobody's afterwards: `/dev/null`. As streams, because what starts a
//! process without a copy of the daemon's memory can pass those and no others.

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::net::sockopt::socket_acceptconn;
use rustix::stdio::{dup2_stdin, dup2_stdout, stdin, stdout};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;

/// Above the streams.
const ABOVE: i32 = 3;

/// Why what was passed is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PassedError {
    #[error("take {0}")]
    Take(&'static str, #[source] rustix::io::Errno),
    #[error("standard input is no socket that listens: it is the daemon that starts a shim")]
    NoListener,
}

/// The shim's listening socket, from standard input.
pub(crate) fn listener() -> Result<UnixListener, PassedError> {
    if !socket_acceptconn(stdin()).unwrap_or(false) {
        return Err(PassedError::NoListener);
    }
    let taken = take(stdin(), dup2_stdin);
    Ok(taken.map_err(|errno| PassedError::Take("the listening socket", errno))?.into())
}

/// The socket at which to wait for the rest, from standard input.
pub(crate) fn waiting() -> Result<OwnedFd, PassedError> {
    take(stdin(), dup2_stdin).map_err(|errno| PassedError::Take("the socket to wait at", errno))
}

/// The sealed copy of an OCI runtime, from standard output.
pub(crate) fn copy() -> Result<OwnedFd, PassedError> {
    take(stdout(), dup2_stdout).map_err(|errno| PassedError::Take("the OCI runtime's copy", errno))
}

/// The stream's descriptor under a number of its own; the stream becomes what `replace` is given.
fn take(
    stream: BorrowedFd<'_>,
    replace: impl FnOnce(OwnedFd) -> rustix::io::Result<()>,
) -> rustix::io::Result<OwnedFd> {
    let fd = fcntl_dupfd_cloexec(stream, ABOVE)?;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    replace(rustix::fs::openat(CWD, "/dev/null", flags, Mode::empty())?)?;
    Ok(fd)
}
