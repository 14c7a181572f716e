//! Waiting in an event loop until a descriptor can be read, or written.
//!
//! tokio's own `AsyncFd` takes whatever answers a number, and so has to be told, unsafely, that the number stays what it is.

use crate::signal::Signals;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches a descriptor for something to read. Within a tokio runtime.
pub fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    watch(fd, Interest::READABLE)
}

/// Watches a descriptor for room to write. Within a tokio runtime.
pub fn writable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    watch(fd, Interest::WRITABLE)
}

/// Watches for signals. Within a tokio runtime.
pub fn signals(signals: Signals) -> io::Result<AsyncFd<Signals>> {
    watch(signals, Interest::READABLE)
}

/// Private, so that only the types above are passed.
fn watch<T: AsRawFd>(owner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: both types own one descriptor from their making to their dropping, answer its number, and offer no way to change
    // it; the `AsyncFd` owns them from here on.
    let registered = unsafe { AsyncFd::register_with_interest(owner, interest) };
    registered.map_err(|error| error.into_parts().1)
}
