//! The runtime as its callers see it: one method for each thing that can be asked.
//!
//! Owns the way from an id or a name to the pod's task, nothing else. Every change is made by that task: a caller that goes away, or whose deadline
//! passes, takes nothing with it. What only reads, reads a snapshot.

mod restore;
mod streams;

use crate::ahead;
use crate::cdi::Cdi;
use crate::checkpoint::{self, Checkpoint, CheckpointError};
use crate::config::RuntimeConfig;
use crate::container::{
    self, ContainerSpec, ContainerView, CreateContainerError, ExecError, KillContainerError,
    Motion, PauseContainerError, RemoveContainerError, ReopenLogError, Resources, Signal,
    StartContainerError, StopContainerError, UpdateContainerError,
};
use crate::counters::Counters;
use crate::doctor;
use crate::events::EventStream;
use crate::exec::{self, ExecOutput};
use crate::freezer;
use crate::id::{ContainerId, SandboxId};
use crate::image::Images;
use crate::journal::{Ahead, Reader, Start, Stored};
use crate::machine::{self, Finding, Verdict};
use crate::metrics::Metrics;
use crate::network::Network;
use crate::oci::{Handlers, Host};
use crate::places::Queues;
use crate::recover::{self, OpenError};
use crate::rest;
use crate::sandbox::handle::{Command, Gone};
use crate::sandbox::{
    LookupError, RemoveSandboxError, RunSandboxError, SandboxLimits, SandboxSpec, SandboxView,
    StopSandboxError, UpdateSandboxError, can_wait, container_in, spawn_new, unknown,
};
use crate::shared::Shared;
use crate::stats::{self, ContainerUse, SandboxDetail, SandboxUse};
use crate::store::read_json;
use crate::sweep::{self, Leftover, Swept};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The runtime; clones are the same one.
#[derive(Debug, Clone)]
pub struct Runtime {
    shared: Arc<Shared>,
}

impl Runtime {
    /// Takes up what the records tell of, finishes or undoes what a crash interrupted, and is ready.
    ///
    /// # Errors
    /// [`OpenError`] if it can't work at all. A broken record is no such thing: it is put aside and named in the log.
    pub async fn open(config: RuntimeConfig) -> Result<Self, OpenError> {
        let shared = recover::open(config).await?;
        sweep::spawn(&shared);
        freezer::spawn(&shared);
        rest::spawn(&shared);
        ahead::spawn(&shared);
        Ok(Self { shared })
    }

    /// What belongs to nobody any more. Takes a second if there is any.
    pub async fn leftovers(&self) -> Vec<Leftover> {
        sweep::leftovers(&self.shared).await.into_iter().collect()
    }

    /// Removes what belongs to nobody any more, and tells what became of each. Layers of no image go too.
    pub async fn sweep(&self) -> Vec<(Leftover, Swept)> {
        sweep::sweep(&self.shared).await
    }

    /// Runs a pod; a retry of the same call joins it and gets the same id.
    ///
    /// # Errors
    /// [`RunSandboxError`].
    pub async fn run_sandbox(&self, spec: SandboxSpec) -> Result<SandboxId, Arc<RunSandboxError>> {
        let spec = Arc::new(spec);
        loop {
            let make = || {
                let waiting = can_wait(&spec).then(|| self.shared.ahead.take()).flatten();
                let id = waiting.as_ref().map(|waiting| Ok(waiting.id.clone()));
                let id = id.unwrap_or_else(SandboxId::random).map_err(RunSandboxError::Id)?;
                let (shared, spec) = (Arc::clone(&self.shared), Arc::clone(&spec));
                let handle = spawn_new(shared, id.clone(), spec, waiting);
                Ok((id, handle))
            };
            let (_, handle) = self.shared.index.pod_of_key(&spec.key, make).map_err(Arc::new)?;
            match handle.call(|reply| Command::Run { spec: Arc::clone(&spec), reply }).await {
                Ok(answer) => return answer,
                // The pod that had the name went away under us, so the name is free now.
                Err(Gone) => tokio::task::yield_now().await,
            }
        }
    }

    /// Ends all of a pod's containers and its network. One that isn't there is stopped.
    ///
    /// # Errors
    /// [`StopSandboxError`].
    pub async fn stop_sandbox(&self, id: &str) -> Result<(), Arc<StopSandboxError>> {
        let handle = match self.shared.index.pod(id) {
            Ok((_, handle)) => handle,
            Err(LookupError::Unknown { .. }) => return Ok(()),
            Err(error @ LookupError::Ambiguous { .. }) => return Err(Arc::new(error.into())),
        };
        handle.call(|reply| Command::Stop { reply }).await.unwrap_or(Ok(()))
    }

    /// Stops a pod and forgets it. One that isn't there is removed.
    ///
    /// # Errors
    /// [`RemoveSandboxError`].
    pub async fn remove_sandbox(&self, id: &str) -> Result<(), Arc<RemoveSandboxError>> {
        let handle = match self.shared.index.pod(id) {
            Ok((_, handle)) => handle,
            Err(LookupError::Unknown { .. }) => return Ok(()),
            Err(error @ LookupError::Ambiguous { .. }) => return Err(Arc::new(error.into())),
        };
        handle.call(|reply| Command::Remove { reply }).await.unwrap_or(Ok(()))
    }

    /// One pod.
    ///
    /// # Errors
    /// [`LookupError`].
    pub fn sandbox(&self, id: &str) -> Result<Arc<SandboxView>, LookupError> {
        let (found, handle) = self.shared.index.pod(id)?;
        handle.view().ok_or_else(|| unknown("pod sandbox", found.as_str()))
    }

    /// All pods, those being created left out.
    #[must_use]
    pub fn sandboxes(&self) -> Vec<Arc<SandboxView>> {
        self.shared.index.views()
    }

    /// Makes a container; a retry of the same call joins it and gets the same id.
    ///
    /// # Errors
    /// [`CreateContainerError`].
    pub async fn create_container(
        &self,
        sandbox: &str,
        spec: ContainerSpec,
    ) -> Result<ContainerId, Arc<CreateContainerError>> {
        let (id, handle) = self
            .shared
            .index
            .pod(sandbox)
            .map_err(|error| Arc::new(CreateContainerError::Sandbox(error)))?;
        let gone =
            || Err(Arc::new(CreateContainerError::Sandbox(unknown("pod sandbox", id.as_str()))));
        handle
            .call(|reply| Command::Create { spec: Box::new(spec), reply })
            .await
            .unwrap_or_else(|Gone| gone())
    }

    /// Starts a container.
    ///
    /// # Errors
    /// [`StartContainerError`].
    pub async fn start_container(&self, id: &str) -> Result<(), Arc<StartContainerError>> {
        let (id, handle) =
            self.shared.index.container(id).map_err(|error| Arc::new(error.into()))?;
        let answer = handle.call(|reply| Command::Start { id: id.clone(), reply }).await;
        answer.unwrap_or_else(|Gone| Err(Arc::new(unknown("container", id.as_str()).into())))
    }

    /// Stops a container: its signal, then SIGKILL after `grace`. One that isn't there is stopped.
    ///
    /// # Errors
    /// [`StopContainerError`].
    pub async fn stop_container(
        &self,
        id: &str,
        grace: Duration,
    ) -> Result<(), Arc<StopContainerError>> {
        let (id, handle) = match self.shared.index.container(id) {
            Ok(found) => found,
            Err(LookupError::Unknown { .. }) => return Ok(()),
            Err(error @ LookupError::Ambiguous { .. }) => return Err(Arc::new(error.into())),
        };
        handle.call(|reply| Command::StopContainer { id, grace, reply }).await.unwrap_or(Ok(()))
    }

    /// Ends a container at once and forgets it. One that isn't there is removed.
    ///
    /// # Errors
    /// [`RemoveContainerError`].
    pub async fn remove_container(&self, id: &str) -> Result<(), Arc<RemoveContainerError>> {
        let (id, handle) = match self.shared.index.container(id) {
            Ok(found) => found,
            Err(LookupError::Unknown { .. }) => return Ok(()),
            Err(error @ LookupError::Ambiguous { .. }) => return Err(Arc::new(error.into())),
        };
        handle.call(|reply| Command::RemoveContainer { id, reply }).await.unwrap_or(Ok(()))
    }

    /// Changes a container's limits: what is 0 or empty stays as it is.
    ///
    /// # Errors
    /// [`UpdateContainerError`].
    pub async fn update_container(
        &self,
        id: &str,
        asked: Resources,
    ) -> Result<(), Arc<UpdateContainerError>> {
        let (id, handle) =
            self.shared.index.container(id).map_err(|error| Arc::new(error.into()))?;
        let asked = Box::new(asked);
        let answer = handle.call(|reply| Command::UpdateContainer { id: id.clone(), asked, reply });
        answer.await.unwrap_or_else(|Gone| Err(Arc::new(unknown("container", id.as_str()).into())))
    }

    /// Has a container stand still, or go on. One that does already is left so.
    ///
    /// # Errors
    /// [`PauseContainerError`].
    pub async fn move_container(
        &self,
        id: &str,
        motion: Motion,
    ) -> Result<(), Arc<PauseContainerError>> {
        let (id, handle) =
            self.shared.index.container(id).map_err(|error| Arc::new(error.into()))?;
        let answer = handle.call(|reply| Command::Move { id: id.clone(), motion, reply });
        answer.await.unwrap_or_else(|Gone| Err(Arc::new(unknown("container", id.as_str()).into())))
    }

    /// Sends a container's first process a signal. What comes of it is told by the container's state.
    ///
    /// # Errors
    /// [`KillContainerError`].
    pub async fn signal_container(
        &self,
        id: &str,
        signal: Signal,
    ) -> Result<(), Arc<KillContainerError>> {
        let (id, handle) =
            self.shared.index.container(id).map_err(|error| Arc::new(error.into()))?;
        let client = handle.call(|reply| Command::Signal { id: id.clone(), reply }).await;
        let client = client
            .unwrap_or_else(|Gone| Err(Arc::new(unknown("container", id.as_str()).into())))?;
        let sent = client.signal(id.as_str(), signal.number()).await;
        sent.map_err(|source| Arc::new(KillContainerError::Shim { id, source }))
    }

    /// Takes note of what a pod as a whole may use, and sets it where davit made the pod's cgroup.
    ///
    /// # Errors
    /// [`UpdateSandboxError`].
    pub async fn update_sandbox(
        &self,
        id: &str,
        limits: SandboxLimits,
    ) -> Result<(), Arc<UpdateSandboxError>> {
        let (id, handle) = self.shared.index.pod(id).map_err(|error| Arc::new(error.into()))?;
        let limits = Box::new(limits);
        let answer = handle.call(|reply| Command::Update { limits, reply }).await;
        answer.unwrap_or_else(|Gone| Err(Arc::new(unknown("pod sandbox", id.as_str()).into())))
    }

    /// One container, and the pod it is in.
    ///
    /// # Errors
    /// [`LookupError`].
    pub fn container(
        &self,
        id: &str,
    ) -> Result<(Arc<SandboxView>, Arc<ContainerView>), LookupError> {
        let (found, handle) = self.shared.index.container(id)?;
        let sandbox = handle.view().ok_or_else(|| unknown("container", found.as_str()))?;
        let container = container_in(&sandbox, &found)?;
        Ok((sandbox, container))
    }

    /// The OCI spec that a container was made from; `None` if it is gone.
    #[must_use]
    pub fn container_spec(&self, container: &ContainerView) -> Option<serde_json::Value> {
        read_json(&self.shared.layout.bundle(&container.sandbox, &container.id).join("config.json"))
            .ok()
    }

    /// Runs a command in a container, for at most `timeout`.
    ///
    /// # Errors
    /// [`ExecError`].
    pub async fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, Arc<ExecError>> {
        let (id, handle) =
            self.shared.index.container(id).map_err(|error| Arc::new(error.into()))?;
        let target = handle.call(|reply| Command::Exec { id: id.clone(), reply }).await;
        let target = target
            .unwrap_or_else(|Gone| Err(Arc::new(unknown("container", id.as_str()).into())))?;
        exec::run(&self.shared, target, command, timeout).await.map_err(Arc::new)
    }

    /// Writes a running container into an archive at `location`, an absolute path, within `timeout`.
    ///
    /// # Errors
    /// [`CheckpointError`]; the container runs on.
    pub async fn checkpoint_container(
        &self,
        id: &str,
        location: PathBuf,
        timeout: Option<Duration>,
    ) -> Result<(), CheckpointError> {
        let (sandbox, view) = self.container(id)?;
        let (id, handle) = self.shared.index.container(id)?;
        let not_running =
            || CheckpointError::NotRunning { id: id.clone(), state: view.state.name() };
        let target = handle.call(|reply| Command::Exec { id: id.clone(), reply }).await;
        let Ok(Ok(target)) = target else { return Err(not_running()) };
        let shared = Arc::clone(&self.shared);
        let view = Arc::clone(&view);
        let checkpoint = Checkpoint { shared, target, sandbox, view, location, timeout };
        // It goes on if the caller doesn't.
        let made = tokio::spawn(checkpoint::make(checkpoint)).await;
        made.unwrap_or_else(|error| Err(CheckpointError::Task(std::io::Error::other(error))))
    }

    /// Closes a container's log and opens it anew.
    ///
    /// # Errors
    /// [`ReopenLogError`].
    pub async fn reopen_log(&self, id: &str) -> Result<(), Arc<ReopenLogError>> {
        let (id, handle) =
            self.shared.index.container(id).map_err(|error| Arc::new(error.into()))?;
        let client = handle.call(|reply| Command::ReopenLog { id: id.clone(), reply }).await;
        let client = client
            .unwrap_or_else(|Gone| Err(Arc::new(unknown("container", id.as_str()).into())))?;
        client
            .reopen_log(id.as_str())
            .await
            .map_err(|source| Arc::new(ReopenLogError::Shim { id, source }))
    }

    /// Waits until a container has ended; answers with it as it is then.
    ///
    /// # Errors
    /// [`LookupError`]; also if it is removed meanwhile.
    pub async fn wait_container(&self, id: &str) -> Result<Arc<ContainerView>, LookupError> {
        let (id, handle) = self.shared.index.container(id)?;
        let _listening = self.shared.counters.listen();
        container::exited(handle.watch(), &id).await;
        let sandbox = handle.view().ok_or_else(|| unknown("container", id.as_str()))?;
        container_in(&sandbox, &id)
    }

    /// What happens to pods and containers from now on.
    #[must_use]
    pub fn events(&self) -> EventStream {
        self.shared.events.listen(&self.shared.counters)
    }

    /// What has happened and happens to pods, containers and images, as the journal has it.
    ///
    /// # Errors
    /// [`Ahead`]: nothing has the number that was asked for.
    pub fn journal(&self, start: Start) -> Result<Reader, Ahead> {
        self.shared.journal.read(start, &self.shared.counters)
    }

    /// How the journal stands.
    #[must_use]
    pub fn stored_events(&self) -> Stored {
        self.shared.journal.stored()
    }

    /// Waits until what has happened so far is written to the journal, as far as it can be.
    pub async fn flush_events(&self) {
        self.shared.journal.flush().await;
    }

    /// What these containers use now. One that does not run has a writable layer and nothing else.
    pub async fn container_use(
        &self,
        containers: Vec<(Arc<SandboxView>, Arc<ContainerView>)>,
    ) -> Vec<ContainerUse> {
        stats::containers(&self.shared, containers).await
    }

    /// The same, and all else that is known of them.
    pub async fn sandbox_details(&self, sandboxes: Vec<Arc<SandboxView>>) -> Vec<SandboxDetail> {
        stats::details(&self.shared, sandboxes).await
    }

    /// What these pods, and their containers that run, use now.
    pub async fn sandbox_use(&self, sandboxes: Vec<Arc<SandboxView>>) -> Vec<SandboxUse> {
        stats::sandboxes(&self.shared, sandboxes).await
    }

    /// The images.
    #[must_use]
    pub fn images(&self) -> &Images {
        &self.shared.images
    }

    /// The pods' network.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.shared.network
    }

    /// The OCI runtimes.
    #[must_use]
    pub fn handlers(&self) -> &Handlers {
        &self.shared.handlers
    }

    /// What the host can do.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.shared.host
    }

    /// The devices that vendors describe.
    #[must_use]
    pub fn cdi(&self) -> &Cdi {
        &self.shared.cdi
    }

    /// How many there are of what.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.shared.counters
    }

    /// What it measures of itself.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// How full the queues are of what makes pods and containers, and of what ends pods.
    #[must_use]
    pub fn queues(&self) -> Queues {
        Queues { creations: self.shared.creations.look(), endings: self.shared.endings.look() }
    }

    /// Its id: the same for as long as its root is kept.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// What this machine lacks, as `davit doctor` would find it, without trials. Takes as long as `criu check`.
    pub async fn warnings(&self) -> Vec<Finding> {
        let shared = Arc::clone(&self.shared);
        let looked = tokio::task::spawn_blocking(move || {
            let mut found = machine::survey(&shared.config, &shared.host);
            found.extend(doctor::handler_findings(&shared.handlers));
            found.extend(doctor::registries(&shared.config.images.certs_dirs));
            found
        });
        // A panic in there is told by the runtime's log, and nothing of the machine's is known.
        let mut found = looked.await.unwrap_or_default();
        found.push(checkpoint::examine(&self.shared.config).await);
        found.retain(|one| one.verdict != Verdict::Ok);
        found
    }

    /// Its configuration.
    #[must_use]
    pub fn config(&self) -> &RuntimeConfig {
        &self.shared.config
    }
}
