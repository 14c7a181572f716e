//! The time of day as CRI tells it: nanoseconds since the epoch.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now. Never 0 or less, which CRI's clients take for "not set", even on a host whose clock was never set.
#[must_use]
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos());
    i64::try_from(since).unwrap_or(i64::MAX).max(1)
}
