//! An image as everybody sees it, and what a pull tells while it runs.

use super::{Auth, Digest};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// One image at one moment: immutable, replaced whole when a name comes or goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The digest of its config: the same whichever registry it came from.
    pub id: Digest,
    /// The digest of the manifest that it was first pulled by, for its platform.
    pub manifest: Digest,
    /// `registry/repository:tag`, sorted. A tag names one image at a time: a pull that moves it takes it from the other.
    pub repo_tags: Vec<String>,
    /// `registry/repository@digest` of what was asked for, an index or a manifest; sorted.
    pub repo_digests: Vec<String>,
    /// Bytes of manifest, config and layers, compressed.
    pub size: u64,
    /// Diff ids, bottom first.
    pub layers: Vec<Digest>,
    /// How to run it.
    pub config: ImageConfig,
    /// It is named by [`super::ImagesConfig::pinned`]: the kubelet must not collect it.
    pub pinned: bool,
    /// Nanoseconds since the epoch, of the last pull that named it.
    pub pulled_at: i64,
    /// The config as the registry served it.
    pub raw_config: Arc<str>,
}

/// What an image says about how it wants to be run. Texts are the registry's word, unchecked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments, or the program if there is no entry point.
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Where to start; empty means `/`.
    pub working_dir: String,
    /// `user`, `uid`, `user:group`, `uid:gid` …; empty means root.
    pub user: String,
    /// What stops it; `None` means SIGTERM.
    pub stop_signal: Option<String>,
    /// Paths that want a volume.
    pub volumes: Vec<String>,
    /// Free to use.
    pub labels: BTreeMap<String, String>,
    /// `port/protocol`.
    pub exposed_ports: Vec<String>,
    /// `linux`; empty in some hand-made images.
    pub os: String,
    /// `amd64`, …; empty in some hand-made images.
    pub architecture: String,
    /// Of the architecture.
    pub variant: Option<String>,
    /// When it was made, as RFC 3339.
    pub created: Option<String>,
}

/// What to pull.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// An image's name, as people write it.
    pub image: String,
    /// Who asks.
    pub auth: Auth,
    /// Told how it goes. An event that finds the channel full is dropped: the figures are totals, so the next one makes up for
    /// it, and the pull's own answer is what says that it has ended.
    pub progress: Option<mpsc::Sender<PullEvent>>,
}

/// A step of a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullEvent {
    /// What there is to do; the first event.
    Plan {
        /// Of the image's manifest.
        digest: Digest,
        /// Bottom first.
        layers: Vec<LayerPlan>,
    },
    /// A layer has come further.
    Layer {
        /// Of the blob.
        digest: Digest,
        /// Compressed bytes, so far.
        received: u64,
        /// It is unpacked and committed.
        done: bool,
    },
}

/// One layer in a [`PullEvent::Plan`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerPlan {
    /// Of the blob.
    pub digest: Digest,
    /// Compressed bytes.
    pub size: u64,
    /// It is here and is not downloaded.
    pub present: bool,
}
