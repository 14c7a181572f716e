//! The endpoint: `/metrics`, `/healthz`, `/readyz` and, for who debugs, `/debug/…`, over HTTP/1.1, with TLS or without.
//!
//! Owns its connections, of which there are few, short and bounded ones. Whoever reaches the port may read the numbers and nothing
//! else; a slow or silent client costs one of the places for a minute at most.

use super::site::Phase;
use super::{Metrics, Site, debug, profile};
use crate::serve::{Listener, Stream};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Connections at once; the next one waits in the kernel's queue.
const CONNECTIONS: usize = 16;
/// How long a client may take for a TLS handshake, and to send its request's head.
const HEAD: Duration = Duration::from_secs(5);
/// How long a connection may last, whatever is done with it.
const LIFE: Duration = Duration::from_secs(90);
/// How long a profile may take: less than a connection lasts.
const LONGEST_PROFILE: u64 = 60;
const USUAL_PROFILE: u64 = 10;
/// The pause after an accept that failed, most likely for want of descriptors: retrying at once would spin.
const PAUSE: Duration = Duration::from_millis(100);
const PATHS: &str = "there are /metrics, /healthz and /readyz\n";
const DEBUG_PATHS: &str =
    "there are /debug/tasks, /debug/heap and /debug/profile?seconds=N (1 to 60)\n";

type Answer = Response<Full<Bytes>>;

/// Who is on the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    /// Somebody on this node.
    Loopback,
    /// Anybody.
    Remote,
}

/// Answers until `stop`.
pub(crate) async fn serve(listener: Listener, site: Site, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = accept(&listener, &places) => accepted,
        };
        let Some((stream, place)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let site = site.clone();
        let stop = stop.clone();
        tokio::spawn(async move {
            let _place = place;
            tokio::select! {
                () = stop.cancelled() => {}
                done = tokio::time::timeout(LIFE, Box::pin(connection(stream, site))) => {
                    if let Ok(Err(error)) = done {
                        tracing::debug!(%error, "serve a connection for metrics");
                    }
                }
            }
        });
    }
}

async fn accept(
    listener: &Listener,
    places: &Arc<Semaphore>,
) -> Option<(Stream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok(stream) => Some((stream, place)),
        Err(error) => {
            tracing::warn!(%error, "accept a connection for metrics");
            None
        }
    }
}

async fn connection(stream: Stream, site: Site) -> io::Result<()> {
    match stream {
        // None is ever made.
        Stream::Unix(_) => Ok(()),
        Stream::Tcp(stream) => {
            let client = client(&stream);
            speak(stream, client, site).await
        }
        Stream::Tls(stream, certificates) => {
            let client = client(&stream);
            let shaken = tokio::time::timeout(HEAD, certificates.acceptor().accept(stream)).await;
            speak(shaken.map_err(io::Error::other)??, client, site).await
        }
    }
}

/// On this node if both ends are: what comes in on another address may have been passed on.
fn client(stream: &TcpStream) -> Client {
    let local = |address: io::Result<std::net::SocketAddr>| {
        address.is_ok_and(|address| address.ip().to_canonical().is_loopback())
    };
    match local(stream.peer_addr()) && local(stream.local_addr()) {
        true => Client::Loopback,
        false => Client::Remote,
    }
}

async fn speak(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    client: Client,
    site: Site,
) -> io::Result<()> {
    let service = service_fn(move |request: Request<Incoming>| {
        let site = site.clone();
        async move { Ok::<_, Infallible>(answer(&request, client, &site).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .await
        .map_err(io::Error::other)
}

async fn answer<B>(request: &Request<B>, client: Client, site: &Site) -> Answer {
    if request.method() != Method::GET {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return refused;
    }
    let path = request.uri().path();
    match path {
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => match &*site.phase() {
            Phase::Serving(_) => text(StatusCode::OK, "ok\n"),
            Phase::Starting => unavailable("davit is starting\n"),
            Phase::Stopping(_) => unavailable("davit is stopping\n"),
        },
        "/metrics" => match &*site.phase() {
            Phase::Serving(metrics) | Phase::Stopping(metrics) => scraped(metrics),
            Phase::Starting => unavailable("davit is starting\n"),
        },
        _ if path.starts_with("/debug") => debugging(request, client, site).await,
        _ => text(StatusCode::NOT_FOUND, PATHS),
    }
}

fn scraped(metrics: &Metrics) -> Answer {
    match metrics.text() {
        Ok(metrics) => typed(metrics, HeaderValue::from_static(prometheus::TEXT_FORMAT)),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
    }
}

/// To everybody else these paths don't exist.
async fn debugging<B>(request: &Request<B>, client: Client, site: &Site) -> Answer {
    if client != Client::Loopback || !site.debug() {
        return text(StatusCode::NOT_FOUND, PATHS);
    }
    match request.uri().path() {
        "/debug/tasks" => json(&debug::tasks()),
        "/debug/heap" => json(&debug::heap()),
        "/debug/profile" => match seconds(request.uri().query().unwrap_or_default()) {
            Ok(seconds) => profiled(Duration::from_secs(seconds)).await,
            Err(given) => text(
                StatusCode::BAD_REQUEST,
                &format!("{given:?} is not seconds=N, N being from 1 to {LONGEST_PROFILE}\n"),
            ),
        },
        _ => text(StatusCode::NOT_FOUND, DEBUG_PATHS),
    }
}

async fn profiled(length: Duration) -> Answer {
    match profile::take(length).await {
        Ok(profile) => typed(profile, HeaderValue::from_static("application/octet-stream")),
        Err(error @ profile::ProfileError::Busy) => {
            text(StatusCode::TOO_MANY_REQUESTS, &format!("{error}\n"))
        }
        Err(error) => {
            let chain = davit_runtime::error::chain(&error);
            text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{chain}\n"))
        }
    }
}

/// How long a profile is to take; what was given, if it says nothing of the kind.
fn seconds(query: &str) -> Result<u64, &str> {
    if query.is_empty() {
        return Ok(USUAL_PROFILE);
    }
    let seconds = query.strip_prefix("seconds=").and_then(|number| number.parse().ok());
    seconds.filter(|seconds| (1..=LONGEST_PROFILE).contains(seconds)).ok_or(query)
}

fn unavailable(why: &str) -> Answer {
    text(StatusCode::SERVICE_UNAVAILABLE, why)
}

fn json(value: &serde_json::Value) -> Answer {
    typed(format!("{value:#}\n").into_bytes(), HeaderValue::from_static("application/json"))
}

fn text(status: StatusCode, text: &str) -> Answer {
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    let mut answer = typed(text.as_bytes().to_vec(), kind);
    *answer.status_mut() = status;
    answer
}

fn typed(body: Vec<u8>, kind: HeaderValue) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Counters, CountersSource, DebugOn};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn ask(address: std::net::SocketAddr, head: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn metrics() -> Arc<Metrics> {
        let counters: CountersSource = Arc::new(Counters::default);
        Arc::new(Metrics::new(prometheus::Registry::new(), counters).unwrap())
    }

    #[tokio::test]
    async fn only_get_of_a_few_paths_is_answered_and_each_at_its_time() {
        let site = Site::new(DebugOn(false));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(Listener::Tcp(listener), site.clone(), stop.clone()));
        for head in ["GET /metrics", "GET /readyz"] {
            let answer = ask(address, head).await;
            assert!(answer.starts_with("HTTP/1.1 503"), "{head}: {answer}");
        }
        assert!(ask(address, "GET /healthz").await.starts_with("HTTP/1.1 200"));
        site.open(metrics());
        for (head, status, part) in [
            ("GET /metrics", "200", "davit_containers{state=\"running\"} 0"),
            ("GET /healthz", "200", "ok"),
            ("GET /readyz", "200", "ok"),
            ("GET /", "404", "/metrics"),
            ("GET /metrics/x", "404", "/metrics"),
            ("GET /debug/tasks", "404", "/metrics"),
            ("GET /debug/profile?seconds=1", "404", "/metrics"),
            ("POST /metrics", "405", "GET"),
            ("HEAD /metrics", "405", "allow: GET"),
            ("DELETE /healthz", "405", "GET"),
        ] {
            let answer = ask(address, head).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{head}: {answer}");
            assert!(answer.contains(part), "{head}: {answer}");
        }
        site.stop();
        assert!(ask(address, "GET /readyz").await.starts_with("HTTP/1.1 503"));
        assert!(ask(address, "GET /metrics").await.starts_with("HTTP/1.1 200"));
        stop.cancel();
        server.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }

    async fn debugged(path: &str, client: Client, site: &Site) -> (u16, String) {
        let request = Request::builder().uri(path).body(()).unwrap();
        let answer = answer(&request, client, site).await;
        let status = answer.status().as_u16();
        let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    #[tokio::test]
    async fn who_debugs_on_loopback_is_told_more_and_nobody_else() {
        let site = Site::new(DebugOn(true));
        for (path, status, part) in [
            ("/debug/tasks", 200, "aliveTasks"),
            ("/debug/heap", 200, "usedBytes"),
            ("/debug/profile?seconds=0", 400, "1 to 60"),
            ("/debug/profile?seconds=61", 400, "1 to 60"),
            ("/debug/profile?x", 400, "1 to 60"),
            ("/debug/pprof", 404, "/debug/heap"),
            ("/debug", 404, "/debug/heap"),
        ] {
            let (told, text) = debugged(path, Client::Loopback, &site).await;
            assert_eq!(told, status, "{path}: {text}");
            assert!(text.contains(part), "{path}: {text}");
            let (told, text) = debugged(path, Client::Remote, &site).await;
            assert_eq!((told, text.as_str()), (404, PATHS), "{path}");
        }
        site.set_debug(DebugOn(false));
        assert_eq!(debugged("/debug/tasks", Client::Loopback, &site).await.0, 404);
    }
}
