//! A kubelet's HTTP: the read-only port's lists and figures, and what its API has for each container.
//!
//! Owns the executor that drives its connections, one connection per request. The API speaks TLS with the certificate that the kubelet
//! has made for itself, and that is verified.

use super::pod::Pod;
use super::socket::Socket;
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::Response;
use hyper::body::Incoming;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// No request of a test takes longer.
const DEADLINE: Duration = Duration::from_secs(30);

/// What is followed has to end in this time: it may be written slowly.
const FOLLOWED: Duration = Duration::from_secs(90);

/// Where a kubelet listens, on 127.0.0.1.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    /// The API.
    pub https: u16,
    /// What anybody may read.
    pub read_only: u16,
    /// Whether it is well.
    pub health: u16,
}

/// A client of one kubelet.
#[derive(Debug, Clone)]
pub struct Api {
    executor: Arc<tokio::runtime::Runtime>,
    ports: Ports,
    node: String,
    certificate: PathBuf,
}

/// What a kubelet answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status's number.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl Api {
    pub(super) fn new(ports: Ports, node: &str, certificate: &Path) -> Result<Self> {
        let executor = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("start the client's executor")?;
        Ok(Self {
            executor: Arc::new(executor),
            ports,
            node: node.to_owned(),
            certificate: certificate.to_owned(),
        })
    }

    /// Whether it serves, and says of itself that it is well.
    pub(super) fn healthy(&self) -> bool {
        let well = |answer: Result<Answer>| answer.is_ok_and(|answer| answer.status == 200);
        let health = self.wait(async {
            let stream = self.connect(self.ports.health).await?;
            request(stream, &self.node, "/healthz").await
        });
        well(health) && well(self.read_only("/pods")) && well(self.get("/healthz"))
    }

    /// GET of the read-only port.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn read_only(&self, path: &str) -> Result<Answer> {
        self.wait(async {
            let stream = self.connect(self.ports.read_only).await?;
            request(stream, &self.node, path).await
        })
    }

    /// GET of the API.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn get(&self, path: &str) -> Result<Answer> {
        self.wait(async { request(self.connect_tls().await?, &self.node, path).await })
    }

    /// GET of the API, as far as the body has come when it is as wanted; for what is followed and has no end.
    ///
    /// # Errors
    /// If it does not answer, or ends before.
    pub fn follow(&self, path: &str, mut wanted: impl FnMut(&str) -> bool) -> Result<String> {
        self.wait_for(FOLLOWED, async {
            let mut response = send(self.connect_tls().await?, &self.node, path).await?;
            let mut text = String::new();
            while !wanted(&text) {
                let frame = response.body_mut().frame().await;
                let frame = frame.with_context(|| format!("GET {path} ended after {text:?}"))?;
                if let Ok(data) = frame.with_context(|| format!("read GET {path}"))?.into_data() {
                    text.push_str(&String::from_utf8_lossy(&data));
                }
            }
            Ok(text)
        })
    }

    /// What it answers with, which has to be JSON, at the read-only port.
    ///
    /// # Errors
    /// If it answers otherwise.
    pub fn json(&self, path: &str) -> Result<Value> {
        let answer = self.read_only(path)?;
        if answer.status != 200 {
            bail!("GET {path}: {answer:?}");
        }
        serde_json::from_str(&answer.body).with_context(|| format!("GET {path}: no JSON"))
    }

    /// The pods that it has.
    pub(super) fn pods(&self) -> Result<Vec<Pod>> {
        let list = self.json("/pods")?;
        let items = list.get("items").and_then(Value::as_array);
        Ok(items.into_iter().flatten().cloned().map(Pod::new).collect())
    }

    /// Opens a WebSocket at a path of the API, with this protocol.
    ///
    /// # Errors
    /// If it is refused.
    pub fn socket(&self, path: &str, protocol: &str) -> Result<Socket> {
        let stream = self.wait(async { self.connect_tls().await })?;
        let url = format!("wss://{}:{}{path}", self.node, self.ports.https);
        Socket::open(Arc::clone(&self.executor), stream, &url, protocol)
            .with_context(|| format!("open a WebSocket at {path}"))
    }

    /// The URL of a path of the API, for programs.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.ports.https)
    }

    fn wait<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.wait_for(DEADLINE, work)
    }

    fn wait_for<T>(&self, limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.executor.block_on(async {
            tokio::time::timeout(limit, work).await.context("the kubelet took too long")?
        })
    }

    async fn connect(&self, port: u16) -> Result<TcpStream> {
        let connected = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
        connected.with_context(|| format!("connect to the kubelet's port {port}"))
    }

    async fn connect_tls(&self) -> Result<TlsStream<TcpStream>> {
        let path = self.certificate.display();
        let mut roots = rustls::RootCertStore::empty();
        // The certificate, then the one of the authority that it has made for this.
        for certificate in CertificateDer::pem_file_iter(&self.certificate)
            .with_context(|| format!("open {path}"))?
        {
            roots.add(certificate.with_context(|| format!("read {path}"))?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("choose TLS versions")?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(self.node.clone()).context("read the node's name")?;
        let stream = self.connect(self.ports.https).await?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.context("speak TLS")
    }
}

async fn request<S>(stream: S, host: &str, path: &str) -> Result<Answer>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let response = send(stream, host, path).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.with_context(|| format!("read GET {path}"))?;
    let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    Ok(Answer { status, body })
}

async fn send<S>(stream: S, host: &str, path: &str) -> Result<Response<Incoming>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .context("begin to speak HTTP")?;
    // Ends with the response's body.
    tokio::spawn(connection);
    let request = hyper::Request::get(path).header(HOST, host).body(Empty::<Bytes>::new())?;
    sender.send_request(request).await.with_context(|| format!("send GET {path}"))
}
