//! What was measured last of one pod or container.
//!
//! Invariant: it lives as long as the views of what it measures, so there is no list of samples to prune. Its lock is held for a look, never across an
//! await or a read.

use super::layer::LayerUse;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Readings nearer to one another than this tell little about a rate: who asks in between gets the rate of before.
const WINDOW: Duration = Duration::from_secs(1);
/// How long a walk of a layer holds good.
const WALK_PERIOD: Duration = Duration::from_secs(10);
/// A walk may take this part of the time: one of a second is repeated after twenty.
const WALK_SHARE: u32 = 20;

/// The readings before; clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Meter(Arc<Mutex<Readings>>);

#[derive(Debug, Default)]
struct Readings {
    cpu: Option<(Instant, u64)>,
    rate: Option<u64>,
    layer: Option<LayerUse>,
    walk: Walk,
}

/// Where the walks of a layer stand.
#[derive(Debug, Default, Clone, Copy)]
enum Walk {
    #[default]
    Never,
    UnderWay,
    Again(Instant),
}

impl Meter {
    fn readings(&self) -> MutexGuard<'_, Readings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nanoseconds of CPU time per second since a reading at least a second ago; `None` as long as there is none.
    pub(super) fn rate(&self, now: Instant, nanoseconds: u64) -> Option<u64> {
        let mut readings = self.readings();
        let Some((before, then)) = readings.cpu else {
            readings.cpu = Some((now, nanoseconds));
            return None;
        };
        let passed = now.saturating_duration_since(before);
        if passed < WINDOW {
            return readings.rate;
        }
        let used = u128::from(nanoseconds.saturating_sub(then));
        let rate = used * 1_000_000_000 / passed.as_nanos().max(1);
        readings.cpu = Some((now, nanoseconds));
        readings.rate = u64::try_from(rate).ok();
        readings.rate
    }

    /// The layer as it was found last.
    pub(super) fn layer(&self) -> Option<LayerUse> {
        self.readings().layer
    }

    /// Whether the caller is to walk the layer now; nobody else is told so until [`Self::walked`].
    pub(super) fn claim_walk(&self, now: Instant) -> bool {
        let mut readings = self.readings();
        let due = match readings.walk {
            Walk::Never => true,
            Walk::UnderWay => false,
            Walk::Again(at) => now >= at,
        };
        if due {
            readings.walk = Walk::UnderWay;
        }
        due
    }

    /// A walk that had `begun` then has found this.
    pub(super) fn walked(&self, begun: Instant, found: Option<LayerUse>) {
        let pause = (begun.elapsed() * WALK_SHARE).max(WALK_PERIOD);
        let mut readings = self.readings();
        readings.layer = found.or(readings.layer);
        readings.walk = Walk::Again(Instant::now() + pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_told_from_the_second_reading_on_and_not_of_less_than_a_second() {
        let meter = Meter::default();
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert_eq!(meter.rate(at(0), 5_000_000_000), None);
        assert_eq!(meter.rate(at(500), 6_000_000_000), None);
        assert_eq!(meter.rate(at(2000), 6_000_000_000), Some(500_000_000));
        assert_eq!(meter.rate(at(2001), 7_000_000_000), Some(500_000_000), "the one of before");
        assert_eq!(meter.rate(at(4000), 10_000_000_000), Some(2_000_000_000));
        assert_eq!(meter.rate(at(6000), 0), Some(0), "a counter that goes back is no rate");
    }

    #[test]
    fn one_walks_at_a_time_and_not_again_too_soon() {
        let meter = Meter::default();
        let now = Instant::now();
        assert!(meter.claim_walk(now));
        assert!(!meter.claim_walk(now));
        meter.walked(now, None);
        assert!(!meter.claim_walk(now));
        assert!(meter.claim_walk(now + WALK_PERIOD * 2));
        let found = LayerUse { at: 1, bytes: 2, inodes: 3 };
        meter.walked(now, Some(found));
        assert_eq!(meter.layer(), Some(found));
    }
}
