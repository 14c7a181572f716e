//! The wire to registries: bounded, verified, and careful with whom it tells a secret.
//!
//! Owns requests, redirects, tokens and the walk along the endpoints that [`super::hosts`] lists; owns no document's meaning
//! ([`super::manifest`]) and writes nothing to disk. Built on `reqwest` and not on `oci-client`, which reads manifests, tokens
//! and error bodies without a bound, sends credentials to whatever realm a registry names, and has no place for a mirror's path,
//! headers or client certificate.
//!
//! Invariants: a credential goes to the host that it is for and to a token server of the same domain, nowhere else; a header
//! of `hosts.toml` goes to its endpoint only; nothing that leaves here as an error holds a secret or a URL's query; every
//! wait ends when no byte has come for the patience given; no body is read beyond its limit.

mod again;
mod challenge;
mod client;
mod endpoint;
mod error;

pub use error::FetchError;

use super::hosts::{Capability, EndpointPlan};
use super::{Auth, Digest, ImageRef, InvalidAuth, Limits};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use again::Again;
pub(crate) use endpoint::{Endpoint, Wanted};

/// How a registry is to be dealt with.
#[derive(Debug, Clone)]
pub(crate) struct Manners {
    /// The longest silence.
    pub(crate) patience: Duration,
    /// Before each further try, while it is in trouble.
    pub(crate) pauses: [Duration; 4],
    /// Token servers of another domain that may be given credentials.
    pub(crate) token_hosts: Arc<[String]>,
}

/// One repository, at all the places where it may be had.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    endpoints: Arc<[Arc<Endpoint>]>,
}

/// A document and what it is known by.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    pub(crate) bytes: Bytes,
    pub(crate) digest: Digest,
    pub(crate) content_type: Option<String>,
}

impl Registry {
    pub(crate) fn new(
        image: &ImageRef,
        plans: Vec<EndpointPlan>,
        auth: &Auth,
        manners: &Manners,
    ) -> Result<Self, InvalidAuth> {
        let credential = auth.credential()?;
        let meant_for = auth.server().unwrap_or(image.registry());
        let endpoints = plans
            .into_iter()
            .map(|plan| {
                let theirs = credential.clone().filter(|_| same_registry(meant_for, plan.host()));
                Arc::new(Endpoint::new(plan, image.repository(), theirs, manners.clone()))
            })
            .collect();
        Ok(Self { endpoints })
    }

    /// A manifest or an index, by tag or by digest.
    pub(crate) async fn manifest(
        &self,
        wanted: &Wanted,
        limits: &Limits,
    ) -> Result<Fetched, FetchError> {
        let needed = match wanted {
            Wanted::Tag(_) => Capability::Resolve,
            Wanted::Manifest(_) | Wanted::Blob(_) | Wanted::Base | Wanted::Catalogue { .. } => {
                Capability::Pull
            }
        };
        self.first(needed, wanted, limits.manifest_bytes).await
    }

    /// A small blob, whole.
    pub(crate) async fn blob(&self, digest: &Digest, size: u64) -> Result<Fetched, FetchError> {
        let fetched = self.first(Capability::Pull, &Wanted::Blob(digest.clone()), size).await?;
        let received = fetched.bytes.len() as u64;
        if received != size {
            return Err(FetchError::Size { digest: digest.clone(), received, expected: size });
        }
        Ok(fetched)
    }

    /// Whoever may be asked for blobs, in order.
    pub(crate) fn blob_endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.endpoints
            .iter()
            .filter(|endpoint| endpoint.plan.can(Capability::Pull))
            .cloned()
            .collect()
    }

    /// The first good answer; the last endpoint's error if there is none, since that is the registry itself. It is asked again while
    /// it is in trouble; a mirror is not, as there is somebody else to ask.
    async fn first(
        &self,
        needed: Capability,
        wanted: &Wanted,
        limit: u64,
    ) -> Result<Fetched, FetchError> {
        let mut endpoints = self.endpoints.iter().filter(|endpoint| endpoint.plan.can(needed));
        let mut next = endpoints.next().ok_or(FetchError::NoEndpoint)?;
        let mut again = Again::new(&next.manners.pauses);
        loop {
            let error = match next.whole(wanted, limit).await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => error,
            };
            tracing::debug!(endpoint = next.plan.url, %error, "registry endpoint failed");
            if let Some(endpoint) = endpoints.next() {
                next = endpoint;
                continue;
            }
            match again.after(&error) {
                Some(pause) if error.is_passing() => tokio::time::sleep(pause).await,
                Some(_) | None => return Err(error),
            }
        }
    }
}

/// Whether two hosts are the same registry; docker.io has three names.
pub(super) fn same_registry(one: &str, other: &str) -> bool {
    let whole = |host: &str| match host {
        "docker.io" | "index.docker.io" | super::hosts::DOCKER_ENDPOINT => "docker.io".to_owned(),
        host => host.to_ascii_lowercase(),
    };
    whole(one) == whole(other)
}
