//! How long each part of something took, for one line in the log.

use std::fmt;
use std::time::{Duration, Instant};

/// See the module.
pub(crate) struct Laps {
    last: Instant,
    parts: Vec<(&'static str, Duration)>,
}

impl Laps {
    pub(crate) fn begin() -> Self {
        Self { last: Instant::now(), parts: Vec::new() }
    }

    /// What came since the last one was this.
    pub(crate) fn lap(&mut self, part: &'static str) {
        let now = Instant::now();
        self.parts.push((part, now - self.last));
        self.last = now;
    }
}

impl Laps {
    /// All parts together.
    pub(crate) fn whole(&self) -> Duration {
        self.parts.iter().map(|(_, took)| *took).sum()
    }
}

impl fmt::Display for Laps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.parts.iter().map(|(part, took)| format!("{part} {} ms", took.as_millis()));
        f.write_str(&parts.collect::<Vec<_>>().join(", "))
    }
}
