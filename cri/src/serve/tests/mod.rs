//! The frame around the services, over real sockets and in a process of its own.

mod placeholder;
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
struct Daemon {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    serving: Serving,
    go_on: Arc<Notify>,
}

fn daemon() -> Daemon {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().display().to_string();
    // A file that is there and empty, so that the machine's own configuration is not read.
    std::fs::File::create(dir.path().join("config.toml")).unwrap();
    let line =
        format!("davit serve --config {base}/config.toml --root {base}/root --state {base}/state");
    let config = config::load(&flags(&line)).unwrap();
    let bound = listen::bind(&config).unwrap();
    let go_on = Arc::new(Notify::new());
    let serving = Serving::start(bound, &opened(&go_on)).unwrap();
    Daemon { socket: config.state().join("davit.sock"), _dir: dir, serving, go_on }
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
    assert_eq!(davit.info(InfoRequest {}).await.unwrap_err().message(), "info");
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
async fn tls_demands_a_certificate_that_the_authority_signed() {
    let missing = crate::config::Tls {
        cert: "/nonexistent/cert.pem".into(),
        key: "/nonexistent/key.pem".into(),
        client_ca: "/nonexistent/ca.pem".into(),
    };
    let error = tls::acceptor(&missing).map(drop).unwrap_err().to_string();
    assert!(error.contains("tls.client_ca") && error.contains("/nonexistent/ca.pem"), "{error}");
}
