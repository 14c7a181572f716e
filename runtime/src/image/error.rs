//! What can go wrong with images, one enum per operation.

use super::apply::ApplyError;
use super::hosts::HostsError;
use super::manifest::ManifestError;
use super::registry::FetchError;
use super::unpack::UnpackError;
use super::{FindError, InvalidAuth, InvalidPlatform, InvalidReference};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why the images could not be opened at all. A broken image is no such reason.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A directory or the kernel's word on this boot cannot be read or made.
    #[error("open {path}")]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The configured platform is none.
    #[error(transparent)]
    Platform(#[from] InvalidPlatform),
    /// A name of [`super::ImagesConfig::pinned`] is none.
    #[error("field pinned")]
    Pinned(#[source] InvalidReference),
    /// There is no runtime to work on.
    #[error("images need a tokio runtime")]
    NoRuntime(#[source] tokio::runtime::TryCurrentError),
}

/// Why a pull failed. Cloned to all who wait for the same pull; its text is the whole story, causes included.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PullError {
    /// The image's name is none.
    #[error(transparent)]
    InvalidReference(#[from] InvalidReference),
    /// The credentials cannot be used.
    #[error(transparent)]
    InvalidAuth(#[from] InvalidAuth),
    /// The registry's configuration cannot be used.
    #[error("pull {image}: {}", crate::error::chain(&**cause))]
    Hosts {
        /// What was to be pulled.
        image: String,
        /// Why not.
        cause: Arc<HostsError>,
    },
    /// The registry does not have it.
    #[error("pull {image}: {cause}")]
    NotFound {
        /// What was to be pulled.
        image: String,
        /// The registry's answer.
        cause: FetchError,
    },
    /// The registry wants other credentials, or we do not give ours to whom it names.
    #[error("pull {image}: {cause}")]
    Unauthorized {
        /// What was to be pulled.
        image: String,
        /// The registry's answer.
        cause: FetchError,
    },
    /// The registry cannot be reached, or says that it is in trouble. The kubelet knows this by its first word.
    #[error("RegistryUnavailable: pull {image}: {cause}")]
    Unavailable {
        /// What was to be pulled.
        image: String,
        /// What happened.
        cause: FetchError,
    },
    /// The registry said nothing for too long.
    #[error("pull {image}: {cause}")]
    Timeout {
        /// What was to be pulled.
        image: String,
        /// What happened.
        cause: FetchError,
    },
    /// The registry answered something that we do not follow.
    #[error("pull {image}: {cause}")]
    Refused {
        /// What was to be pulled.
        image: String,
        /// What happened.
        cause: FetchError,
    },
    /// What came is not what was promised, or is no image that can run here.
    #[error("pull {image}: {}", crate::error::chain(&**cause))]
    Content {
        /// What was to be pulled.
        image: String,
        /// What is wrong with it.
        cause: Arc<ContentError>,
    },
    /// This machine's disk or kernel refused.
    #[error("pull {image}: {} (below {})", crate::error::chain(&**cause), root.display())]
    Local {
        /// What was to be pulled.
        image: String,
        /// Where images are kept.
        root: PathBuf,
        /// What happened.
        cause: Arc<LocalError>,
    },
    /// The task that pulled has ended without a word: the daemon is stopping, or a bug.
    #[error("pull {image}: stopped")]
    Stopped {
        /// What was to be pulled.
        image: String,
    },
}

/// What is wrong with an image's content.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// A manifest, an index or a config.
    #[error(transparent)]
    Document(#[from] ManifestError),
    /// A size or a digest.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A layer.
    #[error(transparent)]
    Layer(#[from] UnpackError),
    /// The registry's name for a digest leads from index to index.
    #[error("index {0} is inside too many others")]
    Depth(super::Digest),
}

/// What this machine refused.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// To keep a layer or an image.
    #[error("{operation}")]
    Io {
        /// `commit image`, …
        operation: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// To write a layer's tree.
    #[error(transparent)]
    Layer(#[from] UnpackError),
}

impl LocalError {
    /// There is no room, or no inode, left.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        let source = match self {
            Self::Io { source, .. }
            | Self::Layer(UnpackError::Apply {
                source: ApplyError::Write { source, .. }, ..
            }) => source,
            Self::Layer(_) => return false,
        };
        matches!(source.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
    }
}

/// Why an image could not be removed. One that is not here is removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// The text is no name, or an ambiguous id.
    #[error(transparent)]
    Find(#[from] FindError),
    /// Its record stayed.
    #[error("remove image {image}")]
    Io {
        /// Which one.
        image: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Why the use of the disk is not known.
#[derive(Debug, thiserror::Error)]
#[error("look at {path}")]
pub struct UsageError {
    /// The layers' directory.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: std::io::Error,
}

/// Why it cannot be said what a pull would try.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The image's name is none.
    #[error(transparent)]
    InvalidReference(#[from] InvalidReference),
    /// The registry's configuration cannot be used.
    #[error(transparent)]
    Hosts(#[from] HostsError),
}

impl PullError {
    /// Sorts a failed request by whose fault it is.
    pub(crate) fn fetch(image: &str, source: FetchError) -> Self {
        let image = image.to_owned();
        match source {
            FetchError::NotFound { .. } => Self::NotFound { image, cause: source },
            FetchError::Unauthorized { .. } | FetchError::Realm { .. } => {
                Self::Unauthorized { image, cause: source }
            }
            FetchError::Unreachable { .. } => Self::Unavailable { image, cause: source },
            FetchError::Status { status, .. } if status == 429 || status >= 500 => {
                Self::Unavailable { image, cause: source }
            }
            FetchError::Stalled { .. } => Self::Timeout { image, cause: source },
            FetchError::TooLarge { .. } | FetchError::Size { .. } | FetchError::Digest { .. } => {
                Self::Content { image, cause: Arc::new(source.into()) }
            }
            FetchError::NoEndpoint
            | FetchError::Status { .. }
            | FetchError::Redirect { .. }
            | FetchError::Certificate { .. }
            | FetchError::Tls { .. } => Self::Refused { image, cause: source },
        }
    }

    pub(crate) fn content(image: &str, source: impl Into<ContentError>) -> Self {
        Self::Content { image: image.to_owned(), cause: Arc::new(source.into()) }
    }

    pub(crate) fn local(
        (image, root): (&str, &Path),
        operation: &'static str,
        source: std::io::Error,
    ) -> Self {
        Self::Local {
            image: image.to_owned(),
            root: root.to_owned(),
            cause: Arc::new(LocalError::Io { operation, source }),
        }
    }

    pub(crate) fn unpack((image, root): (&str, &Path), source: UnpackError) -> Self {
        let local = matches!(&source, UnpackError::Apply { source, .. } if source.is_local());
        if local {
            let (image, root) = (image.to_owned(), root.to_owned());
            return Self::Local { image, root, cause: Arc::new(source.into()) };
        }
        Self::content(image, source)
    }
}
