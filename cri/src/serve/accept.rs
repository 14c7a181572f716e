//! Connections: accepted, spoken HTTP/2 with, and ended.
//!
//! Owns the loop that tonic's own server would be, for one reason: that one drops a handler when the caller's `grpc-timeout` is over
//! and answers `CANCELLED`, which can reach the caller before its own clock says `DEADLINE_EXCEEDED`. Here only the caller's clock
//! counts. Bounds connections, streams and headers besides.

use super::listen::{Listener, Stream};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tower::Service;

/// Calls at once on one connection.
const STREAMS: u32 = 1024;
/// Bytes of headers that one call may have.
const HEADERS: u32 = 64 * 1024;
/// A TCP caller that answers nothing for this long, be it a ping, has gone without a word. (A Unix socket tells.)
const SILENCE: Duration = Duration::from_secs(60);
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a client that may not call can be told so.
const REFUSED: Duration = Duration::from_secs(10);
/// The pause after an accept that failed, most likely for want of descriptors: retrying at once would spin.
const PAUSE: Duration = Duration::from_millis(100);

/// How far the daemon's end has come.
#[derive(Debug, Clone)]
pub(crate) struct Life {
    /// No new connections; those there are told to go away when their calls have ended.
    pub(crate) stopping: CancellationToken,
    /// Connections are dropped.
    pub(crate) end: CancellationToken,
}

/// What calls are answered by.
pub(crate) trait Answering:
    Service<
        Request<Incoming>,
        Response = Response<Body>,
        Error = Infallible,
        Future: Send + 'static,
    > + Clone
    + Send
    + 'static
{
}

impl<S> Answering for S where
    S: Service<
            Request<Incoming>,
            Response = Response<Body>,
            Error = Infallible,
            Future: Send + 'static,
        > + Clone
        + Send
        + 'static
{
}

/// Accepts until the daemon stops; the listener is closed then. At most `most` connections at once: the next one waits in the kernel's queue.
pub(crate) async fn serve(listener: Listener, service: impl Answering, life: Life, most: usize) {
    let places = Arc::new(Semaphore::new(most));
    loop {
        let accepted = tokio::select! {
            () = life.stopping.cancelled() => return,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Some((stream, place)) => {
                tokio::spawn(one(stream, place, service.clone(), life.clone()));
            }
            None => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn accept(
    listener: &Listener,
    places: &Arc<Semaphore>,
) -> Option<(Stream, OwnedSemaphorePermit)> {
    let place = place(places).await?;
    match listener.accept().await {
        Ok(stream) => Some((stream, place)),
        Err(error) => {
            tracing::warn!(%error, "accept a connection");
            None
        }
    }
}

/// Waits for one of the places, and says that it has to.
async fn place(places: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    if let Ok(place) = Arc::clone(places).try_acquire_owned() {
        return Some(place);
    }
    tracing::info!("limits.connections is reached: the next caller waits until one goes");
    Arc::clone(places).acquire_owned().await.ok()
}

/// One connection from its handshake to its end.
async fn one(stream: Stream, _place: OwnedSemaphorePermit, service: impl Answering, life: Life) {
    let end = life.end.clone();
    let spoken = async {
        match stream {
            Stream::Unix(stream) => speak(stream, service, life.stopping, None).await,
            Stream::Tcp(stream) => speak(stream, service, life.stopping, Some(SILENCE)).await,
            Stream::Tls(stream, certificates) => {
                let handshake = certificates.acceptor().accept(stream);
                match tokio::time::timeout(HANDSHAKE, handshake).await {
                    Ok(Ok(stream)) => match certificates.refusal(stream.get_ref().1) {
                        None => speak(stream, service, life.stopping, Some(SILENCE)).await,
                        Some(why) => refuse(stream, why, life.stopping).await,
                    },
                    Ok(Err(error)) => tracing::debug!(%error, "TLS handshake"),
                    Err(_) => tracing::debug!("TLS handshake took too long"),
                }
            }
        }
    };
    tokio::select! {
        () = end.cancelled() => {}
        () = Box::pin(spoken) => {}
    }
}

/// Answers every call with the reason why there is no answer, and not for long: a stranger takes the place of somebody else.
async fn refuse(stream: TlsStream<TcpStream>, why: String, stopping: CancellationToken) {
    let service = tower::service_fn(move |_: Request<Incoming>| {
        let refused = Status::permission_denied(why.as_str()).into_http();
        async move { Ok::<Response<Body>, Infallible>(refused) }
    });
    let spoken = speak(stream, service, stopping, Some(SILENCE));
    if tokio::time::timeout(REFUSED, spoken).await.is_err() {
        tracing::debug!("a client that was refused stayed");
    }
}

/// HTTP/2 until the caller goes, or until its calls have ended once the daemon stops.
async fn speak<T>(
    stream: T,
    service: impl Answering,
    stopping: CancellationToken,
    silence: Option<Duration>,
) where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(silence)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADERS)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    // A caller that drops its connection is no news; one that speaks nonsense is, to somebody who looks for it.
    if let Err(error) = result {
        tracing::debug!(%error, "serve a connection");
    }
}
