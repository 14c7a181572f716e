//! `davit.dump`: what davit needs to make a container from an archive, beside what other tools read.
//!
//! Owns its form and its version. What it says of a container is as little believed as the rest of an archive: whoever restores has it checked as
//! a request would be.

use super::ArchiveError;
use crate::container::{ContainerSpec, ContainerView};
use crate::sandbox::{NetworkMode, SandboxView};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Its name in the archive.
pub(super) const NAME: &str = "davit.dump";
/// Its version. A higher one means what an older davit must not restore.
const VERSION: u32 = 1;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dump {
    version: u32,
    /// Of the machine, as [`std::env::consts::ARCH`] calls it.
    pub architecture: String,
    /// Nanoseconds since the epoch.
    pub checkpointed_at: i64,
    /// The image that the container was made from.
    pub image: DumpedImage,
    /// Of its pod, what another one must be like.
    pub pod: DumpedPod,
    /// The container, as it was asked for.
    pub container: ContainerSpec,
}

/// An image's names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DumpedImage {
    /// Its config's digest: this is the one that must be here.
    pub id: String,
    /// With a tag, for people.
    pub name: String,
    /// With a digest, if it has such a name: what to pull.
    pub reference: String,
}

/// A pod, as far as its container's processes notice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "the flags are facts of the pod, each by itself")]
pub struct DumpedPod {
    /// Its handler.
    pub handler: String,
    /// It had the host's network.
    pub host_network: bool,
    /// It was allowed to have privileged containers.
    pub privileged: bool,
    /// It had a user namespace.
    pub user_namespace: bool,
}

/// What is read first: the rest depends on it.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl Dump {
    /// Of a container that is being checkpointed now.
    pub(super) fn of(sandbox: &SandboxView, view: &ContainerView) -> Self {
        Self {
            version: VERSION,
            architecture: std::env::consts::ARCH.to_owned(),
            checkpointed_at: crate::clock::now(),
            image: DumpedImage {
                id: view.facts.image_id.to_string(),
                name: view.facts.image_name.clone(),
                reference: view.facts.image_ref.clone(),
            },
            pod: DumpedPod {
                handler: sandbox.handler.clone(),
                host_network: sandbox.spec.network == NetworkMode::Host,
                privileged: sandbox.spec.security.privileged,
                user_namespace: sandbox.spec.userns.is_some(),
            },
            container: (*view.spec).clone(),
        }
    }

    /// # Errors
    /// It makes no sense, or not here.
    pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, ArchiveError> {
        let broken = |source| ArchiveError::Json { path: path.to_owned(), entry: NAME, source };
        let Versioned { version } = serde_json::from_slice(bytes).map_err(broken)?;
        if version != VERSION {
            let (path, found, known) = (path.to_owned(), version, VERSION);
            return Err(ArchiveError::Version { path, found, known });
        }
        let dump: Self = serde_json::from_slice(bytes).map_err(broken)?;
        if dump.architecture != std::env::consts::ARCH {
            return Err(ArchiveError::Architecture {
                path: path.to_owned(),
                found: dump.architecture.chars().take(40).collect(),
                here: std::env::consts::ARCH,
            });
        }
        if dump.pod.user_namespace {
            return Err(ArchiveError::UserNamespace { path: path.to_owned() });
        }
        Ok(dump)
    }
}
