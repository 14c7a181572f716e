//! Keeping layers.

use super::Layers;
use super::aside::Aside;
use crate::image::Digest;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether davit ends.
static ENDING: AtomicBool = AtomicBool::new(false);

/// From now on whatever is dropped lets go of no layer: davit ends, and its containers run on. The next one finds what is nobody's.
pub fn keep_layers() {
    ENDING.store(true, Ordering::SeqCst);
}

/// What says whether davit ends.
pub(super) fn ending() -> &'static AtomicBool {
    &ENDING
}

/// A layer that is not here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("layer {0} is not here")]
pub struct HoldError(pub Digest);

/// Layers that stay, because somebody mounts them. Dropping it lets them go.
#[derive(Debug)]
pub struct LayerHold {
    /// Parts in what can't be used any more.
    pub(super) aside: Vec<Arc<Aside>>,
    pub(super) layers: Arc<Layers>,
    pub(super) diff_ids: Vec<Digest>,
    pub(super) lower: Vec<PathBuf>,
}

impl LayerHold {
    /// Absolute directories for overlayfs, top first; each only once, though an image may have a layer twice.
    #[must_use]
    pub fn lower(&self) -> &[PathBuf] {
        &self.lower
    }

    /// What is held, bottom first.
    #[must_use]
    pub fn layers(&self) -> &[Digest] {
        &self.diff_ids
    }
}

impl Drop for LayerHold {
    fn drop(&mut self) {
        self.layers.release(&self.diff_ids);
    }
}
