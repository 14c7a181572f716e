//! One forwarded connection: dialled, copied both ways, and ended.
//!
//! ```text
//!           client ends its half            pod ends its half
//! Both ways ───────────────────► pod's half ─────────────────► done
//!     │  └─ pod ends its half ──► client's half ── client ends its half ──► done
//!     └─ the client resets, either side fails ──► done, told to the other as a reset
//! ```
//!
//! A half that is left alone has no end of its own: a client that is gone altogether says no more than one that has only sent all it
//! will, so what has been quiet in that state for [`QUIET`] is ended. Everything is dropped with the future.

use super::Dial;
use super::port::PortError;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

/// How long a pod's port may take to answer at all.
const DIAL: Duration = Duration::from_secs(30);
/// How long the half that is left may be quiet.
const QUIET: Duration = Duration::from_secs(300);
/// Bytes that one read from the pod asks for.
const CHUNK: usize = 64 * 1024;

/// Why a connection could not be made. Clients show it as it is, in words that people search for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    #[error(
        "error forwarding port {port} to pod {pod}, uid : failed to connect to localhost:{port} inside the pod's network: {}",
        words(source)
    )]
    Dial { port: u16, pod: String, source: io::Error },
    #[error("{0}")]
    Port(#[from] PortError),
    #[error("timed out waiting for streams of request {0}")]
    Unpaired(String),
    #[error("error processing stream for request {0}: {1} stream already assigned")]
    Twice(String, &'static str),
    #[error("error forwarding port {0}: it takes nothing, and other ports' data wait behind it")]
    Stuck(u16),
}

/// An error of the kernel's in the words that the tools written in Go use.
fn words(error: &io::Error) -> String {
    let known = [
        (ErrorKind::ConnectionRefused, "connection refused"),
        (ErrorKind::TimedOut, "connection timed out"),
        (ErrorKind::NetworkUnreachable, "network is unreachable"),
        (ErrorKind::HostUnreachable, "no route to host"),
    ];
    match known.iter().find(|(kind, _)| *kind == error.kind()) {
        Some((_, words)) => format!("connect: {words}"),
        None => error.to_string(),
    }
}

/// Connects to a pod's port.
pub(super) async fn dial(
    dial: &impl Dial,
    pod: &str,
    port: u16,
) -> Result<TcpStream, ForwardError> {
    let dialled = match tokio::time::timeout(DIAL, dial.dial(port)).await {
        Ok(dialled) => dialled,
        Err(_) => Err(ErrorKind::TimedOut.into()),
    };
    let stream =
        dialled.map_err(|source| ForwardError::Dial { port, pod: pod.to_owned(), source })?;
    // What a client sent as it is goes on as it is: waiting for more would only add to its delay.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, port, "set TCP_NODELAY");
    }
    Ok(stream)
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Each side ended its half.
    Both,
    /// One side broke off, or was quiet for too long: the other must not take it for an end in good order.
    Broken,
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// All was handed on, and that it was all.
    Done,
    /// The pod takes no more; what the client sends is of no use.
    Deaf,
    Broken,
}

/// What a client's protocol lets it say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Client {
    /// That it has sent all it will, or that it has no more use for the connection.
    EndsItsHalf,
    /// Nothing: when the pod has ended its half, that is the end.
    EndsNothing,
}

/// Copies both ways until both halves have ended, either side breaks off, or `broken` tells that the client has.
pub(super) async fn copy<R, W>(
    (reader, mut writer): (R, W),
    mut pod: TcpStream,
    client: Client,
    broken: impl Future<Output = ()>,
) -> End
where
    R: AsyncBufRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let copied = both(reader, &mut writer, &mut pod, client);
    // While a pod takes nothing, nobody reads what the client sends, and so nobody would find out.
    tokio::select! {
        end = copied => end,
        () = broken => End::Broken,
    }
}

async fn both<R, W>(reader: R, writer: &mut W, pod: &mut TcpStream, client: Client) -> End
where
    R: AsyncBufRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let moved = AtomicU64::new(0);
    let (from_pod, to_pod) = pod.split();
    let up = upward(reader, to_pod, &moved);
    let down = downward(from_pod, writer, &moved);
    tokio::pin!(up, down);
    let (first, second) = tokio::select! {
        way = &mut up => (way, quiet(down, &moved, way).await),
        way = &mut down => match client {
            Client::EndsItsHalf => (way, quiet(up, &moved, way).await),
            Client::EndsNothing => (way, Way::Done),
        },
    };
    match (first, second) {
        (Way::Broken, _) | (_, Way::Broken) => End::Broken,
        (Way::Done | Way::Deaf, Way::Done | Way::Deaf) => End::Both,
    }
}

/// The direction that is left, for as long as it gets on.
async fn quiet(
    mut left: Pin<&mut impl Future<Output = Way>>,
    moved: &AtomicU64,
    first: Way,
) -> Way {
    if first == Way::Broken {
        return Way::Broken;
    }
    loop {
        let before = moved.load(Ordering::Relaxed);
        match tokio::time::timeout(QUIET, left.as_mut()).await {
            Ok(way) => return way,
            Err(_) if moved.load(Ordering::Relaxed) != before => {}
            Err(_) => return Way::Broken,
        }
    }
}

/// Client → pod.
async fn upward(
    mut reader: impl AsyncBufRead + Unpin,
    mut pod: WriteHalf<'_>,
    moved: &AtomicU64,
) -> Way {
    loop {
        let piece = match reader.fill_buf().await {
            Ok([]) => break,
            Ok(piece) => piece,
            Err(_) => return Way::Broken,
        };
        // A pod that has closed may still have said something first, which the other direction sees to.
        let Ok(count) = pod.write(piece).await else {
            return Way::Deaf;
        };
        reader.consume(count);
        moved.fetch_add(1, Ordering::Relaxed);
    }
    match pod.shutdown().await {
        Ok(()) => Way::Done,
        Err(_) => Way::Deaf,
    }
}

/// Pod → client. An idle connection holds no buffer.
async fn downward(
    pod: ReadHalf<'_>,
    writer: &mut (impl AsyncWrite + Unpin),
    moved: &AtomicU64,
) -> Way {
    loop {
        if pod.readable().await.is_err() {
            return Way::Broken;
        }
        let mut bytes = Vec::with_capacity(CHUNK);
        loop {
            bytes.clear();
            match pod.try_read_buf(&mut bytes) {
                Ok(0) => {
                    return match writer.shutdown().await {
                        Ok(()) => Way::Done,
                        Err(_) => Way::Broken,
                    };
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return Way::Broken,
            }
            if writer.write_all(&bytes).await.is_err() {
                return Way::Broken;
            }
            moved.fetch_add(1, Ordering::Relaxed);
        }
    }
}
