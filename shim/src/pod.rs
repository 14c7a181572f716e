//! The pod: its containers by id, its namespaces, and the one way to its end.
//!
//! Locks are held for a look or a change, never across an await.

use crate::container::Container;
use crate::error::Refusal;
use crate::events::{Events, Subscription};
use crate::namespaces::{NamespaceError, Pinned};
use crate::reaper::{Ended, Reaper};
use crate::session::SESSIONS;
use crate::userns::Userns;
use davit_proto::shim::{Event, StateResponse, event};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, oneshot, watch};

/// The version of the interface that this shim speaks.
const PROTOCOL: u32 = 2;
/// More containers than any pod has, those deleted not counted.
const MAX_CONTAINERS: usize = 1024;
/// How long the killed init of a shared PID namespace may take to be reaped.
const INIT_LIMIT: Duration = Duration::from_secs(5);

/// How long after work memory is given back: a burst of work is not slowed down by it.
const REST: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) directory: PathBuf,
    pub(crate) reaper: Arc<Reaper>,
    pub(crate) events: Events,
    /// Places for sessions.
    pub(crate) sessions: Semaphore,
    /// The user namespace, if it has one of its own.
    pub(crate) userns: Option<Arc<Userns>>,
    containers: Mutex<Containers>,
    namespaces: Mutex<Namespaces>,
    stopped: watch::Sender<bool>,
    worked: Notify,
}

#[derive(Debug, Default)]
struct Containers {
    by_id: BTreeMap<String, Arc<Container>>,
    closed: bool,
}

#[derive(Debug)]
struct Namespaces {
    pinned: Pinned,
    init_ended: Option<oneshot::Receiver<Ended>>,
}

/// Why the shim does not end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShutdownError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("release the pod's namespaces: {}", .0.iter().map(|e| crate::error::chain(e)).collect::<Vec<_>>().join("; "))]
    Release(Vec<NamespaceError>),
}

impl Pod {
    pub(crate) fn new(directory: PathBuf, pinned: Pinned) -> Self {
        let reaper = Arc::new(Reaper::default());
        let init_ended = pinned.init().map(|pid| reaper.register(pid));
        Self {
            directory,
            reaper,
            events: Events::default(),
            sessions: Semaphore::new(SESSIONS),
            userns: pinned.userns(),
            containers: Mutex::default(),
            namespaces: Mutex::new(Namespaces { pinned, init_ended }),
            stopped: watch::Sender::new(false),
            worked: Notify::new(),
        }
    }

    /// The container of that id.
    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>, Refusal> {
        let found = self.containers().by_id.get(id).cloned();
        found.ok_or_else(|| Refusal::NoContainer(id.chars().take(140).collect()))
    }

    /// Refuses an id that is in use.
    pub(crate) fn refuse_known(&self, id: &str) -> Result<(), Refusal> {
        if self.containers().by_id.contains_key(id) {
            Err(Refusal::Exists(id.to_owned()))
        } else {
            Ok(())
        }
    }

    /// Takes a container in.
    pub(crate) fn insert(&self, container: Arc<Container>) -> Result<(), Refusal> {
        let mut containers = self.containers();
        if containers.closed {
            return Err(Refusal::Ending);
        }
        if containers.by_id.len() >= MAX_CONTAINERS {
            return Err(Refusal::Full(MAX_CONTAINERS));
        }
        if containers.by_id.contains_key(&container.id) {
            return Err(Refusal::Exists(container.id.clone()));
        }
        containers.by_id.insert(container.id.clone(), container);
        Ok(())
    }

    /// Lets a container go.
    pub(crate) fn remove(&self, id: &str) {
        self.containers().by_id.remove(id);
    }

    /// What State answers.
    pub(crate) fn state(&self) -> StateResponse {
        let containers = self.containers().by_id.values().filter_map(|c| c.to_proto()).collect();
        let namespaces = self.namespaces();
        let pinned = &namespaces.pinned;
        StateResponse {
            protocol: PROTOCOL,
            pid: crate::container::pid_number(rustix::process::getpid()),
            netns_path: pinned.netns_path(),
            ipcns_path: pinned.ipcns_path(),
            utsns_path: pinned.utsns_path(),
            pidns_path: pinned.pidns_path(),
            containers,
            userns_path: self.userns.as_ref().map(|userns| userns.path()).unwrap_or_default(),
        }
    }

    /// A stream of events, first those of the containers that have exited.
    pub(crate) fn subscribe(&self) -> Option<Subscription> {
        let told = |c: &Arc<Container>| {
            let kind = event::Kind::Exited(c.death()?.verdict.to_proto());
            Some(Event { id: c.id.clone(), kind: Some(kind) })
        };
        // No await between the look and the subscription, and so no event between them.
        let backlog = self.containers().by_id.values().filter_map(told).collect();
        self.events.subscribe(backlog)
    }

    /// Ends the shim, unless a container's process lives. To be run in a task of its own.
    pub(crate) async fn shutdown(&self) -> Result<(), ShutdownError> {
        for container in self.close()? {
            if let Err(error) = crate::container::delete::ensure_deleted(self, &container).await {
                crate::say(&error);
            }
        }
        let (failed, init_ended) = {
            let mut namespaces = self.namespaces();
            (namespaces.pinned.release(), namespaces.init_ended.take())
        };
        if let Some(ended) = init_ended {
            let _ = tokio::time::timeout(INIT_LIMIT, ended).await;
        }
        if !failed.is_empty() {
            return Err(ShutdownError::Release(failed));
        }
        self.events.close();
        self.stopped.send_replace(true);
        Ok(())
    }

    /// Takes no new container from now on.
    fn close(&self) -> Result<Vec<Arc<Container>>, Refusal> {
        let mut containers = self.containers();
        if let Some(living) = containers.by_id.values().find(|c| c.may_live()) {
            return Err(Refusal::Lives(living.id.clone()));
        }
        containers.closed = true;
        Ok(containers.by_id.values().cloned().collect())
    }

    /// Something was done, for which memory was taken.
    pub(crate) fn worked(&self) {
        self.worked.notify_one();
    }

    /// Gives memory back some time after work, once for all that was done meanwhile. Never ends.
    pub(crate) async fn keep_small(&self) {
        loop {
            self.worked.notified().await;
            tokio::time::sleep(REST).await;
            davit_sys::memory::trim();
        }
    }

    /// Waits until the shim is to end.
    pub(crate) async fn stopped(&self) {
        // The sender lives as long as `self`, so this cannot fail.
        let _ = self.stopped.subscribe().wait_for(|stopped| *stopped).await;
    }

    fn containers(&self) -> MutexGuard<'_, Containers> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn namespaces(&self) -> MutexGuard<'_, Namespaces> {
        self.namespaces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
