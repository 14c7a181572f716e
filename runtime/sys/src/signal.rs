//! Signals: blocking them, reading them from a descriptor, and sending any of them.
//!
//! rustix sends only the signals that have names; a container's stop signal may be a real-time one.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

/// The signals that [`Signals`] can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watched {
    /// A child ended.
    Child,
    /// Somebody asks this process to end.
    Terminate,
    /// Sent when a terminal goes away.
    Hangup,
}

impl Watched {
    fn signal(self) -> Signal {
        match self {
            Self::Child => Signal::SIGCHLD,
            Self::Terminate => Signal::SIGTERM,
            Self::Hangup => Signal::SIGHUP,
        }
    }
}

/// A signal that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Which.
    pub signal: Watched,
    /// Who sent it; 0 if the sender is in an outer PID namespace.
    pub sender: u32,
}

/// Whether [`Signals::next`] waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// It answers `None` if no signal is there.
    No,
    /// It waits for one.
    Yes,
}

/// A descriptor from which the blocked signals are read. Readable when one is there.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// Blocks all [`Watched`] signals in the calling thread, for good, and opens a descriptor for them.
    ///
    /// [`crate::process::Command`] unblocks them in the programs it starts.
    pub fn new(wait: Wait) -> std::io::Result<Self> {
        let mut mask = SigSet::empty();
        for watched in [Watched::Child, Watched::Terminate, Watched::Hangup] {
            mask.add(watched.signal());
        }
        mask.thread_block()?;
        let flags = match wait {
            Wait::No => SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
            Wait::Yes => SfdFlags::SFD_CLOEXEC,
        };
        Ok(Self { fd: SignalFd::with_flags(&mask, flags)? })
    }

    /// The next signal.
    pub fn next(&self) -> std::io::Result<Option<Received>> {
        let Some(info) = self.fd.read_signal()? else { return Ok(None) };
        let number = i32::try_from(info.ssi_signo).unwrap_or_default();
        let signal = [Watched::Child, Watched::Terminate, Watched::Hangup]
            .into_iter()
            .find(|watched| watched.signal() as i32 == number)
            .unwrap_or(Watched::Hangup);
        Ok(Some(Received { signal, sender: info.ssi_pid }))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Sends signal `number` to the process that `pidfd` holds. `ESRCH` if it has been reaped, `EINVAL` for a number that is none.
pub fn send(pidfd: BorrowedFd<'_>, number: i32) -> Result<(), Errno> {
    let info: *const nix::libc::siginfo_t = std::ptr::null();
    // SAFETY: the descriptor is open as long as its borrow lasts; a null info is allowed and makes the kernel fill one in.
    let result = unsafe {
        nix::libc::syscall(nix::libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), number, info, 0)
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{PidfdFlags, getpid, pidfd_open};

    #[test]
    fn a_signal_number_that_is_none_is_refused_and_zero_only_probes() {
        let own = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
        assert_eq!(send(own.as_fd(), 0), Ok(()));
        assert_eq!(send(own.as_fd(), 65), Err(Errno::INVAL));
    }
}
