//! A pod's stop and removal.
//!
//! Owns when they may begin. They are taken one after the other; each is idempotent, so one that failed half-way is
//! simply asked for again. Once one has been asked for, no container can be created: those whose creation is under way come first.

use super::error::{RemoveSandboxError, StopSandboxError};
use super::job::Outcome;
use super::shim::Shim;
use super::task::{Ending, Next, Pod};
use super::teardown;
use super::watch_shim::Hearing;
use crate::container;
use crate::id::{ContainerId, SandboxId};
use crate::sandbox::SandboxView;
use crate::shared::Shared;
use crate::shim::ShimError;
use crate::store::{SandboxPhase, reach};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;

/// What a stop works with: the pod as it was when it began.
struct StopJob {
    shared: Arc<Shared>,
    id: SandboxId,
    alive: Vec<ContainerId>,
    shim: Option<Shim>,
    netns: Option<PathBuf>,
    view: watch::Receiver<Option<Arc<SandboxView>>>,
}

impl Pod {
    /// Begins the first stop or removal that waits, if it may begin.
    pub(super) fn end_if_due(&mut self) {
        if self.ending || self.endings.is_empty() {
            return;
        }
        // Nobody is being gentle any more.
        for slot in self.slots.values() {
            slot.hurry(Instant::now());
        }
        if self.hearing == Hearing::Silent {
            // What waits for its answer fails with it.
            self.end_silent_shim();
            return;
        }
        let is_removal = matches!(self.endings.front(), Some(Ending::Remove(_)));
        if !self.creating.is_empty() || self.undoing > 0 || (is_removal && self.busy > 0) {
            return;
        }
        if let Err(source) = self.mark_not_ready() {
            let error = StopSandboxError::Store { id: self.record.id.clone(), source };
            self.answer_ending(Err(error.into()));
            return;
        }
        self.ending = true;
        let shared = Arc::clone(&self.shared);
        let stop = StopJob {
            shared: Arc::clone(&self.shared),
            id: self.record.id.clone(),
            alive: self
                .slots
                .values()
                .filter(|slot| slot.alive())
                .map(|slot| slot.record.id.clone())
                .collect(),
            shim: self.shim.clone(),
            netns: self.record.netns.clone(),
            view: self.watch(),
        };
        if is_removal {
            let containers = self.slots.keys().cloned().collect();
            let spec = self.record.clone();
            self.job(async move {
                let removed = Box::pin(shared.endings.run(remove(stop, containers, spec))).await;
                Outcome::SandboxRemoved(removed)
            });
        } else {
            self.job(async move { Outcome::SandboxStopped(shared.endings.run(stop.run()).await) });
        }
    }

    fn mark_not_ready(&mut self) -> Result<(), crate::store::StoreError> {
        if self.record.phase == SandboxPhase::NotReady {
            return Ok(());
        }
        reach("stop_pod.asked")?;
        self.record.phase = SandboxPhase::NotReady;
        // A disk without room must not keep a pod from being stopped. A crash before it is written costs nothing: the pod's shim is gone by then, or the stop is asked
        // for again.
        self.save_now_or_later();
        reach("stop_pod.recorded")?;
        self.publish();
        Ok(())
    }

    pub(super) fn sandbox_stopped(&mut self, result: Result<(), StopSandboxError>) {
        self.ending = false;
        if result.is_ok() {
            self.shim_is_gone();
        }
        self.answer_ending(result.map_err(RemoveSandboxError::from));
    }

    pub(super) fn sandbox_removed(&mut self, result: Result<(), RemoveSandboxError>) -> Next {
        self.ending = false;
        if let Err(error) = result {
            self.answer_ending(Err(error));
            return Next::Go;
        }
        self.vanish();
        // Whoever waits behind this one wanted it stopped or gone, and it is.
        while !self.endings.is_empty() {
            self.answer_ending(Ok(()));
        }
        Next::End
    }

    pub(super) fn answer_ending(&mut self, result: Result<(), RemoveSandboxError>) {
        match (self.endings.pop_front(), result) {
            (Some(Ending::Stop(reply)), Ok(())) => drop(reply.send(Ok(()))),
            (Some(Ending::Stop(reply)), Err(RemoveSandboxError::Stop(error))) => {
                drop(reply.send(Err(Arc::new(error))))
            }
            (Some(Ending::Remove(reply)), result) => drop(reply.send(result.map_err(Arc::new))),
            (Some(Ending::Stop(_)) | None, _) => {}
        }
    }
}

impl StopJob {
    /// Containers first, all at once; then the network, which may need the namespace; then the shim, which holds it.
    async fn run(self) -> Result<(), StopSandboxError> {
        let store = |source| StopSandboxError::Store { id: self.id.clone(), source };
        self.end_containers().await?;
        reach("stop_pod.containers").map_err(store)?;
        let network = &self.shared.network;
        network
            .detach_ending(&self.id, self.netns.as_deref())
            .await
            .map_err(|source| StopSandboxError::Network { id: self.id.clone(), source })?;
        reach("stop_pod.network").map_err(store)?;
        teardown::shim(&self.shared, &self.id, self.shim.as_ref(), self.netns.as_deref()).await?;
        reach("stop_pod.shim").map_err(store)
    }

    async fn end_containers(&self) -> Result<(), StopSandboxError> {
        let Some(shim) = &self.shim else { return Ok(()) };
        for id in &self.alive {
            // One that can't be signalled has ended, or its not ending is told below.
            if let Err(ShimError::Deadline { .. }) = shim.client.kill_all(id.as_str()).await {
                // A shim that hangs is of no use to anybody any more. Its containers are ended for it.
                drop(shim.process.kill());
                break;
            }
        }
        let mut alive = Vec::new();
        let deadline = Instant::now() + self.shared.config.deadlines.kill;
        for id in &self.alive {
            if tokio::time::timeout_at(deadline, container::exited(self.view.clone(), id))
                .await
                .is_err()
            {
                alive.push(id.to_string());
            }
        }
        if alive.is_empty() {
            Ok(())
        } else {
            Err(StopSandboxError::Alive { id: self.id.clone(), alive })
        }
    }
}

async fn remove(
    stop: StopJob,
    containers: Vec<ContainerId>,
    record: crate::store::SandboxRecord,
) -> Result<(), RemoveSandboxError> {
    let (shared, id) = (Arc::clone(&stop.shared), stop.id.clone());
    stop.run().await?;
    let files = |source| RemoveSandboxError::Files { id: id.clone(), source };
    reach("remove_pod.stopped").map_err(files)?;
    for container in containers {
        let removal = container::Removal {
            shared: Arc::clone(&shared),
            sandbox: id.clone(),
            handler: record.handler.clone(),
            id: container,
            client: None,
        };
        container::remove_files(&removal)
            .await
            .map_err(|source| RemoveSandboxError::Files { id: id.clone(), source })?;
    }
    reach("remove_pod.containers").map_err(files)?;
    teardown::cgroups(Arc::clone(&shared), record.cgroups)
        .await
        .map_err(|source| RemoveSandboxError::Cgroup { id: id.clone(), source })?;
    reach("remove_pod.cgroups").map_err(files)?;
    teardown::files(shared, id.clone()).await.map_err(files)?;
    reach("remove_pod.files").map_err(files)
}
