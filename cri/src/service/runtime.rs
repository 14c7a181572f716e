//! CRI's RuntimeService.

use super::status::{plain_status, status};
use super::{Streamed, about, events, required, seconds, stats, streamed, streams, whole};
use crate::convert;
use crate::streaming::Urls;
use davit_proto::cri::runtime_service_server::RuntimeService;
use davit_proto::cri::{
    AttachRequest, AttachResponse, CgroupDriver, CheckpointContainerRequest,
    CheckpointContainerResponse, Container, ContainerEventResponse, ContainerFilter,
    ContainerStatsRequest, ContainerStatsResponse, ContainerStatusRequest, ContainerStatusResponse,
    CreateContainerRequest, CreateContainerResponse, ExecRequest, ExecResponse, ExecSyncRequest,
    ExecSyncResponse, GetEventsRequest, LinuxRuntimeConfiguration, ListContainerStatsRequest,
    ListContainerStatsResponse, ListContainersRequest, ListContainersResponse,
    ListMetricDescriptorsRequest, ListMetricDescriptorsResponse, ListPodSandboxMetricsRequest,
    ListPodSandboxMetricsResponse, ListPodSandboxRequest, ListPodSandboxResponse,
    ListPodSandboxStatsRequest, ListPodSandboxStatsResponse, NetworkConfig, PodSandbox,
    PodSandboxConfig, PodSandboxFilter, PodSandboxMetadata, PodSandboxStatsRequest,
    PodSandboxStatsResponse, PodSandboxStatusRequest, PodSandboxStatusResponse, PortForwardRequest,
    PortForwardResponse, RemoveContainerRequest, RemoveContainerResponse, RemovePodSandboxRequest,
    RemovePodSandboxResponse, ReopenContainerLogRequest, ReopenContainerLogResponse,
    RunPodSandboxRequest, RunPodSandboxResponse, RuntimeConfig, RuntimeConfigRequest,
    RuntimeConfigResponse, RuntimeStatus, StartContainerRequest, StartContainerResponse,
    StatusRequest, StatusResponse, StopContainerRequest, StopContainerResponse,
    StopPodSandboxRequest, StopPodSandboxResponse, StreamContainerStatsRequest,
    StreamContainerStatsResponse, StreamContainersRequest, StreamContainersResponse,
    StreamPodSandboxMetricsRequest, StreamPodSandboxMetricsResponse, StreamPodSandboxStatsRequest,
    StreamPodSandboxStatsResponse, StreamPodSandboxesRequest, StreamPodSandboxesResponse,
    UpdateContainerResourcesRequest, UpdateContainerResourcesResponse,
    UpdatePodSandboxResourcesRequest, UpdatePodSandboxResourcesResponse,
    UpdateRuntimeConfigRequest, UpdateRuntimeConfigResponse, VersionRequest, VersionResponse,
};
use davit_runtime::Runtime;
use davit_runtime::cgroup::Driver;
use davit_runtime::container::CreateContainerError;
use davit_runtime::sandbox::SandboxView;
use std::collections::BTreeMap;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// The version of CRI that is served.
const API_VERSION: &str = "v1";
/// What kubelets have always been told as `version`.
const KUBELET_API_VERSION: &str = "0.1.0";

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct RuntimeApi {
    runtime: Runtime,
    urls: Urls,
}

impl RuntimeApi {
    /// Of this runtime; streams are met at `urls`.
    pub(crate) fn new(runtime: Runtime, urls: Urls) -> Self {
        Self { runtime, urls }
    }

    /// As they are now; converted as they are taken.
    fn select_sandboxes(
        &self,
        filter: Option<PodSandboxFilter>,
    ) -> impl Iterator<Item = PodSandbox> + Send + use<> {
        let filter = filter.unwrap_or_default();
        let views = self.runtime.sandboxes().into_iter();
        views
            .filter(move |view| convert::sandbox_fits(view, &filter))
            .map(|view| convert::sandbox(&view))
    }

    /// As they are now; converted as they are taken.
    fn select_containers(
        &self,
        filter: Option<ContainerFilter>,
    ) -> impl Iterator<Item = Container> + Send + use<> {
        let filter = filter.unwrap_or_default();
        let views = self.runtime.sandboxes().into_iter();
        let of_pod = |view: Arc<SandboxView>| view.containers.values().cloned().collect::<Vec<_>>();
        let containers = views.flat_map(of_pod);
        containers
            .filter(move |view| convert::container_fits(view, &filter))
            .map(|view| convert::container(&view))
    }
}

#[tonic::async_trait]
impl RuntimeService for RuntimeApi {
    type StreamPodSandboxesStream = Streamed<StreamPodSandboxesResponse>;
    type StreamContainersStream = Streamed<StreamContainersResponse>;
    type StreamContainerStatsStream = Streamed<StreamContainerStatsResponse>;
    type StreamPodSandboxStatsStream = Streamed<StreamPodSandboxStatsResponse>;
    type StreamPodSandboxMetricsStream = Streamed<StreamPodSandboxMetricsResponse>;
    type GetContainerEventsStream = Streamed<ContainerEventResponse>;

    async fn version(
        &self,
        request: Request<VersionRequest>,
    ) -> Result<Response<VersionResponse>, Status> {
        // The kubelet's own version: every one that speaks v1 is served alike.
        let VersionRequest { version: _ } = request.into_inner();
        Ok(Response::new(VersionResponse {
            version: KUBELET_API_VERSION.to_owned(),
            runtime_name: "davit".to_owned(),
            runtime_version: crate::VERSION.to_owned(),
            runtime_api_version: API_VERSION.to_owned(),
        }))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<RunPodSandboxRequest>,
    ) -> Result<Response<RunPodSandboxResponse>, Status> {
        let RunPodSandboxRequest { config, runtime_handler } = request.into_inner();
        let config = required(config, "config")?;
        let spec = convert::sandbox_spec(config, runtime_handler)?;
        let id = self.runtime.run_sandbox(spec).await.map_err(|error| status(&error))?;
        Ok(Response::new(RunPodSandboxResponse { pod_sandbox_id: id.to_string() }))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<StopPodSandboxRequest>,
    ) -> Result<Response<StopPodSandboxResponse>, Status> {
        let StopPodSandboxRequest { pod_sandbox_id } = request.into_inner();
        let id = not_empty(&pod_sandbox_id, "pod_sandbox_id")?;
        self.runtime.stop_sandbox(id).await.map_err(|error| status(&error))?;
        Ok(Response::new(StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<RemovePodSandboxRequest>,
    ) -> Result<Response<RemovePodSandboxResponse>, Status> {
        let RemovePodSandboxRequest { pod_sandbox_id } = request.into_inner();
        let id = not_empty(&pod_sandbox_id, "pod_sandbox_id")?;
        self.runtime.remove_sandbox(id).await.map_err(|error| status(&error))?;
        Ok(Response::new(RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<PodSandboxStatusRequest>,
    ) -> Result<Response<PodSandboxStatusResponse>, Status> {
        let PodSandboxStatusRequest { pod_sandbox_id, verbose } = request.into_inner();
        let view = self.runtime.sandbox(&pod_sandbox_id).map_err(|error| plain_status(&error))?;
        Ok(Response::new(PodSandboxStatusResponse {
            status: Some(convert::sandbox_status(&view)),
            info: if verbose { convert::sandbox_info(&view) } else { BTreeMap::new() },
            containers_statuses: view
                .containers
                .values()
                .map(|container| convert::container_status(container))
                .collect(),
            timestamp: davit_runtime::now(),
        }))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<ListPodSandboxRequest>,
    ) -> Result<Response<ListPodSandboxResponse>, Status> {
        let ListPodSandboxRequest { filter } = request.into_inner();
        whole(
            ListPodSandboxResponse { items: self.select_sandboxes(filter).collect() },
            "StreamPodSandboxes",
        )
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<StreamPodSandboxesRequest>,
    ) -> Result<Response<Self::StreamPodSandboxesStream>, Status> {
        let StreamPodSandboxesRequest { filter } = request.into_inner();
        let items = self.select_sandboxes(filter);
        Ok(Response::new(streamed(items, |pod_sandboxes| StreamPodSandboxesResponse {
            pod_sandboxes,
        })))
    }

    async fn create_container(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Result<Response<CreateContainerResponse>, Status> {
        let CreateContainerRequest { pod_sandbox_id, config, sandbox_config } =
            request.into_inner();
        let config = required(config, "config")?;
        let pod = self
            .runtime
            .sandbox(&pod_sandbox_id)
            .map_err(|error| status(&Arc::new(CreateContainerError::Sandbox(error))))?;
        check_pod(&pod, sandbox_config)?;
        let spec = convert::container_spec(config, &pod.spec)?;
        let id = self
            .runtime
            .create_container(pod.id.as_str(), spec)
            .await
            .map_err(|error| status(&error))?;
        Ok(Response::new(CreateContainerResponse { container_id: id.to_string() }))
    }

    async fn start_container(
        &self,
        request: Request<StartContainerRequest>,
    ) -> Result<Response<StartContainerResponse>, Status> {
        let StartContainerRequest { container_id } = request.into_inner();
        self.runtime.start_container(&container_id).await.map_err(|error| status(&error))?;
        Ok(Response::new(StartContainerResponse {}))
    }

    async fn stop_container(
        &self,
        request: Request<StopContainerRequest>,
    ) -> Result<Response<StopContainerResponse>, Status> {
        let StopContainerRequest { container_id, timeout } = request.into_inner();
        let id = not_empty(&container_id, "container_id")?;
        // A negative grace means none, as the kubelet may compute one.
        let grace = seconds(timeout.max(0), "timeout")?;
        self.runtime.stop_container(id, grace).await.map_err(|error| status(&error))?;
        Ok(Response::new(StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<RemoveContainerRequest>,
    ) -> Result<Response<RemoveContainerResponse>, Status> {
        let RemoveContainerRequest { container_id } = request.into_inner();
        let id = not_empty(&container_id, "container_id")?;
        self.runtime.remove_container(id).await.map_err(|error| status(&error))?;
        Ok(Response::new(RemoveContainerResponse {}))
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Result<Response<ListContainersResponse>, Status> {
        let ListContainersRequest { filter } = request.into_inner();
        let containers = self.select_containers(filter).collect();
        whole(ListContainersResponse { containers }, "StreamContainers")
    }

    async fn stream_containers(
        &self,
        request: Request<StreamContainersRequest>,
    ) -> Result<Response<Self::StreamContainersStream>, Status> {
        let StreamContainersRequest { filter } = request.into_inner();
        let containers = self.select_containers(filter);
        Ok(Response::new(streamed(containers, |containers| StreamContainersResponse {
            containers,
        })))
    }

    async fn container_status(
        &self,
        request: Request<ContainerStatusRequest>,
    ) -> Result<Response<ContainerStatusResponse>, Status> {
        let ContainerStatusRequest { container_id, verbose } = request.into_inner();
        let (_, container) =
            self.runtime.container(&container_id).map_err(|error| plain_status(&error))?;
        let info = || convert::container_info(&container, self.runtime.container_spec(&container));
        Ok(Response::new(ContainerStatusResponse {
            status: Some(convert::container_status(&container)),
            info: if verbose { info() } else { BTreeMap::new() },
        }))
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> Result<Response<ReopenContainerLogResponse>, Status> {
        let ReopenContainerLogRequest { container_id } = request.into_inner();
        self.runtime.reopen_log(&container_id).await.map_err(|error| status(&error))?;
        Ok(Response::new(ReopenContainerLogResponse {}))
    }

    async fn exec_sync(
        &self,
        request: Request<ExecSyncRequest>,
    ) -> Result<Response<ExecSyncResponse>, Status> {
        let ExecSyncRequest { container_id, cmd, timeout } = request.into_inner();
        // 0 means no limit.
        let limit = (timeout != 0).then(|| seconds(timeout, "timeout")).transpose()?;
        let output = self
            .runtime
            .exec_sync(&container_id, &cmd, limit)
            .await
            .map_err(|error| status(&error))?;
        Ok(Response::new(ExecSyncResponse {
            stdout: output.stdout,
            stderr: output.stderr,
            exit_code: output.exit_code,
        }))
    }

    async fn update_runtime_config(
        &self,
        request: Request<UpdateRuntimeConfigRequest>,
    ) -> Result<Response<UpdateRuntimeConfigResponse>, Status> {
        let UpdateRuntimeConfigRequest { runtime_config } = request.into_inner();
        let Some(RuntimeConfig { network_config: Some(NetworkConfig { pod_cidr }) }) =
            runtime_config
        else {
            return Ok(Response::new(UpdateRuntimeConfigResponse {}));
        };
        if !pod_cidr.is_empty() {
            let set = self.runtime.network().set_pod_cidr(&pod_cidr).await;
            let outcome = set.map_err(|error| plain_status(&error))?;
            tracing::info!(pod_cidr, ?outcome, "the pods' address range");
        }
        Ok(Response::new(UpdateRuntimeConfigResponse {}))
    }

    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        let StatusRequest { verbose } = request.into_inner();
        Ok(Response::new(StatusResponse {
            status: Some(RuntimeStatus { conditions: about::conditions(&self.runtime) }),
            info: if verbose { about::verbose(&self.runtime).await } else { BTreeMap::new() },
            runtime_handlers: about::handlers(&self.runtime),
            features: Some(about::features(&self.runtime)),
        }))
    }

    async fn runtime_config(
        &self,
        request: Request<RuntimeConfigRequest>,
    ) -> Result<Response<RuntimeConfigResponse>, Status> {
        let RuntimeConfigRequest {} = request.into_inner();
        let driver = match self.runtime.host().driver {
            Driver::Systemd => CgroupDriver::Systemd,
            Driver::Cgroupfs => CgroupDriver::Cgroupfs,
        };
        let linux = LinuxRuntimeConfiguration { cgroup_driver: driver.into() };
        Ok(Response::new(RuntimeConfigResponse { linux: Some(linux) }))
    }

    async fn update_container_resources(
        &self,
        request: Request<UpdateContainerResourcesRequest>,
    ) -> Result<Response<UpdateContainerResourcesResponse>, Status> {
        let UpdateContainerResourcesRequest { container_id, linux, windows, annotations: _ } =
            request.into_inner();
        let asked = convert::update_of_container(linux, windows)?;
        let updated = self.runtime.update_container(&container_id, asked).await;
        updated.map_err(|error| status(&error))?;
        Ok(Response::new(UpdateContainerResourcesResponse {}))
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Result<Response<ExecResponse>, Status> {
        let url = streams::exec(&self.runtime, &self.urls, request.into_inner())?;
        Ok(Response::new(ExecResponse { url }))
    }

    async fn attach(
        &self,
        request: Request<AttachRequest>,
    ) -> Result<Response<AttachResponse>, Status> {
        let url = streams::attach(&self.runtime, &self.urls, request.into_inner())?;
        Ok(Response::new(AttachResponse { url }))
    }

    async fn port_forward(
        &self,
        request: Request<PortForwardRequest>,
    ) -> Result<Response<PortForwardResponse>, Status> {
        let url = streams::port_forward(&self.runtime, &self.urls, request.into_inner())?;
        Ok(Response::new(PortForwardResponse { url }))
    }

    async fn container_stats(
        &self,
        request: Request<ContainerStatsRequest>,
    ) -> Result<Response<ContainerStatsResponse>, Status> {
        let ContainerStatsRequest { container_id } = request.into_inner();
        let stats = stats::container(&self.runtime, &container_id).await?;
        Ok(Response::new(ContainerStatsResponse { stats: Some(stats) }))
    }

    async fn list_container_stats(
        &self,
        request: Request<ListContainerStatsRequest>,
    ) -> Result<Response<ListContainerStatsResponse>, Status> {
        let ListContainerStatsRequest { filter } = request.into_inner();
        let stats = stats::running(&self.runtime, filter).await;
        whole(ListContainerStatsResponse { stats }, "StreamContainerStats")
    }

    async fn stream_container_stats(
        &self,
        request: Request<StreamContainerStatsRequest>,
    ) -> Result<Response<Self::StreamContainerStatsStream>, Status> {
        let StreamContainerStatsRequest { filter } = request.into_inner();
        let stats = stats::running(&self.runtime, filter).await;
        Ok(Response::new(streamed(stats, |container_stats| StreamContainerStatsResponse {
            container_stats,
        })))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<PodSandboxStatsRequest>,
    ) -> Result<Response<PodSandboxStatsResponse>, Status> {
        let PodSandboxStatsRequest { pod_sandbox_id } = request.into_inner();
        let stats = stats::sandbox(&self.runtime, &pod_sandbox_id).await?;
        Ok(Response::new(PodSandboxStatsResponse { stats: Some(stats) }))
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<ListPodSandboxStatsRequest>,
    ) -> Result<Response<ListPodSandboxStatsResponse>, Status> {
        let ListPodSandboxStatsRequest { filter } = request.into_inner();
        let stats = stats::ready(&self.runtime, filter).await;
        whole(ListPodSandboxStatsResponse { stats }, "StreamPodSandboxStats")
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<StreamPodSandboxStatsRequest>,
    ) -> Result<Response<Self::StreamPodSandboxStatsStream>, Status> {
        let StreamPodSandboxStatsRequest { filter } = request.into_inner();
        let stats = stats::ready(&self.runtime, filter).await;
        Ok(Response::new(streamed(stats, |pod_sandbox_stats| StreamPodSandboxStatsResponse {
            pod_sandbox_stats,
        })))
    }

    async fn checkpoint_container(
        &self,
        request: Request<CheckpointContainerRequest>,
    ) -> Result<Response<CheckpointContainerResponse>, Status> {
        let CheckpointContainerRequest { container_id, location, timeout } = request.into_inner();
        let (location, limit) = convert::checkpoint(location, timeout)?;
        let made = self.runtime.checkpoint_container(&container_id, location, limit).await;
        made.map_err(|error| plain_status(&error))?;
        Ok(Response::new(CheckpointContainerResponse {}))
    }

    async fn get_container_events(
        &self,
        request: Request<GetEventsRequest>,
    ) -> Result<Response<Self::GetContainerEventsStream>, Status> {
        let GetEventsRequest {} = request.into_inner();
        Ok(Response::new(events::stream(self.runtime.events())))
    }

    async fn list_metric_descriptors(
        &self,
        request: Request<ListMetricDescriptorsRequest>,
    ) -> Result<Response<ListMetricDescriptorsResponse>, Status> {
        let ListMetricDescriptorsRequest {} = request.into_inner();
        let descriptors = convert::descriptors();
        Ok(Response::new(ListMetricDescriptorsResponse { descriptors }))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        request: Request<ListPodSandboxMetricsRequest>,
    ) -> Result<Response<ListPodSandboxMetricsResponse>, Status> {
        let ListPodSandboxMetricsRequest {} = request.into_inner();
        let pod_metrics = stats::metrics(&self.runtime).await;
        whole(ListPodSandboxMetricsResponse { pod_metrics }, "StreamPodSandboxMetrics")
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        request: Request<StreamPodSandboxMetricsRequest>,
    ) -> Result<Response<Self::StreamPodSandboxMetricsStream>, Status> {
        let StreamPodSandboxMetricsRequest {} = request.into_inner();
        let metrics = stats::metrics(&self.runtime).await;
        Ok(Response::new(streamed(metrics, |pod_sandbox_metrics| {
            StreamPodSandboxMetricsResponse { pod_sandbox_metrics }
        })))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<UpdatePodSandboxResourcesRequest>,
    ) -> Result<Response<UpdatePodSandboxResourcesResponse>, Status> {
        let UpdatePodSandboxResourcesRequest { pod_sandbox_id, overhead, resources } =
            request.into_inner();
        let limits = convert::update_of_sandbox(overhead, resources)?;
        let updated = self.runtime.update_sandbox(&pod_sandbox_id, limits).await;
        updated.map_err(|error| status(&error))?;
        Ok(Response::new(UpdatePodSandboxResourcesResponse {}))
    }
}

/// The pod's configuration comes with each of its containers. It was honoured when the pod was run, so all there is to do is to see that it is this
/// pod's.
fn check_pod(pod: &SandboxView, config: Option<PodSandboxConfig>) -> Result<(), Status> {
    let Some(metadata) = config.and_then(|config| config.metadata) else { return Ok(()) };
    let (id, key) = (&pod.id, &pod.spec.key);
    let PodSandboxMetadata { name, uid, namespace, attempt: _ } = metadata;
    if (&name, &namespace, &uid) == (&key.name, &key.namespace, &key.uid) {
        return Ok(());
    }
    let told = format!("{namespace}/{name} (uid {uid})");
    Err(Status::invalid_argument(format!(
        "sandbox_config.metadata: {told} is not the pod of {id}: that is {key}"
    )))
}

fn not_empty<'a>(id: &'a str, field: &str) -> Result<&'a str, Status> {
    // Idempotence forgives an id that is gone, not a call without one.
    if id.is_empty() { Err(Status::invalid_argument(format!("{field}: empty"))) } else { Ok(id) }
}
