//! What a registry says an image is: an index, a manifest, a config.
//!
//! Owns the reading of these three documents, which are hostile until they have passed here: sizes, counts and media types are
//! bounded, a document that could be read as two kinds is refused (two readers would see two images), and so is schema 1.
//! Owns no transport and no verification of digests: what arrives here has been verified by [`super::registry`].

use super::{Digest, ImageConfig, Limits, Platform};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Media types that are asked for, in order of preference.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json";

const INDEX_TYPES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
const MANIFEST_TYPES: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
const CONFIG_TYPES: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
const LAYER_TYPES: [&str; 10] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];

/// Why a document is no image.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is not the JSON that it should be.
    #[error("read the {what}")]
    Json {
        /// `manifest` or `config`.
        what: &'static str,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// Schema 1, which nobody makes any more and whose digests cannot be verified.
    #[error("manifest has schema version {0}: only 2 is supported")]
    Schema(u64),
    /// Its fields are those of an index and of a manifest at once, or of neither.
    #[error("manifest {0}")]
    Shape(&'static str),
    /// A media type that is not an image's.
    #[error("{field} {value:?} is not supported")]
    MediaType {
        /// Which one.
        field: &'static str,
        /// What it says, cut to 200 characters.
        value: String,
    },
    /// More than the limits allow.
    #[error("{what} is {value}, above the limit of {limit}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How much there is.
        value: u64,
        /// How much there may be.
        limit: u64,
    },
    /// No image for this platform.
    #[error("no image for platform {wanted}: there are {offered}")]
    Platform {
        /// What was looked for.
        wanted: Platform,
        /// What there is, at most ten.
        offered: String,
    },
    /// The config lists another number of layers than the manifest.
    #[error("config names {diff_ids} layers and the manifest {layers}")]
    LayerCount {
        /// In the config.
        diff_ids: usize,
        /// In the manifest.
        layers: usize,
    },
}

/// A blob as a manifest names it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    /// Bytes, compressed.
    pub(crate) size: u64,
    #[serde(default)]
    platform: Option<Platform>,
}

/// An image's manifest.
#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// What a registry answered for a tag or a digest.
#[derive(Debug, Clone)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Vec<Descriptor>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    #[serde(default)]
    schema_version: u64,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Reads `bytes`, which the registry served as `content_type`.
    pub(crate) fn parse(
        bytes: &[u8],
        content_type: Option<&str>,
        limits: &Limits,
    ) -> Result<Self, ManifestError> {
        let raw: RawDocument = serde_json::from_slice(bytes)
            .map_err(|source| ManifestError::Json { what: "manifest", source })?;
        if raw.schema_version != 2 || raw.fs_layers.is_some() {
            return Err(ManifestError::Schema(if raw.fs_layers.is_some() {
                1
            } else {
                raw.schema_version
            }));
        }
        let said = declared_type(raw.media_type.as_deref(), content_type)?;
        match (raw.manifests, raw.config, raw.layers) {
            (Some(manifests), None, None) => {
                expect_type(said, &INDEX_TYPES)?;
                check("number of manifests in the index", manifests.len(), limits.index_entries)?;
                Ok(Self::Index(manifests))
            }
            (None, Some(config), Some(layers)) => {
                expect_type(said, &MANIFEST_TYPES)?;
                check("number of layers", layers.len(), limits.layers)?;
                Manifest { config, layers }.checked(limits).map(Self::Manifest)
            }
            (None, None, None) => Err(ManifestError::Shape("has neither layers nor manifests")),
            (Some(_), Some(_), _) | (Some(_), _, Some(_)) => {
                Err(ManifestError::Shape("has both layers and manifests"))
            }
            (None, Some(_), None) | (None, None, Some(_)) => {
                Err(ManifestError::Shape("has a config and no layers, or layers and no config"))
            }
        }
    }
}

/// What the document says it is; the header's word if it says nothing. Both must agree where both are known, or a document
/// would be one thing to the one who reads the header and another to the one who reads the field.
fn declared_type<'a>(
    field: Option<&'a str>,
    header: Option<&'a str>,
) -> Result<Option<&'a str>, ManifestError> {
    let known = |text: &&str| INDEX_TYPES.contains(text) || MANIFEST_TYPES.contains(text);
    let header = header.map(|text| text.split(';').next().unwrap_or(text).trim()).filter(known);
    match (field, header) {
        (Some(field), Some(header)) if field != header => Err(ManifestError::MediaType {
            field: "manifest's mediaType, served as another type,",
            value: cut(field),
        }),
        (Some(field), _) => Ok(Some(field)),
        (None, header) => Ok(header),
    }
}

fn expect_type(said: Option<&str>, types: &[&str]) -> Result<(), ManifestError> {
    match said {
        Some(said) if !types.contains(&said) => {
            Err(ManifestError::MediaType { field: "manifest's mediaType", value: cut(said) })
        }
        Some(_) | None => Ok(()),
    }
}

fn check(what: &'static str, value: usize, limit: usize) -> Result<(), ManifestError> {
    if value > limit {
        return Err(ManifestError::Limit { what, value: value as u64, limit: limit as u64 });
    }
    Ok(())
}

fn cut(text: &str) -> String {
    text.chars().take(200).collect()
}

impl Manifest {
    fn checked(self, limits: &Limits) -> Result<Self, ManifestError> {
        if !CONFIG_TYPES.contains(&self.config.media_type.as_str()) {
            return Err(ManifestError::MediaType {
                field: "config's mediaType",
                value: cut(&self.config.media_type),
            });
        }
        if self.config.size > limits.config_bytes {
            return Err(ManifestError::Limit {
                what: "size of the config",
                value: self.config.size,
                limit: limits.config_bytes,
            });
        }
        for layer in &self.layers {
            if !LAYER_TYPES.contains(&layer.media_type.as_str()) {
                return Err(ManifestError::MediaType {
                    field: "layer's mediaType",
                    value: cut(&layer.media_type),
                });
            }
            if layer.size > limits.blob_bytes {
                return Err(ManifestError::Limit {
                    what: "size of a layer",
                    value: layer.size,
                    limit: limits.blob_bytes,
                });
            }
        }
        Ok(self)
    }
}

/// The entry of an index that suits `wanted` best; one that doesn't say what it is for if no other does. Its config is looked at, too.
pub(crate) fn choose<'a>(
    entries: &'a [Descriptor],
    wanted: &Platform,
) -> Result<&'a Descriptor, ManifestError> {
    entries
        .iter()
        .filter(|entry| {
            let media_type = entry.media_type.as_str();
            INDEX_TYPES.contains(&media_type) || MANIFEST_TYPES.contains(&media_type)
        })
        .filter_map(|entry| {
            let rank = entry.platform.as_ref().map_or(Some(u32::MAX), |p| wanted.rank(p))?;
            Some((rank, entry))
        })
        .min_by_key(|(rank, _)| *rank)
        .map(|(_, entry)| entry)
        .ok_or_else(|| ManifestError::Platform {
            wanted: wanted.clone(),
            offered: offered(entries),
        })
}

fn offered(entries: &[Descriptor]) -> String {
    let names: Vec<String> = entries
        .iter()
        .filter_map(|entry| entry.platform.as_ref())
        .take(10)
        .map(|p| cut(&p.to_string()))
        .collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    config: Option<RawExecution>,
    rootfs: RawRootfs,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawExecution {
    user: Option<String>,
    exposed_ports: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    volumes: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    working_dir: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    stop_signal: Option<String>,
}

/// An image's config and the diff ids of its layers, bottom first.
pub(crate) fn parse_config(bytes: &[u8]) -> Result<(ImageConfig, Vec<Digest>), ManifestError> {
    let raw: RawConfig = serde_json::from_slice(bytes)
        .map_err(|source| ManifestError::Json { what: "config", source })?;
    let execution = raw.config.unwrap_or_default();
    let config = ImageConfig {
        entrypoint: execution.entrypoint.unwrap_or_default(),
        cmd: execution.cmd.unwrap_or_default(),
        env: execution.env.unwrap_or_default(),
        working_dir: execution.working_dir.unwrap_or_default(),
        user: execution.user.unwrap_or_default(),
        stop_signal: execution.stop_signal.filter(|signal| !signal.is_empty()),
        volumes: execution.volumes.unwrap_or_default().into_keys().collect(),
        labels: execution.labels.unwrap_or_default(),
        exposed_ports: execution.exposed_ports.unwrap_or_default().into_keys().collect(),
        os: raw.os,
        architecture: raw.architecture,
        variant: raw.variant.filter(|variant| !variant.is_empty()),
        created: raw.created,
    };
    Ok((config, raw.rootfs.diff_ids.unwrap_or_default()))
}

/// Checks that `config` belongs to `manifest` and can run on `wanted`.
pub(crate) fn match_config(
    manifest: &Manifest,
    config: &ImageConfig,
    diff_ids: &[Digest],
    wanted: &Platform,
) -> Result<(), ManifestError> {
    if diff_ids.len() != manifest.layers.len() {
        return Err(ManifestError::LayerCount {
            diff_ids: diff_ids.len(),
            layers: manifest.layers.len(),
        });
    }
    // Hand-made images often leave these two out; then nothing speaks against them.
    if config.os.is_empty() || config.architecture.is_empty() {
        return Ok(());
    }
    let offered = Platform {
        os: config.os.clone(),
        architecture: config.architecture.clone(),
        variant: config.variant.clone().unwrap_or_default(),
    };
    match wanted.rank(&offered) {
        Some(_) => Ok(()),
        None => Err(ManifestError::Platform {
            wanted: wanted.clone(),
            offered: cut(&offered.to_string()),
        }),
    }
}
