//! The connection to one pod's shim.
//!
//! Owns what an error on it means. Every call but the streams has a deadline, so that a shim that hangs holds up nothing but
//! its own pod.

use super::spawn::socket_path;
use super::wire::{Wire, unconnected};
use crate::metrics::{Call, OciCalls};
use crate::shortage::is_shortage;
use davit_proto::shim::shim_client::ShimClient as Calls;
use davit_proto::shim::{
    CheckpointRequest, CreateRequest, DeleteRequest, Event, EventsRequest, ExecSyncOutput,
    ExecSyncRequest, PauseRequest, ReopenLogRequest, RestoreRequest, RestoreResponse,
    ResumeRequest, ShutdownRequest, SignalRequest, StartRequest, StateRequest, StateResponse,
    ThawRequest, UpdateRequest,
};
use http::Uri;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tonic::{Code, Status};

/// What a shim's answer can be but yes.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ShimError {
    /// It doesn't know the container.
    #[error("the shim has no container {id}")]
    Unknown {
        /// The container.
        id: String,
    },
    /// The container isn't in a state that allows it.
    #[error("{message}")]
    State {
        /// The shim's words.
        message: String,
    },
    /// The OCI runtime refused.
    #[error("{message}")]
    Runtime {
        /// The OCI runtime's last words.
        message: String,
    },
    /// It took too long.
    #[error("{message}")]
    Deadline {
        /// What took too long.
        message: String,
    },
    /// The shim does not answer: it is gone, or going.
    #[error("the pod's shim does not answer: {message}")]
    Gone {
        /// The connection's error.
        message: String,
    },
    /// It was not asked, as descriptors or memory are wanting here: it may well be there.
    #[error("the pod's shim could not be asked: {message}")]
    Short {
        /// The error.
        message: String,
    },
    /// It was started by a davit that did not have this call yet.
    #[error("the pod's shim is older than this call, which works in pods made from now on")]
    Old,
    /// It answered with what nobody expected.
    #[error("the pod's shim failed: {message}")]
    Failed {
        /// Its code and words.
        message: String,
    },
}

impl ShimError {
    /// What the shim says in a session about a container.
    pub(crate) fn refused(id: &str, code: i32, message: String) -> Self {
        Self::of(id)(Status::new(Code::from(code), message))
    }

    fn of(id: &str) -> impl FnOnce(Status) -> Self {
        move |status| {
            let message = status.message().to_owned();
            if is_shortage(&status) {
                return Self::Short { message };
            }
            match status.code() {
                Code::NotFound => Self::Unknown { id: id.to_owned() },
                Code::FailedPrecondition => Self::State { message },
                Code::Aborted => Self::Runtime { message },
                Code::DeadlineExceeded => Self::Deadline { message },
                Code::Unavailable | Code::Cancelled => Self::Gone { message },
                Code::Unimplemented => Self::Old,
                Code::Ok
                | Code::Unknown
                | Code::InvalidArgument
                | Code::AlreadyExists
                | Code::PermissionDenied
                | Code::ResourceExhausted
                | Code::OutOfRange
                | Code::Internal
                | Code::DataLoss
                | Code::Unauthenticated => {
                    Self::Failed { message: format!("{}: {message}", status.code()) }
                }
            }
        }
    }
}

/// A handle on one pod's shim; clones share the connection.
#[derive(Debug, Clone)]
pub struct ShimClient {
    wire: Calls<Wire>,
    directory: Arc<Path>,
    deadline: Duration,
    /// For a call that runs the OCI runtime, which has a deadline of its own there.
    runtime: Duration,
    /// Where the calls are measured that run the OCI runtime; nowhere for a shim that is only being ended.
    measured: Option<Arc<OciCalls>>,
}

impl ShimClient {
    /// To the shim of the pod in `directory`; connects at the first call, and again when the connection is lost. `deadline` is for
    /// each call that runs no OCI runtime.
    #[must_use]
    pub fn new(directory: &Path, deadline: Duration) -> Self {
        let directory: Arc<Path> = directory.into();
        // The address is never used: the connection knows where to go.
        let origin = Uri::from_static("http://shim");
        let wire = Calls::with_origin(Wire::new(Arc::clone(&directory)), origin);
        Self { wire, directory, deadline, runtime: deadline, measured: None }
    }

    /// The same, where a call that ends a container may take the OCI runtime's `limit` besides: it is the shim that tells then who took too long.
    #[must_use]
    pub fn allowing(self, limit: Duration) -> Self {
        // Twice: the shim's own try at the container's end may be under way, and is followed by the one that was asked for.
        Self { runtime: self.deadline + limit * 2, ..self }
    }

    /// The same, its runs of the OCI runtime being measured.
    #[must_use]
    pub(crate) fn measured(self, calls: Arc<OciCalls>) -> Self {
        Self { measured: Some(calls), ..self }
    }

    async fn measure<T>(
        &self,
        which: impl FnOnce(&OciCalls) -> &Call,
        call: impl Future<Output = Result<T, ShimError>>,
    ) -> Result<T, ShimError> {
        // A call's future is big, and would be in all that wait for it.
        let call = Box::pin(call);
        match &self.measured {
            Some(calls) => which(calls).measure(call).await,
            None => call.await,
        }
    }

    /// A connection of its own, for a session ([`davit_proto::session`]).
    ///
    /// # Errors
    /// [`ShimError::Gone`], [`ShimError::Short`]; [`ShimError::Deadline`] if it takes up none.
    pub(crate) async fn session(&self) -> Result<UnixStream, ShimError> {
        let connected = connect(&self.directory).await;
        connected.map_err(|error| ShimError::of("")(unconnected(error)))
    }

    async fn within<T>(
        &self,
        what: &str,
        answer: impl Future<Output = Result<T, ShimError>>,
    ) -> Result<T, ShimError> {
        within(self.deadline, what, answer).await
    }

    /// Who the shim is and what runs there.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn state(&self) -> Result<StateResponse, ShimError> {
        let mut wire = self.wire.clone();
        let answer = async move { wire.state(StateRequest {}).await.map_err(ShimError::of("")) };
        Ok(self.within("tell its state", answer).await?.into_inner())
    }

    /// Makes a container; answers with its init's pid. The OCI runtime's deadline is in the request.
    ///
    /// # Errors
    /// [`ShimError`]; nothing of the container is left then.
    pub async fn create(&self, request: CreateRequest) -> Result<u32, ShimError> {
        let id = request.id.clone();
        let mut wire = self.wire.clone();
        let answer = async move { wire.create(request).await.map_err(ShimError::of(&id)) };
        Ok(self.measure(|calls| &calls.create, answer).await?.into_inner().pid)
    }

    /// Starts a container; answers when that was. The OCI runtime has `limit` for it, and it is the shim that gives it up; one that is older than this
    /// limit allows it what the container was created with, and is waited for no longer either.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn start(&self, id: &str, limit: Duration) -> Result<i64, ShimError> {
        let timeout_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1);
        let request = StartRequest { id: id.to_owned(), timeout_ms };
        let mut wire = self.wire.clone();
        let answer = async move { wire.start(request).await.map_err(ShimError::of(id)) };
        let answer = within(limit + self.deadline, "start a container", answer);
        Ok(self.measure(|calls| &calls.start, answer).await?.into_inner().started_at)
    }

    /// Signals a container's init.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn signal(&self, id: &str, signal: u8) -> Result<(), ShimError> {
        let request = SignalRequest { id: id.to_owned(), signal: u32::from(signal), all: false };
        self.send_signal(request).await
    }

    /// Kills everything in a container's cgroup.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn kill_all(&self, id: &str) -> Result<(), ShimError> {
        self.send_signal(SignalRequest { id: id.to_owned(), signal: 9, all: true }).await
    }

    async fn send_signal(&self, request: SignalRequest) -> Result<(), ShimError> {
        let mut wire = self.wire.clone();
        let id = request.id.clone();
        let answer = async move { wire.signal(request).await.map_err(ShimError::of(&id)) };
        self.within("send a signal", answer).await.map(drop)
    }

    /// Ends all that the shim holds for a container.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn delete(&self, id: &str) -> Result<(), ShimError> {
        let mut wire = self.wire.clone();
        let request = DeleteRequest { id: id.to_owned() };
        let answer = async move { wire.delete(request).await.map_err(ShimError::of(id)) };
        let answer = within(self.runtime, "delete a container", answer);
        self.measure(|calls| &calls.delete, answer).await.map(drop)
    }

    /// Runs a command; its deadline is in the request.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn exec_sync(
        &self,
        request: ExecSyncRequest,
    ) -> Result<tonic::Streaming<ExecSyncOutput>, ShimError> {
        let id = request.id.clone();
        Ok(self.wire.clone().exec_sync(request).await.map_err(ShimError::of(&id))?.into_inner())
    }

    /// What an error in the middle of an exec's output means.
    #[must_use]
    pub fn exec_error(id: &str, status: Status) -> ShimError {
        ShimError::of(id)(status)
    }

    /// Closes a container's log and opens it anew.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn reopen_log(&self, id: &str) -> Result<(), ShimError> {
        let mut wire = self.wire.clone();
        let request = ReopenLogRequest { id: id.to_owned() };
        let answer = async move { wire.reopen_log(request).await.map_err(ShimError::of(id)) };
        self.within("reopen a log", answer).await.map(drop)
    }

    /// Changes a container's limits to those of `resources`, an OCI spec's `linux.resources` as JSON. The OCI runtime's deadline is the one it
    /// was created with.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn update(&self, id: &str, resources: &[u8]) -> Result<(), ShimError> {
        let request = UpdateRequest { id: id.to_owned(), resources: resources.to_vec() };
        let mut wire = self.wire.clone();
        let answer = async move { wire.update(request).await.map_err(ShimError::of(id)) };
        self.measure(|calls| &calls.update, answer).await.map(drop)
    }

    /// Freezes a container and writes it into files; the OCI runtime's deadline is in the request.
    ///
    /// # Errors
    /// [`ShimError`]; the container goes on then.
    pub async fn checkpoint(&self, request: CheckpointRequest) -> Result<(), ShimError> {
        let id = request.id.clone();
        let mut wire = self.wire.clone();
        let answer = async move { wire.checkpoint(request).await.map_err(ShimError::of(&id)) };
        self.measure(|calls| &calls.checkpoint, answer).await.map(drop)
    }

    /// Makes a container from a checkpoint; the OCI runtime's deadline is in the request.
    ///
    /// # Errors
    /// [`ShimError`]; nothing of the container is left then.
    pub async fn restore(&self, request: RestoreRequest) -> Result<RestoreResponse, ShimError> {
        let id = request.container.as_ref().map(|one| one.id.clone()).unwrap_or_default();
        let mut wire = self.wire.clone();
        let answer = async move { wire.restore(request).await.map_err(ShimError::of(&id)) };
        Ok(self.measure(|calls| &calls.restore, answer).await?.into_inner())
    }

    /// Lets a container go on that a checkpoint has frozen.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn thaw(&self, id: &str) -> Result<(), ShimError> {
        let mut wire = self.wire.clone();
        let request = ThawRequest { id: id.to_owned() };
        let answer = async move { wire.thaw(request).await.map_err(ShimError::of(id)) };
        self.within("let a container go on", answer).await.map(drop)
    }

    /// Freezes a container until [`Self::resume`]; the OCI runtime's deadline is the one it was created with.
    ///
    /// # Errors
    /// [`ShimError`]; the container goes on then.
    pub async fn pause(&self, id: &str) -> Result<(), ShimError> {
        let request = PauseRequest { id: id.to_owned() };
        let mut wire = self.wire.clone();
        let answer = async move { wire.pause(request).await.map_err(ShimError::of(id)) };
        self.measure(|calls| &calls.pause, answer).await.map(drop)
    }

    /// Lets a container go on that is frozen, whoever did that.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn resume(&self, id: &str) -> Result<(), ShimError> {
        let request = ResumeRequest { id: id.to_owned() };
        let mut wire = self.wire.clone();
        let answer = async move { wire.resume(request).await.map_err(ShimError::of(id)) };
        self.measure(|calls| &calls.resume, answer).await.map(drop)
    }

    /// What happens to the pod's containers, from the exits that there have been.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn events(&self) -> Result<tonic::Streaming<Event>, ShimError> {
        let mut wire = self.wire.clone();
        let answer = async move { wire.events(EventsRequest {}).await.map_err(ShimError::of("")) };
        Ok(self.within("tell its events", answer).await?.into_inner())
    }

    /// Ends the shim.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn shutdown(&self) -> Result<(), ShimError> {
        let mut wire = self.wire.clone();
        let answer =
            async move { wire.shutdown(ShutdownRequest {}).await.map_err(ShimError::of("")) };
        self.within("shut down", answer).await.map(drop)
    }
}

async fn within<T>(
    deadline: Duration,
    what: &str,
    answer: impl Future<Output = Result<T, ShimError>>,
) -> Result<T, ShimError> {
    let late = || format!("the pod's shim did not {what} within {} ms", deadline.as_millis());
    tokio::time::timeout(deadline, answer)
        .await
        .unwrap_or_else(|_| Err(ShimError::Deadline { message: late() }))
}

pub(super) async fn connect(directory: &Path) -> io::Result<UnixStream> {
    let handle = File::open(directory)?;
    UnixStream::connect(socket_path(&handle)).await
}
