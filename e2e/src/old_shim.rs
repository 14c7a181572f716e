//! A shim of another age, made of today's.
//!
//! Owns the differences, and leaves the work to the real shim, which runs as its child on a socket of its own: calls are passed on to it, and answers are
//! changed into what a shim of that age would have said.
//!
//! ```text
//! daemon ──shim.sock──► davit-old-shim ──inner.sock──► davit-shim
//! ```
//!
//! The older one speaks version 1 of the interface, in its first form: no sessions (what isn't HTTP/2 is hung up on), no Update, Checkpoint or Thaw, no time of a
//! start nor for one, no field in its configuration that came later. The newer one says version 3, and tells of events that nobody has heard of.

use anyhow::{Context as _, Result, bail, ensure};
use davit_proto::disk::SHIM_CONFIG;
use davit_proto::session::FIRST_BYTE;
use davit_proto::shim::shim_client::ShimClient;
use davit_proto::shim::shim_server::{Shim, ShimServer};
use davit_proto::shim::{
    CheckpointRequest, CheckpointResponse, CreateRequest, CreateResponse, DeleteRequest,
    DeleteResponse, Event, EventsRequest, ExecSyncOutput, ExecSyncRequest, PauseRequest,
    PauseResponse, ReopenLogRequest, ReopenLogResponse, RestoreRequest, RestoreResponse,
    ResumeRequest, ResumeResponse, ShutdownRequest, ShutdownResponse, SignalRequest,
    SignalResponse, StartRequest, StartResponse, StateRequest, StateResponse, ThawRequest,
    ThawResponse, UpdateRequest, UpdateResponse,
};
use futures_util::stream::{self, BoxStream, StreamExt as _};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

/// How the real shim's socket is called.
const INNER: &str = "inner.sock";
/// The last answer has to get out when the real shim has ended.
const FAREWELL: Duration = Duration::from_millis(200);
/// What a shim of version 1 knew in its configuration; it refused everything else.
const KNOWN: [&str; 12] = [
    "version",
    "sandbox",
    "hostname",
    "netns",
    "ipc",
    "shared_pid",
    "shm",
    "shm_size",
    "sysctls",
    "cgroup_procs",
    "pod_cgroup_procs",
    "oom_score_adj",
];

/// When it was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// Before sessions.
    Old,
    /// Some time from now.
    New,
}

/// Is the shim of the pod in `pod_dir` until the real one, `shim`, ends.
///
/// # Errors
/// If there is nothing to listen on, or the configuration is refused.
pub fn run(age: Age, shim: &Path, pod_dir: &Path) -> Result<()> {
    let listener = std::io::stdin().as_fd().try_clone_to_owned().context("take the socket")?;
    if age == Age::Old {
        refuse_unknown(&pod_dir.join(SHIM_CONFIG))?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let inner = pod_dir.join(INNER);
        let mut child = spawn(shim, pod_dir, UnixListener::bind(&inner)?)?;
        let listener = UnixListener::from(listener);
        listener.set_nonblocking(true)?;
        let served = serve(age, tokio::net::UnixListener::from_std(listener)?, inner);
        let ended = tokio::select! {
            ended = child.wait() => ended?,
            failed = served => return failed,
        };
        tokio::time::sleep(FAREWELL).await;
        ensure!(ended.success(), "the shim ended with {ended}");
        Ok(())
    })
}

fn refuse_unknown(path: &Path) -> Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let config: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text)?;
    match config.keys().find(|key| !KNOWN.contains(&key.as_str())) {
        Some(key) => bail!("parse {}: unknown field `{key}`", path.display()),
        None => Ok(()),
    }
}

/// The real one; it dies with this process.
fn spawn(shim: &Path, pod_dir: &Path, socket: UnixListener) -> Result<tokio::process::Child> {
    let mut command = tokio::process::Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(shim).arg("--pod-dir").arg(pod_dir);
    command.stdin(Stdio::from(OwnedFd::from(socket)));
    command.spawn().context("start the real shim")
}

async fn serve(age: Age, listener: tokio::net::UnixListener, inner: PathBuf) -> Result<()> {
    let to = inner.clone();
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let to = to.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::connect(to).await?)) }
    });
    let channel = Endpoint::from_static("http://shim").connect_with_connector_lazy(connector);
    let proxy = Proxy { age, inner: ShimClient::new(channel) };
    let service = ShimServer::new(proxy);
    loop {
        let (stream, _) = listener.accept().await?;
        let (service, inner) = (service.clone(), inner.clone());
        tokio::spawn(async move {
            if age == Age::New && is_session(&stream).await {
                return drop(pass_session(stream, &inner));
            }
            let service = TowerToHyperService::new(service);
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            drop(connection.await);
        });
    }
}

async fn is_session(stream: &tokio::net::UnixStream) -> bool {
    let mut first = [0xff];
    let look = || Ok(rustix::net::recv(stream, &mut first, RecvFlags::PEEK)?);
    stream.async_io(tokio::io::Interest::READABLE, look).await.is_ok_and(|(count, _)| count == 1)
        && first == [FIRST_BYTE]
}

/// Passes a session on, descriptors and all, on threads of its own.
fn pass_session(stream: tokio::net::UnixStream, inner: &Path) -> Result<()> {
    let outer = stream.into_std()?;
    outer.set_nonblocking(false)?;
    let inner = UnixStream::connect(inner)?;
    for (from, to) in
        [(outer.try_clone()?, inner.try_clone()?), (inner.try_clone()?, outer.try_clone()?)]
    {
        std::thread::spawn(move || {
            while pass(&from, &to).is_ok_and(|count| count > 0) {}
            drop(to.shutdown(std::net::Shutdown::Both));
        });
    }
    Ok(())
}

fn pass(from: &UnixStream, to: &UnixStream) -> Result<usize> {
    let mut bytes = [0; 16 << 10];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut into = [IoSliceMut::new(&mut bytes)];
    let count = rustix::net::recvmsg(from, &mut into, &mut control, RecvFlags::empty())?.bytes;
    let mut came: Vec<OwnedFd> = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            came.extend(descriptors);
        }
    }
    let borrowed: Vec<_> = came.iter().map(OwnedFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() {
        ensure!(control.push(SendAncillaryMessage::ScmRights(&borrowed)), "too many descriptors");
    }
    let mut rest = bytes.get(..count).unwrap_or_default();
    while !rest.is_empty() {
        let sent =
            rustix::net::sendmsg(to, &[IoSlice::new(rest)], &mut control, SendFlags::NOSIGNAL)?;
        control.clear();
        rest = rest.get(sent..).unwrap_or_default();
    }
    Ok(count)
}

#[derive(Debug, Clone)]
struct Proxy {
    age: Age,
    inner: ShimClient<Channel>,
}

impl Proxy {
    fn client(&self) -> ShimClient<Channel> {
        self.inner.clone()
    }

    /// What a server says of a call that its interface has not.
    fn must_be_new(&self) -> Result<(), Status> {
        match self.age {
            Age::Old => Err(Status::unimplemented("")),
            Age::New => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl Shim for Proxy {
    async fn state(&self, r: Request<StateRequest>) -> Result<Response<StateResponse>, Status> {
        let mut state = self.client().state(r.into_inner()).await?.into_inner();
        state.pid = std::process::id();
        match self.age {
            Age::New => state.protocol += 1,
            Age::Old => {
                state.protocol = 1;
                state.userns_path.clear();
                for container in &mut state.containers {
                    container.started_at = 0;
                    container.starting = false;
                }
            }
        }
        Ok(Response::new(state))
    }

    async fn create(&self, r: Request<CreateRequest>) -> Result<Response<CreateResponse>, Status> {
        self.client().create(r.into_inner()).await
    }

    async fn start(&self, r: Request<StartRequest>) -> Result<Response<StartResponse>, Status> {
        let mut request = r.into_inner();
        if self.age == Age::Old {
            request.timeout_ms = 0;
        }
        self.client().start(request).await
    }

    async fn signal(&self, r: Request<SignalRequest>) -> Result<Response<SignalResponse>, Status> {
        self.client().signal(r.into_inner()).await
    }

    async fn delete(&self, r: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        self.client().delete(r.into_inner()).await
    }

    type ExecSyncStream = tonic::Streaming<ExecSyncOutput>;

    async fn exec_sync(
        &self,
        r: Request<ExecSyncRequest>,
    ) -> Result<Response<Self::ExecSyncStream>, Status> {
        self.client().exec_sync(r.into_inner()).await
    }

    async fn reopen_log(
        &self,
        r: Request<ReopenLogRequest>,
    ) -> Result<Response<ReopenLogResponse>, Status> {
        self.client().reopen_log(r.into_inner()).await
    }

    type EventsStream = BoxStream<'static, Result<Event, Status>>;

    async fn events(
        &self,
        r: Request<EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let events = self.client().events(r.into_inner()).await?.into_inner();
        // As it arrives where its kind is unknown.
        let unheard = Event { id: "e".repeat(64), kind: None };
        let first = (self.age == Age::New).then_some(Ok(unheard));
        Ok(Response::new(stream::iter(first).chain(events).boxed()))
    }

    async fn update(&self, r: Request<UpdateRequest>) -> Result<Response<UpdateResponse>, Status> {
        self.must_be_new()?;
        self.client().update(r.into_inner()).await
    }

    async fn restore(
        &self,
        r: Request<RestoreRequest>,
    ) -> Result<Response<RestoreResponse>, Status> {
        self.must_be_new()?;
        self.client().restore(r.into_inner()).await
    }

    async fn checkpoint(
        &self,
        r: Request<CheckpointRequest>,
    ) -> Result<Response<CheckpointResponse>, Status> {
        self.must_be_new()?;
        self.client().checkpoint(r.into_inner()).await
    }

    async fn pause(&self, r: Request<PauseRequest>) -> Result<Response<PauseResponse>, Status> {
        self.must_be_new()?;
        self.client().pause(r.into_inner()).await
    }

    async fn resume(&self, r: Request<ResumeRequest>) -> Result<Response<ResumeResponse>, Status> {
        self.must_be_new()?;
        self.client().resume(r.into_inner()).await
    }

    async fn thaw(&self, r: Request<ThawRequest>) -> Result<Response<ThawResponse>, Status> {
        self.must_be_new()?;
        self.client().thaw(r.into_inner()).await
    }

    async fn shutdown(
        &self,
        r: Request<ShutdownRequest>,
    ) -> Result<Response<ShutdownResponse>, Status> {
        self.client().shutdown(r.into_inner()).await
    }
}
