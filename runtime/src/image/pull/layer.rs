//! Layers on their way: one task for each, however many images want it.
//!
//! ```text
//! wanted ─► here? ─yes─► hold
//!     ▲       └─no─► under way? ─yes─► wait ─► ok: hold
//!     │                  └─no─► task             └─► it failed, for another image: our turn
//!     └──────────────────────────────────────────────┘
//!
//! task: for each endpoint: slot ─► stage ─► download ║ unpack ─► commit          stops when nobody waits any more
//! ```
//!
//! A layer is known by its diff id. Who joins a download trusts no more than that: what comes out is verified against it. If it fails,
//! the fault may be the other's (its registry, its credentials), so that who joined tries for itself.

use super::slots::Slots;
use crate::image::error::PullError;
use crate::image::images::Inner;
use crate::image::layers::{LayerHold, LayerRecord};
use crate::image::registry::{Again, Endpoint, FetchError, Registry};
use crate::image::unpack::{CHUNKS, Chunk, Expected, UnpackError, unpack};
use crate::image::{Digest, ImageRef};
use davit_sys::failpoint::reach;
use rustix::fs::{CWD, Mode, OFlags};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// What has come between two breaks of a connection that are not in a row.
const PROGRESS: u64 = 1 << 20;
/// Between two words about how far a download is, in bytes.
const TELL: u64 = 256 << 10;
/// Who waits looks so often whether it is still waited for.
const LOOK_UP: Duration = Duration::from_millis(100);

#[derive(Debug, Clone)]
enum State {
    Running(u64),
    Done(Result<Arc<LayerHold>, PullError>),
}

#[derive(Debug, Default)]
pub(super) struct LayerJobs {
    running: Mutex<HashMap<Digest, watch::Receiver<State>>>,
    slots: Slots,
}

/// A layer that an image needs, and where to have it.
#[derive(Clone, Copy)]
pub(super) struct Wish<'a> {
    pub(super) inner: &'a Arc<Inner>,
    pub(super) registry: &'a Registry,
    pub(super) image: &'a ImageRef,
    pub(super) expected: &'a Expected,
}

/// How far a layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Underway,
    Done,
}

enum Turn {
    Ours(watch::Receiver<State>),
    Theirs(watch::Receiver<State>),
}

impl LayerJobs {
    /// The layer, held. `tell` hears of bytes received and of the end.
    pub(super) async fn ensure(
        &self,
        wish: Wish<'_>,
        tell: &(impl Fn(u64, Stage) + Sync),
    ) -> Result<Arc<LayerHold>, PullError> {
        let Expected { diff_id, size, .. } = wish.expected;
        loop {
            // One whose files have gone stays known for as long as a container has it.
            if !wish.inner.layers.is_lost(diff_id)
                && let Ok(hold) = wish.inner.layers.hold(std::slice::from_ref(diff_id))
            {
                tell(*size, Stage::Done);
                return Ok(Arc::new(hold));
            }
            let (mut state, ours) = match self.turn(wish) {
                Turn::Ours(state) => (state, true),
                Turn::Theirs(state) => (state, false),
            };
            match outcome(&mut state, tell).await {
                Some(Ok(hold)) => {
                    tell(*size, Stage::Done);
                    return Ok(hold);
                }
                Some(Err(error)) if ours => return Err(error),
                None if ours => return Err(PullError::Stopped { image: wish.image.to_string() }),
                Some(Err(_)) | None => {}
            }
        }
    }

    /// The task that fetches this layer, started if there is none.
    fn turn(&self, wish: Wish<'_>) -> Turn {
        let Wish { inner, registry, image, expected } = wish;
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        // One that has ended in a panic is still here, and its channel is closed.
        if let Some(state) =
            running.get(&expected.diff_id).filter(|state| state.has_changed().is_ok())
        {
            return Turn::Theirs(state.clone());
        }
        let (sender, state) = watch::channel(State::Running(0));
        running.insert(expected.diff_id.clone(), state.clone());
        drop(running);
        let task = Task {
            inner: Arc::clone(inner),
            registry: registry.clone(),
            image: image.to_string(),
            expected: expected.clone(),
            state: sender,
        };
        tokio::spawn(task.run());
        Turn::Ours(state)
    }
}

async fn outcome(
    state: &mut watch::Receiver<State>,
    tell: &(impl Fn(u64, Stage) + Sync),
) -> Option<Result<Arc<LayerHold>, PullError>> {
    loop {
        let now = state.borrow_and_update().clone();
        match now {
            State::Running(received) => tell(received, Stage::Underway),
            State::Done(result) => return Some(result),
        }
        state.changed().await.ok()?;
    }
}

struct Task {
    inner: Arc<Inner>,
    registry: Registry,
    image: String,
    expected: Expected,
    state: watch::Sender<State>,
}

/// How far a download is, in bytes.
#[derive(Debug, Default)]
struct Far {
    received: u64,
    told: u64,
    /// When it last had all its further tries.
    good_until: u64,
}

/// Why one endpoint did not give us the layer.
enum Failure {
    Fetch(FetchError),
    Unpack(UnpackError),
    Local(&'static str, std::io::Error),
}

impl Task {
    async fn run(self) {
        let jobs = &self.inner.pulls.layers;
        let result = self.fetch().await;
        // Out of the table first: who comes now finds the layer, or tries anew.
        jobs.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.expected.diff_id);
        self.state.send_replace(State::Done(result));
    }

    async fn fetch(&self) -> Result<Arc<LayerHold>, PullError> {
        let mut last = Failure::Fetch(FetchError::NoEndpoint);
        for endpoint in self.registry.blob_endpoints() {
            match self.attempt(&endpoint).await {
                Ok(hold) => return Ok(Arc::new(hold)),
                Err(failure) => {
                    let local = failure.is_local();
                    last = failure;
                    if local || self.is_forsaken() {
                        break;
                    }
                    tracing::debug!(endpoint = endpoint.plan.url, layer = %self.expected.blob, "registry endpoint failed");
                }
            }
        }
        let at = (self.image.as_str(), self.inner.config.root.as_path());
        Err(match last {
            Failure::Fetch(error) => PullError::fetch(&self.image, error),
            Failure::Unpack(error) => PullError::unpack(at, error),
            Failure::Local(operation, error) => PullError::local(at, operation, error),
        })
    }

    /// Nobody waits: all that is left is the table's own receiver.
    fn is_forsaken(&self) -> bool {
        self.state.receiver_count() <= 1
    }

    async fn attempt(&self, endpoint: &Arc<Endpoint>) -> Result<LayerHold, Failure> {
        let slot = self.inner.pulls.layers.slots.take(endpoint.plan.host()).await;
        let _slot = slot
            .map_err(|closed| Failure::Local("wait for a turn", std::io::Error::other(closed)))?;
        // It may have been long.
        if self.is_forsaken() {
            return Err(Failure::Fetch(forsaken(endpoint)));
        }
        let (sender, receiver) = mpsc::channel(CHUNKS);
        let (inner, expected) = (Arc::clone(&self.inner), self.expected.clone());
        let mut thread =
            tokio::task::spawn_blocking(move || unpack_and_commit(&inner, &expected, receiver));
        let downloaded = self.download(endpoint, &sender).await;
        // The thread stops when this goes, wherever it is.
        let mut wanted = downloaded.is_ok().then_some(sender);
        let unpacked = loop {
            match tokio::time::timeout(LOOK_UP, &mut thread).await {
                Ok(ended) => break ended,
                Err(_elapsed) if self.is_forsaken() => drop(wanted.take()),
                Err(_elapsed) => {}
            }
        };
        let unpacked = unpacked
            .map_err(|error| Failure::Local("unpack a layer", std::io::Error::other(error)))?;
        match (unpacked, downloaded) {
            (Err(Failure::Unpack(UnpackError::Abandoned { .. })), Err(error)) => {
                Err(Failure::Fetch(error))
            }
            (unpacked, _) => unpacked,
        }
    }

    /// Feeds the thread; goes on where a broken connection left off, and asks again who is in trouble.
    async fn download(
        &self,
        endpoint: &Endpoint,
        sender: &mpsc::Sender<Chunk>,
    ) -> Result<(), FetchError> {
        let mut far = Far::default();
        let pauses = &self.inner.manners.pauses;
        let mut again = Again::new(pauses);
        loop {
            let before = far.received;
            let failure = match self.feed(endpoint, &mut far, sender).await {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            if far.received > before {
                again.answered();
            }
            if far.received - far.good_until >= PROGRESS {
                (far.good_until, again) = (far.received, Again::new(pauses));
            }
            // Of a mirror that gives nothing at all there is a next one.
            let hopeful = failure.is_passing() || failure.is_broken_connection();
            if !hopeful || far.received == 0 && !self.is_last(endpoint) {
                return Err(failure);
            }
            let Some(pause) = again.after(&failure) else { return Err(failure) };
            tracing::debug!(layer = %self.expected.blob, far.received, error = %failure, "download broke; going on");
            self.pause(pause).await;
            if self.is_forsaken() {
                return Err(failure);
            }
        }
    }

    /// What one request gives, from where the last one ended.
    async fn feed(
        &self,
        endpoint: &Endpoint,
        far: &mut Far,
        sender: &mpsc::Sender<Chunk>,
    ) -> Result<(), FetchError> {
        let mut stream = endpoint.stream(&self.expected.blob, far.received).await?;
        while let Some(bytes) = stream.chunk().await? {
            far.received += bytes.len() as u64;
            self.inner.pulled.received(bytes.len());
            if sender.send(Chunk::Data(bytes)).await.is_err() {
                // The thread has seen enough, and says why.
                return Ok(());
            }
            if far.received - far.told >= TELL {
                far.told = far.received;
                self.state.send_replace(State::Running(far.received));
                if self.is_forsaken() {
                    return Err(forsaken(endpoint));
                }
            }
        }
        let _thread_ended = sender.send(Chunk::End).await;
        Ok(())
    }

    /// Whether there is nobody else to ask.
    fn is_last(&self, endpoint: &Endpoint) -> bool {
        let endpoints = self.registry.blob_endpoints();
        endpoints.last().is_none_or(|last| std::ptr::eq(Arc::as_ptr(last), endpoint))
    }

    /// Waits, for as long as somebody waits for us.
    async fn pause(&self, mut pause: Duration) {
        while !pause.is_zero() && !self.is_forsaken() {
            let part = pause.min(LOOK_UP);
            tokio::time::sleep(part).await;
            pause -= part;
        }
    }
}

fn forsaken(endpoint: &Endpoint) -> FetchError {
    let reason = "nobody waits for it".to_owned();
    FetchError::Unreachable { url: endpoint.plan.url.clone(), reason }
}

impl Failure {
    fn is_local(&self) -> bool {
        match self {
            Self::Local(..) => true,
            Self::Unpack(UnpackError::Apply { source, .. }) => source.is_local(),
            Self::Unpack(_) | Self::Fetch(_) => false,
        }
    }
}

/// The thread's work. What is staged is gone again unless it gets to be committed.
fn unpack_and_commit(
    inner: &Arc<Inner>,
    expected: &Expected,
    chunks: mpsc::Receiver<Chunk>,
) -> Result<LayerHold, Failure> {
    let local = |operation| move |error: std::io::Error| Failure::Local(operation, error);
    let staged =
        inner.layers.stage(&expected.diff_id).map_err(local("make a layer's directory"))?;
    reach("pull.staged").map_err(local("pass"))?;
    let tree = staged.tree();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, &tree, flags, Mode::empty());
    let root = root.map_err(|errno| Failure::Local("open a layer's directory", errno.into()))?;
    let world = Mode::from_raw_mode(0o755);
    rustix::fs::fchmod(&root, world)
        .map_err(|errno| Failure::Local("open a layer's directory", errno.into()))?;
    let applied =
        unpack(chunks, expected, root, staged.junk(), &inner.limits).map_err(Failure::Unpack)?;
    reach("pull.unpacked").map_err(local("pass"))?;
    let record =
        LayerRecord::new(expected.diff_id.clone(), expected.blob.clone(), expected.size, applied);
    inner.layers.commit(&staged, record).map_err(local("commit a layer"))
}
