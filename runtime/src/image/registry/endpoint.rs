//! One place that serves one repository.
//!
//! ```text
//! request ─► 2xx ─► body, bounded
//!   ▲  │ ├─► 3xx ─► the target; without our headers if it is another origin
//!   │  │ └─► 401, first time ─► challenge ─► token or password ─┐
//!   └──┼─────────────────────────────────────────────────────────┘
//!      └─► anything else: the error, with the registry's words
//! ```

use super::challenge::{Challenge, secret_header};
use super::client::Clients;
use super::error::{FetchError, bare, words};
use super::{Fetched, Manners};
use crate::image::Digest;
use crate::image::auth::Credential;
use crate::image::hosts::EndpointPlan;
use crate::image::manifest::ACCEPT;
use bytes::{Bytes, BytesMut};
use reqwest::header::{
    ACCEPT as ACCEPT_HEADER, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName,
    HeaderValue, LOCATION, RANGE, RETRY_AFTER,
};
use reqwest::{Response, StatusCode, Url};
use sha2::{Digest as _, Sha256};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How a registry names what it answers with (OCI distribution spec, "Pulling manifests").
const DIGEST_HEADER: &str = "docker-content-digest";

const REDIRECTS_MAX: usize = 5;
/// Of an error's body; more is not worth the wait.
const WORDS_BYTES: u64 = 16 << 10;

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) enum Wanted {
    Tag(String),
    Manifest(Digest),
    Blob(Digest),
    /// Nothing but whether the registry answers.
    Base,
    /// The names of its repositories.
    Catalogue {
        /// So many at most.
        count: u32,
    },
}

impl Wanted {
    fn path(&self) -> String {
        match self {
            Self::Tag(tag) => format!("manifests/{tag}"),
            Self::Manifest(digest) => format!("manifests/{digest}"),
            Self::Blob(digest) => format!("blobs/{digest}"),
            Self::Base => String::new(),
            Self::Catalogue { count } => format!("_catalog?n={count}"),
        }
    }

    fn digest(&self) -> Option<&Digest> {
        match self {
            Self::Tag(_) | Self::Base | Self::Catalogue { .. } => None,
            Self::Manifest(digest) | Self::Blob(digest) => Some(digest),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) plan: EndpointPlan,
    /// Empty: what is asked is about the registry as a whole.
    repository: String,
    /// What a token is to be good for; empty: nothing but a proof of who asks.
    pub(super) scope: String,
    pub(super) credential: Option<Credential>,
    pub(super) manners: Manners,
    pub(super) clients: Clients,
    /// What the last challenge was answered with: good for the whole repository.
    authorization: Mutex<Option<HeaderValue>>,
}

impl Endpoint {
    pub(crate) fn new(
        plan: EndpointPlan,
        repository: &str,
        credential: Option<Credential>,
        manners: Manners,
    ) -> Self {
        let ready = match &credential {
            Some(Credential::Bearer(token)) => secret_header(&format!("Bearer {token}")),
            Some(Credential::Password { .. } | Credential::Refresh(_)) | None => None,
        };
        Self {
            plan,
            repository: repository.to_owned(),
            scope: format!("repository:{repository}:pull"),
            credential,
            manners,
            clients: Clients::default(),
            authorization: Mutex::new(ready),
        }
    }

    /// The same, where a token is to be good for something else.
    pub(crate) fn scoped(self, scope: &str) -> Self {
        Self { scope: scope.to_owned(), ..self }
    }

    /// Whether somebody wanted to know who asks, and was told.
    pub(crate) fn was_asked(&self) -> bool {
        self.authorization.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// A document, verified against the digest that it was asked for by.
    pub(crate) async fn whole(&self, wanted: &Wanted, limit: u64) -> Result<Fetched, FetchError> {
        let url = self.url(wanted)?;
        let response = self.get(&url, wanted, None).await?;
        let content_type = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        // A tag says nothing of its content; what the registry itself says of it is better than nothing against a broken cache.
        let announced = response.headers().get(DIGEST_HEADER).and_then(|value| value.to_str().ok());
        let expected = wanted.digest().cloned().or_else(|| announced?.parse().ok());
        let deadline =
            tokio::time::timeout(self.manners.patience, self.body(&url, response, limit));
        let bytes = deadline.await.map_err(|_elapsed| self.stalled(&url))??;
        let actual = Digest::from_sha256(Sha256::digest(&bytes).into());
        match expected {
            Some(expected) if expected != actual => {
                Err(FetchError::Digest { url: bare(&url), expected, actual })
            }
            Some(_) | None => Ok(Fetched { bytes, digest: actual, content_type }),
        }
    }

    /// The bytes of a blob from `offset` on, neither verified nor counted.
    pub(crate) async fn stream(
        &self,
        digest: &Digest,
        offset: u64,
    ) -> Result<BlobStream<'_>, FetchError> {
        let wanted = Wanted::Blob(digest.clone());
        let url = self.url(&wanted)?;
        let response = self.get(&url, &wanted, (offset > 0).then_some(offset)).await?;
        let resumed = response.status() == StatusCode::PARTIAL_CONTENT
            && response
                .headers()
                .get(CONTENT_RANGE)
                .and_then(|value| value.to_str().ok())
                .is_some_and(|text| text.starts_with(&format!("bytes {offset}-")));
        // A server that does not know ranges starts again: what we have is skipped.
        let skip = if resumed { 0 } else { offset };
        Ok(BlobStream { endpoint: self, url, response, skip })
    }

    fn url(&self, wanted: &Wanted) -> Result<Url, FetchError> {
        let namespace = self
            .plan
            .namespace
            .as_ref()
            .map(|namespace| format!("?ns={namespace}"))
            .unwrap_or_default();
        let text = if self.repository.is_empty() {
            format!("{}/{}", self.plan.url, wanted.path())
        } else {
            format!("{}/{}/{}{namespace}", self.plan.url, self.repository, wanted.path())
        };
        Url::parse(&text)
            .map_err(|error| FetchError::Unreachable { url: text, reason: error.to_string() })
    }

    async fn get(
        &self,
        url: &Url,
        wanted: &Wanted,
        offset: Option<u64>,
    ) -> Result<Response, FetchError> {
        let mut headers = HeaderMap::new();
        if matches!(wanted, Wanted::Tag(_) | Wanted::Manifest(_)) {
            headers.insert(ACCEPT_HEADER, HeaderValue::from_static(ACCEPT));
        }
        if let Some(offset) = offset
            && let Ok(value) = HeaderValue::from_str(&format!("bytes={offset}-"))
        {
            headers.insert(RANGE, value);
        }
        let (response, last) = self.follow(url, &headers).await?;
        if response.status() != StatusCode::UNAUTHORIZED || !same_origin(&last, url) {
            return self.accepted(&last, response).await;
        }
        let Some(challenge) = Challenge::find(response.headers()) else {
            return Err(self.denied(&last, response).await);
        };
        let Some(answer) = self.answer(challenge, &last).await? else {
            return Err(self.denied(&last, response).await);
        };
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        let (response, last) = self.follow(url, &headers).await?;
        self.accepted(&last, response).await
    }

    /// Sends and follows redirects; returns the URL that answered, too.
    async fn follow(&self, url: &Url, headers: &HeaderMap) -> Result<(Response, Url), FetchError> {
        let mut target = url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let mut request =
                self.clients.get(&self.plan, &target)?.get(target.clone()).headers(headers.clone());
            if same_origin(&target, url) {
                request = request.headers(self.own_headers());
            }
            let response = self.within(&target, request.send()).await?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok((response, target));
            }
            target = redirect(&target, &response)?;
        }
        Err(FetchError::Redirect {
            url: bare(url),
            target: bare(&target),
            reason: "is one redirect too many",
        })
    }

    fn own_headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.plan.headers {
            if let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value))
            {
                headers.append(name, value);
            }
        }
        if let Some(value) = &*self.authorization.lock().unwrap_or_else(PoisonError::into_inner) {
            headers.insert(AUTHORIZATION, value.clone());
        }
        headers
    }

    async fn accepted(&self, url: &Url, response: Response) -> Result<Response, FetchError> {
        match response.status().as_u16() {
            200 | 206 => Ok(response),
            401 | 403 => Err(self.denied(url, response).await),
            404 => Err(FetchError::NotFound {
                url: bare(url),
                detail: self.detail(url, response).await,
            }),
            _ => Err(self.odd(url, response).await),
        }
    }

    /// An answer that says neither yes nor no.
    pub(super) async fn odd(&self, url: &Url, response: Response) -> FetchError {
        let status = response.status().as_u16();
        let asked = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = asked.and_then(|text| text.parse().ok()).map(Duration::from_secs);
        let detail = self.detail(url, response).await;
        FetchError::Status { url: bare(url), status, retry_after, detail }
    }

    pub(super) async fn denied(&self, url: &Url, response: Response) -> FetchError {
        let status = response.status().as_u16();
        FetchError::Unauthorized {
            url: bare(url),
            status,
            detail: self.detail(url, response).await,
        }
    }

    async fn detail(&self, url: &Url, response: Response) -> String {
        // An error's body that cannot be read takes nothing from the error.
        let Ok(body) = self.body(url, response, WORDS_BYTES).await else { return String::new() };
        let mut secrets: Vec<Arc<str>> =
            self.credential.iter().flat_map(Credential::secrets).map(Arc::from).collect();
        let sent = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, token)) =
            sent.as_ref().and_then(|value| value.to_str().ok()?.split_once(' '))
        {
            secrets.push(Arc::from(token));
        }
        secrets.extend(self.plan.headers.iter().map(|(_, value)| Arc::from(value.as_str())));
        words(&body, &secrets)
    }

    /// A body, whole; refused at its first byte beyond `limit`, or before if it says its length.
    pub(super) async fn body(
        &self,
        url: &Url,
        mut response: Response,
        limit: u64,
    ) -> Result<Bytes, FetchError> {
        let too_large = || FetchError::TooLarge { url: bare(url), limit };
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = self.within(url, response.chunk()).await? {
            if (body.len() + chunk.len()) as u64 > limit {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }

    /// Waits for `step`, as long as patience allows.
    pub(super) async fn within<T>(
        &self,
        url: &Url,
        step: impl Future<Output = reqwest::Result<T>>,
    ) -> Result<T, FetchError> {
        match tokio::time::timeout(self.manners.patience, step).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(FetchError::from_reqwest(url, error)),
            Err(_elapsed) => Err(self.stalled(url)),
        }
    }

    fn stalled(&self, url: &Url) -> FetchError {
        FetchError::Stalled { url: bare(url), seconds: self.manners.patience.as_secs() }
    }
}

/// A blob on its way.
#[derive(Debug)]
pub(crate) struct BlobStream<'a> {
    endpoint: &'a Endpoint,
    url: Url,
    response: Response,
    skip: u64,
}

impl BlobStream<'_> {
    /// The next bytes; `None` at the end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, FetchError> {
        loop {
            let Some(mut chunk) = self.endpoint.within(&self.url, self.response.chunk()).await?
            else {
                return Ok(None);
            };
            let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(chunk.len());
            self.skip -= skipped as u64;
            let _known = chunk.split_to(skipped);
            if !chunk.is_empty() {
                return Ok(Some(chunk));
            }
        }
    }
}

fn same_origin(one: &Url, other: &Url) -> bool {
    one.scheme() == other.scheme()
        && one.host_str() == other.host_str()
        && one.port_or_known_default() == other.port_or_known_default()
}

fn redirect(from: &Url, response: &Response) -> Result<Url, FetchError> {
    let refused = |target: String, reason| FetchError::Redirect { url: bare(from), target, reason };
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let target = location.and_then(|text| from.join(text).ok());
    let target = target.ok_or_else(|| refused("(no URL)".to_owned(), "cannot be followed"))?;
    match target.scheme() {
        "https" => Ok(target),
        "http" if from.scheme() == "http" => Ok(target),
        _ => Err(refused(bare(&target), "is not https")),
    }
}
