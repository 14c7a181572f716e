//! What happens to pods and containers, told to whoever listens.
//!
//! Owns the difference between two views of a pod, and the queue. Events come from the views that the pod's task publishes and from nothing else, so they
//! agree with every list, and their order is that of the changes. An event carries the view that it came with: no status in it is older than what it
//! tells. Publishing never waits: all listeners share one ring, and one that falls a whole ring behind is told so and ended, for a list that
//! has a gap is worth nothing to those who follow it. The journal, which keeps events, is told after the listeners and makes nobody wait either.
//!
//! ```text
//! pod's task ──view──► between(before, after) ──► ring ──► listener ──► listener's client
//!                                  │                └────► one too slow: Lagged, end
//!                                  └──► journal (crate::journal): numbered, kept, replayed
//! ```

use crate::clock;
use crate::container::{ContainerState, ContainerView};
use crate::counters::{Counters, Listening};
use crate::journal::Inbox;
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
    /// A pod that was not ready is ready again. CRI has no word for it.
    ReadyAgain,
    /// Its limits were changed. CRI has no word for it.
    Updated,
    /// It stands still: told by davit's own events, for which CRI has no word.
    Paused,
    /// It goes on.
    Resumed,
    /// The OOM killer struck, which is why it has ended: told right before that. CRI has no word for it.
    OomKilled,
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
    /// The container, of one that is gone as it was last; `None`: it happened to the pod.
    pub container: Option<Arc<ContainerView>>,
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
    journal: Inbox,
}

impl Events {
    /// Without listeners yet; all is kept by `journal`.
    pub(crate) fn new(journal: Inbox) -> Self {
        Self { ring: broadcast::Sender::new(RING), journal }
    }

    /// Everything that happens from now on.
    pub(crate) fn listen(&self, counters: &Arc<Counters>) -> EventStream {
        EventStream { ring: self.ring.subscribe(), listening: counters.listen() }
    }

    /// Tells what has happened to a pod that was `before` and is `after`, either of which may not be.
    pub(crate) fn tell(&self, before: Option<&Arc<SandboxView>>, after: Option<&Arc<SandboxView>>) {
        let events = between(before, after, clock::now());
        if self.ring.receiver_count() > 0 {
            for event in &events {
                // The last listener has gone meanwhile: nobody minds.
                drop(self.ring.send(event.clone()));
            }
        }
        self.journal.pods(events);
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
    let event = |id: &str, change, container: Option<&Arc<ContainerView>>| {
        let container = container.map(Arc::clone);
        Event { id: id.to_owned(), change, at, sandbox: Arc::clone(sandbox), container }
    };
    let of_pod = of_pod(before, after);
    let of_pod = of_pod.into_iter().map(|change| event(sandbox.id.as_str(), change, None));
    let containers = of_containers(before, after);
    let of_containers =
        containers.into_iter().map(|(view, change)| event(view.id.as_str(), change, Some(view)));
    if after.is_some() {
        of_pod.chain(of_containers).collect()
    } else {
        of_containers.chain(of_pod).collect()
    }
}

fn of_pod(before: Option<&Arc<SandboxView>>, after: Option<&Arc<SandboxView>>) -> Vec<Change> {
    let stage = |view: Option<&Arc<SandboxView>>| view.map_or(Stage::Absent, |v| of_sandbox(v));
    let mut changes = steps(stage(before), stage(after), Ran::Yes);
    if let (Some(before), Some(after)) = (before, after) {
        if (stage(Some(before)), stage(Some(after))) == (Stage::Stopped, Stage::Started) {
            changes.push(Change::ReadyAgain);
        }
        // It is replaced by an update and by nothing else.
        if !Arc::ptr_eq(&before.spec, &after.spec) {
            changes.push(Change::Updated);
        }
    }
    changes
}

fn of_containers<'a>(
    before: Option<&'a Arc<SandboxView>>,
    after: Option<&'a Arc<SandboxView>>,
) -> Vec<(&'a Arc<ContainerView>, Change)> {
    let views =
        |view: Option<&'a Arc<SandboxView>>| view.into_iter().flat_map(|view| &view.containers);
    let find =
        |view: Option<&'a Arc<SandboxView>>, id| view.and_then(|view| view.containers.get(id));
    let gone = views(before).filter(|(id, _)| find(after, id).is_none());
    let mut found = Vec::new();
    for (id, view) in views(after).chain(gone) {
        let changes = of_one_container(find(before, id), find(after, id), view);
        found.extend(changes.into_iter().map(|change| (view, change)));
    }
    found
}

/// `view` is the later of the two.
fn of_one_container(
    before: Option<&Arc<ContainerView>>,
    after: Option<&Arc<ContainerView>>,
    view: &ContainerView,
) -> Vec<Change> {
    let stage = |view: Option<&Arc<ContainerView>>| view.map_or(Stage::Absent, |v| of_container(v));
    let (old, new) = (stage(before), stage(after));
    let ran = if view.state.started_at().is_some() { Ran::Yes } else { Ran::No };
    let mut changes = steps(old, new, ran);
    if let Some(end) = changes.iter().position(|change| *change == Change::Stopped)
        && view.state.was_oom_killed()
    {
        changes.insert(end, Change::OomKilled);
    }
    let was_paused = before.is_some_and(|view| view.state.paused_at().is_some());
    match (was_paused, new == Stage::Started, view.state.paused_at().is_some()) {
        (false, true, true) => changes.push(Change::Paused),
        (true, true, false) => changes.push(Change::Resumed),
        (false, _, _) | (true, _, _) => {}
    }
    if let (Some(before), Some(after)) = (before, after)
        // It is replaced by an update and by nothing else.
        && !Arc::ptr_eq(&before.spec, &after.spec)
    {
        changes.push(Change::Updated);
    }
    changes
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
        let events = Events::new(Inbox::default());
        let counters = Arc::new(Counters::default());
        let ready = pod(SandboxState::Ready);
        let stopped = SandboxView { state: SandboxState::NotReady, ..SandboxView::clone(&ready) };
        let stopped = Arc::new(stopped);
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
        let events = Events::new(Inbox::default());
        let counters = Arc::new(Counters::default());
        let (mut slow, mut quick) = (events.listen(&counters), events.listen(&counters));
        let ready = pod(SandboxState::Ready);
        let stopped = SandboxView { state: SandboxState::NotReady, ..SandboxView::clone(&ready) };
        let stopped = Arc::new(stopped);
        for _ in 0..=RING {
            events.tell(Some(&ready), Some(&stopped));
            assert_eq!(quick.next().await.unwrap().unwrap().change, Change::Stopped);
        }
        assert_eq!(slow.next().await.unwrap().unwrap_err(), Lagged { missed: 1 });
        assert_eq!(counters.read().events_dropped, 1);
    }

    #[test]
    fn what_only_davits_own_events_tell_is_told_where_it_belongs() {
        use crate::container::{ContainerEvent, ContainerState};
        let told = |before: &Arc<SandboxView>, after: &Arc<SandboxView>| -> Vec<Change> {
            between(Some(before), Some(after), 1).iter().map(|event| event.change).collect()
        };
        let running = ContainerState::Running { pid: 2, started_at: 1, paused_at: None };
        let mut one = crate::oci::testing::container_view();
        one.state = running.clone();
        let mut before = SandboxView::clone(&pod(SandboxState::Ready));
        before.containers.insert(one.id.clone(), Arc::new(one.clone()));
        let mut after = before.clone();
        one.state =
            running.next(ContainerEvent::Exited { at: 3, code: 137, oom_killed: true }).unwrap();
        after.containers.insert(one.id.clone(), Arc::new(one));
        let before = Arc::new(before);
        let after = Arc::new(after);
        assert_eq!(told(&before, &after), [Change::OomKilled, Change::Stopped]);
        let mut updated = SandboxView::clone(&after);
        updated.spec = Arc::new(crate::sandbox::SandboxSpec::clone(&after.spec));
        updated.state = SandboxState::NotReady;
        let updated = Arc::new(updated);
        assert_eq!(told(&after, &updated), [Change::Stopped, Change::Updated]);
        let mut again = SandboxView::clone(&updated);
        again.state = SandboxState::Ready;
        assert_eq!(told(&updated, &Arc::new(again)), [Change::ReadyAgain]);
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
                Change::Paused | Change::Resumed | Change::Updated | Change::ReadyAgain => 2,
                Change::OomKilled | Change::Stopped => 3,
                Change::Deleted => 4,
            };
            prop_assert!(told.windows(2).all(|pair| rank(&pair[0]) < rank(&pair[1])), "{told:?}");
            prop_assert_eq!(told.first(), Some(&Change::Created));
            prop_assert_eq!(told.last(), Some(&Change::Deleted));
        }
    }
}
