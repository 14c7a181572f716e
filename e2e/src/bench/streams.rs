//! Commands with streams.
//!
//! Owns what comes and goes through them. What is fast is client-go itself, as `streampeer` in e2e/tools: what kubectl and crictl are made
//! of. How fast that can be is measured in turns with a peer that costs next to nothing.

use super::figures::{Metric, Way};
use super::lane::Subject;
use super::machine::{float, ticks};
use super::measure::{Bench, helpers_of};
use super::pods::{self, Network, Running};
use crate::footprint::own_memory;
use crate::host::pause;
use crate::tools;
use anyhow::{Context, Result, bail, ensure};
use futures_util::StreamExt as _;
use futures_util::future::{join_all, try_join_all};
use k8s_cri::v1::{AttachRequest, ExecRequest, ExecSyncRequest, PortForwardRequest};
use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;

/// Idle streams of each kind: exec, attach, port-forward.
const IDLE_EACH: usize = 50;
/// Until commands without clients are gone.
const GONE: Duration = Duration::from_secs(4);
/// Commands at once.
const AT_ONCE: usize = 100;
/// What one command says.
const SAID: &[u8] = b"\x01said\n";
/// No stream may be silent for longer.
const SILENCE: Duration = Duration::from_secs(30);
/// Between two looks at the daemon's memory.
const LOOK: Duration = Duration::from_millis(10);

impl Bench {
    /// All of them in one container.
    pub(super) fn streams(&mut self, subject: &Subject) -> Result<()> {
        let running = pods::run(subject, Network::Host)?;
        self.begin()?;
        self.idle_streams(subject, &running)?;
        self.begin()?;
        self.at_once(subject, &running.container)?;
        let before = own_mib(subject.pid()?)?;
        // Peers don't speak WebSocket as client-go does.
        let ways = if subject.lane.is_ours() { &Way::ALL[..] } else { &Way::SPDY[..] };
        for way in ways.iter().copied() {
            self.begin()?;
            self.transfer(subject, &running.container, way, before)?;
        }
        pods::remove(subject, &running)
    }

    /// Streams on which nothing happens.
    fn idle_streams(&mut self, subject: &Subject, running: &Running) -> Result<()> {
        // Nobody takes the connections: that they stand is enough.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("bind a port")?;
        let port = listener.local_addr().context("read the port")?.port();
        let streams = subject.cri.block_on(open_idle(subject, running, port))?;
        pause(self.options.settle);
        let mut pids = helpers_of(subject)?;
        pids.push(subject.pid()?);
        let run = || pids.iter().map(|pid| ticks(*pid)).sum::<Result<u64>>();
        let before = run()?;
        pause(self.options.idle);
        let used = run()?.saturating_sub(before);
        self.add(subject, Metric::IdleStreams, float(used));
        drop(streams);
        // The commands end 2 s after their clients, and a pod has room for 128.
        pause(GONE);
        Ok(())
    }

    /// Commands at once: with calls that wait for them, and with streams.
    fn at_once(&mut self, subject: &Subject, container: &str) -> Result<()> {
        let begun = Instant::now();
        let calls = (0..AT_ONCE).map(|_| exec_sync(subject, container));
        let ended = subject.cri.block_on(join_all(calls));
        self.add(subject, Metric::Execs, begun.elapsed().as_secs_f64());
        self.failures(subject, Metric::ExecsFailed, ended);
        let begun = Instant::now();
        let calls = (0..AT_ONCE).map(|_| exec_streamed(subject, container));
        let ended = subject.cri.block_on(join_all(calls));
        self.add(subject, Metric::Streams, begun.elapsed().as_secs_f64());
        self.failures(subject, Metric::StreamsFailed, ended);
        Ok(())
    }

    /// How many of them failed, and how.
    fn failures(&mut self, subject: &Subject, metric: Metric, ended: Vec<Result<()>>) {
        let failed: Vec<_> = ended.into_iter().filter_map(Result::err).collect();
        self.add(subject, metric, float(failed.len().try_into().unwrap_or(u64::MAX)));
        self.failed.extend(failed.iter().map(|error| format!("{error:#}")));
    }

    /// Bytes of one direction through client-go, beside what that can do.
    fn transfer(
        &mut self,
        subject: &Subject,
        container: &str,
        way: Way,
        before: f64,
    ) -> Result<()> {
        let (words, bytes) = (way.words(), self.options.transfer);
        let [transport, direction] = words;
        let client = streampeer(&["limit", transport, direction], bytes)?;
        let request = moving(container, direction, bytes)?;
        let url = subject.cri.wait(subject.cri.runtime().exec(request)).context("Exec")?.url;
        let (rate, most) =
            watched(subject.pid()?, || streampeer(&["exec", transport, &url, direction], bytes))?;
        self.add(subject, Metric::Rate(way), rate);
        self.add(subject, Metric::ClientRate(way), client);
        self.add(subject, Metric::OfPromised(way), 100.0 * rate / client.min(1.0));
        self.add(subject, Metric::StreamMemory, most - before);
        Ok(())
    }
}

/// A command that says, or hears, so many bytes, and fails if it hears others.
fn moving(container: &str, direction: &str, bytes: u64) -> Result<ExecRequest> {
    let mebibytes = bytes >> 20;
    let script = match direction {
        "out" => format!("exec dd if=/dev/zero bs=1M count={mebibytes} 2>/dev/null"),
        "in" => format!(
            "dd of=/dev/null bs=1M iflag=fullblock 2>&1 | grep -qx '{mebibytes}+0 records in'"
        ),
        other => bail!("{other:?} is no direction"),
    };
    Ok(ExecRequest {
        container_id: container.to_owned(),
        cmd: ["sh", "-c", &script].map(str::to_owned).to_vec(),
        stdin: direction == "in",
        stdout: true,
        stderr: true,
        ..ExecRequest::default()
    })
}

/// Runs client-go: gigabytes per second.
fn streampeer(words: &[&str], bytes: u64) -> Result<f64> {
    let mut command = Command::new(tools::streampeer()?);
    command.args(words).arg(bytes.to_string());
    let begun = Instant::now();
    tools::run(&mut command)?;
    // With its own start, which is some milliseconds, in both that are compared.
    Ok(float(bytes) / begun.elapsed().as_secs_f64() / 1e9)
}

fn own_mib(pid: u32) -> Result<f64> {
    Ok(float(own_memory(pid)?) / 1024.0)
}

/// Does this, and tells the most memory of its own that a process had meanwhile, in MiB.
fn watched<T>(pid: u32, work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut most = 0.0_f64;
            while !done.load(Ordering::Relaxed) {
                most = most.max(own_mib(pid)?);
                pause(LOOK);
            }
            Ok::<_, anyhow::Error>(most)
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        let most = watcher.join().map_err(|_panic| anyhow::anyhow!("the watcher panicked"))??;
        Ok((result?, most))
    })
}

async fn exec_sync(subject: &Subject, container: &str) -> Result<()> {
    let request = ExecSyncRequest {
        container_id: container.to_owned(),
        cmd: ["echo", "said"].map(str::to_owned).to_vec(),
        timeout: 60,
    };
    let answer = subject.cri.runtime().exec_sync(request).await?.into_inner();
    ensure!(answer.stdout == b"said\n" && answer.exit_code == 0, "{answer:?}");
    Ok(())
}

/// Runs a command that says one word, and hears it and its end.
pub(super) async fn exec_streamed(subject: &Subject, container: &str) -> Result<()> {
    let request = ExecRequest {
        container_id: container.to_owned(),
        cmd: ["echo", "said"].map(str::to_owned).to_vec(),
        stdout: true,
        ..ExecRequest::default()
    };
    let url = subject.cri.runtime().exec(request).await?.into_inner().url;
    let mut stream = open(&url).await?;
    let (mut said, mut end) = (false, String::new());
    loop {
        let message = tokio::time::timeout(SILENCE, stream.next()).await.context("it is silent")?;
        match message.transpose()? {
            Some(Message::Binary(bytes)) => {
                said |= bytes == SAID;
                if let Some(status) = bytes.strip_prefix(&[3]) {
                    end = String::from_utf8_lossy(status).into_owned();
                }
            }
            Some(Message::Close(_)) | None => break,
            Some(Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
        }
    }
    ensure!(said && end.ends_with("\"Success\"}"), "said: {said}, ended: {end:?}");
    Ok(())
}

/// Opens streams of each kind.
async fn open_idle(
    subject: &Subject,
    running: &Running,
    port: u16,
) -> Result<Vec<WebSocketStream<TcpStream>>> {
    let (mut client, mut urls) = (subject.cri.runtime(), Vec::new());
    for _ in 0..IDLE_EACH {
        let exec = ExecRequest {
            container_id: running.container.clone(),
            cmd: ["sleep", "1000000"].map(str::to_owned).to_vec(),
            stdout: true,
            ..ExecRequest::default()
        };
        urls.push(client.exec(exec).await.context("Exec")?.into_inner().url);
        let attach = AttachRequest {
            container_id: running.container.clone(),
            stdout: true,
            ..AttachRequest::default()
        };
        urls.push(client.attach(attach).await.context("Attach")?.into_inner().url);
        let forward =
            PortForwardRequest { pod_sandbox_id: running.pod.clone(), port: vec![i32::from(port)] };
        urls.push(client.port_forward(forward).await.context("PortForward")?.into_inner().url);
    }
    try_join_all(urls.iter().map(|url| open(url))).await
}

/// A WebSocket to one of the streaming server's URLs.
async fn open(url: &str) -> Result<WebSocketStream<TcpStream>> {
    let rest = url.strip_prefix("http://").with_context(|| format!("{url} is not http"))?;
    let (address, _) = rest.split_once('/').context("the URL has no path")?;
    let mut request = format!("ws://{rest}").into_client_request().context("write the request")?;
    let protocol = HeaderValue::from_static("v4.channel.k8s.io");
    request.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
    let stream = TcpStream::connect(address).await.with_context(|| format!("go to {address}"))?;
    Ok(tokio_tungstenite::client_async(request, stream).await.context("open a WebSocket")?.0)
}
