//! What a pod's task does about its containers.
//!
//! Owns who may do what when, and joins those who ask for the same; the work itself is in [`crate::container`].

use super::SandboxState;
use super::handle::Reply;
use super::index::unknown;
use super::job::Outcome;
use super::slot::{Slot, Stopping};
use super::task::{InFlight, Next, Pod};
use super::watch_shim::Hearing;
use crate::clock;
use crate::container::{
    self, ContainerEvent, ContainerPid, ContainerSpec, ContainerState, CreateContainerError,
    ExecError, LostEnd, MadeContainer, Motion, RemoveContainerError, ReopenLogError,
    StartContainerError, StopContainerError, Target,
};
use crate::exec::ExecTarget;
use crate::id::ContainerId;
use crate::sandbox::LookupError;
use crate::shim::{ShimClient, ShimError};
use crate::shortage::is_shortage;
use davit_proto::shim::event::Kind;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Between two lines of davit's log about the loss of one container's.
const LOSS_PAUSE: Duration = Duration::from_secs(60);

/// An OCI runtime has moved a command into the container's cgroups by then, if it is not held up.
const COMMAND: Duration = Duration::from_millis(10);

impl Pod {
    /// Makes a container, or joins the making of the same one, or finds it made.
    pub(super) fn create(
        &mut self,
        spec: Box<ContainerSpec>,
        reply: Reply<ContainerId, CreateContainerError>,
    ) {
        let name = (spec.name.clone(), spec.attempt);
        if let Some(in_flight) =
            self.creating.get_mut(&name).filter(|in_flight| in_flight.spec == spec)
        {
            in_flight.replies.push(reply);
            return;
        }
        let answer = match self.may_create(&spec) {
            Ok(None) => match self.creation(&spec) {
                Ok(creation) => {
                    let job_name = name.clone();
                    self.creating.insert(name, InFlight { spec, replies: vec![reply] });
                    self.busy += 1;
                    let shared = Arc::clone(&self.shared);
                    self.job(async move {
                        let queued = shared.metrics.steps.create_queue.begin();
                        let making = Box::pin(async move {
                            drop(queued);
                            container::create(creation).await
                        });
                        let made = shared.creations.run(making).await;
                        Outcome::Created { name: job_name, result: made.map(Box::new) }
                    });
                    return;
                }
                Err(error) => Err(error),
            },
            Ok(Some(id)) => Ok(id),
            Err(error) => Err(error),
        };
        drop(reply.send(answer.map_err(Arc::new)));
    }

    /// `Some` if it is made already.
    pub(super) fn may_create(
        &self,
        spec: &ContainerSpec,
    ) -> Result<Option<ContainerId>, CreateContainerError> {
        let holder = self.slots.values().find(|slot| {
            slot.record.spec.name == spec.name && slot.record.spec.attempt == spec.attempt
        });
        if let Some(slot) = holder {
            if slot.record.spec == *spec && slot.removing.is_empty() {
                return Ok(Some(slot.record.id.clone()));
            }
            let holder = slot.record.id.clone();
            return Err(CreateContainerError::NameTaken {
                name: spec.name.clone(),
                attempt: spec.attempt,
                holder,
            });
        }
        if self.state() != SandboxState::Ready || !self.endings.is_empty() {
            return Err(CreateContainerError::SandboxNotReady { id: self.record.id.clone() });
        }
        Ok(None)
    }

    pub(super) fn creation(
        &self,
        spec: &ContainerSpec,
    ) -> Result<container::Creation, CreateContainerError> {
        let not_ready = || CreateContainerError::SandboxNotReady { id: self.record.id.clone() };
        let shim = self.shim.clone().ok_or_else(not_ready)?;
        Ok(container::Creation {
            shared: Arc::clone(&self.shared),
            sandbox: self.record.clone(),
            target: self.pid_target(spec)?,
            shim,
            spec: spec.clone(),
        })
    }

    /// The container whose PID namespace it is to join.
    fn pid_target(&self, spec: &ContainerSpec) -> Result<Option<Target>, CreateContainerError> {
        let ContainerPid::Target(target) = &spec.security.pid else { return Ok(None) };
        let refuse = |problem| CreateContainerError::Target { target: target.clone(), problem };
        let mut found = self
            .slots
            .values()
            .filter(|slot| !target.is_empty() && slot.record.id.as_str().starts_with(target));
        let slot = found.next().ok_or_else(|| refuse("is not in this pod"))?;
        if found.next().is_some() {
            return Err(refuse("is ambiguous in this pod"));
        }
        match slot.record.state {
            ContainerState::Running { pid, .. } => {
                Ok(Some(Target { id: slot.record.id.clone(), pid }))
            }
            ContainerState::Creating
            | ContainerState::Created { .. }
            | ContainerState::Exited(_) => Err(refuse("is not running")),
        }
    }

    pub(super) async fn created(
        &mut self,
        name: &(String, u32),
        result: Result<Box<MadeContainer>, CreateContainerError>,
    ) {
        self.busy -= 1;
        let replies =
            self.creating.remove(name).map(|in_flight| in_flight.replies).unwrap_or_default();
        let answer = result.map_err(Arc::new).map(|made| {
            let id = made.record.id.clone();
            self.slots.insert(id.clone(), Slot::new(made.record, made.layers));
            self.shared.index.add_container(&id, &self.record.id);
            self.publish();
            id
        });
        if let Ok(id) = &answer {
            self.catch_up(id).await;
        }
        for reply in replies {
            drop(reply.send(answer.clone()));
        }
    }

    /// Starts a container, or joins the start that is under way. A start that an earlier daemon's end left without an answer is answered.
    pub(super) fn start(&mut self, id: ContainerId, reply: Reply<(), StartContainerError>) {
        if let Some(waiting) = self.slots.get_mut(&id).and_then(|slot| slot.starting.as_mut()) {
            waiting.push(reply);
            return;
        }
        if self.slots.get_mut(&id).is_some_and(Slot::take_untold_start) {
            drop(reply.send(Ok(())));
            return;
        }
        match self.may_start(&id) {
            Ok(client) => self.begin_start(id, client, vec![reply]),
            Err(error) => drop(reply.send(Err(Arc::new(error)))),
        }
    }

    fn begin_start(
        &mut self,
        id: ContainerId,
        client: ShimClient,
        replies: Vec<Reply<(), StartContainerError>>,
    ) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.starting = Some(replies);
        }
        self.busy += 1;
        let shared = Arc::clone(&self.shared);
        self.job(async move {
            let limit = shared.config.deadlines.start;
            let started = id.clone();
            let queued = shared.metrics.steps.start_queue.begin();
            let running = Arc::clone(&shared);
            let starting = async move {
                drop(queued);
                let _step = running.metrics.steps.start_runtime.begin();
                container::start(&client, &started, limit).await
            };
            let result = shared.creations.run(Box::pin(starting)).await;
            Outcome::Started { id, result }
        });
    }

    fn may_start(&self, id: &ContainerId) -> Result<ShimClient, StartContainerError> {
        let slot = self.slot(id)?;
        let refuse = |state| StartContainerError::State { id: id.clone(), state };
        if slot.stopping.is_some() {
            return Err(refuse("being stopped"));
        }
        match slot.record.state {
            ContainerState::Created { .. } if slot.removing.is_empty() => {}
            ContainerState::Creating
            | ContainerState::Created { .. }
            | ContainerState::Running { .. }
            | ContainerState::Exited(_) => {
                return Err(refuse(slot.state_name()));
            }
        }
        match &self.shim {
            Some(shim) if self.state() == SandboxState::Ready => Ok(shim.client.clone()),
            Some(_) | None => Err(StartContainerError::SandboxNotReady {
                id: id.clone(),
                sandbox: self.record.id.clone(),
            }),
        }
    }

    pub(super) fn started(&mut self, id: &ContainerId, result: Result<i64, StartContainerError>) {
        self.busy -= 1;
        let (event, answer) = match result {
            Ok(at) => (Some(ContainerEvent::Started { at }), Ok(())),
            // Its shim was not asked: it waits for another start.
            Err(error) if is_shortage(&error) => (None, Err(error)),
            Err(error) => {
                let message = crate::error::chain(&error);
                (Some(ContainerEvent::StartRefused { at: clock::now(), message }), Err(error))
            }
        };
        let replies = self.slots.get_mut(id).and_then(Slot::take_starters);
        if let Some(event) = event {
            self.apply(id, event);
        }
        if let Some(exit) = self.slots.get_mut(id).and_then(|slot| slot.early_exit.take()) {
            self.apply(id, exit);
        }
        let answer = answer.map_err(Arc::new);
        for reply in replies.unwrap_or_default() {
            drop(reply.send(answer.clone()));
        }
    }

    pub(super) fn stop_container(
        &mut self,
        id: &ContainerId,
        grace: Duration,
        reply: Reply<(), StopContainerError>,
    ) {
        let mut deadline = Instant::now() + grace;
        let Some(slot) = self.slots.get_mut(id) else {
            drop(reply.send(Ok(())));
            return;
        };
        if !slot.alive() {
            drop(reply.send(Ok(())));
            return;
        }
        if matches!(slot.record.state, ContainerState::Created { .. }) && slot.starting.is_none() {
            // Its init is PID 1 with no handler: every signal but SIGKILL passes it by.
            deadline = Instant::now();
        }
        slot.hurry(deadline);
        if let Some(stopping) = &mut slot.stopping {
            stopping.replies.push(reply);
            return;
        }
        let Some(shim) = self.shim.clone() else {
            drop(reply.send(self.without_shim(id)));
            return;
        };
        let (sender, receiver) = watch::channel(deadline);
        slot.stopping = Some(Stopping { deadline: sender, replies: vec![reply] });
        let stop = container::Stop {
            id: id.clone(),
            signal: slot.record.facts.stop_signal,
            client: shim.client,
            deadline: receiver,
            kill: self.shared.config.deadlines.kill,
        };
        let view = self.watch();
        if deadline > Instant::now() {
            self.wake_to_stop(id);
        }
        self.busy += 1;
        self.job(async move {
            Outcome::Stopped { id: stop.id.clone(), result: container::stop(stop, view).await }
        });
    }

    /// What a stop is told where no shim was found. If it is gone, its end has been seen, or is about to be, and ends the container. If it only does not
    /// answer, the container runs on.
    fn without_shim(&self, id: &ContainerId) -> Result<(), Arc<StopContainerError>> {
        match self.hearing {
            Hearing::Answers => Ok(()),
            Hearing::Silent => {
                let source = ShimError::Deadline { message: "it does not answer".to_owned() };
                Err(Arc::new(StopContainerError::Shim { id: id.clone(), source }))
            }
        }
    }

    pub(super) fn stopped(&mut self, id: &ContainerId, result: Result<(), StopContainerError>) {
        self.busy -= 1;
        let stopping = self.slots.get_mut(id).and_then(|slot| slot.stopping.take());
        let answer = result.map_err(Arc::new);
        for reply in stopping.map(|stopping| stopping.replies).unwrap_or_default() {
            drop(reply.send(answer.clone()));
        }
    }

    pub(super) fn remove_container(
        &mut self,
        id: &ContainerId,
        reply: Reply<(), RemoveContainerError>,
    ) {
        let Some(slot) = self.slots.get_mut(id) else {
            drop(reply.send(Ok(())));
            return;
        };
        slot.hurry(Instant::now());
        slot.removing.push(reply);
        if slot.removing.len() > 1 {
            return;
        }
        let removal = container::Removal {
            shared: Arc::clone(&self.shared),
            sandbox: self.record.id.clone(),
            handler: self.record.handler.clone(),
            id: id.clone(),
            client: self.shim.as_ref().map(|shim| shim.client.clone()),
        };
        let view = self.watch();
        self.busy += 1;
        self.job(async move {
            Outcome::Removed {
                id: removal.id.clone(),
                result: container::remove(removal, view).await,
            }
        });
    }

    pub(super) fn removed(&mut self, id: &ContainerId, result: Result<(), RemoveContainerError>) {
        self.busy -= 1;
        let replies = self
            .slots
            .get_mut(id)
            .map(|slot| std::mem::take(&mut slot.removing))
            .unwrap_or_default();
        let answer = result.map_err(Arc::new);
        if answer.is_ok() {
            self.slots.remove(id);
            self.shared.index.remove_container(id);
            self.publish();
        }
        for reply in replies {
            drop(reply.send(answer.clone()));
        }
    }

    /// Brings together what the records say after a restart and what the shim says. Exits are told by its events.
    pub(super) async fn reconcile(&mut self, told: Vec<davit_proto::shim::ContainerState>) {
        let known: BTreeSet<String> = told.iter().map(|container| container.id.clone()).collect();
        let lost: Vec<ContainerId> = self
            .slots
            .values()
            .filter(|slot| slot.alive() && !known.contains(slot.record.id.as_str()))
            .map(|slot| slot.record.id.clone())
            .collect();
        let mut events: Vec<(ContainerId, ContainerEvent)> = Vec::new();
        for id in lost {
            let end = self.last_word(&id, LostEnd::Unknown).await;
            events.push((id, end));
        }
        for container in told {
            let Ok(id) = ContainerId::try_from(container.id) else { continue };
            if container.started {
                // An older shim doesn't say when; then it is now, which is not before the truth.
                let at = if container.started_at > 0 { container.started_at } else { clock::now() };
                events.push((id.clone(), ContainerEvent::Started { at }));
                let motion = if container.paused { Motion::Pause } else { Motion::Resume };
                events.push((id, motion.event()));
            } else if container.starting
                && let Ok(client) = self.may_start(&id)
            {
                // The answer to a start went to a daemon that is no more. It is waited for here, so that it comes to be known.
                self.begin_start(id, client, Vec::new());
            }
        }
        for (id, event) in events {
            self.apply(&id, event);
        }
    }

    /// What the shim tells of a container.
    pub(super) fn event(&mut self, event: davit_proto::shim::Event) -> Next {
        if let Some(Kind::InitExited(exit)) = &event.kind {
            self.init_ended(exit);
            return Next::Go;
        }
        let Ok(id) = ContainerId::try_from(event.id) else { return Next::Go };
        match event.kind {
            Some(Kind::Exited(exit)) => {
                let event = ContainerEvent::Exited {
                    at: exit.finished_at.max(1),
                    code: exit.code,
                    oom_killed: exit.oom_killed,
                };
                self.apply(&id, event);
            }
            Some(Kind::Oom(oom)) => {
                tracing::info!(container = %id, count = oom.count, "the OOM killer struck")
            }
            Some(Kind::LogLoss(loss)) => self.log_loss(&id, loss),
            Some(Kind::InitExited(_)) | None => {}
        }
        self.end_if_due();
        Next::Go
    }

    /// What a container says is dropped, or is written again.
    fn log_loss(&mut self, id: &ContainerId, loss: davit_proto::shim::LogLoss) {
        let davit_proto::shim::LogLoss { dropped, error } = loss;
        let Some(slot) = self.slots.get_mut(id) else { return };
        let over = error.is_empty();
        // A disk that wavers is told of once a minute.
        let due = slot.loss_told.is_none_or(|told| told.elapsed() >= LOSS_PAUSE);
        if !over && due {
            slot.loss_told = Some(Instant::now());
            tracing::warn!(container = %id, error, "the container's log can't be written: what it says is dropped and counted");
        }
        let more = slot.set_log_dropped(dropped);
        self.shared.counters.log_dropped(more);
        self.publish();
    }

    pub(super) fn exec_target(&self, id: &ContainerId) -> Result<ExecTarget, ExecError> {
        match self.slot(id)?.record.state {
            ContainerState::Running { paused_at: None, pid, .. } => {
                self.shared.moves.expect(COMMAND);
                self.target(id, pid)
            }
            ContainerState::Creating
            | ContainerState::Created { .. }
            | ContainerState::Running { paused_at: Some(_), .. }
            | ContainerState::Exited(_) => Err(self.not_running(id)),
        }
    }

    /// A client may come before the container is started, to miss nothing of what it says.
    pub(super) fn attach_target(&self, id: &ContainerId) -> Result<ExecTarget, ExecError> {
        match self.slot(id)?.record.state {
            ContainerState::Created { pid }
            | ContainerState::Running { paused_at: None, pid, .. } => self.target(id, pid),
            ContainerState::Creating
            | ContainerState::Running { paused_at: Some(_), .. }
            | ContainerState::Exited(_) => Err(self.not_running(id)),
        }
    }

    fn target(&self, id: &ContainerId, pid: u32) -> Result<ExecTarget, ExecError> {
        let shim = self.shim.as_ref().ok_or_else(|| self.not_running(id))?;
        Ok(ExecTarget {
            id: id.clone(),
            client: shim.client.clone(),
            protocol: shim.protocol,
            bundle: self.shared.layout.bundle(&self.record.id, id),
            pid,
        })
    }

    fn not_running(&self, id: &ContainerId) -> ExecError {
        let state = self.slots.get(id).map_or("gone", Slot::state_name);
        ExecError::NotRunning { id: id.clone(), state }
    }

    pub(super) fn log_of(&self, id: &ContainerId) -> Result<ShimClient, ReopenLogError> {
        let slot = self.slot(id)?;
        match (&slot.record.state, &self.shim) {
            (ContainerState::Running { .. }, Some(shim)) => Ok(shim.client.clone()),
            (_, _) => Err(ReopenLogError::NotRunning { id: id.clone(), state: slot.state_name() }),
        }
    }

    pub(super) fn slot(&self, id: &ContainerId) -> Result<&Slot, LookupError> {
        self.slots.get(id).ok_or_else(|| unknown("container", id.as_str()))
    }
}
