//! What happens to pods and containers, told to whoever listens.
//!
//! Owns the difference between two views of a pod, and the queue. Events come from the views that the pod's task publishes and from nothing else, so they
//! agree with every list, and their order is that of the changes. An event carries the view that it came with: no status in it is older than what it
//! tells. Publishing never waits: all listeners share one ring, and one that falls a whole ring behind is told so and ended, for a list that
//! has a gap is worth nothing to those who follow it.
//!
//! ```text
//! pod's task ──view──► between(before, after) ──► ring ──► listener ──► listener's client
//!                                                   └────► one too slow: Lagged, end
//! ```

use crate::clock;
use crate::container::{ContainerState, ContainerView};
use crate::counters::{Counters, Listening};
use crate::sandbox::{SandboxState, SandboxView};
use std::sync::Arc;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// How many events a listener may be behind. Each is a pointer or two to views that mostly exist anyway.
const RING: usize = 1024;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was made.
    Created,
    /// It runs; a pod is ready.
    Started,
    /// It stands still: told by davit's own events, for which CRI has no word.
    Paused,
    /// It goes on.
    Resumed,
    /// It has ended; a pod is not ready any more.
    Stopped,
    /// It is gone.
    Deleted,
}

/// Something that happened to a pod or to a container in it.
#[derive(Debug, Clone)]
pub struct Event {
    /// The container's id, or the pod's.
    pub id: String,
    /// What happened to it.
    pub change: Change,
    /// When, in nanoseconds since the epoch.
    pub at: i64,
    /// The pod as it was then; of one that is gone, as it was last.
    pub sandbox: Arc<SandboxView>,
}

/// A listener did not keep up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{missed} events were missed, because nobody read them: list anew")]
pub struct Lagged {
    /// How many.
    pub missed: u64,
}

/// Where events are published.
#[derive(Debug)]
pub(crate) struct Events {
    ring: broadcast::Sender<Event>,
}

impl Default for Events {
    fn default() -> Self {
        Self { ring: broadcast::Sender::new(RING) }
    }
}

impl Events {
    /// Everything that happens from now on.
    pub(crate) fn listen(&self, counters: &Arc<Counters>) -> EventStream {
        EventStream { ring: self.ring.subscribe(), listening: counters.listen() }
    }

    /// Tells what has happened to a pod that was `before` and is `after`, either of which may not be.
    pub(crate) fn tell(&self, before: Option<&Arc<SandboxView>>, after: Option<&Arc<SandboxView>>) {
        if self.ring.receiver_count() == 0 {
            return;
        }
        for event in between(before, after, clock::now()) {
            // The last listener has gone meanwhile: nobody minds.
            drop(self.ring.send(event));
        }
    }
}

/// One listener's events. Counted as a listener while it lives.
#[derive(Debug)]
pub struct EventStream {
    ring: broadcast::Receiver<Event>,
    listening: Listening,
}

impl EventStream {
    /// The next event; `None` when davit ends.
    ///
    /// # Errors
    /// [`Lagged`]; the stream is of no use then.
    pub async fn next(&mut self) -> Option<Result<Event, Lagged>> {
        match self.ring.recv().await {
            Ok(event) => Some(Ok(event)),
            Err(RecvError::Lagged(missed)) => {
                self.listening.dropped(missed);
                Some(Err(Lagged { missed }))
            }
            Err(RecvError::Closed) => None,
        }
    }
}

/// How far something has come in its life; events are the steps from one to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Absent,
    Created,
    Started,
    Stopped,
}

fn of_container(view: &ContainerView) -> Stage {
    match view.state {
        ContainerState::Creating => Stage::Absent,
        ContainerState::Created { .. } => Stage::Created,
        ContainerState::Running { .. } => Stage::Started,
        ContainerState::Exited(_) => Stage::Stopped,
    }
}

fn of_sandbox(view: &SandboxView) -> Stage {
    match view.state {
        SandboxState::Ready => Stage::Started,
        SandboxState::NotReady => Stage::Stopped,
    }
}

/// The steps between two stages. What was created and ended without having run has no start; all that is gone had stopped before.
fn steps(before: Stage, after: Stage, ran: Ran) -> Vec<Change> {
    let mut steps = Vec::new();
    if before == Stage::Absent && after > Stage::Absent {
        steps.push(Change::Created);
    }
    let passed_start = after == Stage::Started || (after == Stage::Stopped && ran == Ran::Yes);
    if before < Stage::Started && passed_start {
        steps.push(Change::Started);
    }
    let gone = before > Stage::Absent && after == Stage::Absent;
    if before < Stage::Stopped && (after == Stage::Stopped || gone) {
        steps.push(Change::Stopped);
    }
    if gone {
        steps.push(Change::Deleted);
    }
    steps
}

/// Whether something that has ended ever ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ran {
    Yes,
    No,
}

/// What has happened, the pod's beginning before its containers' and its end after theirs.
fn between(
    before: Option<&Arc<SandboxView>>,
    after: Option<&Arc<SandboxView>>,
    at: i64,
) -> Vec<Event> {
    let Some(sandbox) = after.or(before) else { return Vec::new() };
    let event =
        |id: &str, change| Event { id: id.to_owned(), change, at, sandbox: Arc::clone(sandbox) };
    let stage = |view: Option<&Arc<SandboxView>>| view.map_or(Stage::Absent, |v| of_sandbox(v));
    let of_pod = steps(stage(before), stage(after), Ran::Yes);
    let of_pod = of_pod.into_iter().map(|change| event(sandbox.id.as_str(), change));
    let containers = of_containers(before, after);
    let of_containers = containers.into_iter().map(|(id, change)| event(&id, change));
    if after.is_some() {
        of_pod.chain(of_containers).collect()
    } else {
        of_containers.chain(of_pod).collect()
    }
}

fn of_containers(
    before: Option<&Arc<SandboxView>>,
    after: Option<&Arc<SandboxView>>,
) -> Vec<(String, Change)> {
    let mut found = Vec::new();
    let views = |view: Option<&Arc<SandboxView>>| {
        view.map(|view| view.containers.clone()).unwrap_or_default()
    };
    let (before, after) = (views(before), views(after));
    let gone = before.iter().filter(|(id, _)| !after.contains_key(*id));
    for (id, view) in after.iter().chain(gone) {
        let old = before.get(id).map_or(Stage::Absent, |view| of_container(view));
        let new = after.get(id).map_or(Stage::Absent, |view| of_container(view));
        let ran = if view.state.started_at().is_some() { Ran::Yes } else { Ran::No };
        found.extend(steps(old, new, ran).into_iter().map(|change| (id.to_string(), change)));
        let was_paused = before.get(id).is_some_and(|view| view.state.paused_at().is_some());
        match (was_paused, new == Stage::Started, view.state.paused_at().is_some()) {
            (false, true, true) => found.push((id.to_string(), Change::Paused)),
            (true, true, false) => found.push((id.to_string(), Change::Resumed)),
            (false, _, _) | (true, _, _) => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_step_is_told_once_and_in_order() {
        use Change::{Created, Deleted, Started, Stopped};
        for (before, after, ran, told) in [
            (Stage::Absent, Stage::Created, Ran::No, vec![Created]),
            (Stage::Created, Stage::Started, Ran::Yes, vec![Started]),
            (Stage::Started, Stage::Stopped, Ran::Yes, vec![Stopped]),
            (Stage::Stopped, Stage::Absent, Ran::Yes, vec![Deleted]),
            (Stage::Created, Stage::Stopped, Ran::No, vec![Stopped]),
            (Stage::Created, Stage::Stopped, Ran::Yes, vec![Started, Stopped]),
            (Stage::Started, Stage::Absent, Ran::Yes, vec![Stopped, Deleted]),
            (Stage::Absent, Stage::Started, Ran::Yes, vec![Created, Started]),
            (Stage::Started, Stage::Started, Ran::Yes, vec![]),
            (Stage::Absent, Stage::Absent, Ran::No, vec![]),
        ] {
            assert_eq!(steps(before, after, ran), told, "{before:?} to {after:?}");
        }
    }

    fn pod(state: SandboxState) -> Arc<SandboxView> {
        Arc::new(SandboxView {
            id: "ab".repeat(32).try_into().unwrap(),
            spec: Arc::new(crate::oci::testing::sandbox()),
            handler: "crun".to_owned(),
            created_at: 1,
            state,
            trouble: None,
            ips: Vec::new(),
            netns: None,
            shim_pid: None,
            containers: std::collections::BTreeMap::new(),
            meter: crate::stats::Meter::default(),
        })
    }

    #[tokio::test]
    async fn a_pods_life_is_told_and_listeners_are_counted() {
        let (events, counters) = (Events::default(), Arc::new(Counters::default()));
        let (ready, stopped) = (pod(SandboxState::Ready), pod(SandboxState::NotReady));
        events.tell(None, Some(&ready));
        let mut stream = events.listen(&counters);
        assert_eq!(counters.read().event_listeners, 1);
        events.tell(None, Some(&ready));
        events.tell(Some(&ready), Some(&ready));
        events.tell(Some(&ready), Some(&stopped));
        events.tell(Some(&stopped), None);
        for (change, state) in [
            (Change::Created, SandboxState::Ready),
            (Change::Started, SandboxState::Ready),
            (Change::Stopped, SandboxState::NotReady),
            (Change::Deleted, SandboxState::NotReady),
        ] {
            let event = stream.next().await.unwrap().unwrap();
            assert_eq!((event.change, event.sandbox.state), (change, state));
        }
        drop(events);
        assert!(stream.next().await.is_none());
        drop(stream);
        assert_eq!(counters.read().event_listeners, 0);
    }

    #[tokio::test]
    async fn one_that_does_not_read_is_told_what_it_missed_and_holds_up_nobody() {
        let (events, counters) = (Events::default(), Arc::new(Counters::default()));
        let (mut slow, mut quick) = (events.listen(&counters), events.listen(&counters));
        let (ready, stopped) = (pod(SandboxState::Ready), pod(SandboxState::NotReady));
        for _ in 0..=RING {
            events.tell(Some(&ready), Some(&stopped));
            assert_eq!(quick.next().await.unwrap().unwrap().change, Change::Stopped);
        }
        assert_eq!(slow.next().await.unwrap().unwrap_err(), Lagged { missed: 1 });
        assert_eq!(counters.read().events_dropped, 1);
    }

    proptest! {
        #[test]
        fn whatever_is_published_a_container_is_told_of_in_order(
            stages in proptest::collection::vec(1..4_usize, 1..12),
        ) {
            let all = [Stage::Absent, Stage::Created, Stage::Started, Stage::Stopped];
            let mut stages = stages;
            // A container never goes back.
            stages.sort_unstable();
            let path = stages.iter().map(|at| all[*at]).chain([Stage::Absent]);
            let (mut before, mut told) = (Stage::Absent, Vec::new());
            for after in path {
                told.extend(steps(before, after, Ran::Yes));
                before = after;
            }
            let rank = |change: &Change| match change {
                Change::Created => 0,
                Change::Started => 1,
                Change::Paused | Change::Resumed => 2,
                Change::Stopped => 3,
                Change::Deleted => 4,
            };
            prop_assert!(told.windows(2).all(|pair| rank(&pair[0]) < rank(&pair[1])), "{told:?}");
            prop_assert_eq!(told.first(), Some(&Change::Created));
            prop_assert_eq!(told.last(), Some(&Change::Deleted));
        }
    }
}
