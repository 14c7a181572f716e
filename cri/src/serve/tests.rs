//! The frame around the services, over real sockets. The services themselves answer nothing here.

use super::*;
use crate::cli::{Action, parse};
use crate::metrics::Counters;
use davit_proto::admin::davit_client::DavitClient;
use davit_proto::admin::davit_server::Davit;
use davit_proto::admin::{self, InfoRequest};
use davit_proto::cri::image_service_server::ImageService;
use davit_proto::cri::runtime_service_client::RuntimeServiceClient;
use davit_proto::cri::runtime_service_server::RuntimeService;
use davit_proto::cri::{self, VersionRequest};
use futures_util::stream::BoxStream;
use hyper_util::rt::TokioIo;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::Notify;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Response, Status};

/// Answers Version, when it is let; nothing else.
struct Placeholder {
    go_on: Arc<Notify>,
}

type Answer<'a, T> =
    std::pin::Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send + 'a>>;

/// One method in the form that `async_trait` gives it: it does not look into macros.
macro_rules! unimplemented_method {
    ($method:ident, $request:ty, $answer:ty) => {
        fn $method<'life, 'async_trait>(
            &'life self,
            _: Request<$request>,
        ) -> Answer<'async_trait, $answer>
        where
            'life: 'async_trait,
            Self: 'async_trait,
        {
            Box::pin(async { Err(Status::unimplemented(stringify!($method))) })
        }
    };
}

macro_rules! unimplemented_unary {
    ($($method:ident($request:ident) -> $answer:ident),* $(,)?) => {$(
        unimplemented_method!($method, cri::$request, cri::$answer);
    )*};
}

macro_rules! unimplemented_streams {
    ($($method:ident($request:ident) -> $stream:ident of $answer:ident),* $(,)?) => {$(
        type $stream = BoxStream<'static, Result<cri::$answer, Status>>;

        unimplemented_method!($method, cri::$request, Self::$stream);
    )*};
}

#[tonic::async_trait]
impl RuntimeService for Placeholder {
    async fn version(
        &self,
        _: Request<VersionRequest>,
    ) -> Result<Response<cri::VersionResponse>, Status> {
        self.go_on.notified().await;
        Ok(Response::new(cri::VersionResponse {
            runtime_name: "davit".to_owned(),
            ..Default::default()
        }))
    }

    unimplemented_unary!(
        run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse,
        stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse,
        remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse,
        pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse,
        list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse,
        create_container(CreateContainerRequest) -> CreateContainerResponse,
        start_container(StartContainerRequest) -> StartContainerResponse,
        stop_container(StopContainerRequest) -> StopContainerResponse,
        remove_container(RemoveContainerRequest) -> RemoveContainerResponse,
        list_containers(ListContainersRequest) -> ListContainersResponse,
        container_status(ContainerStatusRequest) -> ContainerStatusResponse,
        update_container_resources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse,
        reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse,
        exec_sync(ExecSyncRequest) -> ExecSyncResponse,
        exec(ExecRequest) -> ExecResponse,
        attach(AttachRequest) -> AttachResponse,
        port_forward(PortForwardRequest) -> PortForwardResponse,
        container_stats(ContainerStatsRequest) -> ContainerStatsResponse,
        list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse,
        pod_sandbox_stats(PodSandboxStatsRequest) -> PodSandboxStatsResponse,
        list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse,
        update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse,
        status(StatusRequest) -> StatusResponse,
        checkpoint_container(CheckpointContainerRequest) -> CheckpointContainerResponse,
        list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse,
        list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse,
        runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse,
        update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest) -> UpdatePodSandboxResourcesResponse,
    );

    unimplemented_streams!(
        stream_pod_sandboxes(StreamPodSandboxesRequest) -> StreamPodSandboxesStream of StreamPodSandboxesResponse,
        stream_containers(StreamContainersRequest) -> StreamContainersStream of StreamContainersResponse,
        stream_container_stats(StreamContainerStatsRequest) -> StreamContainerStatsStream of StreamContainerStatsResponse,
        stream_pod_sandbox_stats(StreamPodSandboxStatsRequest) -> StreamPodSandboxStatsStream of StreamPodSandboxStatsResponse,
        stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest) -> StreamPodSandboxMetricsStream of StreamPodSandboxMetricsResponse,
        get_container_events(GetEventsRequest) -> GetContainerEventsStream of ContainerEventResponse,
    );
}

#[tonic::async_trait]
impl ImageService for Placeholder {
    unimplemented_unary!(
        list_images(ListImagesRequest) -> ListImagesResponse,
        image_status(ImageStatusRequest) -> ImageStatusResponse,
        pull_image(PullImageRequest) -> PullImageResponse,
        remove_image(RemoveImageRequest) -> RemoveImageResponse,
        image_fs_info(ImageFsInfoRequest) -> ImageFsInfoResponse,
    );

    unimplemented_streams!(stream_images(StreamImagesRequest) -> StreamImagesStream of StreamImagesResponse);
}

#[tonic::async_trait]
impl Davit for Placeholder {
    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<admin::InfoResponse>, Status> {
        Err(Status::unimplemented("info"))
    }

    type PullStream = BoxStream<'static, Result<admin::PullProgress, Status>>;

    async fn pull(
        &self,
        _: Request<admin::PullRequest>,
    ) -> Result<Response<Self::PullStream>, Status> {
        Err(Status::unimplemented("pull"))
    }

    type LogsStream = BoxStream<'static, Result<admin::LogEntry, Status>>;

    async fn logs(
        &self,
        _: Request<admin::LogsRequest>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        Err(Status::unimplemented("logs"))
    }

    async fn wait(
        &self,
        _: Request<admin::WaitRequest>,
    ) -> Result<Response<admin::WaitResponse>, Status> {
        Err(Status::unimplemented("wait"))
    }
}

fn flags(line: &str) -> ServeFlags {
    match parse(line.split_whitespace().map(std::ffi::OsString::from)).unwrap() {
        Action::Serve(flags) => *flags,
        other @ (Action::Config(_) | Action::Client(..)) => panic!("{other:?}"),
    }
}

fn opened(go_on: &Arc<Notify>) -> Opened {
    let placeholder = || Placeholder { go_on: Arc::clone(go_on) };
    let services = Services { runtime: placeholder(), image: placeholder(), davit: placeholder() };
    Opened {
        routes: services.routes(),
        counters: Arc::new(Counters::default),
        state: Arc::new(|| serde_json::json!({})),
        announcement: Vec::new(),
    }
}

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
