//! One container in its pod's task: its record, and what is under way on it.

use crate::container::{
    ContainerEvent, ContainerState, ContainerView, Denied, Motion, PauseContainerError,
    RemoveContainerError, Resources, StartContainerError, StopContainerError, UpdateContainerError,
};
use crate::id::ContainerId;
use crate::image::LayerHold;
use crate::sandbox::handle::Reply;
use crate::stats::Meter;
use crate::store::ContainerRecord;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;

/// A container that has been made.
pub(crate) struct Slot {
    /// On the heap: a map of slots has room for eleven before there is one.
    pub(super) record: Box<ContainerRecord>,
    view: Arc<ContainerView>,
    /// Keeps its layers and its volumes', whatever happens to the images; at recovery, those that are left.
    #[expect(dead_code, reason = "held, not looked at")]
    layers: Vec<LayerHold>,
    /// A start under way, and who waits for it.
    pub(super) starting: Option<Vec<Reply<(), StartContainerError>>>,
    pub(super) told: StartTold,
    /// An exit that was told while the start was under way: how the start went comes first.
    pub(super) early_exit: Option<ContainerEvent>,
    /// A stop under way.
    pub(super) stopping: Option<Stopping>,
    /// Changes of its limits, and who waits for each: the first is under way, the others come after it.
    pub(super) updates: VecDeque<(Resources, Reply<(), UpdateContainerError>)>,
    /// Whether it is to stand still or go on, and who waits for each (nobody, where a stop wants it): the first is under way.
    pub(super) motions: VecDeque<(Motion, Option<Reply<(), PauseContainerError>>)>,
    /// A removal under way, and who waits for it.
    pub(super) removing: Vec<Reply<(), RemoveContainerError>>,
    /// The record on disk is older than this one.
    pub(super) unwritten: bool,
    /// When davit's log last said that the container's can't be written.
    pub(super) loss_told: Option<Instant>,
}

/// Whether whoever asked for a container's start may have heard of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StartTold {
    /// By this daemon.
    Yes,
    /// Its answer may have gone down with an earlier daemon: the next one who asks may be asking again, and is told what that one would have been.
    Perhaps,
}

/// A stop under way: however many ask for it, there is one.
pub(super) struct Stopping {
    /// When it stops being gentle; later askers can only bring it nearer.
    pub(super) deadline: watch::Sender<Instant>,
    pub(super) replies: Vec<Reply<(), StopContainerError>>,
}

impl Slot {
    pub(crate) fn new(record: ContainerRecord, layers: Vec<LayerHold>) -> Self {
        let view = Arc::new(ContainerView {
            id: record.id.clone(),
            sandbox: record.sandbox.clone(),
            spec: Arc::new(record.spec.clone()),
            facts: Arc::new(record.facts.clone()),
            state: record.state.clone(),
            log_dropped: 0,
            meter: Meter::default(),
        });
        Self {
            record: Box::new(record),
            view,
            layers,
            starting: None,
            told: StartTold::Yes,
            early_exit: None,
            stopping: None,
            updates: VecDeque::new(),
            motions: VecDeque::new(),
            removing: Vec::new(),
            unwritten: false,
            loss_told: None,
        }
    }

    /// The same for one that an earlier daemon had made.
    pub(crate) fn recovered(record: ContainerRecord, layers: Vec<LayerHold>) -> Self {
        Self { told: StartTold::Perhaps, ..Self::new(record, layers) }
    }

    /// Whether it runs, by a start whose answer may have been lost. Answers so once.
    pub(super) fn take_untold_start(&mut self) -> bool {
        let runs = matches!(self.record.state, ContainerState::Running { .. });
        let untold = self.told == StartTold::Perhaps && runs && self.stopping.is_none();
        if untold {
            self.told = StartTold::Yes;
        }
        untold
    }

    /// Who waits for its start. Somebody who does is told of it.
    pub(super) fn take_starters(&mut self) -> Option<Vec<Reply<(), StartContainerError>>> {
        let starters = self.starting.take()?;
        if !starters.is_empty() {
            self.told = StartTold::Yes;
        }
        Some(starters)
    }

    /// Its id.
    pub(crate) fn id(&self) -> &ContainerId {
        &self.record.id
    }

    /// The container as others are to see it.
    pub(super) fn view(&self) -> Arc<ContainerView> {
        Arc::clone(&self.view)
    }

    /// Moves it on; answers whether that changed anything.
    pub(super) fn apply(&mut self, event: ContainerEvent) -> Result<bool, Denied> {
        let next = self.record.state.next(event)?;
        if next == self.record.state {
            return Ok(false);
        }
        self.record.state = next.clone();
        self.view = Arc::new(ContainerView { state: next, ..ContainerView::clone(&self.view) });
        Ok(true)
    }

    /// Its limits are these from now on.
    pub(super) fn set_resources(&mut self, resources: Resources) {
        self.record.spec.resources = resources;
        self.view = Arc::new(ContainerView {
            spec: Arc::new(self.record.spec.clone()),
            ..ContainerView::clone(&self.view)
        });
    }

    /// So much of its log is lost by now; answers how much more that is.
    pub(super) fn set_log_dropped(&mut self, dropped: u64) -> u64 {
        let more = dropped.saturating_sub(self.view.log_dropped);
        self.view =
            Arc::new(ContainerView { log_dropped: dropped, ..ContainerView::clone(&self.view) });
        more
    }

    /// Its record is to be written again. One that is being removed has no place for it any more.
    pub(super) fn owes_record(&self) -> bool {
        self.unwritten && self.removing.is_empty()
    }

    /// There is a process of it.
    pub(super) fn alive(&self) -> bool {
        match self.record.state {
            ContainerState::Created { .. } | ContainerState::Running { .. } => true,
            ContainerState::Creating | ContainerState::Exited(_) => false,
        }
    }

    /// Its state in one word, for a refusal.
    pub(super) fn state_name(&self) -> &'static str {
        if self.removing.is_empty() { self.record.state.name() } else { "being removed" }
    }

    /// Brings a stop that is under way to its point.
    pub(super) fn hurry(&self, deadline: Instant) {
        if let Some(stopping) = &self.stopping {
            stopping.deadline.send_if_modified(|current| {
                let nearer = deadline < *current;
                if nearer {
                    *current = deadline;
                }
                nearer
            });
        }
    }
}
