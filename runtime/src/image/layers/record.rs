//! `layer.json`.

use crate::image::Digest;
use crate::image::apply::Applied;
use crate::image::files::{Unusable, read_bounded};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

pub(super) const RECORD_FILE: &str = "layer.json";
const VERSION: u32 = 1;
/// The names of implied directories are most of it, and they are bounded.
const RECORD_BYTES: u64 = 256 << 20;

/// What is known of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    version: u32,
    pub(crate) diff_id: Digest,
    /// The blob that it came from.
    pub(crate) blob: Digest,
    /// Compressed bytes.
    pub(crate) blob_size: u64,
    /// On disk.
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
    /// Directories that the layer has no entry for; see [`super::stacks`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) implied: Vec<Implied>,
    /// The boot in whose memory the layer's bytes may still be; absent once they are on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) boot: Option<String>,
    /// What the tree was once it was on disk; see [`super::seal`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seal: Option<Digest>,
}

/// A directory that was made because something below it was to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Implied {
    /// Relative; empty for the root.
    pub(crate) path: String,
    /// A davit of old has made the layer's directory look as an image of its time was to; see [`super::stacks`].
    pub(crate) settled: bool,
}

impl LayerRecord {
    pub(crate) fn new(diff_id: Digest, blob: Digest, blob_size: u64, applied: Applied) -> Self {
        // A name that is no text cannot be kept here; such a directory stays root's and open to all.
        let implied = applied.implied.into_iter().filter_map(|path| String::from_utf8(path).ok());
        let implied = implied.map(|path| Implied { path, settled: false }).collect();
        Self {
            version: VERSION,
            diff_id,
            blob,
            blob_size,
            bytes: applied.bytes,
            inodes: applied.inodes,
            implied,
            boot: None,
            seal: None,
        }
    }

    pub(super) fn load(layer: &Path, diff_id: &Digest, boot: &str) -> Result<Self, Unusable> {
        let path = layer.join(RECORD_FILE);
        let bytes = read_bounded(&path, RECORD_BYTES)
            .map_err(Unusable::of(&format!("read {RECORD_FILE}")))?;
        let record: Self = serde_json::from_slice(&bytes)
            .map_err(|error| format!("parse {RECORD_FILE}: {error}"))?;
        if record.version != VERSION {
            return Err(
                format!("{RECORD_FILE} has version {}, not {VERSION}", record.version).into()
            );
        }
        if record.diff_id != *diff_id {
            return Err(format!("{RECORD_FILE} is of layer {}", record.diff_id).into());
        }
        if record.boot.as_deref().is_some_and(|pending| pending != boot) {
            return Err("was not brought to disk before the machine stopped".to_owned().into());
        }
        match std::fs::symlink_metadata(layer.join("fs")) {
            Ok(metadata) if metadata.is_dir() => Ok(record),
            Ok(_) => Err("fs is no directory".to_owned().into()),
            Err(error) => Err(Unusable::of("look at fs")(error)),
        }
    }

    pub(super) fn to_json(&self) -> io::Result<Vec<u8>> {
        Ok(serde_json::to_vec_pretty(self)?)
    }
}
