//! Images' configs, each downloaded once.
//!
//! Owns the join of pulls that want the same config at the same time. One that an image here was made from is not downloaded at all:
//! the image's id is its digest, so it is the same.

use crate::image::images::Inner;
use crate::image::registry::Registry;
use crate::image::{Digest, FetchError};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::OnceCell;

/// Configs on their way. A download that fails is tried anew by the next who waits.
#[derive(Debug, Default)]
pub(super) struct Configs {
    cells: Mutex<HashMap<Digest, Weak<OnceCell<Bytes>>>>,
}

/// A config, verified. As long as somebody holds it nobody else downloads it.
#[derive(Debug, Clone)]
pub(super) struct SharedConfig {
    digest: Digest,
    bytes: Bytes,
    _cell: Arc<OnceCell<Bytes>>,
}

impl SharedConfig {
    pub(super) fn digest(&self) -> &Digest {
        &self.digest
    }

    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl Configs {
    pub(super) async fn get(
        &self,
        inner: &Inner,
        registry: &Registry,
        digest: &Digest,
        size: u64,
    ) -> Result<SharedConfig, FetchError> {
        let cell = self.cell(digest);
        let download = || async {
            match here(inner, digest) {
                Some(bytes) => Ok(bytes),
                None => registry.blob(digest, size).await.map(|fetched| fetched.bytes),
            }
        };
        let bytes = cell.get_or_try_init(download).await?.clone();
        Ok(SharedConfig { digest: digest.clone(), bytes, _cell: cell })
    }

    fn cell(&self, digest: &Digest) -> Arc<OnceCell<Bytes>> {
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        cells.retain(|_, cell| cell.strong_count() > 0);
        let known = cells.get(digest).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let cell = Arc::default();
            cells.insert(digest.clone(), Arc::downgrade(&cell));
            cell
        })
    }
}

/// The config of an image that is here.
fn here(inner: &Inner, digest: &Digest) -> Option<Bytes> {
    let image = inner.store.find(digest.as_str()).ok()??;
    Some(Bytes::copy_from_slice(image.raw_config.as_bytes()))
}
