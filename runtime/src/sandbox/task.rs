//! A pod's one owner: the task that holds its state.
//!
//! Owns the pod's record, its containers' records and their states; nobody else changes them. It never waits for work: what takes time is
//! a job of its own, which comes back with an [`Outcome`]. So a slow create holds up no status, no stop and no other container. After
//! each change it writes the record, then publishes a new [`SandboxView`]: who reads that sees nothing that a crash could take back.
//!
//! ```text
//!  Command ─┐                      ┌─► job (creates, starts, stops, removes) ─┐
//!  shim's   ├─► inbox ─► this task ┤                                          │
//!  Event ───┘      ▲               └─► record, view, counters                 │
//!                  └───────────────────── Outcome ◄───────────────────────────┘
//!
//!  Creating ──made──► Ready{shim} ──Stop, Remove, trouble──► NotReady{shim?} ──Remove──► (gone)
//!                          ▲            the shim is silent──►│
//!                          └──────────── it answers ─────────┘
//! ```

use super::error::{RemoveSandboxError, RunSandboxError, StopSandboxError};
use super::handle::{Command, Message, PodHandle, Reply};
use super::helpers::Killing;
use super::job::Outcome;
use super::shim::Shim;
use super::slot::Slot;
use super::unwritten::OnDisk;
use super::watch_shim::Hearing;
use super::{SandboxSpec, SandboxState, SandboxView, create, undoing, unwritten, watch_shim};
use crate::ahead::PodAhead;
use crate::container::{self, ContainerSpec};
use crate::counters::Share;
use crate::id::{ContainerId, SandboxId};
use crate::shared::Shared;
use crate::stats::Meter;
use crate::store::{SandboxPhase, SandboxRecord, write_json};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::Instrument;

/// How many messages wait for a pod's task before their senders do.
const INBOX: usize = 64;

/// A pod and its task's state.
pub(super) struct Pod {
    pub(super) shared: Arc<Shared>,
    pub(super) record: SandboxRecord,
    pub(super) spec: Arc<SandboxSpec>,
    pub(super) shim: Option<Shim>,
    pub(super) slots: BTreeMap<ContainerId, Slot>,
    /// Containers whose creation is under way, by name and attempt.
    pub(super) creating: HashMap<(String, u32), InFlight>,
    /// Jobs on containers that are under way, creations included.
    pub(super) busy: usize,
    /// Interrupted creations that are being undone.
    pub(super) undoing: usize,
    /// A silent shim was killed and is waited for.
    pub(super) killing: Killing,
    /// Stops and removals of the pod: the first is under way if `ending`, the others wait.
    pub(super) endings: VecDeque<Ending>,
    pub(super) ending: bool,
    /// Whether its shim answers, as long as it lives.
    pub(super) hearing: Hearing,
    pub(super) on_disk: OnDisk,
    share: Share,
    meter: Meter,
    pub(super) outbox: mpsc::Sender<Message>,
    view: watch::Sender<Option<Arc<SandboxView>>>,
}

/// A container's creation under way, and who waits for it.
pub(super) struct InFlight {
    pub(super) spec: Box<ContainerSpec>,
    pub(super) replies: Vec<Reply<ContainerId, crate::container::CreateContainerError>>,
}

/// A stop or removal of the pod that somebody waits for.
pub(super) enum Ending {
    Stop(Reply<(), StopSandboxError>),
    Remove(Reply<(), RemoveSandboxError>),
}

/// Whether the task goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Go,
    End,
}

/// Spawns the task of a pod that is to be created, of what waits for it if anything does; its first command must be [`Command::Run`].
pub(crate) fn spawn_new(
    shared: Arc<Shared>,
    id: SandboxId,
    spec: Arc<SandboxSpec>,
    waiting: Option<PodAhead>,
) -> PodHandle {
    let (outbox, inbox) = mpsc::channel(INBOX);
    let (view, seen) = watch::channel(None);
    let handle = PodHandle::new(outbox.clone(), seen);
    let (span, queued) = (tracing::Span::current(), shared.metrics.steps.run_queue.begin());
    tokio::spawn(async move {
        let making = {
            let (shared, id, spec) = (Arc::clone(&shared), id.clone(), Arc::clone(&spec));
            // Its memory goes when the pod is there; what follows is the pod's life.
            Box::pin(async move {
                drop(queued);
                create::create(&shared, id, spec, waiting).await
            })
        };
        match shared.creations.run(making).instrument(span).await {
            Ok(made) => {
                let mut pod = Pod::new(shared, made.record, outbox, view);
                pod.adopt(made.shim);
                pod.publish();
                pod.announce();
                pod.run(inbox).await;
            }
            Err(error) => refuse(&shared, &id, &spec, Arc::new(error), inbox),
        }
    });
    handle
}

/// Spawns the task of a pod that its records tell of. Everybody sees it as they have it, at once; then its shim is asked.
pub(crate) fn spawn_recovered(
    shared: Arc<Shared>,
    record: SandboxRecord,
    slots: Vec<Slot>,
    interrupted: Vec<ContainerId>,
) -> PodHandle {
    let (outbox, inbox) = mpsc::channel(INBOX);
    let (view, seen) = watch::channel(None);
    let handle = PodHandle::new(outbox.clone(), seen);
    let mut pod = Pod::new(shared, record, outbox, view);
    pod.slots = slots.into_iter().map(|slot| (slot.record.id.clone(), slot)).collect();
    pod.publish();
    tokio::spawn(async move {
        pod.undo(interrupted);
        pod.reconnect().await;
        pod.run(inbox).await;
    });
    handle
}

/// Undoes a creation that a crash has interrupted, in a task of its own. Until that is done the pod's name stays taken: whoever asks for it waits, and makes
/// the pod anew. A pod that has the name already keeps it.
pub(crate) fn spawn_undoing(shared: &Arc<Shared>, record: SandboxRecord) {
    let (outbox, inbox) = mpsc::channel(INBOX);
    let (view, seen) = watch::channel(None);
    let handle = PodHandle::new(outbox, seen);
    let (id, key) = (record.id.clone(), record.spec.key.clone());
    let taken = || Ok::<_, std::convert::Infallible>((id.clone(), handle));
    let Ok(_) = shared.index.pod_of_key(&key, taken);
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        undoing::take_back_interrupted(&shared, record).await;
        // Out of the index first: who waits looks there again.
        shared.index.remove_pod(&id, &key);
        drop((inbox, view));
    });
}

/// Tells all who wait for a pod that could not be created, and frees its name.
fn refuse(
    shared: &Shared,
    id: &SandboxId,
    spec: &SandboxSpec,
    error: Arc<RunSandboxError>,
    mut inbox: mpsc::Receiver<Message>,
) {
    // Out of the index first: a caller that comes later makes a new pod instead of joining this one's failure.
    shared.index.remove_pod(id, &spec.key);
    inbox.close();
    while let Ok(message) = inbox.try_recv() {
        if let Message::Command(Command::Run { reply, .. }, _) = message {
            drop(reply.send(Err(Arc::clone(&error))));
        }
    }
}

impl Pod {
    fn new(
        shared: Arc<Shared>,
        record: SandboxRecord,
        outbox: mpsc::Sender<Message>,
        view: watch::Sender<Option<Arc<SandboxView>>>,
    ) -> Self {
        Self {
            spec: Arc::new(record.spec.clone()),
            shared,
            record,
            shim: None,
            slots: BTreeMap::new(),
            creating: HashMap::new(),
            busy: 0,
            undoing: 0,
            killing: Killing::No,
            endings: VecDeque::new(),
            ending: false,
            hearing: Hearing::Answers,
            on_disk: OnDisk::Current,
            share: Share::default(),
            meter: Meter::default(),
            outbox,
            view,
        }
    }

    /// Takes a shim that serves as the pod's own, and listens to it.
    pub(super) fn adopt(&mut self, mut shim: Shim) {
        shim.client = shim.client.measured(self.shared.metrics.oci(&self.record.handler));
        let deadline = self.shared.config.deadlines.shim;
        watch_shim::spawn(shim.clone(), deadline, self.outbox.clone());
        self.shim = Some(shim);
    }

    /// Undoes what a crash has left of containers that nobody was told of.
    fn undo(&mut self, interrupted: Vec<ContainerId>) {
        for id in interrupted {
            self.undoing += 1;
            let (shared, record) = (Arc::clone(&self.shared), self.record.clone());
            self.job(async move {
                container::undo(shared, record, id).await;
                Outcome::Undone
            });
        }
    }

    async fn run(mut self, mut inbox: mpsc::Receiver<Message>) {
        // Not begun anew by each message: there may be some every second.
        let mut next_try = Instant::now();
        loop {
            let message = tokio::select! {
                message = inbox.recv() => message,
                () = tokio::time::sleep_until(next_try), if self.owes_records() => {
                    self.write_owed_records();
                    next_try = Instant::now() + unwritten::PAUSE;
                    continue;
                }
            };
            let Some(message) = message else { break };
            let next = match message {
                Message::Command(command, span) => span.in_scope(|| self.command(command)),
                Message::Outcome(outcome) => self.outcome(*outcome).await,
                Message::Event(event) => self.event(event),
                Message::ShimFound(found) => self.shim_found(*found).await,
                Message::ShimHeard(heard) => self.shim_heard(heard),
                Message::ShimEnded => self.shim_ended().await,
                Message::Freezer(id) => self.look_at_freezer(&id),
            };
            if next == Next::End {
                break;
            }
        }
    }

    fn command(&mut self, command: Command) -> Next {
        match command {
            Command::Run { spec, reply } => drop(reply.send(self.same_as(&spec).map_err(Arc::new))),
            Command::Stop { reply } => self.endings.push_back(Ending::Stop(reply)),
            Command::Remove { reply } => self.endings.push_back(Ending::Remove(reply)),
            Command::Create { spec, reply } => self.create(spec, reply),
            Command::Restore { wanted, reply } => self.restore(*wanted, reply),
            Command::Start { id, reply } => self.start(id, reply),
            Command::StopContainer { id, grace, reply } => self.stop_container(&id, grace, reply),
            Command::RemoveContainer { id, reply } => self.remove_container(&id, reply),
            Command::UpdateContainer { id, asked, reply } => {
                self.update_container(&id, *asked, reply)
            }
            Command::Move { id, motion, reply } => self.move_container(&id, motion, reply),
            Command::Signal { id, reply } => {
                drop(reply.send(self.signal_target(&id).map_err(Arc::new)))
            }
            Command::Update { limits, reply } => {
                drop(reply.send(self.update(*limits).map_err(Arc::new)))
            }
            Command::Exec { id, reply } => {
                drop(reply.send(self.exec_target(&id).map_err(Arc::new)))
            }
            Command::Attach { id, reply } => {
                drop(reply.send(self.attach_target(&id).map_err(Arc::new)))
            }
            Command::ReopenLog { id, reply } => {
                drop(reply.send(self.log_of(&id).map_err(Arc::new)))
            }
        }
        self.end_if_due();
        Next::Go
    }

    async fn outcome(&mut self, outcome: Outcome) -> Next {
        match outcome {
            Outcome::Created { name, result } => self.created(&name, result).await,
            Outcome::Started { id, result } => self.started(&id, result),
            Outcome::Stopped { id, result } => self.stopped(&id, result),
            Outcome::Removed { id, result } => self.removed(&id, result),
            Outcome::Updated { id, result } => self.updated(&id, result),
            Outcome::Moved { id, motion, result } => self.moved(&id, motion, result),
            Outcome::Undone => self.undoing -= 1,
            Outcome::ShimKilled(ended) => return self.shim_killed(ended),
            Outcome::SandboxStopped(result) => self.sandbox_stopped(result),
            Outcome::SandboxRemoved(result) => {
                if self.sandbox_removed(result) == Next::End {
                    return Next::End;
                }
            }
        }
        self.end_if_due();
        Next::Go
    }

    /// A retry of the call that made this pod gets its id; another call with the same name is told who has it.
    fn same_as(&self, spec: &SandboxSpec) -> Result<SandboxId, RunSandboxError> {
        let difference = if *spec != *self.spec {
            "was asked for differently"
        } else if self.state() != SandboxState::Ready {
            "is no longer ready: remove it first, or raise the attempt"
        } else {
            return Ok(self.record.id.clone());
        };
        let (key, holder) = (self.spec.key.clone(), self.record.id.clone());
        Err(RunSandboxError::NameTaken { key, holder, difference })
    }

    /// As others see it: ready as long as it was neither stopped nor is in trouble.
    pub(super) fn state(&self) -> SandboxState {
        match self.record.phase {
            SandboxPhase::Ready if self.record.shim.is_some() && self.trouble().is_none() => {
                SandboxState::Ready
            }
            SandboxPhase::Creating | SandboxPhase::Ready | SandboxPhase::NotReady => {
                SandboxState::NotReady
            }
        }
    }

    /// Starts a job whose outcome comes back as a message.
    pub(super) fn job(&self, work: impl Future<Output = Outcome> + Send + 'static) {
        let outbox = self.outbox.clone();
        let span = tracing::Span::current();
        tokio::spawn(async move {
            let outcome = Message::Outcome(Box::new(work.instrument(span).await));
            // The task ends only when no job is under way, so this is received.
            drop(outbox.send(outcome).await);
        });
    }

    /// Shows everybody the pod as it is now.
    pub(super) fn publish(&mut self) {
        let view = SandboxView {
            id: self.record.id.clone(),
            spec: Arc::clone(&self.spec),
            handler: self.record.handler.clone(),
            created_at: self.record.created_at,
            state: self.state(),
            trouble: self.trouble(),
            ips: self.record.ips.clone(),
            netns: self.record.netns.clone(),
            shim_pid: self.record.shim.map(|shim| shim.pid),
            containers: self
                .slots
                .values()
                .map(|slot| (slot.record.id.clone(), slot.view()))
                .collect(),
            meter: self.meter.clone(),
        };
        self.count(Share::of(&view));
        let view = Arc::new(view);
        let before = self.view.send_replace(Some(Arc::clone(&view)));
        // A pod that was not seen before is one of the records': nothing has happened to it. A new one is announced.
        if before.is_some() {
            self.shared.events.tell(before.as_ref(), Some(&view));
        }
    }

    /// Tells of a pod that has just been shown for the first time.
    fn announce(&self) {
        self.shared.events.tell(None, self.view.borrow().as_ref());
    }

    fn count(&mut self, share: Share) {
        self.shared.counters.replace(self.share, share);
        self.share = share;
    }

    /// Takes the pod out of everybody's sight; its name is free.
    pub(super) fn vanish(&mut self) {
        self.count(Share::default());
        self.shared.index.remove_pod(&self.record.id, &self.spec.key);
        self.shared.events.tell(self.view.borrow().as_ref(), None);
    }

    /// Writes the pod's record.
    pub(super) fn save(&self) -> Result<(), crate::store::StoreError> {
        write_json(&self.shared.layout.sandbox_record(&self.record.id), &self.record)
    }

    /// The pod's changes, for a job that waits for one.
    pub(super) fn watch(&self) -> watch::Receiver<Option<Arc<SandboxView>>> {
        self.view.subscribe()
    }
}
