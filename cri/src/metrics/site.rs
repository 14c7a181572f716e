//! What the endpoint knows of the daemon it is of.
//!
//! It is there from the moment that the sockets are bound, so that whoever asks during recovery hears that davit lives and is not ready.
//!
//! ```text
//! Starting ──open──► Serving{metrics} ──stop──► Stopping{metrics}
//!   /healthz 200         200                        200
//!   /readyz  503         200                        503
//!   /metrics 503         200                        200
//! ```

use super::Metrics;
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A handle on it; clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    phase: Arc<ArcSwap<Phase>>,
    debug: Arc<AtomicBool>,
}

/// How far the daemon is.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    /// It takes up what is there.
    Starting,
    /// It answers calls.
    Serving(Arc<Metrics>),
    /// It takes no more calls.
    Stopping(Arc<Metrics>),
}

impl Site {
    /// Of a daemon that starts.
    pub(crate) fn new(debug: DebugOn) -> Self {
        let phase = Arc::new(ArcSwap::from_pointee(Phase::Starting));
        Self { phase, debug: Arc::new(AtomicBool::new(debug.0)) }
    }

    /// Calls are answered from now on.
    pub(crate) fn open(&self, metrics: Arc<Metrics>) {
        self.phase.store(Arc::new(Phase::Serving(metrics)));
    }

    /// No more calls are answered from now on.
    pub(crate) fn stop(&self) {
        if let Phase::Serving(metrics) = &**self.phase.load() {
            self.phase.store(Arc::new(Phase::Stopping(Arc::clone(metrics))));
        }
    }

    /// Whether what is for debugging is told, from now on.
    pub(crate) fn set_debug(&self, debug: DebugOn) {
        self.debug.store(debug.0, Ordering::Relaxed);
    }

    pub(super) fn phase(&self) -> Arc<Phase> {
        self.phase.load_full()
    }

    pub(super) fn debug(&self) -> bool {
        self.debug.load(Ordering::Relaxed)
    }
}

/// Whether the configuration says `debug`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DebugOn(pub(crate) bool);
