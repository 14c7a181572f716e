//! How many there are of what, always up to date.
//!
//! Owns the counts. The state machines move them: each pod adds the difference between what it was and what it is whenever it publishes
//! itself, so a restart counts right by going through the same states. Nothing is ever counted on demand.

use crate::container::ContainerState;
use crate::sandbox::{SandboxState, SandboxView};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// The counts at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Containers made and not started.
    pub containers_created: u64,
    /// Containers that run.
    pub containers_running: u64,
    /// Containers that are frozen.
    pub containers_paused: u64,
    /// Containers that have ended.
    pub containers_stopped: u64,
    /// Pods that are ready.
    pub sandboxes_ready: u64,
    /// Pods that are not.
    pub sandboxes_not_ready: u64,
    /// Pods' shims that live.
    pub shims: u64,
    /// Who waits for something to happen to a container.
    pub event_listeners: u64,
    /// Events that a listener was too slow for, each counted once for each such listener. It only grows.
    pub events_dropped: u64,
    /// Bytes of containers' logs that could not be written. It only grows; a restart counts anew, from what the shims of the pods that are there tell.
    pub log_dropped_bytes: u64,
}

/// The live counts.
#[derive(Debug, Default)]
pub struct Counters {
    created: AtomicI64,
    running: AtomicI64,
    paused: AtomicI64,
    stopped: AtomicI64,
    ready: AtomicI64,
    not_ready: AtomicI64,
    shims: AtomicI64,
    listeners: AtomicI64,
    events_dropped: AtomicU64,
    log_dropped: AtomicU64,
}

/// What one pod adds to the counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Share {
    created: i64,
    running: i64,
    paused: i64,
    stopped: i64,
    ready: i64,
    not_ready: i64,
    shims: i64,
}

impl Share {
    /// Of a pod as it is.
    pub(crate) fn of(view: &SandboxView) -> Self {
        let mut share = Self::default();
        match view.state {
            SandboxState::Ready => share.ready = 1,
            SandboxState::NotReady => share.not_ready = 1,
        }
        share.shims = i64::from(view.shim_pid.is_some());
        for container in view.containers.values() {
            match container.state {
                ContainerState::Creating => {}
                ContainerState::Created { .. } => share.created += 1,
                ContainerState::Running { paused_at: None, .. } => share.running += 1,
                ContainerState::Running { paused_at: Some(_), .. } => share.paused += 1,
                ContainerState::Exited(_) => share.stopped += 1,
            }
        }
        share
    }
}

impl Counters {
    /// A pod that added `old` adds `new` from now on.
    pub(crate) fn replace(&self, old: Share, new: Share) {
        let add = |counter: &AtomicI64, by: i64| {
            counter.fetch_add(by, Ordering::Relaxed);
        };
        add(&self.created, new.created - old.created);
        add(&self.running, new.running - old.running);
        add(&self.paused, new.paused - old.paused);
        add(&self.stopped, new.stopped - old.stopped);
        add(&self.ready, new.ready - old.ready);
        add(&self.not_ready, new.not_ready - old.not_ready);
        add(&self.shims, new.shims - old.shims);
    }

    /// So many bytes more of a container's log are lost.
    pub(crate) fn log_dropped(&self, bytes: u64) {
        self.log_dropped.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A listener was too slow for so many events.
    pub(crate) fn events_dropped(&self, events: u64) {
        self.events_dropped.fetch_add(events, Ordering::Relaxed);
    }

    /// One listener more, until the guard is dropped.
    pub fn listen(self: &Arc<Self>) -> Listening {
        self.listeners.fetch_add(1, Ordering::Relaxed);
        Listening { counters: Arc::clone(self) }
    }

    /// The counts now.
    #[must_use]
    pub fn read(&self) -> Counts {
        let read = |counter: &AtomicI64| {
            u64::try_from(counter.load(Ordering::Relaxed)).unwrap_or_default()
        };
        Counts {
            containers_created: read(&self.created),
            containers_running: read(&self.running),
            containers_paused: read(&self.paused),
            containers_stopped: read(&self.stopped),
            sandboxes_ready: read(&self.ready),
            sandboxes_not_ready: read(&self.not_ready),
            shims: read(&self.shims),
            event_listeners: read(&self.listeners),
            events_dropped: self.events_dropped.load(Ordering::Relaxed),
            log_dropped_bytes: self.log_dropped.load(Ordering::Relaxed),
        }
    }
}

/// Counts as a listener while it lives.
#[derive(Debug)]
pub struct Listening {
    counters: Arc<Counters>,
}

impl Listening {
    /// This listener was too slow for so many events.
    pub(crate) fn dropped(&self, events: u64) {
        self.counters.events_dropped(events);
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.counters.listeners.fetch_sub(1, Ordering::Relaxed);
    }
}
