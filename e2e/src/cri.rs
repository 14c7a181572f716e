//! The kubelet's side of the interface, for tests: one call per line, no executor in sight.
//!
//! Owns the connection and the executor that drives it. Any thread may call; calls of several threads run at once.

use anyhow::{Context, Result, bail};
use hyper_util::rt::TokioIo;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{
    AuthConfig, Container, ContainerConfig, ContainerFilter, ContainerStatus,
    ContainerStatusRequest, CreateContainerRequest, ExecSyncRequest, ExecSyncResponse, Image,
    ImageSpec, ImageStatusRequest, ListContainersRequest, ListImagesRequest, ListPodSandboxRequest,
    PodSandbox, PodSandboxConfig, PodSandboxFilter, PodSandboxStatus, PodSandboxStatusRequest,
    PullImageRequest, RemoveContainerRequest, RemoveImageRequest, RemovePodSandboxRequest,
    ReopenContainerLogRequest, RunPodSandboxRequest, StartContainerRequest, StopContainerRequest,
    StopPodSandboxRequest,
};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// No call of a test takes longer, but one that is given more time.
const DEADLINE: Duration = Duration::from_secs(60);
/// The kubelet takes no longer message.
pub(crate) const MESSAGE: usize = 16 << 20;

/// A client of both services.
#[derive(Debug, Clone)]
pub struct Cri {
    executor: Arc<tokio::runtime::Runtime>,
    channel: Channel,
}

impl Cri {
    /// A client of the socket; it connects when it is first used, and again after the server has gone.
    ///
    /// # Errors
    /// If no executor can be started.
    pub fn new(socket: &Path) -> Result<Self> {
        let executor = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("start the client's executor")?;
        let path: PathBuf = socket.to_owned();
        let connector = tower::service_fn(move |_: tonic::transport::Uri| {
            let path = path.clone();
            async move {
                Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::connect(path).await?))
            }
        });
        let endpoint = Endpoint::from_static("http://localhost");
        let channel = executor.block_on(async { endpoint.connect_with_connector_lazy(connector) });
        Ok(Self { executor: Arc::new(executor), channel })
    }

    /// The runtime service, for calls that have no line of their own here.
    #[must_use]
    pub fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE)
    }

    /// The image service, for calls that have no line of their own here.
    #[must_use]
    pub fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE)
    }

    /// The connection, for other clients of the same services.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Waits for a call's end.
    ///
    /// # Errors
    /// The call's own, or `DeadlineExceeded` after a minute.
    pub fn wait<T>(
        &self,
        call: impl Future<Output = std::result::Result<tonic::Response<T>, Status>>,
    ) -> std::result::Result<T, Status> {
        self.wait_for(DEADLINE, call)
    }

    fn wait_for<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = std::result::Result<tonic::Response<T>, Status>>,
    ) -> std::result::Result<T, Status> {
        self.executor.block_on(async {
            match tokio::time::timeout(limit, call).await {
                Ok(answer) => answer.map(tonic::Response::into_inner),
                Err(_) => {
                    Err(Status::new(Code::DeadlineExceeded, format!("the test waited {limit:?}")))
                }
            }
        })
    }

    /// Runs a future that is no single call.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.executor.block_on(future)
    }

    /// `RunPodSandbox`: the id.
    ///
    /// # Errors
    /// The server's.
    pub fn run_pod(
        &self,
        config: &PodSandboxConfig,
        handler: &str,
    ) -> std::result::Result<String, Status> {
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: handler.to_owned(),
        };
        Ok(self.wait(self.runtime().run_pod_sandbox(request))?.pod_sandbox_id)
    }

    /// `StopPodSandbox`.
    ///
    /// # Errors
    /// The server's.
    pub fn stop_pod(&self, id: &str) -> std::result::Result<(), Status> {
        let request = StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.wait(self.runtime().stop_pod_sandbox(request)).map(drop)
    }

    /// `RemovePodSandbox`.
    ///
    /// # Errors
    /// The server's.
    pub fn remove_pod(&self, id: &str) -> std::result::Result<(), Status> {
        let request = RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.wait(self.runtime().remove_pod_sandbox(request)).map(drop)
    }

    /// `PodSandboxStatus`.
    ///
    /// # Errors
    /// The server's.
    pub fn pod_status(&self, id: &str) -> std::result::Result<PodSandboxStatus, Status> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let answer = self.wait(self.runtime().pod_sandbox_status(request))?;
        answer.status.ok_or_else(|| Status::internal("PodSandboxStatus without a status"))
    }

    /// `ListPodSandbox`, all of them or as filtered.
    ///
    /// # Errors
    /// The server's.
    pub fn pods(
        &self,
        filter: Option<PodSandboxFilter>,
    ) -> std::result::Result<Vec<PodSandbox>, Status> {
        Ok(self.wait(self.runtime().list_pod_sandbox(ListPodSandboxRequest { filter }))?.items)
    }

    /// `CreateContainer`: the id.
    ///
    /// # Errors
    /// The server's.
    pub fn create(
        &self,
        pod: &str,
        config: &ContainerConfig,
        pod_config: &PodSandboxConfig,
    ) -> std::result::Result<String, Status> {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(config.clone()),
            sandbox_config: Some(pod_config.clone()),
        };
        Ok(self.wait(self.runtime().create_container(request))?.container_id)
    }

    /// `StartContainer`.
    ///
    /// # Errors
    /// The server's.
    pub fn start(&self, id: &str) -> std::result::Result<(), Status> {
        let request = StartContainerRequest { container_id: id.to_owned() };
        self.wait(self.runtime().start_container(request)).map(drop)
    }

    /// `StopContainer`, with the grace period in seconds.
    ///
    /// # Errors
    /// The server's.
    pub fn stop(&self, id: &str, timeout: i64) -> std::result::Result<(), Status> {
        let request = StopContainerRequest { container_id: id.to_owned(), timeout };
        self.wait(self.runtime().stop_container(request)).map(drop)
    }

    /// `RemoveContainer`.
    ///
    /// # Errors
    /// The server's.
    pub fn remove(&self, id: &str) -> std::result::Result<(), Status> {
        let request = RemoveContainerRequest { container_id: id.to_owned() };
        self.wait(self.runtime().remove_container(request)).map(drop)
    }

    /// `ContainerStatus`.
    ///
    /// # Errors
    /// The server's.
    pub fn status(&self, id: &str) -> std::result::Result<ContainerStatus, Status> {
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer = self.wait(self.runtime().container_status(request))?;
        answer.status.ok_or_else(|| Status::internal("ContainerStatus without a status"))
    }

    /// The `info` of a verbose `ContainerStatus`.
    ///
    /// # Errors
    /// The server's.
    pub fn container_info(&self, id: &str) -> std::result::Result<HashMap<String, String>, Status> {
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
        Ok(self.wait(self.runtime().container_status(request))?.info)
    }

    /// The `info` of a verbose `PodSandboxStatus`.
    ///
    /// # Errors
    /// The server's, or that it is no JSON.
    pub fn pod_info(&self, id: &str) -> Result<serde_json::Value> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
        let info = self.wait(self.runtime().pod_sandbox_status(request))?.info;
        let text = info.get("info").context("a verbose PodSandboxStatus has no info")?;
        serde_json::from_str(text).context("read a verbose PodSandboxStatus")
    }

    /// `ListContainers`, all of them or as filtered.
    ///
    /// # Errors
    /// The server's.
    pub fn containers(
        &self,
        filter: Option<ContainerFilter>,
    ) -> std::result::Result<Vec<Container>, Status> {
        Ok(self.wait(self.runtime().list_containers(ListContainersRequest { filter }))?.containers)
    }

    /// `ReopenContainerLog`.
    ///
    /// # Errors
    /// The server's.
    pub fn reopen_log(&self, id: &str) -> std::result::Result<(), Status> {
        let request = ReopenContainerLogRequest { container_id: id.to_owned() };
        self.wait(self.runtime().reopen_container_log(request)).map(drop)
    }

    /// `ExecSync`, with the timeout in seconds; 0 for none.
    ///
    /// # Errors
    /// The server's.
    pub fn exec(
        &self,
        id: &str,
        command: &[&str],
        timeout: i64,
    ) -> std::result::Result<ExecSyncResponse, Status> {
        let cmd = command.iter().map(|word| (*word).to_owned()).collect();
        let request = ExecSyncRequest { container_id: id.to_owned(), cmd, timeout };
        self.wait(self.runtime().exec_sync(request))
    }

    /// `PullImage`: the id.
    ///
    /// # Errors
    /// The server's.
    pub fn pull(&self, name: &str) -> std::result::Result<String, Status> {
        self.pull_as(name, None)
    }

    /// `PullImage` with credentials: the id.
    ///
    /// # Errors
    /// The server's.
    pub fn pull_as(
        &self,
        name: &str,
        auth: Option<AuthConfig>,
    ) -> std::result::Result<String, Status> {
        let request = PullImageRequest { image: Some(spec(name)), auth, sandbox_config: None };
        Ok(self.wait(self.images().pull_image(request))?.image_ref)
    }

    /// `PullImage` that its client gives up after `limit`.
    ///
    /// # Errors
    /// The server's, or the deadline's.
    pub fn pull_within(&self, name: &str, limit: Duration) -> std::result::Result<String, Status> {
        let mut request = Request::new(PullImageRequest {
            image: Some(spec(name)),
            auth: None,
            sandbox_config: None,
        });
        request.set_timeout(limit);
        let limit = limit.max(DEADLINE);
        Ok(self.wait_for(limit, self.images().pull_image(request))?.image_ref)
    }

    /// `ImageStatus`; `None` if there is no such image.
    ///
    /// # Errors
    /// The server's.
    pub fn image(&self, name: &str) -> std::result::Result<Option<Image>, Status> {
        let request = ImageStatusRequest { image: Some(spec(name)), verbose: false };
        Ok(self.wait(self.images().image_status(request))?.image)
    }

    /// `ListImages`.
    ///
    /// # Errors
    /// The server's.
    pub fn list_images(&self) -> std::result::Result<Vec<Image>, Status> {
        Ok(self.wait(self.images().list_images(ListImagesRequest { filter: None }))?.images)
    }

    /// `RemoveImage`.
    ///
    /// # Errors
    /// The server's.
    pub fn remove_image(&self, name: &str) -> std::result::Result<(), Status> {
        let request = RemoveImageRequest { image: Some(spec(name)) };
        self.wait(self.images().remove_image(request)).map(drop)
    }
}

/// An image by its name.
#[must_use]
pub fn spec(name: &str) -> ImageSpec {
    ImageSpec { image: name.to_owned(), ..ImageSpec::default() }
}

/// Demands that a call was refused, with this code and with all these texts in its message: the field and the value.
///
/// # Errors
/// If it was not, or otherwise.
pub fn refused<T: std::fmt::Debug>(
    answer: std::result::Result<T, Status>,
    code: Code,
    texts: &[&str],
) -> Result<Status> {
    let status = match answer {
        Ok(answer) => bail!("not refused, but answered with {answer:?}"),
        Err(status) => status,
    };
    if status.code() != code {
        bail!("refused with {:?} in the place of {code:?}: {}", status.code(), status.message());
    }
    for text in texts {
        if !status.message().contains(text) {
            bail!("the refusal does not say {text:?}: {}", status.message());
        }
    }
    Ok(status)
}
