//! Descriptors that this process was started with, taken into ownership.
//!
//! Such a number comes from outside of the type system, so two owners are possible. [`take`] excludes that by
//! handing out each number once per process.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// The descriptors that were handed out, one bit each.
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// Why a descriptor could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum InheritedError {
    /// Only 3 to 63 can be passed: 0 to 2 are the standard library's.
    #[error("take descriptor {0}: not between 3 and 63")]
    Range(RawFd),
    /// It has an owner.
    #[error("take descriptor {0}: it was taken before")]
    Taken(RawFd),
    /// It is not open.
    #[error("take descriptor {fd}")]
    Closed {
        /// The number.
        fd: RawFd,
        /// What the kernel says to it.
        source: rustix::io::Errno,
    },
}

/// Owns descriptor `fd`, which whoever started this process left open for it, and sets it to be closed on exec.
///
/// To be called before anything opens descriptors, which might get the number if it was not passed.
pub fn take(fd: RawFd) -> Result<OwnedFd, InheritedError> {
    if !(3..64).contains(&fd) {
        return Err(InheritedError::Range(fd));
    }
    let bit = 1_u64 << fd;
    if TAKEN.fetch_or(bit, Ordering::Relaxed) & bit != 0 {
        return Err(InheritedError::Taken(fd));
    }
    // SAFETY: only looked at, by the system call below, which answers EBADF if it is not open. Nobody else owns the
    // number: the caller keeps that, by calling before it opens anything.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC)
        .map_err(|source| InheritedError::Closed { fd, source })?;
    // SAFETY: open, as the call above found; sole owner, as `TAKEN` admits one caller and the descriptor came from outside.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_cannot_have_been_passed() {
        for fd in [-1, 0, 1, 2, 64, i32::MAX] {
            assert!(matches!(take(fd), Err(InheritedError::Range(n)) if n == fd), "{fd}");
        }
        assert!(matches!(take(63), Err(InheritedError::Closed { fd: 63, .. })));
        assert!(matches!(take(63), Err(InheritedError::Taken(63))));
    }
}
