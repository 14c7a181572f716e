//! The frame around the services, over real sockets and in a process of its own.

mod names;
pub(crate) mod placeholder;
mod process;

use super::*;
use davit_proto::admin::InfoRequest;
use davit_proto::admin::davit_client::DavitClient;
use davit_proto::cri::runtime_service_client::RuntimeServiceClient;
use davit_proto::cri::{self, VersionRequest};
use hyper_util::rt::TokioIo;
use placeholder::{flags, opened};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::Notify;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request};

/// A daemon in its own directory, and what lets its Version answer.
pub(crate) struct Daemon {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) socket: PathBuf,
    serving: Serving,
    go_on: Arc<Notify>,
}

fn daemon() -> Daemon {
    let go_on = Arc::new(Notify::new());
    daemon_with("", &opened(&go_on), go_on)
}

/// A daemon with this configuration that serves what is opened.
pub(crate) fn daemon_with(text: &str, opened: &Opened, go_on: Arc<Notify>) -> Daemon {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().display().to_string();
    // A file of its own, so that the machine's is not read.
    let mut file = std::fs::File::create(dir.path().join("config.toml")).unwrap();
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    let line =
        format!("davit serve --config {base}/config.toml --root {base}/root --state {base}/state");
    let config = config::load(&flags(&line)).unwrap();
    let bound = bind(&config);
    let serving = Serving::start(bound, opened, &config, &Site::new(DebugOn(false))).unwrap();
    Daemon { socket: config.state().join("davit.sock"), dir, serving, go_on }
}

/// A test beside this one that forks just then holds a copy of the listener that gave us a port until its child's exec closes it.
fn bind(config: &Config) -> listen::Bound {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match listen::bind(config) {
            Err(listen::ListenError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::AddrInUse && Instant::now() < deadline =>
            {
                std::thread::yield_now();
            }
            bound => return bound.unwrap(),
        }
    }
}

async fn connect(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap()
}

fn version() -> VersionRequest {
    VersionRequest { version: String::new() }
}

#[tokio::test]
async fn all_three_services_are_on_one_socket() {
    let daemon = daemon();
    daemon.go_on.notify_one();
    let channel = connect(&daemon.socket).await;
    let mut runtime = RuntimeServiceClient::new(channel.clone());
    let answer = runtime.version(version()).await.unwrap().into_inner();
    assert_eq!(answer.runtime_name, "davit");
    let mut image = cri::image_service_client::ImageServiceClient::new(channel.clone());
    let status = image.image_fs_info(cri::ImageFsInfoRequest {}).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unimplemented, "image_fs_info"));
    let mut davit = DavitClient::new(channel.clone());
    assert_eq!(davit.info(InfoRequest::default()).await.unwrap_err().message(), "info");
}

/// A client that keeps no time of its own, as tonic's channel does.
async fn timeless(socket: &Path) -> hyper::client::conn::http2::SendRequest<tonic::body::Body> {
    let stream = tokio::net::UnixStream::connect(socket).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(executor, TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

#[tokio::test]
async fn a_callers_deadline_is_the_callers_alone() {
    let daemon = daemon();
    let sender = timeless(&daemon.socket).await;
    let channel = tower::service_fn(move |request| sender.clone().send_request(request));
    let origin = Uri::from_static("http://localhost");
    let mut runtime = RuntimeServiceClient::with_origin(channel, origin);
    let mut request = Request::new(version());
    // 10 ms: an answer that comes before `go_on` would be the server's own.
    request.metadata_mut().insert("grpc-timeout", "10m".parse().unwrap());
    let answer = runtime.version(request);
    tokio::pin!(answer);
    let early = tokio::time::timeout(Duration::from_millis(200), answer.as_mut()).await;
    assert!(early.is_err(), "{early:?}");
    daemon.go_on.notify_one();
    answer.await.unwrap();
}

#[tokio::test]
async fn a_stopping_daemon_answers_what_it_has_begun_and_takes_nothing_new() {
    let daemon = daemon();
    let channel = connect(&daemon.socket).await;
    let mut first = RuntimeServiceClient::new(channel.clone());
    let running = tokio::spawn(async move { first.version(version()).await });
    while daemon.serving.calls.len() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let calls = daemon.serving.calls.clone();
    let mut signals = Signals::new().unwrap();
    let stopping = tokio::spawn(async move { daemon.serving.stop(&mut signals).await });
    calls.stopping().cancelled().await;
    let mut second = RuntimeServiceClient::new(channel);
    let refused = tokio::time::timeout(Duration::from_secs(5), second.version(version())).await;
    // UNAVAILABLE from the layer, or the client's own word for a connection that is going away.
    assert!(matches!(refused.unwrap().unwrap_err().code(), Code::Unavailable | Code::Cancelled));
    assert!(!stopping.is_finished());
    daemon.go_on.notify_one();
    assert_eq!(running.await.unwrap().unwrap().into_inner().runtime_name, "davit");
    stopping.await.unwrap();
    assert!(!daemon.socket.exists(), "the socket's file goes with the daemon");
}

#[tokio::test]
async fn a_message_beyond_16_mib_is_refused() {
    let daemon = daemon();
    let mut runtime = RuntimeServiceClient::new(connect(&daemon.socket).await);
    let request = VersionRequest { version: "x".repeat(17 << 20) };
    assert_eq!(runtime.version(request).await.unwrap_err().code(), Code::OutOfRange);
}

#[tokio::test]
async fn a_path_of_no_service_is_unimplemented() {
    let daemon = daemon();
    let mut grpc = tonic::client::Grpc::new(connect(&daemon.socket).await);
    grpc.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/runtime.v2.RuntimeService/Version");
    let codec = tonic_prost::ProstCodec::<VersionRequest, cri::VersionResponse>::default();
    let status = grpc.unary(Request::new(version()), path, codec).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test]
async fn a_certificate_that_is_not_there_is_named() {
    let missing = crate::config::Tls {
        cert: "/nonexistent/cert.pem".into(),
        key: "/nonexistent/key.pem".into(),
        client_ca: Some("/nonexistent/ca.pem".into()),
        client_names: Vec::new(),
    };
    let read = tls::Certificates::read(tls::Purpose::Streams, &missing);
    let error = read.map(drop).unwrap_err().to_string();
    assert!(error.contains("streaming_tls.key /nonexistent/key.pem"), "{error}");
}

/// A certificate authority and what it has signed, as PEM files.
struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: rcgen::Issuer::new(params, key), pem }
    }

    /// A certificate and its key.
    fn sign(&self) -> (String, String) {
        self.sign_for("nobody", "localhost")
    }

    /// The same for a client of these names.
    fn sign_for(&self, common: &str, dns: &str) -> (String, String) {
        let mut params = rcgen::CertificateParams::new(vec![dns.to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, common);
        let key = rcgen::KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

#[tokio::test]
async fn over_tcp_only_a_client_with_the_authoritys_certificate_is_answered() {
    use tonic::transport::{Certificate, ClientTlsConfig, Identity};
    let (authority, stranger) = (Authority::new(), Authority::new());
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        let mut file = std::fs::File::create(&path).unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        path.display().to_string()
    };
    let (cert, key) = authority.sign();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = format!(
        "listen = ['tcp://127.0.0.1:{port}']\n[tls]\ncert = '{}'\nkey = '{}'\nclient_ca = '{}'",
        write("cert.pem", &cert),
        write("key.pem", &key),
        write("ca.pem", &authority.pem),
    );
    let go_on = Arc::new(Notify::new());
    let _daemon = daemon_with(&config, &opened(&go_on), go_on);
    let tls = || {
        let authority = Certificate::from_pem(&authority.pem);
        ClientTlsConfig::new().domain_name("localhost").ca_certificate(authority)
    };
    let identity = |(cert, key): (String, String)| Identity::from_pem(cert, key);
    let own = tls().identity(identity(authority.sign()));
    let strange = tls().identity(identity(stranger.sign()));
    for (tls, answered) in
        [(Some(own), true), (Some(strange), false), (Some(tls()), false), (None, false)]
    {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://127.0.0.1:{port}")).unwrap();
        if let Some(tls) = tls {
            endpoint = endpoint.tls_config(tls).unwrap();
        }
        let code = match endpoint.connect().await {
            Ok(channel) => {
                DavitClient::new(channel).info(InfoRequest::default()).await.unwrap_err().code()
            }
            Err(_) => Code::Unavailable,
        };
        assert_eq!(code == Code::Unimplemented, answered, "{code:?}");
    }
}
