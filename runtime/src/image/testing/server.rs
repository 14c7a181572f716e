//! A registry on loopback.

use super::super::{Digest, Images, ImagesConfig};
use super::digest;
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::PrivateKeyDer;
use std::collections::HashMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What is answered for one path.
#[derive(Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
    /// The first bytes come at once, then one piece after each of these.
    pub(crate) pause: Option<Duration>,
    /// The connection breaks after so many bytes, as often as there are entries.
    pub(crate) breaks: Arc<Mutex<Vec<usize>>>,
    /// What is answered instead, for as long as there are entries: the status, and `Retry-After`.
    pub(crate) trouble: Arc<Mutex<Vec<(u16, &'static str)>>>,
    /// What `Authorization` must say; else 401 with the challenge.
    pub(crate) guard: Option<(String, String)>,
    /// The body never ends.
    pub(crate) endless: bool,
}

impl Answer {
    pub(crate) fn ok(body: impl Into<Bytes>) -> Self {
        Self {
            status: 200,
            headers: Vec::new(),
            body: body.into(),
            pause: None,
            breaks: Arc::default(),
            trouble: Arc::default(),
            guard: None,
            endless: false,
        }
    }

    pub(crate) fn status(status: u16) -> Self {
        Self { status, ..Self::ok("") }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn troubled(mut self, trouble: &[(u16, &'static str)]) -> Self {
        self.trouble = Arc::new(Mutex::new(trouble.to_vec()));
        self
    }

    pub(crate) fn guarded(mut self, authorization: &str, challenge: &str) -> Self {
        self.guard = Some((authorization.to_owned(), challenge.to_owned()));
        self
    }
}

/// One request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

#[derive(Default)]
struct Shared {
    answers: HashMap<String, Answer>,
    asked: Vec<Asked>,
}

/// A server that knows some paths and remembers who asked for what.
#[derive(Clone)]
pub(crate) struct TestRegistry {
    shared: Arc<Mutex<Shared>>,
    address: std::net::SocketAddr,
}

impl TestRegistry {
    pub(crate) async fn start() -> Self {
        Self::serve(None).await
    }

    /// The same behind TLS, and the certificate, which signs itself.
    pub(crate) async fn start_tls() -> (Self, String) {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        (Self::serve(Some(acceptor)).await, made.cert.pem())
    }

    async fn serve(tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let registry = Self { shared: Arc::default(), address: listener.local_addr().unwrap() };
        let shared = Arc::clone(&registry.shared);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (shared, tls) = (Arc::clone(&shared), tls.clone());
                tokio::spawn(async move {
                    let service = service_fn(move |request| answer(Arc::clone(&shared), request));
                    let connection = hyper::server::conn::http1::Builder::new();
                    // A client that goes away is part of the tests.
                    if let Some(tls) = tls {
                        let Ok(stream) = tls.accept(stream).await else { return };
                        let _gone =
                            connection.serve_connection(TokioIo::new(stream), service).await;
                    } else {
                        let _gone =
                            connection.serve_connection(TokioIo::new(stream), service).await;
                    }
                });
            }
        });
        registry
    }

    /// Host and port.
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn set(&self, path: &str, answer: Answer) {
        self.shared.lock().unwrap().answers.insert(path.to_owned(), answer);
    }

    pub(crate) fn change(&self, path: &str, change: impl FnOnce(&mut Answer)) {
        change(self.shared.lock().unwrap().answers.get_mut(path).unwrap());
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shared.lock().unwrap().asked.clone()
    }

    /// How often this path was asked for.
    pub(crate) fn count(&self, path: &str) -> usize {
        self.asked().iter().filter(|asked| asked.path == path).count()
    }

    pub(crate) fn blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = digest(bytes);
        self.set(&format!("/v2/{repository}/blobs/{digest}"), Answer::ok(bytes.to_vec()));
        digest
    }

    /// Serves an image under `repository:tag`; returns the digests of its manifest and of its config.
    pub(crate) fn image(&self, repository: &str, tag: &str, layers: &[Layer]) -> (Digest, Digest) {
        let config = config(layers);
        let config_digest = self.blob(repository, config.as_bytes());
        let described: Vec<_> = layers
            .iter()
            .map(|layer| {
                let digest = self.blob(repository, &layer.blob);
                serde_json::json!({ "mediaType": layer.media_type, "digest": digest, "size": layer.blob.len() })
            })
            .collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": { "mediaType": CONFIG, "digest": config_digest, "size": config.len() },
            "layers": described,
        });
        (self.manifest(repository, tag, &manifest), config_digest)
    }

    /// Serves a manifest under its tag and its digest.
    pub(crate) fn manifest(
        &self,
        repository: &str,
        tag: &str,
        manifest: &serde_json::Value,
    ) -> Digest {
        let bytes = manifest.to_string();
        let digest = digest(bytes.as_bytes());
        let media_type = manifest["mediaType"].as_str().unwrap_or(MANIFEST);
        for name in [tag, digest.as_str()] {
            let answer = Answer::ok(bytes.clone()).header("content-type", media_type);
            self.set(&format!("/v2/{repository}/manifests/{name}"), answer);
        }
        digest
    }

    pub(crate) async fn images(root: &Path) -> Images {
        Images::open(Self::config(root), Arc::default()).await.unwrap()
    }

    pub(crate) fn config(root: &Path) -> ImagesConfig {
        ImagesConfig {
            certs_dirs: vec![root.join("certs.d")],
            platform: Some("linux/amd64".to_owned()),
            pull_progress_timeout: Duration::from_secs(10),
            retry_pauses: [10, 20, 40, 80].map(Duration::from_millis),
            ..ImagesConfig::new(root.join("lib"))
        }
    }
}

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// A layer as it is served.
#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) media_type: &'static str,
    pub(crate) blob: Vec<u8>,
    pub(crate) diff_id: Digest,
}

impl Layer {
    pub(crate) fn plain(tar: &[u8]) -> Self {
        let media_type = "application/vnd.oci.image.layer.v1.tar";
        Self { media_type, blob: tar.to_vec(), diff_id: digest(tar) }
    }

    pub(crate) fn gzip(tar: &[u8]) -> Self {
        let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
        Self { media_type, blob: super::gzip(tar), diff_id: digest(tar) }
    }

    pub(crate) fn zstd(tar: &[u8]) -> Self {
        let media_type = "application/vnd.oci.image.layer.v1.tar+zstd";
        Self { media_type, blob: super::zstd(tar), diff_id: digest(tar) }
    }
}

fn config(layers: &[Layer]) -> String {
    let diff_ids: Vec<_> = layers.iter().map(|layer| &layer.diff_id).collect();
    serde_json::json!({
        "os": "linux",
        "architecture": "amd64",
        "config": { "Cmd": ["/bin/true"], "Env": ["A=b"], "User": "7", "Labels": null },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
    .to_string()
}

type Body = BoxBody<Bytes, std::io::Error>;

async fn answer(
    shared: Arc<Mutex<Shared>>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let headers: HashMap<String, String> = parts
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned()))
        .collect();
    let asked = Asked {
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    let known = {
        let mut shared = shared.lock().unwrap();
        shared.asked.push(asked.clone());
        shared.answers.get(&asked.path).cloned()
    };
    let answer = known.unwrap_or_else(|| Answer::status(404));
    if let Some((authorization, challenge)) = &answer.guard
        && asked.headers.get("authorization") != Some(authorization)
    {
        let response = Response::builder().status(401).header("www-authenticate", challenge);
        let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}"#;
        return Ok(response.body(full(Bytes::from(body))).unwrap());
    }
    let trouble = answer.trouble.lock().unwrap().pop();
    Ok(match trouble {
        Some((status, after)) => {
            respond(&asked, Answer::status(status).header("retry-after", after))
        }
        None => respond(&asked, answer),
    })
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

fn respond(asked: &Asked, answer: Answer) -> Response<Body> {
    let mut response = Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        response = response.header(name, value);
    }
    let total = answer.body.len();
    let mut body = answer.body;
    let range = asked
        .headers
        .get("range")
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
    if let Some(offset) = range.and_then(|offset| offset.parse::<usize>().ok()) {
        response = response
            .status(206)
            .header("content-range", format!("bytes {offset}-{}/{total}", total - 1));
        body = body.slice(offset..);
    }
    let broken = answer.breaks.lock().unwrap().pop();
    let frame = |bytes: Bytes| Ok::<_, std::io::Error>(Frame::data(bytes));
    if answer.endless {
        let piece = Bytes::from(vec![b' '; 64 << 10]);
        let stream = futures_util::stream::repeat_with(move || frame(piece.clone()));
        return response.body(BodyExt::boxed(StreamBody::new(stream))).unwrap();
    }
    if let Some(at) = broken {
        let pieces = vec![frame(body.slice(..at)), Err(std::io::Error::other("broken"))];
        response = response.header("content-length", body.len());
        return response
            .body(BodyExt::boxed(StreamBody::new(futures_util::stream::iter(pieces))))
            .unwrap();
    }
    if let Some(pause) = answer.pause {
        let length = body.len();
        let stream = futures_util::stream::unfold(body, move |mut body| async move {
            if body.is_empty() {
                return None;
            }
            let piece = body.split_to((length / 4 + 1).min(body.len()));
            tokio::time::sleep(pause).await;
            Some((Ok::<_, std::io::Error>(Frame::data(piece)), body))
        });
        return response.body(BodyExt::boxed(StreamBody::new(stream))).unwrap();
    }
    response.body(full(body)).unwrap()
}
