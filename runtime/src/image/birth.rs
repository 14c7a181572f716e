//! Telling one that is here from an earlier one of the same name.
//!
//! A layer or an image can go and come again, under the same digest, while somebody is busy with what it was: what is then said of the earlier one
//! must not be taken as said of the later.

use std::sync::atomic::{AtomicU64, Ordering};

/// When something came to be here, among all that this process has seen come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Birth(u64);

impl Birth {
    /// One that no other has.
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}
