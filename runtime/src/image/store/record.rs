//! `image.json`, and the two documents beside it.

use super::{NewImage, Pin};
use crate::image::files::{Unusable, read_bounded};
use crate::image::manifest::{ManifestError, parse_config};
use crate::image::{Digest, Image, ImageRef};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

pub(super) const RECORD_FILE: &str = "image.json";
pub(super) const MANIFEST_FILE: &str = "manifest.json";
pub(super) const CONFIG_FILE: &str = "config.json";
const VERSION: u32 = 1;
const DOCUMENT_BYTES: u64 = 64 << 20;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ImageRecord {
    version: u32,
    pub(super) id: Digest,
    manifest: Digest,
    /// `registry/repository:tag`, and when it was given, in nanoseconds since the epoch.
    pub(super) tags: BTreeMap<String, i64>,
    /// `registry/repository@digest`.
    pub(super) digests: BTreeSet<String>,
    size: u64,
    pub(super) layers: Vec<Digest>,
    pulled_at: i64,
    /// The boot in whose memory the files may still be; absent once they are on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) boot: Option<String>,
}

impl ImageRecord {
    pub(super) fn new(new: &NewImage<'_>, boot: &str) -> Self {
        Self {
            version: VERSION,
            id: new.config.0.clone(),
            manifest: new.manifest.0.clone(),
            tags: BTreeMap::new(),
            digests: BTreeSet::new(),
            size: new.size,
            layers: new.layers.to_vec(),
            pulled_at: new.now,
            boot: Some(boot.to_owned()),
        }
    }

    pub(super) fn name(&mut self, name: &ImageRef, target: &Digest, now: i64) {
        if let Some(tag) = name.repo_tag() {
            self.tags.insert(tag, now);
        }
        self.digests.insert(name.repo_digest(target));
        self.pulled_at = now;
    }

    /// The record and the config's text, if everything about them is as it was written.
    pub(super) fn load(
        directory: &Path,
        id: &Digest,
        boot: &str,
    ) -> Result<(Self, String), Unusable> {
        let read = |name: &str| {
            read_bounded(&directory.join(name), DOCUMENT_BYTES)
                .map_err(Unusable::of(&format!("read {name}")))
        };
        let record: Self = serde_json::from_slice(&read(RECORD_FILE)?)
            .map_err(|error| format!("parse {RECORD_FILE}: {error}"))?;
        if record.version != VERSION {
            return Err(
                format!("{RECORD_FILE} has version {}, not {VERSION}", record.version).into()
            );
        }
        if record.boot.as_deref().is_some_and(|pending| pending != boot) {
            return Err("was not brought to disk before the machine stopped".to_owned().into());
        }
        let config = read(CONFIG_FILE)?;
        for (name, bytes, expected) in
            [(CONFIG_FILE, &config, id), (MANIFEST_FILE, &read(MANIFEST_FILE)?, &record.manifest)]
        {
            let actual = Digest::from_sha256(Sha256::digest(bytes).into());
            if actual != *expected {
                return Err(format!("{name} has digest {actual}, not {expected}").into());
            }
        }
        let config =
            String::from_utf8(config).map_err(|error| format!("parse {CONFIG_FILE}: {error}"))?;
        Ok((record, config))
    }

    pub(super) fn to_json(&self) -> io::Result<Vec<u8>> {
        Ok(serde_json::to_vec_pretty(self)?)
    }

    pub(super) fn to_image(
        &self,
        raw_config: &str,
        pinned: &[Pin],
    ) -> Result<Image, ManifestError> {
        let (config, _diff_ids) = parse_config(raw_config.as_bytes())?;
        let repo_tags: Vec<String> = self.tags.keys().cloned().collect();
        let repo_digests: Vec<String> = self.digests.iter().cloned().collect();
        Ok(Image {
            id: self.id.clone(),
            manifest: self.manifest.clone(),
            pinned: repo_tags
                .iter()
                .chain(&repo_digests)
                .any(|name| pinned.iter().any(|pin| pin.matches(name))),
            repo_tags,
            repo_digests,
            size: self.size,
            layers: self.layers.clone(),
            config,
            pulled_at: self.pulled_at,
            raw_config: Arc::from(raw_config),
        })
    }
}

impl Pin {
    /// An image's name, or one that ends in `*` for all that begin so.
    pub(crate) fn parse(text: &str) -> Result<Self, crate::image::InvalidReference> {
        match text.strip_suffix('*') {
            Some(prefix) => Ok(Self::Prefix(prefix.to_owned())),
            None => text.parse().map(Self::Exact),
        }
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(image) => match image.digest() {
                Some(digest) => name == image.repo_digest(digest),
                None => image.repo_tag().as_deref() == Some(name),
            },
            Self::Prefix(prefix) => name.starts_with(prefix),
        }
    }
}
