//! The pod: its containers by id, its namespaces, and the one way to its end.
//!
//! Locks are held for a look or a change, never across an await.

use crate::container::{Container, Verdict, loss};
use crate::error::Refusal;
use crate::events::{Events, Subscription};
use crate::namespaces::{NamespaceError, Pinned};
use crate::reaper::{Ended, Reaper};
use crate::sealed::Sealed;
use crate::session::SESSIONS;
use crate::stdio::stream;
use crate::userns::Userns;
use davit_proto::shim::{Event, Exit, StateResponse, event};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
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

/// How long a container waits for the shim to be moved, which takes milliseconds.
const MOVE_LIMIT: Duration = Duration::from_secs(20);

/// How much is heard of why the shim could not be moved.
const MOVE_WORDS: u64 = 4096;

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
    /// The OCI runtime in memory, if the daemon passed one.
    pub(crate) sealed: Option<Arc<Sealed>>,
    /// The user namespace, if it has one of its own.
    pub(crate) userns: Option<Arc<Userns>>,
    containers: Mutex<Containers>,
    pinned: Mutex<Pinned>,
    init: watch::Sender<Init>,
    /// Whether the shim is in its cgroups, or why it isn't; `None`: not yet.
    settled: watch::Sender<Option<Result<(), String>>>,
    stopped: watch::Sender<bool>,
    worked: Notify,
}

#[derive(Debug, Default)]
struct Containers {
    by_id: BTreeMap<String, Arc<Container>>,
    closed: bool,
}

/// What has become of the first process of the pod's shared PID namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Init {
    /// The pod shares none, or the shim has ended it.
    None,
    Lives,
    /// Without the shim's wish.
    Ended(Ended),
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
    pub(crate) fn new(directory: PathBuf, pinned: Pinned, sealed: Option<Sealed>) -> Self {
        let reaper = Arc::new(Reaper::default());
        let init = if pinned.init().is_some() { Init::Lives } else { Init::None };
        Self {
            directory,
            reaper,
            events: Events::default(),
            sessions: Semaphore::new(SESSIONS),
            sealed: sealed.map(Arc::new),
            userns: pinned.userns(),
            containers: Mutex::default(),
            pinned: Mutex::new(pinned),
            init: watch::Sender::new(init),
            settled: watch::Sender::new(None),
            stopped: watch::Sender::new(false),
            worked: Notify::new(),
        }
    }

    /// Hears from the child that moves the shim into its cgroups, if there is one. A shim that can't be there ends, and says why: its pod is made anew.
    pub(crate) async fn settle_in(self: Arc<Self>, moving: Option<OwnedFd>) {
        let settled = match moving {
            None => Ok(()),
            Some(moving) => match stream::read_to_end(moving, MOVE_WORDS).await {
                Ok(words) if words.is_empty() => Ok(()),
                Ok(words) => Err(String::from_utf8_lossy(&words).into_owned()),
                Err(error) => Err(error.to_string()),
            },
        };
        self.settled.send_replace(Some(settled.clone()));
        if let Err(words) = settled {
            crate::say(&Refusal::Unsettled(words));
            if let Err(error) = self.shutdown().await {
                crate::say(&error);
            }
        }
    }

    /// Waits until the shim is in its cgroups: no container comes to be before.
    pub(crate) async fn settled(&self) -> Result<(), Refusal> {
        let mut settled = self.settled.subscribe();
        let told = tokio::time::timeout(MOVE_LIMIT, settled.wait_for(Option::is_some)).await;
        // The sender lives as long as `self`, so waiting for it cannot fail.
        match told.map(|told| told.ok().and_then(|it| it.clone())) {
            Ok(settled) => settled.unwrap_or(Ok(())).map_err(Refusal::Unsettled),
            Err(_elapsed) => Err(Refusal::Unsettled("it is still being moved there".to_owned())),
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
        if let Init::Ended(_) = *self.init.borrow() {
            return Err(Refusal::NoInit);
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
        let pinned = self.pinned();
        StateResponse {
            protocol: PROTOCOL,
            pid: crate::container::pid_number(rustix::process::getpid()),
            netns_path: pinned.netns_path(),
            ipcns_path: pinned.ipcns_path(),
            utsns_path: pinned.utsns_path(),
            pidns_path: pinned.pidns_path(),
            containers,
            userns_path: self.userns.as_ref().map(|userns| userns.path()).unwrap_or_default(),
            init: (!pinned.pidns_path().is_empty()).then(|| davit_proto::shim::Init {
                pid: pinned.init().map(crate::container::pid_number).unwrap_or_default(),
                exit: self.init_exit(),
            }),
        }
    }

    /// How the init of the shared PID namespace has ended, if it has without the shim's wish.
    fn init_exit(&self) -> Option<Exit> {
        match *self.init.borrow() {
            // Whether the OOM killer struck is told by the pod's cgroup, which others are in.
            Init::Ended(ended) => Some(Verdict { ended, oom_killed: false }.to_proto()),
            Init::None | Init::Lives => None,
        }
    }

    /// Sees the init of the shared PID namespace to its end, if there is one. The kernel lets it end after all others in there. To be called before
    /// the first reaping.
    pub(crate) fn spawn_watch_of_init(self: &Arc<Self>) {
        let Some(pid) = self.pinned().init() else { return };
        let (pod, ended) = (Arc::clone(self), self.reaper.register(pid));
        tokio::spawn(async move { pod.watch_init(ended).await });
    }

    async fn watch_init(&self, ended: oneshot::Receiver<Ended>) {
        // The reaper keeps the sender until it sends.
        let Ok(ended) = ended.await else { return };
        let unwanted = self.pinned().init_is_gone();
        self.init.send_replace(if unwanted { Init::Ended(ended) } else { Init::None });
        if let Some(exit) = self.init_exit() {
            let kind = Some(event::Kind::InitExited(exit));
            self.events.publish(&Event { id: String::new(), kind });
        }
    }

    /// A stream of events, first those of the containers that have exited or lost some of their logs, and of the init.
    pub(crate) fn subscribe(&self) -> Option<Subscription> {
        let exited = |c: &Arc<Container>| {
            let kind = event::Kind::Exited(c.death()?.verdict.to_proto());
            Some(Event { id: c.id.clone(), kind: Some(kind) })
        };
        let lost = |c: &Arc<Container>| Some(loss::event(&c.id, c.log.loss()?));
        // No await between the look and the subscription, and so no event between them.
        let containers = self.containers();
        let of_containers =
            containers.by_id.values().flat_map(|c| lost(c).into_iter().chain(exited(c)));
        let of_init = |exit| Event { id: String::new(), kind: Some(event::Kind::InitExited(exit)) };
        let backlog = of_containers.chain(self.init_exit().map(of_init));
        self.events.subscribe(backlog.collect())
    }

    /// Ends the shim, unless a container's process lives. To be run in a task of its own.
    pub(crate) async fn shutdown(&self) -> Result<(), ShutdownError> {
        for container in self.close()? {
            if let Err(error) = crate::container::delete::ensure_deleted(self, &container).await {
                crate::say(&error);
            }
        }
        let failed = self.pinned().release();
        let mut init = self.init.subscribe();
        let gone = init.wait_for(|init| *init != Init::Lives);
        let _ = tokio::time::timeout(INIT_LIMIT, gone).await;
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

    fn pinned(&self) -> MutexGuard<'_, Pinned> {
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
