//! Pulls that run, and who waits for them.
//!
//! ```text
//! ask ─► same image, same credentials under way? ─yes─► wait for it
//!           └─no─► task: resolve ─► plan ─► layers, each by a task of its own ([`layer`]) ─► commit ─► tell all
//! ```
//!
//! Owns the tasks. A pull belongs to its task: who asked may go away. Layers belong to theirs, so that two images with a layer in
//! common fetch it once. Owns neither the wire nor the disk.

mod config;
mod layer;
mod slots;

use super::error::{ContentError, PullError};
use super::images::Inner;
use super::layers::LayerHold;
use super::manifest::{Descriptor, Document, Manifest, choose, match_config, parse_config};
use super::registry::{Fetched, Registry, Wanted};
use super::store::NewImage;
use super::unpack::Expected;
use super::{Auth, Digest, Image, ImageRef, LayerPlan, PullEvent, PullRequest};
use config::{Configs, SharedConfig};
use davit_sys::failpoint::reach;
use futures_util::future::try_join_all;
use layer::{LayerJobs, Stage, Wish};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::{Semaphore, mpsc, watch};

type Outcome = Option<Result<Arc<Image>, PullError>>;

#[derive(Debug, Default)]
pub(crate) struct Pulls {
    running: Mutex<HashMap<(ImageRef, Auth), Running>>,
    configs: Configs,
    layers: LayerJobs,
}

#[derive(Debug, Clone)]
struct Running {
    outcome: watch::Receiver<Outcome>,
    audience: Arc<Audience>,
}

/// Everybody who wants to know how a pull goes.
#[derive(Debug, Default)]
struct Audience(Mutex<Listeners>);

#[derive(Debug, Default)]
struct Listeners {
    plan: Option<PullEvent>,
    senders: Vec<mpsc::Sender<PullEvent>>,
}

impl Audience {
    fn join(&self, sender: Option<mpsc::Sender<PullEvent>>) {
        let mut listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sender) = sender else { return };
        if let Some(plan) = &listeners.plan {
            let _full = sender.try_send(plan.clone());
        }
        listeners.senders.push(sender);
    }

    fn tell(&self, event: &PullEvent) {
        let mut listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(event, PullEvent::Plan { .. }) {
            listeners.plan = Some(event.clone());
        }
        listeners.senders.retain(|sender| {
            !matches!(sender.try_send(event.clone()), Err(mpsc::error::TrySendError::Closed(_)))
        });
    }
}

/// See [`super::Images::pull`].
pub(super) async fn pull(
    inner: &Arc<Inner>,
    request: PullRequest,
) -> Result<Arc<Image>, PullError> {
    let image: ImageRef = request.image.parse()?;
    request.auth.credential()?;
    let mut running = join(inner, &image, request);
    let stopped = || PullError::Stopped { image: image.to_string() };
    let outcome = running.outcome.wait_for(Option::is_some).await.map_err(|_closed| stopped())?;
    outcome.clone().unwrap_or_else(|| Err(stopped()))
}

fn join(inner: &Arc<Inner>, image: &ImageRef, request: PullRequest) -> Running {
    let key = (image.clone(), request.auth);
    let mut table = inner.pulls.running.lock().unwrap_or_else(PoisonError::into_inner);
    // One that has ended in a panic is still here, and its channel is closed.
    if let Some(running) = table.get(&key).filter(|running| running.outcome.has_changed().is_ok()) {
        running.audience.join(request.progress);
        return running.clone();
    }
    let (sender, outcome) = watch::channel(None);
    let running = Running { outcome, audience: Arc::default() };
    running.audience.join(request.progress);
    table.insert(key.clone(), running.clone());
    drop(table);
    let (inner, audience) = (Arc::clone(inner), Arc::clone(&running.audience));
    tokio::spawn(async move {
        let began = Instant::now();
        let result = Box::pin(
            Pull { inner: &inner, image: &key.0, auth: &key.1, audience: &audience }.run(),
        )
        .await;
        inner.pulled.ended(began.elapsed(), &result);
        // Out of the table first: who comes now starts anew, and finds what is here.
        inner.pulls.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        sender.send_replace(Some(result));
        inner.flush_later();
    });
    running
}

/// One pull, inside its task.
struct Pull<'a> {
    inner: &'a Arc<Inner>,
    image: &'a ImageRef,
    auth: &'a Auth,
    audience: &'a Audience,
}

/// What the registry says that the image is, verified.
struct Resolved {
    target: Digest,
    manifest: Manifest,
    manifest_source: Fetched,
    config: SharedConfig,
    diff_ids: Vec<Digest>,
}

impl Pull<'_> {
    async fn run(&self) -> Result<Arc<Image>, PullError> {
        let registry = self.registry().await?;
        let resolved = self.resolve(&registry).await?;
        reach("pull.resolved").map_err(|error| self.local("pass", error))?;
        let layers = self.plan(&resolved);
        let permits = Semaphore::new(self.inner.config.parallel_layers.max(1));
        let holds: Vec<Arc<LayerHold>> =
            try_join_all(layers.iter().map(|expected| self.layer(&registry, expected, &permits)))
                .await?;
        reach("pull.layers").map_err(|error| self.local("pass", error))?;
        let image = self.commit(resolved).await;
        drop(holds);
        reach("pull.committed").map_err(|error| self.local("pass", error))?;
        image
    }

    async fn registry(&self) -> Result<Registry, PullError> {
        let (directories, host) =
            (self.inner.config.certs_dirs.clone(), self.image.registry().to_owned());
        let plans =
            tokio::task::spawn_blocking(move || super::hosts::endpoints(&directories, &host)).await;
        let plans = plans
            .map_err(|error| {
                self.local("read the registry's configuration", std::io::Error::other(error))
            })?
            .map_err(|source| PullError::Hosts {
                image: self.image.to_string(),
                cause: Arc::new(source),
            })?;
        Ok(Registry::new(self.image, plans, self.auth, &self.inner.manners)?)
    }

    /// From a name to a manifest for this platform, through as many indexes as are bearable.
    async fn resolve(&self, registry: &Registry) -> Result<Resolved, PullError> {
        let limits = &self.inner.limits;
        let mut wanted = match (self.image.digest(), self.image.tag()) {
            (Some(digest), _) => Wanted::Manifest(digest.clone()),
            (None, tag) => Wanted::Tag(tag.unwrap_or("latest").to_owned()),
        };
        let mut target = None;
        for _ in 0..=limits.index_depth {
            let source =
                registry.manifest(&wanted, limits).await.map_err(|error| self.fetch(error))?;
            let target = target.get_or_insert_with(|| source.digest.clone());
            let document = Document::parse(&source.bytes, source.content_type.as_deref(), limits);
            match document.map_err(|error| self.content(error))? {
                Document::Manifest(manifest) => {
                    return self.configure(registry, target.clone(), manifest, source).await;
                }
                Document::Index(entries) => {
                    let chosen = choose(&entries, &self.inner.platform)
                        .map_err(|error| self.content(error))?;
                    wanted = Wanted::Manifest(chosen.digest.clone());
                }
            }
        }
        let depth = target.unwrap_or_else(|| Digest::from_sha256([0; 32]));
        Err(self.content(ContentError::Depth(depth)))
    }

    async fn configure(
        &self,
        registry: &Registry,
        target: Digest,
        manifest: Manifest,
        manifest_source: Fetched,
    ) -> Result<Resolved, PullError> {
        let Descriptor { digest, size, .. } = &manifest.config;
        let config = self.inner.pulls.configs.get(self.inner, registry, digest, *size).await;
        let config = config.map_err(|error| self.fetch(error))?;
        let (parsed, diff_ids) =
            parse_config(config.bytes()).map_err(|error| self.content(error))?;
        match_config(&manifest, &parsed, &diff_ids, &self.inner.platform)
            .map_err(|error| self.content(error))?;
        Ok(Resolved { target, manifest, manifest_source, config, diff_ids })
    }

    /// What is to be fetched, each layer once.
    fn plan(&self, resolved: &Resolved) -> Vec<Expected> {
        let pairs = || resolved.manifest.layers.iter().zip(&resolved.diff_ids);
        let layers = pairs().map(|(layer, diff_id)| LayerPlan {
            digest: layer.digest.clone(),
            size: layer.size,
            present: self.inner.layers.contains(diff_id),
        });
        let digest = resolved.manifest_source.digest.clone();
        self.audience.tell(&PullEvent::Plan { digest, layers: layers.collect() });
        let mut seen = HashSet::new();
        pairs()
            .filter(|(_, diff_id)| seen.insert(*diff_id))
            .map(|(layer, diff_id)| Expected {
                blob: layer.digest.clone(),
                size: layer.size,
                diff_id: diff_id.clone(),
            })
            .collect()
    }

    async fn layer(
        &self,
        registry: &Registry,
        expected: &Expected,
        permits: &Semaphore,
    ) -> Result<Arc<LayerHold>, PullError> {
        let stopped = |_closed| PullError::Stopped { image: self.image.to_string() };
        let _permit = permits.acquire().await.map_err(stopped)?;
        let tell = |received, stage| {
            let (digest, done) = (expected.blob.clone(), stage == Stage::Done);
            self.audience.tell(&PullEvent::Layer { digest, received, done });
        };
        let wish = Wish { inner: self.inner, registry, image: self.image, expected };
        self.inner.pulls.layers.ensure(wish, &tell).await
    }

    async fn commit(&self, resolved: Resolved) -> Result<Arc<Image>, PullError> {
        let (inner, name) = (Arc::clone(self.inner), self.image.clone());
        let committed = tokio::task::spawn_blocking(move || {
            let layers: u64 = resolved.manifest.layers.iter().map(|layer| layer.size).sum();
            let documents =
                (resolved.manifest_source.bytes.len() + resolved.config.bytes().len()) as u64;
            inner.store.commit(&NewImage {
                name: &name,
                target: resolved.target,
                manifest: (resolved.manifest_source.digest, &resolved.manifest_source.bytes),
                config: (resolved.config.digest().clone(), resolved.config.bytes()),
                layers: &resolved.diff_ids,
                size: layers.saturating_add(documents),
                now: now(),
            })
        });
        let committed = committed.await.map_err(std::io::Error::other).and_then(|result| result);
        committed.map_err(|error| self.local("commit the image", error))
    }

    fn fetch(&self, error: super::FetchError) -> PullError {
        PullError::fetch(&self.image.to_string(), error)
    }

    fn content(&self, error: impl Into<ContentError>) -> PullError {
        PullError::content(&self.image.to_string(), error)
    }

    fn local(&self, operation: &'static str, error: std::io::Error) -> PullError {
        PullError::local((&self.image.to_string(), &self.inner.config.root), operation, error)
    }
}

/// Nanoseconds since the epoch, by the wall clock.
fn now() -> i64 {
    let since =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
