//! Whether somebody keeps the clock right.

use nix::libc;

/// How the clock is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// Somebody keeps it right.
    Kept,
    /// Nobody does.
    Free,
}

/// Whether the kernel has been told lately that the clock is right (adjtimex(2)); [`Clock::Kept`] if it doesn't say.
#[must_use]
pub fn clock() -> Clock {
    // SAFETY: all of its fields are numbers, for which zeros are values; none of `modes` set: nothing is changed.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a whole `timex` that lives as long as the call.
    let clock = unsafe { libc::adjtimex(&raw mut state) };
    // Refused (a filter of system calls): nothing is known against it.
    if clock < 0 || state.status & libc::STA_UNSYNC == 0 { Clock::Kept } else { Clock::Free }
}
