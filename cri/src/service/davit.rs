//! The admin service: what davit's own command line asks beyond CRI.

use super::check::{self, Aim};
use super::logs::{LogError, Reader, Window};
use super::registry::{self, Keyring};
use super::status::{plain_status, status};
use super::{Streamed, checkpoints, happened, info, restore, standing, state, streams, usage};
use crate::config::Config;
use crate::streaming::Urls;
use davit_proto::admin::davit_server::Davit;
use davit_proto::admin::pull_progress::Kind;
use davit_proto::admin::{
    AboutRequest, AboutResponse, AttachRequest, AttachResponse, CheckReport, CheckRequest,
    CreateCheckpointRequest, CreateCheckpointResponse, Event, EventsRequest, ExecRequest,
    ExecResponse, ExplainRequest, ExplainResponse, InfoRequest, InfoResponse,
    InspectCheckpointRequest, InspectCheckpointResponse, KillRequest, KillResponse, LayerPlan,
    LayerProgress, ListCheckpointsRequest, ListCheckpointsResponse, LogEntry, LoginRequest,
    LoginResponse, LogsRequest, PauseRequest, PauseResponse, PullPlan, PullProgress, PullRequest,
    RemoveCheckpointRequest, RemoveCheckpointResponse, RestoreCheckpointRequest,
    RestoreCheckpointResponse, ResumeRequest, ResumeResponse, SearchRequest, SearchResponse,
    StandingsRequest, StandingsResponse, StatePiece, StateRequest, UsageRequest, UsageResponse,
    WaitRequest, WaitResponse,
};
use davit_runtime::Runtime;
use davit_runtime::container::{ContainerState, ContainerView, Motion, Signal};
use davit_runtime::counters::Listening;
use davit_runtime::image::{self, Auth, PullEvent};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// How many messages of a stream wait for a client that reads slowly.
const BACKLOG: usize = 64;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Admin {
    runtime: Runtime,
    urls: Urls,
    keyring: Keyring,
    config: Arc<Config>,
}

impl Admin {
    /// Of this runtime; streams are met at `urls`, and pulls that bring no credentials get those of `keyring`. `config` is
    /// only told.
    pub(crate) fn new(runtime: Runtime, urls: Urls, keyring: Keyring, config: Arc<Config>) -> Self {
        Self { runtime, urls, keyring, config }
    }
}

#[tonic::async_trait]
impl Davit for Admin {
    type PullStream = Streamed<PullProgress>;
    type LogsStream = Streamed<LogEntry>;
    type CheckStream = Streamed<CheckReport>;
    type EventsStream = Streamed<Event>;
    type StateStream = Streamed<StatePiece>;

    async fn about(
        &self,
        request: Request<AboutRequest>,
    ) -> Result<Response<AboutResponse>, Status> {
        let AboutRequest {} = request.into_inner();
        Ok(Response::new(crate::about::version()))
    }

    async fn info(&self, request: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        Ok(Response::new(info::info(&self.runtime, request.into_inner()).await))
    }

    async fn pull(
        &self,
        request: Request<PullRequest>,
    ) -> Result<Response<Self::PullStream>, Status> {
        let PullRequest { image, username, password } = request.into_inner();
        let (progress, events) = mpsc::channel(BACKLOG);
        let (answers, stream) = mpsc::channel(BACKLOG);
        let images = self.runtime.images().clone();
        let auth = Auth { username, password, ..Auth::default() };
        let auth = self.keyring.complete(auth, &image)?;
        let request = image::PullRequest { image, auth, progress: Some(progress) };
        // The pull is the daemon's: a client that goes away does not end it.
        let pull = tokio::spawn(async move { images.pull(request).await });
        tokio::spawn(async move {
            pass_on(events, &answers).await;
            let end = match pull.await {
                Ok(Ok(image)) => {
                    Ok(PullProgress { kind: Some(Kind::ImageId(image.id.to_string())) })
                }
                Ok(Err(error)) => Err(plain_status(&error)),
                Err(error) => Err(Status::internal(format!("the pull failed: {error}"))),
            };
            drop(answers.send(end).await);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn logs(
        &self,
        request: Request<LogsRequest>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        let LogsRequest { container_id, follow, tail, since, until } = request.into_inner();
        let (_, container) =
            self.runtime.container(&container_id).map_err(|error| plain_status(&error))?;
        let path = container.facts.log_path.clone();
        let path = path.ok_or_else(|| {
            Status::failed_precondition(format!("container {} keeps no log", container.id))
        })?;
        let window = Window { tail, since, until };
        let reader = Reader::open(&path, window).await.map_err(|error| log_status(&error))?;
        let (entries, stream) = mpsc::channel(BACKLOG);
        let runtime = self.runtime.clone();
        let listening = follow.then(|| runtime.counters().listen());
        tokio::spawn(async move {
            let sent = send_log(reader, &runtime, &container, listening.as_ref(), &entries).await;
            if let Err(error) = sent {
                drop(entries.send(Err(log_status(&error))).await);
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn events(
        &self,
        request: Request<EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        happened::stream(&self.runtime, request.into_inner()).map(Response::new)
    }

    async fn state(
        &self,
        request: Request<StateRequest>,
    ) -> Result<Response<Self::StateStream>, Status> {
        let StateRequest {} = request.into_inner();
        let (runtime, config) = (self.runtime.clone(), Arc::clone(&self.config));
        state::stream(move || crate::state::of(&runtime, &config)).await.map(Response::new)
    }

    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<Self::CheckStream>, Status> {
        let CheckRequest { repair } = request.into_inner();
        let aim = if repair { Aim::Repair } else { Aim::Look };
        let (answers, stream) = mpsc::channel(BACKLOG);
        tokio::spawn(check::run(self.runtime.clone(), aim, answers));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn pause(
        &self,
        request: Request<PauseRequest>,
    ) -> Result<Response<PauseResponse>, Status> {
        let PauseRequest { container_id } = request.into_inner();
        let moved = self.runtime.move_container(&container_id, Motion::Pause).await;
        moved.map_err(|error| status(&error))?;
        Ok(Response::new(PauseResponse {}))
    }

    async fn resume(
        &self,
        request: Request<ResumeRequest>,
    ) -> Result<Response<ResumeResponse>, Status> {
        let ResumeRequest { container_id } = request.into_inner();
        let moved = self.runtime.move_container(&container_id, Motion::Resume).await;
        moved.map_err(|error| status(&error))?;
        Ok(Response::new(ResumeResponse {}))
    }

    async fn kill(&self, request: Request<KillRequest>) -> Result<Response<KillResponse>, Status> {
        let KillRequest { container_id, signal } = request.into_inner();
        let known = u8::try_from(signal).ok().and_then(|number| Signal::from_number(number).ok());
        let known = known.ok_or_else(|| {
            Status::invalid_argument(format!("signal: {signal} is not between 1 and 64"))
        })?;
        let sent = self.runtime.signal_container(&container_id, known).await;
        sent.map_err(|error| status(&error))?;
        Ok(Response::new(KillResponse {}))
    }

    async fn standings(
        &self,
        request: Request<StandingsRequest>,
    ) -> Result<Response<StandingsResponse>, Status> {
        let StandingsRequest {} = request.into_inner();
        Ok(Response::new(standing::all(&self.runtime)))
    }

    async fn usage(
        &self,
        request: Request<UsageRequest>,
    ) -> Result<Response<UsageResponse>, Status> {
        let UsageRequest {} = request.into_inner();
        Ok(Response::new(usage::all(&self.runtime).await))
    }

    async fn login(
        &self,
        request: Request<LoginRequest>,
    ) -> Result<Response<LoginResponse>, Status> {
        registry::login(&self.runtime, request.into_inner()).await.map(Response::new)
    }

    async fn search(
        &self,
        request: Request<SearchRequest>,
    ) -> Result<Response<SearchResponse>, Status> {
        let found = registry::search(&self.runtime, &self.keyring, request.into_inner()).await;
        found.map(Response::new)
    }

    async fn explain(
        &self,
        request: Request<ExplainRequest>,
    ) -> Result<Response<ExplainResponse>, Status> {
        registry::explain(&self.runtime, &self.keyring, request.into_inner()).map(Response::new)
    }

    async fn create_checkpoint(
        &self,
        request: Request<CreateCheckpointRequest>,
    ) -> Result<Response<CreateCheckpointResponse>, Status> {
        checkpoints::create(&self.runtime, request.into_inner()).await.map(Response::new)
    }

    async fn list_checkpoints(
        &self,
        request: Request<ListCheckpointsRequest>,
    ) -> Result<Response<ListCheckpointsResponse>, Status> {
        let ListCheckpointsRequest {} = request.into_inner();
        checkpoints::list(&self.runtime).map(Response::new)
    }

    async fn inspect_checkpoint(
        &self,
        request: Request<InspectCheckpointRequest>,
    ) -> Result<Response<InspectCheckpointResponse>, Status> {
        restore::inspect(&self.runtime, request.into_inner()).await.map(Response::new)
    }

    async fn restore_checkpoint(
        &self,
        request: Request<RestoreCheckpointRequest>,
    ) -> Result<Response<RestoreCheckpointResponse>, Status> {
        restore::restore(&self.runtime, request.into_inner()).await.map(Response::new)
    }

    async fn remove_checkpoint(
        &self,
        request: Request<RemoveCheckpointRequest>,
    ) -> Result<Response<RemoveCheckpointResponse>, Status> {
        checkpoints::remove(&self.runtime, request.into_inner()).map(Response::new)
    }

    async fn open_exec(
        &self,
        request: Request<ExecRequest>,
    ) -> Result<Response<ExecResponse>, Status> {
        let url = streams::exec_as(&self.runtime, &self.urls, request.into_inner())?;
        Ok(Response::new(ExecResponse { url }))
    }

    async fn open_attach(
        &self,
        request: Request<AttachRequest>,
    ) -> Result<Response<AttachResponse>, Status> {
        let answer = streams::attach_early(&self.runtime, &self.urls, request.into_inner())?;
        Ok(Response::new(answer))
    }

    async fn wait(&self, request: Request<WaitRequest>) -> Result<Response<WaitResponse>, Status> {
        let WaitRequest { container_id } = request.into_inner();
        let container = self
            .runtime
            .wait_container(&container_id)
            .await
            .map_err(|error| plain_status(&error))?;
        match &container.state {
            ContainerState::Exited(exit) => Ok(Response::new(WaitResponse {
                exit_code: exit.code,
                reason: exit.reason.as_str().to_owned(),
                message: exit.message.clone(),
            })),
            other @ (ContainerState::Creating
            | ContainerState::Created { .. }
            | ContainerState::Running { .. }) => {
                Err(Status::aborted(format!("container {} is {}", container.id, other.name())))
            }
        }
    }
}

/// A client that reads slowly misses some of the progress, never the end.
async fn pass_on(
    mut events: mpsc::Receiver<PullEvent>,
    answers: &mpsc::Sender<Result<PullProgress, Status>>,
) {
    while let Some(event) = events.recv().await {
        let kind = match event {
            PullEvent::Plan { digest, layers } => Kind::Plan(PullPlan {
                digest: digest.to_string(),
                layers: layers
                    .into_iter()
                    .map(|layer| LayerPlan {
                        digest: layer.digest.to_string(),
                        size: layer.size,
                        present: layer.present,
                    })
                    .collect(),
            }),
            PullEvent::Layer { digest, received, done } => {
                Kind::Layer(LayerProgress { digest: digest.to_string(), received, done })
            }
        };
        if answers.send(Ok(PullProgress { kind: Some(kind) })).await.is_err() {
            return;
        }
    }
}

fn log_status(error: &LogError) -> Status {
    Status::internal(davit_runtime::error::chain(error))
}

/// What the log holds, and, for one who follows it, what comes until the container has ended.
async fn send_log(
    mut reader: Reader,
    runtime: &Runtime,
    container: &ContainerView,
    following: Option<&Listening>,
    to: &mpsc::Sender<Result<LogEntry, Status>>,
) -> Result<(), LogError> {
    loop {
        // Asked before the log is read: what it wrote before its end is read after.
        let ended = following.is_none() || has_ended(runtime, container);
        let mut is_empty = true;
        loop {
            let entries = reader.more().await?;
            if entries.is_empty() {
                break;
            }
            is_empty = false;
            for entry in entries {
                if to.send(Ok(entry)).await.is_err() {
                    return Ok(());
                }
            }
        }
        if reader.is_past_the_end() || (ended && is_empty) {
            return Ok(());
        }
        if is_empty {
            Reader::pause().await;
        }
    }
}

fn has_ended(runtime: &Runtime, container: &ContainerView) -> bool {
    match runtime.container(container.id.as_str()) {
        Ok((_, now)) => matches!(now.state, ContainerState::Exited(_)),
        // Removed, so ended.
        Err(_) => true,
    }
}
