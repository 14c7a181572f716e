//! The door to everything here.

use super::error::{ExplainError, OpenError, PullError, RemoveError, UsageError};
use super::hosts::{EndpointPlan, endpoints};
use super::layers::{HoldError, LayerHold, Layers, Quarantined};
use super::pull::Pulls;
use super::registry::Manners;
use super::store::{FindError, Pin, Store};
use super::{Digest, Image, ImageRef, Limits, Platform, PullRequest};
use crate::metrics::Pulls as Pulled;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// Where images are kept and how they are fetched.
#[derive(Debug, Clone)]
pub struct ImagesConfig {
    /// Makes `images/` and `layers/` in it.
    pub root: PathBuf,
    /// Directories of `<host>/hosts.toml`; the first one that knows a host decides.
    pub certs_dirs: Vec<PathBuf>,
    /// `os/architecture[/variant]`; `None` is this machine's.
    pub platform: Option<String>,
    /// What is taken from a registry before it is refused.
    pub limits: Limits,
    /// The longest silence of a registry before its answer is given up.
    pub pull_progress_timeout: Duration,
    /// How long a registry that is in trouble is left alone before each further try.
    pub retry_pauses: [Duration; 4],
    /// Names of images that must not be collected, whole or ending in `*`.
    pub pinned: Vec<String>,
    /// Token servers that may be given credentials though they are of another domain than their registry.
    pub token_hosts: Vec<String>,
    /// Layers of one image that are fetched at a time.
    pub parallel_layers: usize,
}

impl ImagesConfig {
    /// Images below `root`, everything else as is usual.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            certs_dirs: vec![PathBuf::from("/etc/davit/certs.d")],
            platform: None,
            limits: Limits::default(),
            pull_progress_timeout: Duration::from_secs(300),
            retry_pauses: [500, 1000, 2000, 4000].map(Duration::from_millis),
            pinned: Vec::new(),
            token_hosts: Vec::new(),
            parallel_layers: 4,
        }
    }
}

/// All images of one root. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Images(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) config: ImagesConfig,
    pub(super) platform: Platform,
    pub(super) limits: Arc<Limits>,
    pub(super) manners: Manners,
    pub(super) layers: Arc<Layers>,
    pub(super) store: Store,
    pub(super) pulls: Pulls,
    pub(super) pulled: Arc<Pulled>,
    quarantined: Vec<Quarantined>,
}

/// What a sweep has removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SweepReport {
    /// Layers that no image named and nobody held.
    pub layers: Vec<Digest>,
}

/// How much there is of images and layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Images.
    pub images: usize,
    /// Unpacked layers, each counted once.
    pub layers: usize,
    /// What those take of the disk, in whole blocks.
    pub bytes: u64,
}

/// How much of the disk the layers use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// In whole blocks, as counted when they were unpacked.
    pub bytes: u64,
    /// As counted when they were unpacked.
    pub inodes: u64,
    /// A directory of the filesystem that they are on.
    pub mountpoint: PathBuf,
}

impl Images {
    /// Reads what is there. What a crash left half-made is deleted, what is broken is put aside and named by
    /// [`Self::quarantined`]. Layers that nothing names stay until [`Self::sweep`], so that holds can be taken again first.
    ///
    /// # Errors
    /// [`OpenError`]: a directory that cannot be read or made, or a field of `config` that makes no sense.
    pub(crate) async fn open(config: ImagesConfig, pulled: Arc<Pulled>) -> Result<Self, OpenError> {
        let handle = Handle::try_current().map_err(OpenError::NoRuntime)?;
        let root = config.root.clone();
        let opened = tokio::task::spawn_blocking(move || Inner::open(config, handle, pulled)).await;
        let inner = opened.map_err(|error| OpenError::Io {
            path: root,
            source: std::io::Error::other(error),
        })??;
        let images = Self(Arc::new(inner));
        // What the last daemon of this boot did not come to bring to disk.
        images.0.flush_later();
        Ok(images)
    }

    /// From now on `journal` is told of pulls and removals.
    pub(crate) fn tell(&self, journal: crate::journal::Inbox) {
        self.0.store.tell(journal);
    }

    /// What `open` found broken.
    #[must_use]
    pub fn quarantined(&self) -> &[Quarantined] {
        &self.0.quarantined
    }

    /// Removes layers that no image names and nobody holds: what a crash left behind, what is broken. To be called when all holds are taken
    /// again.
    pub async fn sweep(&self) -> SweepReport {
        let inner = Arc::clone(&self.0);
        let swept = tokio::task::spawn_blocking(move || inner.layers.sweep()).await;
        SweepReport { layers: swept.unwrap_or_default() }
    }

    /// What is among images and layers and was not made by davit. Blocks.
    #[must_use]
    pub fn foreign(&self) -> Vec<PathBuf> {
        let directories = [self.0.store.directory(), self.0.layers.directory()];
        directories.into_iter().flat_map(super::files::foreign).collect()
    }

    /// Fetches an image, or finds that it is here. Who asks for the same with the same credentials joins the pull that runs; the
    /// pull goes on when nobody waits for it any more.
    ///
    /// # Errors
    /// [`PullError`], by whose fault it is. Nothing of the image is left then, but for layers that others need.
    pub async fn pull(&self, request: PullRequest) -> Result<Arc<Image>, PullError> {
        super::pull::pull(&self.0, request).await
    }

    /// All images, by id.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.0.store.list()
    }

    /// The image that `name` means: a name with tag or digest or neither, an id with or without `sha256:`, or the
    /// unambiguous beginning of one.
    ///
    /// # Errors
    /// [`FindError`] if it can mean none, or several.
    pub fn find(&self, name: &str) -> Result<Option<Arc<Image>>, FindError> {
        self.0.store.find(name)
    }

    /// Removes the image that `name` means, with all of its names. Layers that are held stay until they are not. An image that
    /// is not here is removed.
    ///
    /// # Errors
    /// [`RemoveError`]: the name can mean none or several, or the disk refuses.
    pub async fn remove(&self, name: &str) -> Result<(), RemoveError> {
        let Some(image) = self.find(name)? else { return Ok(()) };
        let failed = |source| RemoveError::Io { image: image.id.to_string(), source };
        let (inner, id) = (Arc::clone(&self.0), image.id.clone());
        let removed = tokio::task::spawn_blocking(move || inner.store.remove(&id)).await;
        removed.map_err(|error| failed(std::io::Error::other(error)))?.map_err(failed)
    }

    /// Keeps layers for as long as the answer lives: diff ids, bottom first, as in [`Image::layers`]. Images of a layer whose files have gone
    /// are let go, so that the next pull of them fetches it.
    ///
    /// # Errors
    /// [`HoldError`] names the first that is not here; none is held then.
    pub fn hold(&self, layers: &[Digest]) -> Result<LayerHold, HoldError> {
        let hold = self.0.layers.hold(layers)?;
        match layers.iter().find(|layer| self.0.layers.is_lost(layer)) {
            None => Ok(hold),
            Some(gone) => {
                drop(hold);
                self.0.let_go_later(gone.clone());
                Err(HoldError(gone.clone()))
            }
        }
    }

    /// Keeps what there is of the layers of a container that an earlier davit has made, also what can't be used any more.
    pub(crate) fn hold_left(&self, layers: &[Digest]) -> LayerHold {
        self.0.layers.hold_left(layers)
    }

    /// What the layers take of the disk.
    ///
    /// # Errors
    /// [`UsageError`] if their directory has gone.
    pub async fn usage(&self) -> Result<Usage, UsageError> {
        let mountpoint = self.0.layers.directory().to_owned();
        match tokio::fs::metadata(&mountpoint).await {
            Ok(_) => {
                let (bytes, inodes) = self.0.layers.usage();
                Ok(Usage { bytes, inodes, mountpoint })
            }
            Err(source) => Err(UsageError { path: mountpoint, source }),
        }
    }

    /// How much there is, as counted when it came.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let (layers, bytes) = self.0.layers.totals();
        Totals { images: self.0.store.len(), layers, bytes }
    }

    /// The endpoints that a pull of `image` would try, in order.
    ///
    /// # Errors
    /// [`ExplainError`]: the name is none, or the registry's configuration cannot be used.
    pub fn explain(&self, image: &str) -> Result<Vec<EndpointPlan>, ExplainError> {
        let image: ImageRef = image.parse()?;
        Ok(endpoints(&self.0.config.certs_dirs, image.registry())?)
    }

    /// Waits until everything that was pulled is on disk. For an orderly stop; a crash loses nothing but the pull.
    ///
    /// # Errors
    /// The disk's.
    pub async fn flush(&self) -> std::io::Result<()> {
        let inner = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || inner.store.flush())
            .await
            .map_err(std::io::Error::other)?
    }
}

impl Inner {
    fn open(
        mut config: ImagesConfig,
        handle: Handle,
        pulled: Arc<Pulled>,
    ) -> Result<Self, OpenError> {
        let pinned = config
            .pinned
            .iter()
            .map(|text| Pin::parse(text))
            .collect::<Result<_, _>>()
            .map_err(OpenError::Pinned)?;
        let platform =
            config.platform.as_deref().map_or_else(|| Ok(Platform::host()), str::parse)?;
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        super::files::make_directory(&config.root).map_err(failed(&config.root))?;
        config.root = config.root.canonicalize().map_err(failed(&config.root))?;
        let boot_path = Path::new("/proc/sys/kernel/random/boot_id");
        let boot = std::fs::read_to_string(boot_path).map_err(failed(boot_path))?.trim().to_owned();
        // Whoever embeds this may have chosen another; any that can speak TLS will do.
        let _chosen_before = rustls::crypto::ring::default_provider().install_default();
        let layers_path = config.root.join("layers");
        let (layers, mut quarantined) = Layers::open(layers_path.clone(), boot.clone(), handle)
            .map_err(failed(&layers_path))?;
        let images_path = config.root.join("images");
        let (store, broken) = Store::open(images_path.clone(), boot, pinned, Arc::clone(&layers))
            .map_err(failed(&images_path))?;
        quarantined.extend(broken);
        for broken in &quarantined {
            tracing::warn!(path = %broken.path.display(), reason = broken.reason, "put a broken image or layer aside");
        }
        Ok(Self {
            platform,
            limits: Arc::new(config.limits.clone()),
            manners: Manners {
                patience: config.pull_progress_timeout,
                pauses: config.retry_pauses,
                token_hosts: config.token_hosts.clone().into(),
            },
            layers,
            store,
            pulls: Pulls::default(),
            pulled,
            quarantined,
            config,
        })
    }

    /// Forgets the images of a layer whose files have gone.
    fn let_go_later(self: &Arc<Self>, layer: Digest) {
        let inner = Arc::clone(self);
        drop(tokio::task::spawn_blocking(move || {
            for image in inner.store.list().iter().filter(|image| image.layers.contains(&layer)) {
                tracing::error!(image = %image.id, %layer, names = ?image.repo_tags, "let go of an image: the files of a layer have gone; pull it again");
                if let Err(error) = inner.store.remove(&image.id) {
                    tracing::error!(image = %image.id, %error, "cannot remove a broken image");
                }
            }
        }));
    }

    /// Brings what is pending to the disk behind everybody's back.
    pub(super) fn flush_later(self: &Arc<Self>) {
        let inner = Arc::clone(self);
        drop(tokio::task::spawn_blocking(move || match inner.store.flush() {
            Ok(()) => inner.layers.seal_later(),
            Err(error) => {
                tracing::warn!(%error, "cannot bring images to disk: a power failure would lose them");
            }
        }));
    }
}
