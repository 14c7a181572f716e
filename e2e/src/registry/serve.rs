//! How a request becomes an answer.
//!
//! Owns the listener's loop and the routes (`/v2/`, `/token`, manifests, blobs), and the record of what was asked.
//! One task per connection; the state behind them is locked for the length of a look, never across an await.

use super::access::Auth;
use super::body::{End, Reply};
use super::store::{Digest, Store};
use super::{Fault, Request};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

const DIGEST_HEADER: HeaderName = HeaderName::from_static("docker-content-digest");

/// What the connections share.
#[derive(Debug)]
pub(super) struct State {
    store: Store,
    address: SocketAddr,
    shared: Mutex<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    faults: BTreeMap<String, Fault>,
    auth: Auth,
    requests: Vec<Request>,
}

impl State {
    pub(super) fn new(store: Store, address: SocketAddr) -> Self {
        Self { store, address, shared: Mutex::default() }
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    pub(super) fn set_fault(&self, repository: &str, fault: Option<Fault>) {
        let faults = &mut self.shared().faults;
        match fault {
            Some(fault) => drop(faults.insert(repository.to_owned(), fault)),
            None => drop(faults.remove(repository)),
        }
    }

    pub(super) fn set_auth(&self, auth: Auth) {
        self.shared().auth = auth;
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.shared().requests.clone()
    }

    /// The fault for this request; one that counts is counted down.
    fn fault(&self, repository: &str) -> Option<Fault> {
        let mut shared = self.shared();
        let fault = shared.faults.get_mut(repository)?;
        let now = fault.clone();
        if let Fault::Refuse { times, .. } = fault {
            if *times == 0 {
                return None;
            }
            *times = times.saturating_sub(1);
        }
        Some(now)
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Accepts connections until told to stop; those that are open end with the executor.
pub(super) async fn run(listener: TcpListener, state: Arc<State>, stop: oneshot::Receiver<()>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut stop => return,
        };
        if let Ok((stream, _)) = accepted {
            drop(stream.set_nodelay(true));
            tokio::spawn(connection(stream, Arc::clone(&state)));
        }
    }
}

async fn connection(stream: tokio::net::TcpStream, state: Arc<State>) {
    let service =
        hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let state = Arc::clone(&state);
            async move { Ok::<_, Infallible>(state.handle(&request)) }
        });
    // A connection that a client breaks off is the client's business.
    drop(
        hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await,
    );
}

/// What is wanted, read from the path.
enum Wanted<'a> {
    Base,
    Catalogue,
    Token,
    Manifest { repository: &'a str, reference: &'a str },
    Blob { repository: &'a str, digest: &'a str },
    Unknown,
}

impl<'a> Wanted<'a> {
    fn parse(path: &'a str) -> Self {
        match path {
            "/v2/" | "/v2" => return Self::Base,
            "/v2/_catalog" => return Self::Catalogue,
            "/token" => return Self::Token,
            _ => {}
        }
        // A `..` would leave the store; names in the interface never have one.
        let Some(rest) = path.strip_prefix("/v2/").filter(|rest| !rest.contains("..")) else {
            return Self::Unknown;
        };
        if let Some((repository, reference)) = rest.rsplit_once("/manifests/") {
            Self::Manifest { repository, reference }
        } else if let Some((repository, digest)) = rest.rsplit_once("/blobs/") {
            Self::Blob { repository, digest }
        } else {
            Self::Unknown
        }
    }
}

impl State {
    fn handle<B>(&self, request: &hyper::Request<B>) -> Response<Reply> {
        let text = |name: HeaderName| {
            request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        let authorization = text(header::AUTHORIZATION);
        let range = text(header::RANGE);
        let response = if matches!(*request.method(), Method::GET | Method::HEAD) {
            self.route(request.uri().path(), authorization.as_deref(), range.as_deref())
        } else {
            problem(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED")
        };
        self.shared().requests.push(Request {
            method: request.method().to_string(),
            target: request.uri().to_string(),
            range,
            authorization,
            status: response.status().as_u16(),
        });
        response
    }

    fn route(
        &self,
        path: &str,
        authorization: Option<&str>,
        range: Option<&str>,
    ) -> Response<Reply> {
        let wanted = Wanted::parse(path);
        let auth = self.shared().auth.clone();
        if let Wanted::Token = wanted {
            return match auth.token(authorization) {
                Some(token) => {
                    let json = serde_json::json!({"token": token, "access_token": token, "expires_in": 300});
                    reply(StatusCode::OK, Reply::bytes(json.to_string()), "application/json")
                }
                None => problem(StatusCode::UNAUTHORIZED, "UNAUTHORIZED"),
            };
        }
        if let Err(challenge) = auth.check(authorization, self.address) {
            let mut response = problem(StatusCode::UNAUTHORIZED, "UNAUTHORIZED");
            set(response.headers_mut(), header::WWW_AUTHENTICATE, &challenge);
            return response;
        }
        match wanted {
            Wanted::Base => reply(StatusCode::OK, Reply::bytes("{}"), "application/json"),
            Wanted::Catalogue => self.catalogue(),
            Wanted::Manifest { repository, reference } => self.manifest(repository, reference),
            Wanted::Blob { repository, digest } => self.blob(repository, digest, range, path),
            Wanted::Unknown | Wanted::Token => problem(StatusCode::NOT_FOUND, "UNSUPPORTED"),
        }
    }

    /// The repositories' names, each once.
    fn catalogue(&self) -> Response<Reply> {
        let mut names = self.store.names().unwrap_or_default();
        names.iter_mut().for_each(|name| {
            name.truncate(name.rfind(':').unwrap_or(name.len()));
        });
        names.sort();
        names.dedup();
        let told = serde_json::json!({ "repositories": names }).to_string();
        reply(StatusCode::OK, Reply::bytes(told.into_bytes()), "application/json")
    }

    fn manifest(&self, repository: &str, reference: &str) -> Response<Reply> {
        let fault = self.fault(repository);
        if let Some(Fault::Refuse { status, .. }) = fault {
            return refused(status);
        }
        let found = self.store.resolve(repository, reference);
        let Some((digest, bytes)) =
            found.and_then(|digest| Some((digest.clone(), self.store.read(&digest).ok()?)))
        else {
            return problem(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN");
        };
        let media_type = media_type(&bytes);
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let body = if let Some(Fault::HugeManifest(size)) = fault {
            Reply::bytes(bytes).padded(size.saturating_sub(length))
        } else if fault == Some(Fault::WrongManifest) {
            Reply::bytes(with_other_annotation(&bytes))
        } else {
            Reply::bytes(bytes)
        };
        let mut response = reply(StatusCode::OK, body, &media_type);
        set(response.headers_mut(), DIGEST_HEADER, digest.as_str());
        response
    }

    fn blob(
        &self,
        repository: &str,
        digest: &str,
        range: Option<&str>,
        path: &str,
    ) -> Response<Reply> {
        let fault = self.fault(repository);
        if let Some(Fault::Refuse { status, .. }) = fault {
            return refused(status);
        }
        if let Some(Fault::Redirect(base)) = &fault {
            let mut response =
                reply(StatusCode::TEMPORARY_REDIRECT, Reply::bytes(""), "text/plain");
            set(response.headers_mut(), header::LOCATION, &format!("{base}{path}"));
            return response;
        }
        let Some(digest) = Digest::parse(digest).ok() else {
            return problem(StatusCode::BAD_REQUEST, "DIGEST_INVALID");
        };
        let opened = self.store.open_blob(&digest).and_then(|file| {
            let length = file.metadata().ok()?.len();
            Some((file, length))
        });
        let Some((file, length)) = opened else {
            return problem(StatusCode::NOT_FOUND, "BLOB_UNKNOWN");
        };
        let (range, fault) = match fault {
            Some(Fault::NoRanges(of)) if of == digest && range.is_none() => {
                (None, Some(Fault::Truncated))
            }
            Some(Fault::NoRanges(_)) => (None, None),
            fault => (range, fault),
        };
        let mut response = part(file, length, range);
        set(response.headers_mut(), DIGEST_HEADER, digest.as_str());
        let mut response = response.map(|body| spoiled(body, fault));
        let announced = response.body().announced().to_string();
        set(response.headers_mut(), header::CONTENT_LENGTH, &announced);
        response
    }
}

/// The whole of the file, or the range that was asked for.
fn part(mut file: File, length: u64, range: Option<&str>) -> Response<Reply> {
    let octets = "application/octet-stream";
    let Some(range) = range else {
        let mut response = reply(StatusCode::OK, Reply::file(file, length), octets);
        set(response.headers_mut(), header::ACCEPT_RANGES, "bytes");
        return response;
    };
    let Some((from, to)) = parse_range(range, length) else {
        let mut response = problem(StatusCode::RANGE_NOT_SATISFIABLE, "RANGE_INVALID");
        set(response.headers_mut(), header::CONTENT_RANGE, &format!("bytes */{length}"));
        return response;
    };
    if file.seek(SeekFrom::Start(from)).is_err() {
        return problem(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN");
    }
    let size = to.saturating_sub(from).saturating_add(1);
    let mut response = reply(StatusCode::PARTIAL_CONTENT, Reply::file(file, size), octets);
    set(response.headers_mut(), header::CONTENT_RANGE, &format!("bytes {from}-{to}/{length}"));
    response
}

/// First and last byte of a single `bytes=` range (RFC 9110, section 14.1.2).
fn parse_range(text: &str, length: u64) -> Option<(u64, u64)> {
    let (from, to) = text.strip_prefix("bytes=")?.split_once('-')?;
    let last = length.checked_sub(1)?;
    let (from, to) = match (from, to) {
        ("", suffix) => (length.saturating_sub(suffix.parse().ok()?), last),
        (from, "") => (from.parse().ok()?, last),
        (from, to) => (from.parse().ok()?, to.parse::<u64>().ok()?.min(last)),
    };
    (from <= to).then_some((from, to))
}

fn spoiled(body: Reply, fault: Option<Fault>) -> Reply {
    match fault {
        Some(Fault::Corrupt) => body.flipped(),
        Some(Fault::Longer(by)) => body.padded(by),
        Some(Fault::Truncated) => body.halved(End::Cut),
        Some(Fault::Stalled) => body.halved(End::Hang),
        Some(Fault::Slow(per_second)) => body.slowed(per_second),
        Some(
            Fault::Refuse { .. }
            | Fault::HugeManifest(_)
            | Fault::WrongManifest
            | Fault::Redirect(_)
            | Fault::NoRanges(_),
        )
        | None => body,
    }
}

/// The same JSON object with one member more: valid, but not what the digest says.
fn with_other_annotation(bytes: &[u8]) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    if changed.first() == Some(&b'{') {
        changed.splice(..1, *br#"{"comment":"changed","#);
    }
    changed
}

/// What a manifest says it is.
fn media_type(bytes: &[u8]) -> String {
    let fallback = "application/vnd.oci.image.manifest.v1+json";
    let json: Option<serde_json::Value> = serde_json::from_slice(bytes).ok();
    let told = json.as_ref().and_then(|json| json.get("mediaType")?.as_str());
    told.unwrap_or(fallback).to_owned()
}

fn refused(status: u16) -> Response<Reply> {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    problem(status, "DENIED_ON_PURPOSE")
}

fn problem(status: StatusCode, code: &str) -> Response<Reply> {
    let json =
        serde_json::json!({"errors": [{"code": code, "message": status.canonical_reason()}]});
    reply(status, Reply::bytes(json.to_string()), "application/json")
}

fn reply(status: StatusCode, body: Reply, media_type: &str) -> Response<Reply> {
    let length = body.announced().to_string();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    set(response.headers_mut(), header::CONTENT_TYPE, media_type);
    set(response.headers_mut(), header::CONTENT_LENGTH, &length);
    response
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
