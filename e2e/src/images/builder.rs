//! An image of layers.
//!
//! Owns manifest, configuration and index as JSON, and compression. Tells the truth unless told to lie: every claim that a
//! runtime has to verify (digest, size and diff id of a layer) can be replaced.

use super::layer::Layer;
use crate::registry::{Digest, Store};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::io::Write as _;

/// How a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952.
    #[default]
    Gzip,
    /// RFC 8878.
    Zstd,
}

/// Whose media types a manifest uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Dialect {
    #[default]
    Oci,
    Docker,
}

/// A layer, packed, with what the image claims about it.
#[derive(Debug, Clone)]
struct Packed {
    bytes: Vec<u8>,
    compression: Compression,
    diff_id: String,
    size: u64,
    digest: Option<String>,
}

/// An image in the making.
#[derive(Debug, Clone)]
pub struct ImageBuilder {
    layers: Vec<Packed>,
    config: Value,
    compression: Compression,
    dialect: Dialect,
}

/// An image in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The manifest's digest.
    pub manifest: Digest,
    /// The manifest's length in bytes.
    pub manifest_size: usize,
    /// The configuration's digest: the image id.
    pub config: Digest,
    /// The digests of the layers as they are served.
    pub layers: Vec<Digest>,
    media_type: &'static str,
}

impl Default for ImageBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl ImageBuilder {
    /// No layers, no command, for this machine's architecture.
    #[must_use]
    pub fn new() -> Self {
        let config = json!({
            "created": "2024-01-01T00:00:00Z",
            "architecture": architecture(),
            "os": "linux",
            "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
        });
        Self {
            layers: Vec::new(),
            config,
            compression: Compression::default(),
            dialect: Dialect::default(),
        }
    }

    /// How the layers added from here on are packed.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Docker's media types in the place of OCI's.
    #[must_use]
    pub fn docker(mut self) -> Self {
        self.dialect = Dialect::Docker;
        self
    }

    /// Adds a layer that `fill` fills.
    ///
    /// # Errors
    /// If it cannot be archived.
    pub fn layer(self, fill: impl FnOnce(&mut Layer)) -> Result<Self> {
        let mut layer = Layer::new();
        fill(&mut layer);
        self.with(&layer)
    }

    /// Adds a layer.
    ///
    /// # Errors
    /// If it cannot be archived.
    pub fn with(self, layer: &Layer) -> Result<Self> {
        let archive = layer.archive()?;
        self.archive(&archive)
    }

    /// Adds these bytes as a layer, archive or not.
    ///
    /// # Errors
    /// If they cannot be compressed.
    pub fn archive(mut self, archive: &[u8]) -> Result<Self> {
        let bytes = pack(archive, self.compression).context("compress a layer")?;
        let size = u64::try_from(bytes.len())?;
        let diff_id = Digest::of(archive).to_string();
        self.layers.push(Packed {
            bytes,
            compression: self.compression,
            diff_id,
            size,
            digest: None,
        });
        Ok(self)
    }

    /// Claims another diff id for the layer added last.
    #[must_use]
    pub fn lie_about_diff_id(mut self, diff_id: &str) -> Self {
        if let Some(layer) = self.layers.last_mut() {
            diff_id.clone_into(&mut layer.diff_id);
        }
        self
    }

    /// Claims another size for the layer added last.
    #[must_use]
    pub fn lie_about_size(mut self, size: u64) -> Self {
        if let Some(layer) = self.layers.last_mut() {
            layer.size = size;
        }
        self
    }

    /// Claims another digest for the layer added last; nothing is served under it.
    #[must_use]
    pub fn lie_about_digest(mut self, digest: &str) -> Self {
        if let Some(layer) = self.layers.last_mut() {
            layer.digest = Some(digest.to_owned());
        }
        self
    }

    /// Sets a member of the configuration's `config` object: `Env`, `User`, `Entrypoint` and so on.
    #[must_use]
    pub fn set(mut self, member: &str, value: impl Into<Value>) -> Self {
        if let Some(config) = self.config.pointer_mut("/config").and_then(Value::as_object_mut) {
            config.insert(member.to_owned(), value.into());
        }
        self
    }

    /// Sets a member of the configuration itself: `architecture`, `os` and so on.
    #[must_use]
    pub fn set_top(mut self, member: &str, value: impl Into<Value>) -> Self {
        if let Some(config) = self.config.as_object_mut() {
            config.insert(member.to_owned(), value.into());
        }
        self
    }

    /// Puts the image into a repository of the store, under its digest only.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn build(&self, store: &Store, repository: &str) -> Result<Built> {
        let mut config = self.config.clone();
        let diff_ids: Vec<&str> = self.layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        if let Some(config) = config.as_object_mut() {
            config.insert("rootfs".to_owned(), json!({"type": "layers", "diff_ids": diff_ids}));
        }
        let config_bytes = serde_json::to_vec(&config).context("write the configuration")?;
        let config = store.put_blob(&config_bytes)?;
        let mut digests = Vec::new();
        let mut layers = Vec::new();
        for layer in &self.layers {
            let digest = store.put_blob(&layer.bytes)?;
            let claimed = layer.digest.as_deref().unwrap_or(digest.as_str());
            let media_type = self.dialect.layer(layer.compression);
            layers.push(json!({"mediaType": media_type, "digest": claimed, "size": layer.size}));
            digests.push(digest);
        }
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": self.dialect.manifest(),
            "config": {
                "mediaType": self.dialect.config(),
                "digest": config.as_str(),
                "size": config_bytes.len(),
            },
            "layers": layers,
        }))
        .context("write the manifest")?;
        Ok(Built {
            manifest: store.put_manifest(repository, &manifest)?,
            manifest_size: manifest.len(),
            config,
            layers: digests,
            media_type: self.dialect.manifest(),
        })
    }

    /// Puts the image into a repository of the store, under these tags.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn push(&self, store: &Store, repository: &str, tags: &[&str]) -> Result<Built> {
        let built = self.build(store, repository)?;
        for tag in tags {
            store.tag(repository, tag, &built.manifest)?;
        }
        Ok(built)
    }
}

/// Puts an index of images (architecture with image, each already in the repository) under a tag and tells its digest.
///
/// # Errors
/// If the store cannot be written.
pub fn push_index(
    store: &Store,
    repository: &str,
    tag: &str,
    images: &[(&str, &Built)],
) -> Result<Digest> {
    let manifests: Vec<Value> = images
        .iter()
        .map(|(architecture, image)| {
            json!({
                "mediaType": image.media_type,
                "digest": image.manifest.as_str(),
                "size": image.manifest_size,
                "platform": {"architecture": architecture, "os": "linux"},
            })
        })
        .collect();
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": manifests,
    }))
    .context("write the index")?;
    let digest = store.put_manifest(repository, &index)?;
    store.tag(repository, tag, &digest)?;
    Ok(digest)
}

/// This machine's architecture as images name it.
#[must_use]
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl Dialect {
    fn manifest(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.manifest.v1+json",
            Self::Docker => "application/vnd.docker.distribution.manifest.v2+json",
        }
    }

    fn config(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.config.v1+json",
            Self::Docker => "application/vnd.docker.container.image.v1+json",
        }
    }

    fn layer(self, compression: Compression) -> &'static str {
        match (self, compression) {
            (Self::Oci, Compression::None) => "application/vnd.oci.image.layer.v1.tar",
            (Self::Oci, Compression::Gzip) => "application/vnd.oci.image.layer.v1.tar+gzip",
            (Self::Oci, Compression::Zstd) => "application/vnd.oci.image.layer.v1.tar+zstd",
            (Self::Docker, Compression::None) => "application/vnd.docker.image.rootfs.diff.tar",
            (Self::Docker, Compression::Gzip) => {
                "application/vnd.docker.image.rootfs.diff.tar.gzip"
            }
            (Self::Docker, Compression::Zstd) => {
                "application/vnd.docker.image.rootfs.diff.tar.zstd"
            }
        }
    }
}

fn pack(archive: &[u8], compression: Compression) -> Result<Vec<u8>> {
    match compression {
        Compression::None => Ok(archive.to_vec()),
        Compression::Gzip => {
            // The default header has no time and no name in it.
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(archive)?;
            Ok(encoder.finish()?)
        }
        Compression::Zstd => Ok(zstd::encode_all(archive, 3)?),
    }
}
