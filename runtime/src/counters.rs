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
    /// How often a listener was told that it was too slow. It only grows.
    pub listeners_told: u64,
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
    listeners_told: AtomicU64,
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

    /// A listener was too slow for so many events, and is told so.
    pub(crate) fn events_dropped(&self, events: u64) {
        self.listeners_told.fetch_add(1, Ordering::Relaxed);
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
            listeners_told: self.listeners_told.load(Ordering::Relaxed),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::{ContainerEvent, LostEnd};
    use crate::oci::testing;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// What happens to the pods of a node. Numbers pick a pod, and a container in it.
    #[derive(Debug, Clone)]
    enum Happening {
        PodMade,
        PodNotReady(usize),
        PodReady(usize),
        ShimGone(usize),
        PodGone(usize),
        ContainerMade(usize),
        Container(usize, usize, ContainerEvent),
        ContainerGone(usize, usize),
        /// davit is killed and started: the records stay, the counters don't.
        Restart,
    }

    fn happening() -> impl Strategy<Value = Happening> {
        let at = 0..4_usize;
        let event = prop_oneof![
            Just(ContainerEvent::Started { at: 1 }),
            Just(ContainerEvent::StartRefused { at: 1, message: String::new() }),
            Just(ContainerEvent::Paused { at: 2 }),
            Just(ContainerEvent::Resumed),
            (0..3_i32).prop_map(|code| ContainerEvent::Exited { at: 3, code, oom_killed: false }),
            Just(ContainerEvent::Lost { at: 3, end: LostEnd::Killed }),
        ];
        prop_oneof![
            2 => Just(Happening::PodMade),
            1 => at.clone().prop_map(Happening::PodNotReady),
            1 => at.clone().prop_map(Happening::PodReady),
            1 => at.clone().prop_map(Happening::ShimGone),
            1 => at.clone().prop_map(Happening::PodGone),
            4 => at.clone().prop_map(Happening::ContainerMade),
            8 => (at.clone(), at.clone(), event)
                .prop_map(|(pod, one, event)| Happening::Container(pod, one, event)),
            1 => (at.clone(), at).prop_map(|(pod, one)| Happening::ContainerGone(pod, one)),
            1 => Just(Happening::Restart),
        ]
    }

    /// A node: pods as they are shown, each with what it last added to the counts.
    struct Node {
        counters: Counters,
        pods: Vec<(SandboxView, Share)>,
    }

    impl Node {
        /// As a pod's task does whenever it shows itself.
        fn publish(&mut self, at: usize) {
            let Some((view, share)) = self.pods.get_mut(at) else { return };
            let new = Share::of(view);
            self.counters.replace(*share, new);
            *share = new;
        }

        fn container(&mut self, pod: usize, one: usize, event: Option<ContainerEvent>) {
            let Some((view, _)) = self.pods.get_mut(pod) else { return };
            let Some(id) = view.containers.keys().nth(one).cloned() else { return };
            match event {
                None => drop(view.containers.remove(&id)),
                Some(event) => {
                    let before = &view.containers[&id];
                    let Ok(state) = before.state.next(event) else { return };
                    let after = crate::container::ContainerView { state, ..(**before).clone() };
                    view.containers.insert(id, Arc::new(after));
                }
            }
        }

        fn happens(&mut self, happening: Happening) {
            let at = match happening {
                Happening::PodMade => {
                    self.pods.push((testing::sandbox_view(), Share::default()));
                    self.pods.len() - 1
                }
                Happening::PodNotReady(at) | Happening::PodReady(at) | Happening::ShimGone(at) => {
                    if let Some((view, _)) = self.pods.get_mut(at) {
                        if matches!(happening, Happening::ShimGone(_)) {
                            view.shim_pid = None;
                        } else if matches!(happening, Happening::PodReady(_)) {
                            view.state = SandboxState::Ready;
                        } else {
                            view.state = SandboxState::NotReady;
                        }
                    }
                    at
                }
                Happening::PodGone(at) => {
                    if at < self.pods.len() {
                        let (_, share) = self.pods.remove(at);
                        self.counters.replace(share, Share::default());
                    }
                    return;
                }
                Happening::ContainerMade(at) => {
                    if let Some((view, _)) = self.pods.get_mut(at) {
                        let made = testing::container_view();
                        view.containers.insert(made.id.clone(), Arc::new(made));
                    }
                    at
                }
                Happening::Container(pod, one, event) => {
                    self.container(pod, one, Some(event));
                    pod
                }
                Happening::ContainerGone(pod, one) => {
                    self.container(pod, one, None);
                    pod
                }
                Happening::Restart => {
                    self.counters = Counters::default();
                    for at in 0..self.pods.len() {
                        self.pods[at].1 = Share::default();
                        self.publish(at);
                    }
                    return;
                }
            };
            self.publish(at);
        }

        /// Counted one by one, by another way than [`Share::of`]: by the words that people are shown.
        fn recount(&self) -> BTreeMap<&'static str, u64> {
            let mut counted = BTreeMap::new();
            let mut one = |name| *counted.entry(name).or_insert(0) += 1;
            for (view, _) in &self.pods {
                one(if view.state == SandboxState::Ready { "ready" } else { "not ready" });
                if view.shim_pid.is_some() {
                    one("shims");
                }
                for container in view.containers.values() {
                    one(container.state.name());
                }
            }
            counted
        }
    }

    proptest! {
        #[test]
        fn whatever_happens_the_counters_equal_a_recount(
            happenings in proptest::collection::vec(happening(), 0..60),
        ) {
            let mut node = Node { counters: Counters::default(), pods: Vec::new() };
            for happening in happenings {
                node.happens(happening.clone());
                let (told, counted) = (node.counters.read(), node.recount());
                let counted = |name| counted.get(name).copied().unwrap_or(0);
                for (name, told) in [
                    ("created", told.containers_created),
                    ("running", told.containers_running),
                    ("paused", told.containers_paused),
                    ("exited", told.containers_stopped),
                    ("ready", told.sandboxes_ready),
                    ("not ready", told.sandboxes_not_ready),
                    ("shims", told.shims),
                ] {
                    prop_assert_eq!(told, counted(name), "{} after {:?}", name, happening);
                }
            }
        }
    }

    #[test]
    fn a_change_of_the_counters_costs_next_to_nothing() {
        let counters = Counters::default();
        let (one, other) = (Share { running: 1, ..Share::default() }, Share::default());
        let rounds = 100_000_u32;
        // The best of some: a busy machine makes it slower and never quicker.
        let best = (0..10).map(|_| {
            let began = std::time::Instant::now();
            for _ in 0..rounds {
                counters.replace(std::hint::black_box(other), std::hint::black_box(one));
                counters.replace(std::hint::black_box(one), std::hint::black_box(other));
            }
            began.elapsed() / (rounds * 2)
        });
        let best = best.min().unwrap();
        // Ten times the promise, which is of a release: this is built without optimisation.
        assert!(best < std::time::Duration::from_micros(1), "{best:?}");
        assert_eq!(counters.read(), Counts::default());
    }
}
