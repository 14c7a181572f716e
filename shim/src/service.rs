//! The shim's gRPC service: requests in, answers and statuses out. Decides nothing.
//!
//! tonic drops a handler when its client goes away. So whatever changes something runs in a task of its own, which the handler
//! only awaits.

use crate::container::checkpoint::CheckpointError;
use crate::container::create::CreateError;
use crate::container::delete::DeleteError;
use crate::container::pause::PauseError;
use crate::container::signal::SignalError;
use crate::container::start::StartError;
use crate::container::update::UpdateError;
use crate::container::{
    checkpoint, create, delete, pause, pid_number, restore, signal, start, update,
};
use crate::error::{Invalid, Refusal, chain};
use crate::events::Subscription;
use crate::exec::{self, ExecError, Message};
use crate::oci::OciError;
use crate::pod::{Pod, ShutdownError};
use crate::session::OpenError;
use davit_proto::shim::shim_server::Shim;
use davit_proto::shim::{
    CheckpointRequest, CheckpointResponse, CreateRequest, CreateResponse, DeleteRequest,
    DeleteResponse, EventsRequest, ExecSyncOutput, ExecSyncRequest, PauseRequest, PauseResponse,
    ReopenLogRequest, ReopenLogResponse, RestoreRequest, RestoreResponse, ResumeRequest,
    ResumeResponse, ShutdownRequest, ShutdownResponse, SignalRequest, SignalResponse, StartRequest,
    StartResponse, StateRequest, StateResponse, ThawRequest, ThawResponse, UpdateRequest,
    UpdateResponse,
};
use futures_util::Stream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

/// See the module.
#[derive(Debug)]
pub(crate) struct Service {
    pod: Arc<Pod>,
}

impl Service {
    pub(crate) fn new(pod: Arc<Pod>) -> Self {
        Self { pod }
    }
}

/// Runs `work` to its end, whether or not the caller is still there.
async fn detached<T, E>(
    work: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, Status>
where
    T: Send + 'static,
    E: ToStatus + std::error::Error + Send + 'static,
{
    match tokio::spawn(work).await {
        Ok(result) => result.map_err(|e| status(&e)),
        Err(panic) => Err(Status::internal(panic.to_string())),
    }
}

#[tonic::async_trait]
impl Shim for Service {
    async fn state(
        &self,
        _request: Request<StateRequest>,
    ) -> Result<Response<StateResponse>, Status> {
        Ok(Response::new(self.pod.state()))
    }

    async fn create(
        &self,
        request: Request<CreateRequest>,
    ) -> Result<Response<CreateResponse>, Status> {
        let pod = Arc::clone(&self.pod);
        self.pod.worked();
        let pid = detached(async move { create::create(&pod, request.into_inner()).await }).await?;
        Ok(Response::new(CreateResponse { pid: pid_number(pid) }))
    }

    async fn start(
        &self,
        request: Request<StartRequest>,
    ) -> Result<Response<StartResponse>, Status> {
        let pod = Arc::clone(&self.pod);
        let started_at =
            detached(async move { start::start(&pod, request.into_inner()).await }).await?;
        Ok(Response::new(StartResponse { started_at }))
    }

    async fn signal(
        &self,
        request: Request<SignalRequest>,
    ) -> Result<Response<SignalResponse>, Status> {
        signal::send(&self.pod, request.into_inner()).map_err(|e| status(&e))?;
        Ok(Response::new(SignalResponse {}))
    }

    async fn delete(
        &self,
        request: Request<DeleteRequest>,
    ) -> Result<Response<DeleteResponse>, Status> {
        let pod = Arc::clone(&self.pod);
        detached(async move { delete::delete(&pod, &request.into_inner().id).await }).await?;
        Ok(Response::new(DeleteResponse {}))
    }

    type ExecSyncStream = ExecStream;

    async fn exec_sync(
        &self,
        request: Request<ExecSyncRequest>,
    ) -> Result<Response<ExecStream>, Status> {
        let mut receiver = exec::spawn(&self.pod, request.into_inner()).map_err(|e| status(&e))?;
        // A command that cannot be run is refused before the stream begins.
        let first = match receiver.recv().await {
            Some(Err(error)) => return Err(status(&error)),
            Some(Ok(output)) => Some(output),
            None => None,
        };
        Ok(Response::new(ExecStream { first, receiver }))
    }

    async fn reopen_log(
        &self,
        request: Request<ReopenLogRequest>,
    ) -> Result<Response<ReopenLogResponse>, Status> {
        let container = self.pod.container(&request.into_inner().id).map_err(|e| status(&e))?;
        container.log.reopen().map_err(|e| Status::internal(chain(&e)))?;
        Ok(Response::new(ReopenLogResponse {}))
    }

    type EventsStream = Subscription;

    async fn events(
        &self,
        _request: Request<EventsRequest>,
    ) -> Result<Response<Subscription>, Status> {
        let too_many = || Status::resource_exhausted("too many subscribers");
        self.pod.subscribe().map(Response::new).ok_or_else(too_many)
    }

    async fn update(
        &self,
        request: Request<UpdateRequest>,
    ) -> Result<Response<UpdateResponse>, Status> {
        let pod = Arc::clone(&self.pod);
        detached(async move { update::update(&pod, request.into_inner()).await }).await?;
        Ok(Response::new(UpdateResponse {}))
    }

    async fn checkpoint(
        &self,
        request: Request<CheckpointRequest>,
    ) -> Result<Response<CheckpointResponse>, Status> {
        let pod = Arc::clone(&self.pod);
        detached(async move { checkpoint::checkpoint(&pod, request.into_inner()).await }).await?;
        Ok(Response::new(CheckpointResponse {}))
    }

    async fn thaw(&self, request: Request<ThawRequest>) -> Result<Response<ThawResponse>, Status> {
        let pod = Arc::clone(&self.pod);
        detached(async move { checkpoint::thaw(&pod, &request.into_inner().id).await }).await?;
        Ok(Response::new(ThawResponse {}))
    }

    async fn restore(
        &self,
        request: Request<RestoreRequest>,
    ) -> Result<Response<RestoreResponse>, Status> {
        let pod = Arc::clone(&self.pod);
        self.pod.worked();
        let restored =
            detached(async move { restore::restore(&pod, request.into_inner()).await }).await?;
        Ok(Response::new(restored))
    }

    async fn pause(
        &self,
        request: Request<PauseRequest>,
    ) -> Result<Response<PauseResponse>, Status> {
        let pod = Arc::clone(&self.pod);
        detached(async move { pause::pause(&pod, &request.into_inner().id).await }).await?;
        Ok(Response::new(PauseResponse {}))
    }

    async fn resume(
        &self,
        request: Request<ResumeRequest>,
    ) -> Result<Response<ResumeResponse>, Status> {
        let pod = Arc::clone(&self.pod);
        detached(async move { pause::resume(&pod, &request.into_inner().id).await }).await?;
        Ok(Response::new(ResumeResponse {}))
    }

    async fn shutdown(
        &self,
        _request: Request<ShutdownRequest>,
    ) -> Result<Response<ShutdownResponse>, Status> {
        let pod = Arc::clone(&self.pod);
        detached(async move { pod.shutdown().await }).await?;
        Ok(Response::new(ShutdownResponse {}))
    }
}

/// An exec's messages.
#[derive(Debug)]
pub(crate) struct ExecStream {
    first: Option<ExecSyncOutput>,
    receiver: mpsc::Receiver<Message>,
}

impl Stream for ExecStream {
    type Item = Result<ExecSyncOutput, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        self.receiver.poll_recv(context).map(|message| message.map(|m| m.map_err(|e| status(&e))))
    }
}

/// Which gRPC code an error has: by its type, never by its text.
pub(crate) trait ToStatus {
    fn code(&self) -> tonic::Code;
}

fn status<E: ToStatus + std::error::Error>(error: &E) -> Status {
    Status::new(error.code(), chain(error))
}

impl ToStatus for Invalid {
    fn code(&self) -> tonic::Code {
        tonic::Code::InvalidArgument
    }
}

impl ToStatus for Refusal {
    fn code(&self) -> tonic::Code {
        match self {
            Self::NoContainer(_) => tonic::Code::NotFound,
            Self::Full(_) | Self::Sessions(_) => tonic::Code::ResourceExhausted,
            Self::Exists(_)
            | Self::Creating(_)
            | Self::NotRunning(_)
            | Self::Exited(_)
            | Self::ExecExists { .. }
            | Self::Lives(_)
            | Self::Frozen(_)
            | Self::Paused(_)
            | Self::Pausing(_)
            | Self::NoInit
            | Self::Ending => tonic::Code::FailedPrecondition,
            Self::Unsettled(_) => tonic::Code::Internal,
        }
    }
}

impl ToStatus for OciError {
    fn code(&self) -> tonic::Code {
        match self {
            Self::Refused { .. } => tonic::Code::Aborted,
            Self::TimedOut { .. } => tonic::Code::DeadlineExceeded,
            Self::Spawn { .. } | Self::Io { .. } | Self::Prepare { .. } => tonic::Code::Internal,
        }
    }
}

impl ToStatus for CreateError {
    fn code(&self) -> tonic::Code {
        match self {
            Self::Invalid(e) => e.code(),
            Self::Refused(e) => e.code(),
            Self::Oci(e) => e.code(),
            Self::Died { .. } => tonic::Code::Aborted,
            Self::Log(_) | Self::Step { .. } | Self::Cgroup { .. } => tonic::Code::Internal,
        }
    }
}

impl ToStatus for StartError {
    fn code(&self) -> tonic::Code {
        match self {
            Self::Refused(e) => e.code(),
            Self::Oci(e) => e.code(),
        }
    }
}

impl ToStatus for SignalError {
    fn code(&self) -> tonic::Code {
        match self {
            Self::Invalid(e) => e.code(),
            Self::Refused(e) => e.code(),
            Self::Send { .. } => tonic::Code::Internal,
        }
    }
}

impl ToStatus for DeleteError {
    fn code(&self) -> tonic::Code {
        match self {
            Self::Oci(e) => e.code(),
            Self::StillAlive { .. } | Self::Cgroup { .. } => tonic::Code::DeadlineExceeded,
            Self::File { .. } => tonic::Code::Internal,
        }
    }
}

impl ToStatus for UpdateError {
    fn code(&self) -> tonic::Code {
        match self {
            Self::Invalid(e) => e.code(),
            Self::Refused(e) => e.code(),
            Self::Oci(e) => e.code(),
            Self::Input { .. } => tonic::Code::Internal,
        }
    }
}

impl ToStatus for CheckpointError {
    fn code(&self) -> tonic::Code {
        match self {
            Self::Invalid(e) => e.code(),
            Self::Refused(e) => e.code(),
            Self::Oci(e) => e.code(),
        }
    }
}

impl ToStatus for PauseError {
    fn code(&self) -> tonic::Code {
        match self {
            Self::Refused(e) => e.code(),
            Self::Oci(e) => e.code(),
        }
    }
}

impl ToStatus for ExecError {
    fn code(&self) -> tonic::Code {
        match self {
            Self::Invalid(e) => e.code(),
            Self::Refused(e) => e.code(),
            Self::Oci(e) => e.code(),
            Self::Step { .. } => tonic::Code::Internal,
        }
    }
}

impl ToStatus for OpenError {
    fn code(&self) -> tonic::Code {
        match self {
            Self::Invalid(e) => e.code(),
            Self::Refused(e) => e.code(),
            Self::Exec(e) => e.code(),
            Self::Frame(_) => tonic::Code::InvalidArgument,
            Self::Unknown(_) => tonic::Code::Unimplemented,
            Self::Attach { .. } => tonic::Code::Internal,
        }
    }
}

impl ToStatus for ShutdownError {
    fn code(&self) -> tonic::Code {
        match self {
            Self::Refused(e) => e.code(),
            Self::Release(_) => tonic::Code::Internal,
        }
    }
}
