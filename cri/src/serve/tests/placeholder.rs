//! Services that answer nothing but Version, for tests of what is around them.

use crate::cli::{Action, parse};
use crate::config::ServeFlags;
use crate::metrics::Counters;
use crate::serve::{Opened, Services};
use davit_proto::admin::davit_server::Davit;
use davit_proto::admin::{self, InfoRequest};
use davit_proto::cri::image_service_server::ImageService;
use davit_proto::cri::runtime_service_server::RuntimeService;
use davit_proto::cri::{self, VersionRequest};
use futures_util::stream::BoxStream;
use std::sync::Arc;
use tokio::sync::Notify;
use tonic::{Request, Response, Status};

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

/// The flags of this command line.
pub(crate) fn flags(line: &str) -> ServeFlags {
    match parse(line.split_whitespace().map(std::ffi::OsString::from)).unwrap() {
        Action::Serve(flags) => *flags,
        other @ (Action::Config(_) | Action::Client(..)) => panic!("{other:?}"),
    }
}

/// An open runtime that is none. Version answers each time that `go_on` is notified.
pub(crate) fn opened(go_on: &Arc<Notify>) -> Opened {
    let placeholder = || Placeholder { go_on: Arc::clone(go_on) };
    let services = Services { runtime: placeholder(), image: placeholder(), davit: placeholder() };
    Opened {
        routes: services.routes(),
        counters: Arc::new(Counters::default),
        state: Arc::new(|| serde_json::json!({})),
        announcement: Vec::new(),
    }
}
