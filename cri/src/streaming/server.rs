//! The server behind the URLs: connections, their one request each, and what becomes of them.
//!
//! Owns who gets how far. Whoever reaches the port may send one short request; only who holds a token may go on, and a token is gone
//! once it was shown. Strangers and holders have places of their own, so the ones can't keep the others out.
//!
//! ```text
//! accepted ─► TLS ─► one request ──token, upgrade──► 101, protocol spoken ─► ended by a side, idleness or the daemon's end
//!                        └── 404, 400, 403, 405, 503, or too slow ─► closed
//! ```

use super::activity::{Activity, Watched};
use super::backend::Backend;
use super::command::Terms;
use super::forward::port;
use super::grant::{Grant, Kind};
use super::speak::speak;
use super::upgrade::{self, Protocol, Refusal};
use super::{Limits, Urls};
use crate::serve::{Listener, Stream};
use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{IntGaugeVec, Opts};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections at once that have shown no token yet; the next one waits in the kernel's queue.
const STRANGERS: usize = 128;
/// Streams at once.
const STREAMS: usize = 1000;
/// How long a request's head may take, and a TLS handshake.
const HEAD: Duration = Duration::from_secs(10);
/// What a request's head may have, in bytes.
const HEAD_SIZE: usize = 64 * 1024;
/// The pause after an accept that failed, most likely for want of descriptors: retrying at once would spin.
const PAUSE: Duration = Duration::from_millis(100);

/// The server. Clones are the same.
#[derive(Clone)]
pub(crate) struct Server(Arc<Inner>);

struct Inner {
    urls: Urls,
    backend: Arc<dyn Backend>,
    limits: Limits,
    strangers: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    open: IntGaugeVec,
    tasks: TaskTracker,
    end: CancellationToken,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("streams", &self.0.tasks.len()).finish_non_exhaustive()
    }
}

impl Server {
    /// What is asked for under `urls` is got from `backend`.
    ///
    /// # Errors
    /// The metrics library's; none is known.
    pub(crate) fn new(
        urls: Urls,
        backend: Arc<dyn Backend>,
        limits: Limits,
    ) -> prometheus::Result<Self> {
        let name = Opts::new("davit_streams", "Open streams of exec, attach and port-forward.");
        let open = IntGaugeVec::new(name, &["kind"])?;
        for kind in Kind::ALL {
            open.with_label_values(&[kind.name()]).set(0);
        }
        Ok(Self(Arc::new(Inner {
            urls,
            backend,
            limits,
            strangers: Arc::new(Semaphore::new(STRANGERS)),
            streams: Arc::new(Semaphore::new(STREAMS)),
            open,
            tasks: TaskTracker::new(),
            end: CancellationToken::new(),
        })))
    }

    /// How many streams are open, by kind.
    pub(crate) fn gauge(&self) -> IntGaugeVec {
        self.0.open.clone()
    }

    /// Accepts until `stopping`; the listener is closed then. Streams go on.
    pub(crate) async fn serve(self, listener: Listener, stopping: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                () = stopping.cancelled() => return,
                () = self.0.end.cancelled() => return,
                accepted = self.accept(&listener) => accepted,
            };
            let Some((stream, place)) = accepted else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let server = self.clone();
            tokio::spawn(async move {
                let end = server.0.end.clone();
                tokio::select! {
                    () = end.cancelled() => {}
                    () = server.connection(stream) => {}
                }
                drop(place);
            });
        }
    }

    /// Ends all streams, telling their clients, and waits until they have been told.
    pub(crate) async fn stop(&self) {
        self.0.end.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    async fn accept(&self, listener: &Listener) -> Option<(Stream, OwnedSemaphorePermit)> {
        let place = Arc::clone(&self.0.strangers).acquire_owned().await.ok()?;
        match listener.accept().await {
            Ok(stream) => Some((stream, place)),
            Err(error) => {
                tracing::warn!(%error, "accept a connection for a stream");
                None
            }
        }
    }

    async fn connection(&self, stream: Stream) {
        match stream {
            Stream::Unix(stream) => self.request(stream).await,
            Stream::Tcp(stream) => self.request(stream).await,
            Stream::Tls(stream, certificates) => {
                match tokio::time::timeout(HEAD, certificates.acceptor().accept(stream)).await {
                    Ok(Ok(stream)) => self.request(stream).await,
                    Ok(Err(error)) => tracing::debug!(%error, "TLS handshake for a stream"),
                    Err(_) => tracing::debug!("TLS handshake for a stream took too long"),
                }
            }
        }
    }

    /// Ends with the answer, also with one that agrees to go on: that is a task of its own.
    async fn request<T>(&self, stream: T)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let activity = Activity::new();
        let watched = Watched::new(stream, activity.clone());
        let service = service_fn(move |request| {
            let answer = self.answer(request, &activity);
            async move { Ok::<_, Infallible>(answer) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(HEAD_SIZE)
            .serve_connection(TokioIo::new(watched), service)
            .with_upgrades();
        match tokio::time::timeout(2 * HEAD, connection).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "serve a request for a stream"),
            Err(_) => tracing::debug!("a request for a stream took too long"),
        }
    }

    fn answer(&self, request: Request<Incoming>, activity: &Activity) -> Response<Full<Bytes>> {
        match self.agree(request, activity) {
            Ok(headers) => {
                let mut answer = Response::new(Full::default());
                *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                *answer.headers_mut() = headers;
                answer
            }
            Err(Refusal { status, problem, headers }) => {
                let mut answer = Response::new(Full::from(format!("{problem}\n")));
                *answer.status_mut() = status;
                *answer.headers_mut() = headers;
                let text = HeaderValue::from_static("text/plain; charset=utf-8");
                answer.headers_mut().insert(CONTENT_TYPE, text);
                // One request each. Told here and not by the connection's settings, since those would tell it in an answer that agrees too.
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                answer
            }
        }
    }

    fn agree(
        &self,
        mut request: Request<Incoming>,
        activity: &Activity,
    ) -> Result<HeaderMap, Refusal> {
        let mut grant = self.granted(request.method(), request.uri().path())?;
        let kind = grant.kind();
        let (protocol, headers) = upgrade::negotiate(kind, request.method(), request.headers())?;
        name_ports(&mut grant, protocol, request.uri().query().unwrap_or_default())?;
        let place = Arc::clone(&self.0.streams).try_acquire_owned().map_err(|_full| {
            refusal(StatusCode::SERVICE_UNAVAILABLE, format!("{STREAMS} streams are open already"))
        })?;
        let upgraded = hyper::upgrade::on(&mut request);
        let (server, activity) = (self.clone(), activity.clone());
        self.0.tasks.spawn(async move {
            match upgraded.await {
                Ok(upgraded) => {
                    let _open = Open::new(&server.0.open, kind);
                    server.speak(TokioIo::new(upgraded), grant, protocol, activity).await;
                }
                Err(error) => tracing::debug!(%error, "upgrade a connection"),
            }
            drop(place);
        });
        Ok(headers)
    }

    /// What the token in the path stands for. Whatever is wrong with it, the answer is the same.
    fn granted(&self, method: &Method, path: &str) -> Result<Grant, Refusal> {
        let not_found = || refusal(StatusCode::NOT_FOUND, "404 page not found");
        let mut parts = path.split('/').skip(1);
        let (Some(kind), Some(token), None) = (parts.next(), parts.next(), parts.next()) else {
            return Err(not_found());
        };
        let kind =
            Kind::ALL.into_iter().find(|known| known.name() == kind).ok_or_else(not_found)?;
        if method != Method::GET && method != Method::POST {
            let mut refused = refusal(StatusCode::METHOD_NOT_ALLOWED, "GET and POST are answered");
            refused.headers.insert(ALLOW, HeaderValue::from_static("GET, POST"));
            return Err(refused);
        }
        let grant = self.0.urls.tokens().take(token).ok_or_else(not_found)?;
        if grant.kind() == kind { Ok(grant) } else { Err(not_found()) }
    }

    /// Speaks until a side ends it, nothing happens for too long, or the daemon ends.
    async fn speak<IO>(&self, io: IO, grant: Grant, protocol: Protocol, activity: Activity)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Limits { idle, creation } = self.0.limits;
        let terms =
            Terms { creation, idle, activity: activity.clone(), end: self.0.end.child_token() };
        tokio::select! {
            () = Box::pin(speak(io, grant, protocol, Arc::clone(&self.0.backend), terms)) => {}
            () = activity.ceased(idle) => tracing::debug!(?idle, "a stream was idle for too long"),
        }
    }
}

/// A WebSocket with channels has them for ports that are known beforehand: by the call, or by the URL's query.
fn name_ports(grant: &mut Grant, protocol: Protocol, query: &str) -> Result<(), Refusal> {
    if let (Grant::Forward(forward), Protocol::ForwardWebSocket(_)) = (grant, protocol)
        && forward.ports.is_empty()
    {
        let values = query.split('&').filter_map(|pair| pair.strip_prefix("port="));
        forward.ports = port::from_query(values)
            .map_err(|error| refusal(StatusCode::BAD_REQUEST, error.to_string()))?;
    }
    Ok(())
}

fn refusal(status: StatusCode, problem: impl Into<String>) -> Refusal {
    Refusal { status, problem: problem.into(), headers: HeaderMap::new() }
}

/// Counted while it lives.
struct Open<'a> {
    gauge: &'a IntGaugeVec,
    kind: Kind,
}

impl<'a> Open<'a> {
    fn new(gauge: &'a IntGaugeVec, kind: Kind) -> Self {
        gauge.with_label_values(&[kind.name()]).inc();
        Self { gauge, kind }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.gauge.with_label_values(&[self.kind.name()]).dec();
    }
}
