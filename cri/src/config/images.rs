//! How much of a registry's word is taken: the table `[images]`, its defaults, and what is refused.

use super::layer::Layer;
use super::load::{ConfigError, Sources};
use davit_runtime::image::Limits;
use serde::{Deserialize, Serialize};

/// `[images]`: how much a layer may hold before its pull is refused.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Images {
    /// Bytes of one layer, unpacked; a pull of a larger one is refused
    #[arg(long = "images-layer-bytes", id = "images-layer-bytes", value_name = "BYTES")]
    pub(crate) layer_bytes: Option<u64>,
    /// Files, directories and links of one layer
    #[arg(long = "images-layer-entries", id = "images-layer-entries", value_name = "COUNT")]
    pub(crate) layer_entries: Option<u64>,
    /// Unpacked bytes of a layer for one compressed byte, once more than 4 GiB are unpacked
    #[arg(long = "images-layer-ratio", id = "images-layer-ratio", value_name = "COUNT")]
    pub(crate) layer_ratio: Option<u64>,
}

/// A key and its value.
type Key = (&'static str, fn(&Images) -> Option<u64>);

const KEYS: [Key; 3] = [
    ("images.layer_bytes", |images| images.layer_bytes),
    ("images.layer_entries", |images| images.layer_entries),
    ("images.layer_ratio", |images| images.layer_ratio),
];

impl Images {
    /// Both in one; where both speak, `over` is heard.
    pub(super) fn under(self, over: &Self) -> Self {
        Self {
            layer_bytes: over.layer_bytes.or(self.layer_bytes),
            layer_entries: over.layer_entries.or(self.layer_entries),
            layer_ratio: over.layer_ratio.or(self.layer_ratio),
        }
    }

    /// Every one has its value.
    pub(super) fn with_defaults(&self) -> Self {
        let usual = Limits::default();
        Self {
            layer_bytes: self.layer_bytes.or(Some(usual.layer_bytes)),
            layer_entries: self.layer_entries.or(Some(usual.entries)),
            layer_ratio: self.layer_ratio.or(Some(usual.ratio)),
        }
    }

    /// What they come to.
    pub(super) fn limits(&self) -> Limits {
        let usual = Limits::default();
        Limits {
            layer_bytes: self.layer_bytes.unwrap_or(usual.layer_bytes),
            entries: self.layer_entries.unwrap_or(usual.entries),
            ratio: self.layer_ratio.unwrap_or(usual.ratio),
            ..usual
        }
    }
}

/// More than any disk has, and still a number for TOML.
const MOST: u64 = 1 << 60;

/// None of them may be nothing, which no image could keep.
pub(super) fn check(full: &Layer, sources: &Sources) -> Result<(), ConfigError> {
    for (key, get) in KEYS {
        let count = get(&full.images).unwrap_or_default();
        if !(1..=MOST).contains(&count) {
            let set = |layer: &Layer| get(&layer.images).is_some();
            return Err(sources.wrong(set, key, &count, "is not between 1 and 2^60"));
        }
    }
    Ok(())
}
