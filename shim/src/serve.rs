//! From start to end: sets up the process and the pod, then accepts connections, reaps, and heeds SIGTERM.
//!
//! SIGTERM ends the shim only while the pod has no living container; otherwise it is ignored: a node that shuts down
//! terminates processes in any order, and a shim that went first would leave its containers without one. Only Shutdown and SIGKILL
//! end it then. SIGHUP is ignored.

use crate::config::{self, ConfigError};
use crate::namespaces::{NamespaceError, Pinned};
use crate::passed::PassedError;
use crate::pod::Pod;
use crate::process::{self, ProcessError};
use crate::ready::{self, Given, Ready, ReadyError};
use crate::service::Service;
use crate::session::{self, SESSIONS};
use davit_proto::disk::ShimConfig;
use davit_proto::session::FIRST_BYTE;
use davit_proto::shim::shim_server::ShimServer;
use davit_sys::signal::{Signals, Wait, Watched};
use davit_sys::{passing, readiness};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Connections with calls at a time: the daemon's, and a few of people who look.
const CONNECTIONS: usize = 32;
/// How long a connection may say nothing at all: whoever connects has something to say.
const SILENCE: Duration = Duration::from_secs(10);
/// How long the last answers may take to get out.
const FAREWELL: Duration = Duration::from_secs(1);
/// Events of the kernel's that are taken at once: the buffer for them stays for ever.
const EVENTS: usize = 32;
/// What one stream, and one connection, may send before it is read. Small, as there is one shim per pod.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 128 * 1024;

/// Why there is no shim.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("take what the daemon passes")]
    Passed(#[from] PassedError),
    #[error(transparent)]
    Ready(#[from] ReadyError),
    #[error("read the configuration")]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("move the shim into its cgroups")]
    Move(#[from] davit_sys::process::SpawnError),
    #[error("make the pod's namespaces")]
    Namespaces(#[from] NamespaceError),
    #[error("{step}")]
    Io { step: &'static str, source: io::Error },
}

fn step(step: &'static str) -> impl FnOnce(io::Error) -> ServeError {
    move |source| ServeError::Io { step, source }
}

/// Is the shim of a pod, until it is told to end.
pub(crate) fn run(pod_dir: &Path) -> Result<(), ServeError> {
    match Ready::take()? {
        None => {
            let given = ready::passed_at_once()?;
            let config = config::load(pod_dir)?;
            let begun = Begun::new(config.oom_score_adj, &config.cgroup_procs)?;
            live(pod_dir, given, config, begun)
        }
        Some(ready) => {
            let begun = Begun::new(ready.meanwhile.oom_score_adj, &ready.meanwhile.cgroup_procs)?;
            match ready.wait()? {
                Some(given) => live(pod_dir, given, config::load(pod_dir)?, begun),
                None => Ok(()),
            }
        }
    }
}

/// What a shim is before it is a pod's.
struct Begun {
    signals: Signals,
    /// Where it is heard how the shim's move into its cgroups went.
    moving: Option<OwnedFd>,
    runtime: Runtime,
}

impl Begun {
    fn new(oom_score_adj: Option<i32>, cgroup_procs: &[PathBuf]) -> Result<Self, ServeError> {
        process::settle(oom_score_adj)?;
        let signals = Signals::new(Wait::No).map_err(step("watch signals"))?;
        // Its end is seen among the signals, as an orphan's.
        let moving = process::begin_move(cgroup_procs)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_io_events_per_tick(EVENTS)
            .build()
            .map_err(step("make the event loop"))?;
        Ok(Self { signals, moving, runtime })
    }
}

fn live(pod_dir: &Path, given: Given, config: ShimConfig, begun: Begun) -> Result<(), ServeError> {
    let Given { listener, sealed } = given;
    let Begun { signals, moving, runtime } = begun;
    listener.set_nonblocking(true).map_err(step("use the listening socket"))?;
    // Before the namespaces: what comes after them would have to release them.
    let (listener, signals) = {
        let _inside = runtime.enter();
        let listener =
            UnixListener::from_std(listener).map_err(step("use the listening socket"))?;
        (listener, readiness::signals(signals).map_err(step("watch signals"))?)
    };
    let pinned = Pinned::make(&config)?;
    drop(config);
    let pod = Arc::new(Pod::new(pod_dir.to_owned(), pinned, sealed));
    runtime.block_on(async {
        tokio::spawn(Arc::clone(&pod).settle_in(moving));
        serve(pod, listener, signals).await
    })
}

async fn serve(
    pod: Arc<Pod>,
    listener: UnixListener,
    signals: AsyncFd<Signals>,
) -> Result<(), ServeError> {
    let service = ShimServer::new(Service::new(Arc::clone(&pod)));
    pod.spawn_watch_of_init();
    tokio::spawn(watch_signals(Arc::clone(&pod), signals));
    let small = Arc::clone(&pod);
    tokio::spawn(async move { small.keep_small().await });
    let mut connections = JoinSet::new();
    let calls = Arc::new(Semaphore::new(CONNECTIONS));
    let stopped = pod.stopped();
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            () = &mut stopped => break,
            accepted = listener.accept(), if connections.len() < CONNECTIONS + SESSIONS => match accepted {
                Ok((stream, _)) => {
                    let (pod, service, calls) = (Arc::clone(&pod), service.clone(), Arc::clone(&calls));
                    drop(connections.spawn(converse(pod, service, stream, calls)));
                }
                Err(error) => rest_after(&error).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
    let farewell = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(FAREWELL, farewell).await;
    Ok(())
}

/// Descriptors ran out, most likely: trying again at once would only turn the processor.
async fn rest_after(error: &io::Error) {
    crate::say(error);
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// Serves one connection, of calls or of a session, by its first byte.
async fn converse(
    pod: Arc<Pod>,
    service: ShimServer<Service>,
    stream: UnixStream,
    calls: Arc<Semaphore>,
) {
    match tokio::time::timeout(SILENCE, passing::first_byte(&stream)).await {
        // On the heap: a connection of calls, which there always is, need not be as large as a session.
        Ok(Ok(Some(FIRST_BYTE))) => Box::pin(session::serve(&pod, stream)).await,
        Ok(Ok(Some(_))) => {
            if let Ok(_place) = calls.acquire().await {
                Box::pin(serve_calls(pod, service, stream)).await;
            }
        }
        Ok(Ok(None) | Err(_)) | Err(_) => {}
    }
}

/// Serves calls until the connection ends, or the shim does.
async fn serve_calls(pod: Arc<Pod>, service: ShimServer<Service>, stream: UnixStream) {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(64 * 1024)
        .max_concurrent_streams(256)
        .max_header_list_size(16 * 1024)
        .auto_date_header(false);
    let connection =
        builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    tokio::pin!(connection);
    tokio::select! {
        // A broken connection is the client's to notice; its streams were dropped.
        _ = &mut connection => {}
        () = pod.stopped() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

async fn watch_signals(pod: Arc<Pod>, signals: AsyncFd<Signals>) {
    loop {
        let Ok(mut ready) = signals.readable().await else { return };
        while let Ok(Some(received)) = signals.get_ref().next() {
            match received.signal {
                // Below, once for all of them.
                Watched::Child | Watched::Hangup => {}
                Watched::Terminate => terminate(&pod),
            }
        }
        ready.clear_ready();
        pod.reaper.reap();
    }
}

fn terminate(pod: &Arc<Pod>) {
    let pod = Arc::clone(pod);
    tokio::spawn(async move {
        if let Err(error) = pod.shutdown().await {
            crate::say(&error);
        }
    });
}
