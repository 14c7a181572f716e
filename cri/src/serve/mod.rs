//! The daemon's life, from its configuration to its end.
//!
//! Owns the order of things and nothing that a pod needs: when this process ends, however it ends, every container runs on.
//!
//! ```text
//! config ─► signals ─► locks ─► sockets bound ─► pidfile ─► runtime opened (recovery) ─► READY=1 ─► version, drivers told ─► serving ──SIGHUP──► reload
//!                                                                                                                  │
//!                            end ◄── images on disk ◄── drained, or 15 s, or a second signal ◄── STOPPING=1 ◄── SIGTERM, SIGINT
//! ```
//!
//! Callers that connect during recovery wait in the sockets' queues; none is answered from half-loaded state. docs/startup.md tells each step.

mod accept;
mod certificate;
mod drain;
mod group;
mod guests;
mod listen;
pub(crate) mod lock;
mod log;
mod notify;
mod pidfile;
mod reload;
mod services;
mod signals;
mod sockets;
mod tell;
#[cfg(test)]
pub(crate) mod tests;
mod tls;
mod watchdog;

pub(crate) use listen::{Listener, Stream};
pub(crate) use services::{MESSAGE_MAX, Opened, Services};
pub(crate) use sockets::examine as examine_sockets;

use crate::config::{self, Config, ServeFlags};
use crate::layer::{Bound, InFlight, Operations, Requests, through};
use crate::metrics::{self, DebugOn, Metrics, Site};
use crate::output;
use crate::streaming::{Server, Urls};
use crate::traces::Traces;
use anyhow::Context;
use signals::{Asked, Signals};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;

/// Threads that run the executor: more would only cost memory, as the work is done in other processes.
const THREADS: usize = 4;
/// How long the clients of streams get to hear that the daemon stops.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long images get to come to disk, even if the calls have taken all of the time.
const FLUSH: Duration = Duration::from_secs(2);

/// Serves until a signal ends it.
///
/// # Errors
/// Whatever keeps the daemon from starting, in one line.
pub(crate) fn main<F>(
    flags: &ServeFlags,
    open: impl FnOnce(Arc<Config>, Urls) -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<Opened>>,
{
    let served = configured(flags, open);
    if let Err(error) = &served {
        notify::failed(&output::one_line(error));
    }
    served
}

/// From the configuration on.
fn configured<F>(
    flags: &ServeFlags,
    open: impl FnOnce(Arc<Config>, Urls) -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<Opened>>,
{
    let config = config::load(flags)?;
    davit_runtime::share_heaps(HEAPS);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS);
    let executor = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_keep_alive(IDLE)
        .enable_all()
        .build()
        .context("start the executor")?;
    let (traces, log) = observed(&config, &executor)?;
    raise_descriptor_limit();
    let result = executor.block_on(Box::pin(run(flags, config, log, open)));
    // While the executor is there to send by.
    if let Some(traces) = traces {
        traces.end();
    }
    // What is dropped with the pods' tasks is still mounted by their containers.
    davit_runtime::image::keep_layers();
    // Blocking work that is left (a file being unpacked) must not hold up the end: it is finished or undone at the next start.
    executor.shutdown_background();
    result
}

/// Starts the log, and traces if there are to be any: their exporter lives in the executor.
fn observed(
    config: &Config,
    executor: &tokio::runtime::Runtime,
) -> anyhow::Result<(Option<Traces>, log::Log)> {
    let _inside = executor.enter();
    let share = config.trace_share();
    let traces = config.trace_collector().map(|url| Traces::start(url, share));
    let traces = traces.transpose().context("start traces")?;
    let log = log::start(config.log_level(), traces.as_ref())?;
    Ok((traces, log))
}

/// How many heaps there are for all threads: measured, one takes less memory with 50 pods than two, and is no slower, as most of what takes time is asked of the kernel.
const HEAPS: i32 = 1;

/// How long a thread that blocks waits for more to do: a burst leaves twenty of them, each with a hundred kilobytes of stack.
const IDLE: std::time::Duration = std::time::Duration::from_secs(2);

/// A shell gives 1024 descriptors, which so many connections need alone. Containers are none the wiser: theirs are set in so many words.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "the limit of descriptors stays as it is");
    }
}

/// Everything between the configuration and the end.
async fn run<F>(
    flags: &ServeFlags,
    config: Config,
    log: log::Log,
    open: impl FnOnce(Arc<Config>, Urls) -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<Opened>>,
{
    tracing::info!(version = crate::VERSION, pid = std::process::id(), "davit starts");
    let mut signals = Signals::new().context("take signals")?;
    watchdog::start();
    listen::refuse_passed()?;
    let _locks = [lock::take("root", config.root())?, lock::take("state", config.state())?];
    let mut bound = listen::bind(&config)?;
    let site = Site::new(DebugOn(config.debug()));
    let end = CancellationToken::new();
    let _end = end.clone().drop_guard();
    if let Some(listener) = bound.metrics.take() {
        tokio::spawn(metrics::http::serve(listener, site.clone(), end.clone()));
    }
    let _pidfile = config.pidfile().map(pidfile::write).transpose()?;
    let config = Arc::new(config);
    let certificates = bound.certificates.clone();
    notify::taking_up();
    let opened = tokio::select! {
        opened = open(Arc::clone(&config), Urls::new(&bound.streams.url)) => opened?,
        () = signals.stop() => {
            tracing::info!("stopped before the start was complete");
            return Ok(());
        }
    };
    // Whoever is told so and comes finds the sockets, and waits there for a moment at most.
    notify::ready();
    announce(&opened);
    let serving = Serving::start(bound, &opened, &config, &site)?;
    for address in config.listen() {
        tracing::info!(%address, "davit serves");
    }
    if let Some(every) = config.metrics_interval() {
        tell::spawn(every, Arc::clone(&opened.counters), end);
    }
    let mut reload = reload::Reload::new(flags.clone(), config, (log, site.clone()), certificates);
    until_stopped(&mut signals, &mut reload, &serving, &opened).await;
    notify::stopping(serving.calls.len());
    site.stop();
    let until = Instant::now() + drain::GRACE;
    serving.stop(&mut signals).await;
    bring_to_disk(&opened, until.max(Instant::now() + FLUSH), signals.stop()).await;
    tracing::info!("davit ends; containers run on");
    Ok(())
}

/// What serves from now on: its version, and what it drives.
fn announce(opened: &Opened) {
    tracing::info!(version = crate::VERSION, "davit is ready");
    for line in &opened.announcement {
        tracing::info!("{line}");
    }
}

/// What was pulled a moment ago would not outlive a reboot: a stop is what comes before one. A disk that takes too long holds up nobody.
async fn bring_to_disk(opened: &Opened, until: Instant, hurry: impl Future<Output = ()>) {
    tokio::select! {
        flushed = tokio::time::timeout_at(until.into(), (opened.flush)()) => match flushed {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "images could not be brought to disk: a reboot loses the latest"),
            Err(_) => tracing::warn!("images were not brought to disk in time: a reboot loses the latest"),
        },
        () = hurry => tracing::warn!("a second signal: images may not be on disk, a reboot loses the latest"),
    }
}

/// Answers signals until one asks for the end.
async fn until_stopped(
    signals: &mut Signals,
    reload: &mut reload::Reload,
    serving: &Serving,
    opened: &Opened,
) {
    loop {
        match signals.next().await {
            Asked::Stop => return,
            Asked::Reload => reload.now(),
            Asked::Dump if reload.config().debug() => dump(serving, opened),
            Asked::Dump => tracing::info!("a dump was asked for; it takes `debug`"),
        }
    }
}

/// The state, for whoever looks for what hangs.
fn dump(serving: &Serving, opened: &Opened) {
    let state = (opened.state)();
    tracing::info!(
        tasks = metrics::process::tasks(),
        descriptors = metrics::process::descriptors(),
        calls = serving.calls.len(),
        counters = ?(opened.counters)(),
        %state,
        "state"
    );
}

/// The listeners' tasks, and what ends them.
struct Serving {
    calls: InFlight,
    /// Cancelled when connections are to be dropped.
    end: CancellationToken,
    streams: Server,
    listeners: Vec<listen::SocketFile>,
}

impl Serving {
    /// Starts one task per listener.
    fn start(
        bound: listen::Bound,
        opened: &Opened,
        config: &Config,
        site: &Site,
    ) -> anyhow::Result<Self> {
        let registry = prometheus::Registry::new();
        let most = config.max_calls();
        let operations = Operations::new(&registry, most).context("register metrics")?;
        let calls = InFlight::default();
        let service = ServiceBuilder::new()
            .layer(through(Requests::default()))
            .layer(through(operations))
            .layer(through(Bound::new(most)))
            .layer(through(calls.clone()))
            .service(opened.routes.clone());
        let streams = opened.streams.clone();
        let gauge: Box<dyn prometheus::core::Collector> = Box::new(streams.gauge());
        for collector in (opened.collectors)().into_iter().chain([gauge]) {
            registry.register(collector).context("register metrics")?;
        }
        let metrics = Metrics::new(registry, Arc::clone(&opened.counters));
        // Before the first call is answered: who has had an answer is not told that davit isn't ready.
        site.open(Arc::new(metrics.context("register metrics")?));
        let end = CancellationToken::new();
        let life = accept::Life { stopping: calls.stopping(), end: end.clone() };
        for listener in bound.listeners {
            tokio::spawn(accept::serve(
                listener,
                service.clone(),
                life.clone(),
                config.max_connections(),
            ));
        }
        tokio::spawn(streams.clone().serve(bound.streams.listener, calls.stopping()));
        Ok(Self { calls, end, streams, listeners: bound.files })
    }

    /// No new work; what runs gets its time; then streams are ended, connections dropped and the sockets' files removed. Nobody waits for
    /// a stream to end by itself: it may be somebody's shell.
    async fn stop(self, signals: &mut Signals) {
        tracing::info!(calls = self.calls.len(), "davit stops");
        match drain::drain(&self.calls, signals.stop(), drain::GRACE).await {
            drain::Drained::All => tracing::info!("every call was answered"),
            drain::Drained::TimedOut(left) => {
                tracing::warn!(left, "calls were still under way after 15 s")
            }
            drain::Drained::Hurried(left) => {
                tracing::warn!(left, "a second signal: calls are cut off")
            }
        }
        if tokio::time::timeout(FAREWELL, self.streams.stop()).await.is_err() {
            tracing::debug!("not every stream's client has heard that davit stops");
        }
        self.end.cancel();
        drop(self.listeners);
    }
}
