//! What can go wrong between here and a registry.

use crate::error::chain;
use crate::image::Digest;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Why a document or a blob did not come. URLs are without query and user.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FetchError {
    /// `hosts.toml` leaves no endpoint that may be asked this.
    #[error("no configured endpoint has the capability for this request")]
    NoEndpoint,
    /// 404.
    #[error("{url} is not found{detail}")]
    NotFound {
        /// What was asked for.
        url: String,
        /// The registry's words, or nothing.
        detail: String,
    },
    /// 401 or 403.
    #[error("{url} needs other credentials ({status}){detail}")]
    Unauthorized {
        /// What was asked for.
        url: String,
        /// 401 or 403.
        status: u16,
        /// The registry's words, or ours; or nothing.
        detail: String,
    },
    /// No connection, or it broke.
    #[error("reach {url}: {reason}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// The chain of causes.
        reason: String,
    },
    /// Another status than the ones above.
    #[error("{url} answered {status}{detail}")]
    Status {
        /// What was asked for.
        url: String,
        /// As it came.
        status: u16,
        /// How long the registry wants to be left alone, if it said so in seconds.
        retry_after: Option<Duration>,
        /// The registry's words, or nothing.
        detail: String,
    },
    /// No byte for too long.
    #[error("no byte from {url} for {seconds} s")]
    Stalled {
        /// What was asked for.
        url: String,
        /// The patience.
        seconds: u64,
    },
    /// A body beyond its limit.
    #[error("body of {url} is larger than {limit} bytes")]
    TooLarge {
        /// What was asked for.
        url: String,
        /// How much there may be.
        limit: u64,
    },
    /// A body of another length than its descriptor says.
    #[error("{digest} has {received} bytes, its descriptor says {expected}")]
    Size {
        /// Of the blob.
        digest: Digest,
        /// What came.
        received: u64,
        /// What was promised.
        expected: u64,
    },
    /// A body that is not what was asked for.
    #[error("content of {url} has digest {actual}, expected {expected}")]
    Digest {
        /// What was asked for.
        url: String,
        /// Of what was asked for.
        expected: Digest,
        /// Of what came.
        actual: Digest,
    },
    /// A redirect that is not followed.
    #[error("{url} redirects to {target}, which {reason}")]
    Redirect {
        /// What was asked for.
        url: String,
        /// Where to.
        target: String,
        /// Why not.
        reason: &'static str,
    },
    /// A token server that is not trusted, or that gave no token.
    #[error("{url} names token server {realm}, which {reason}")]
    Realm {
        /// What was asked for.
        url: String,
        /// The token server.
        realm: String,
        /// Why not.
        reason: String,
    },
    /// A certificate or key of `hosts.toml` that cannot be used.
    #[error("use {path}: {reason}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The TLS library refuses.
    #[error("set up TLS for {url}: {reason}")]
    Tls {
        /// What was asked for.
        url: String,
        /// Why.
        reason: String,
    },
}

impl FetchError {
    /// The registry says that it is in trouble, or asked too much: that may pass.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Status { status, .. } if is_passing(*status))
    }

    /// The connection broke, or there was none.
    pub(crate) fn is_broken_connection(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        if let Self::Status { retry_after, .. } = self { *retry_after } else { None }
    }

    /// A failed request, without the URL that `reqwest` would quote with its query.
    pub(super) fn from_reqwest(url: &reqwest::Url, error: reqwest::Error) -> Self {
        let error = error.without_url();
        Self::Unreachable { url: bare(url), reason: chain(&error) }
    }
}

/// Too many requests, or a server behind another that is not there for now.
pub(super) fn is_passing(status: u16) -> bool {
    matches!(status, 429 | 502 | 503 | 504)
}

/// A URL without user, query and fragment: signed URLs carry their secret there.
pub(super) fn bare(url: &reqwest::Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or(""), url.path())
}

/// A registry's words, fit to be shown: no secret, no control character, no essay.
pub(super) fn words(body: &[u8], secrets: &[Arc<str>]) -> String {
    #[derive(serde::Deserialize)]
    struct Envelope {
        errors: Vec<Item>,
    }
    #[derive(serde::Deserialize)]
    struct Item {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(envelope) = serde_json::from_slice::<Envelope>(body) else { return String::new() };
    let Some(item) = envelope.errors.into_iter().next() else { return String::new() };
    let mut text = format!(": {} {}", item.code, item.message);
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        text = text.replace(&**secret, "(hidden)");
    }
    text.chars().filter(|c| !c.is_control()).take(300).collect::<String>().trim_end().to_owned()
}
