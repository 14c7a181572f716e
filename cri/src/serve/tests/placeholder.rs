//! Services for tests of what is around them and of who calls them: they answer what a test tells them to.

use crate::cli::{Action, parse};
use crate::config::ServeFlags;
use crate::metrics::Counters;
use crate::serve::{Opened, Services};
use crate::streaming::backend::{Backend, Ports, Session};
use crate::streaming::grant::{Attach, Exec, Forward};
use crate::streaming::{Limits, Server, Urls};
use davit_proto::admin;
use davit_proto::admin::davit_server::Davit;
use davit_proto::cri::image_service_server::ImageService;
use davit_proto::cri::runtime_service_server::RuntimeService;
use davit_proto::cri::{self, VersionRequest};
use futures_util::stream::BoxStream;
use prost::Message;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tonic::{Request, Response, Status};

/// What a method answers: its messages, one for a unary method.
pub(crate) type Answers =
    Arc<dyn Fn(&'static str, &[u8]) -> Result<Vec<Vec<u8>>, Status> + Send + Sync>;

/// Answers Version, when it is let, and everything else as it is told.
pub(crate) struct Placeholder {
    go_on: Arc<Notify>,
    answers: Answers,
}

type Answer<'a, T> =
    std::pin::Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send + 'a>>;

impl Placeholder {
    fn messages<T: Message + Default>(
        &self,
        method: &'static str,
        request: &impl Message,
    ) -> Result<Vec<T>, Status> {
        let messages = (self.answers)(method, &request.encode_to_vec())?;
        Ok(messages.iter().map(|message| T::decode(message.as_slice()).unwrap()).collect())
    }
}

/// Methods in the form that `async_trait` gives them: it does not look into macros.
macro_rules! told_unary {
    ($crate_of:ident: $($method:ident($request:ident) -> $answer:ident),* $(,)?) => {$(
        fn $method<'life, 'async_trait>(
            &'life self,
            request: Request<$crate_of::$request>,
        ) -> Answer<'async_trait, $crate_of::$answer>
        where
            'life: 'async_trait,
            Self: 'async_trait,
        {
            Box::pin(async move {
                let mut messages = self.messages(stringify!($method), request.get_ref())?;
                Ok(Response::new(messages.remove(0)))
            })
        }
    )*};
}

macro_rules! told_streams {
    ($crate_of:ident: $($method:ident($request:ident) -> $stream:ident of $answer:ident),* $(,)?) => {$(
        type $stream = BoxStream<'static, Result<$crate_of::$answer, Status>>;

        fn $method<'life, 'async_trait>(
            &'life self,
            request: Request<$crate_of::$request>,
        ) -> Answer<'async_trait, Self::$stream>
        where
            'life: 'async_trait,
            Self: 'async_trait,
        {
            Box::pin(async move {
                let messages = self.messages(stringify!($method), request.get_ref())?;
                let stream = futures_util::stream::iter(messages.into_iter().map(Ok));
                Ok(Response::new(Box::pin(stream) as Self::$stream))
            })
        }
    )*};
}

#[tonic::async_trait]
impl RuntimeService for Placeholder {
    async fn version(
        &self,
        _: Request<VersionRequest>,
    ) -> Result<Response<cri::VersionResponse>, Status> {
        tracing::info!("a version is asked for");
        self.go_on.notified().await;
        Ok(Response::new(cri::VersionResponse {
            runtime_name: "davit".to_owned(),
            ..Default::default()
        }))
    }

    told_unary!(cri:
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

    told_streams!(cri:
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
    told_unary!(cri:
        list_images(ListImagesRequest) -> ListImagesResponse,
        image_status(ImageStatusRequest) -> ImageStatusResponse,
        pull_image(PullImageRequest) -> PullImageResponse,
        remove_image(RemoveImageRequest) -> RemoveImageResponse,
        image_fs_info(ImageFsInfoRequest) -> ImageFsInfoResponse,
    );

    told_streams!(cri: stream_images(StreamImagesRequest) -> StreamImagesStream of StreamImagesResponse);
}

#[tonic::async_trait]
impl Davit for Placeholder {
    told_unary!(admin:
        about(AboutRequest) -> AboutResponse,
        info(InfoRequest) -> InfoResponse,
        wait(WaitRequest) -> WaitResponse,
        pause(PauseRequest) -> PauseResponse,
        resume(ResumeRequest) -> ResumeResponse,
        kill(KillRequest) -> KillResponse,
        open_exec(ExecRequest) -> ExecResponse,
        open_attach(AttachRequest) -> AttachResponse,
        standings(StandingsRequest) -> StandingsResponse,
        usage(UsageRequest) -> UsageResponse,
        login(LoginRequest) -> LoginResponse,
        search(SearchRequest) -> SearchResponse,
        explain(ExplainRequest) -> ExplainResponse,
        create_checkpoint(CreateCheckpointRequest) -> CreateCheckpointResponse,
        list_checkpoints(ListCheckpointsRequest) -> ListCheckpointsResponse,
        inspect_checkpoint(InspectCheckpointRequest) -> InspectCheckpointResponse,
        restore_checkpoint(RestoreCheckpointRequest) -> RestoreCheckpointResponse,
        remove_checkpoint(RemoveCheckpointRequest) -> RemoveCheckpointResponse,
    );

    told_streams!(admin:
        events(EventsRequest) -> EventsStream of Event,
        state(StateRequest) -> StateStream of StatePiece,
        pull(PullRequest) -> PullStream of PullProgress,
        logs(LogsRequest) -> LogsStream of LogEntry,
        check(CheckRequest) -> CheckStream of CheckReport,
    );
}

/// Where there is nothing to stream.
struct Nowhere;

#[tonic::async_trait]
impl Backend for Nowhere {
    async fn exec(&self, _: &Exec) -> Result<Session, String> {
        Err("there is no container".to_owned())
    }

    async fn attach(&self, _: &Attach) -> Result<Session, String> {
        Err("there is no container".to_owned())
    }

    async fn forward(&self, _: &Forward) -> Result<Ports, String> {
        Err("there is no pod".to_owned())
    }
}

/// The flags of this command line.
pub(crate) fn flags(line: &str) -> ServeFlags {
    let action = parse(line.split_whitespace().map(std::ffi::OsString::from)).unwrap();
    let Action::Serve(flags) = action else { panic!("{action:?}") };
    *flags
}

/// An open runtime that is none, with methods that answer nothing. Version answers each time that `go_on` is notified.
pub(crate) fn opened(go_on: &Arc<Notify>) -> Opened {
    answering(go_on, Arc::new(|method, _| Err(Status::unimplemented(method))))
}

/// The same, with these answers.
pub(crate) fn answering(go_on: &Arc<Notify>, answers: Answers) -> Opened {
    let placeholder = || Placeholder { go_on: Arc::clone(go_on), answers: Arc::clone(&answers) };
    let services = Services { runtime: placeholder(), image: placeholder(), davit: placeholder() };
    let limits = Limits { idle: Duration::from_secs(60), creation: Duration::from_secs(30) };
    let urls = Urls::new("http://127.0.0.1:1");
    Opened {
        routes: services.routes(),
        streams: Server::new(urls, Arc::new(Nowhere), limits).unwrap(),
        counters: Arc::new(Counters::default),
        collectors: Arc::new(Vec::new),
        state: Arc::new(|| serde_json::json!({})),
        flush: Arc::new(|| Box::pin(std::future::ready(Ok(())))),
        announcement: Vec::new(),
    }
}
