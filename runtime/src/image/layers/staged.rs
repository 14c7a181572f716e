//! A layer on its way.

use super::Layers;
use std::path::PathBuf;
use std::sync::Arc;

/// A layer that is being unpacked; deleted when dropped, unless it was committed.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(super) layers: Arc<Layers>,
    pub(super) path: PathBuf,
}

impl Staged {
    /// What becomes the layer's tree.
    pub(crate) fn tree(&self) -> PathBuf {
        self.path.join("fs")
    }

    /// Where the applier puts what it replaces.
    pub(crate) fn junk(&self) -> PathBuf {
        self.path.join("junk")
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Err(error) = self.layers.discard(self.path.clone()) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a layer that was not finished");
        }
    }
}
