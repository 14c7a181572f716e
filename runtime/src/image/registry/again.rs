//! When a registry that is in trouble is asked again.
//!
//! Owns the pauses, which grow, and their end. Which failures are worth a further try is known by who asks.

use super::FetchError;
use std::time::{Duration, Instant};

/// Without an answer. Whoever wants to be left alone for longer is not asked again: the kubelet comes back.
const TROUBLE: Duration = Duration::from_secs(35);

/// The tries that are left.
#[derive(Debug)]
pub(crate) struct Again<'a> {
    pauses: &'a [Duration],
    since: Option<Instant>,
}

impl<'a> Again<'a> {
    /// As many further tries as there are pauses.
    pub(crate) fn new(pauses: &'a [Duration]) -> Self {
        Self { pauses, since: None }
    }

    /// It gave something, if not enough.
    pub(crate) fn answered(&mut self) {
        self.since = None;
    }

    /// How long to wait before the next try; `None` if there is to be none.
    pub(crate) fn after(&mut self, failure: &FetchError) -> Option<Duration> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let (pause, later) = self.pauses.split_first()?;
        self.pauses = later;
        let pause = failure.retry_after().map_or(*pause, |asked| asked.max(*pause));
        (since.elapsed().saturating_add(pause) <= TROUBLE).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(retry_after: Option<u64>) -> FetchError {
        let (url, detail) = (String::new(), String::new());
        let retry_after = retry_after.map(Duration::from_secs);
        FetchError::Status { url, status: 503, retry_after, detail }
    }

    #[test]
    fn pauses_grow_and_end_and_a_registry_may_ask_for_longer_ones() {
        let pauses = [1, 2].map(Duration::from_secs);
        let mut again = Again::new(&pauses);
        let waits: Vec<_> = (0..3).map(|_| again.after(&failure(None))).collect();
        assert_eq!(waits, [Some(pauses[0]), Some(pauses[1]), None]);
        for (asked, waits) in [(0, Some(1)), (30, Some(30)), (40, None), (u64::MAX, None)] {
            let mut again = Again::new(&pauses);
            assert_eq!(again.after(&failure(Some(asked))), waits.map(Duration::from_secs));
        }
    }
}
