//! `portforward.k8s.io`: a SPDY session on which each connection is a pair of streams.
//!
//! A client opens an *error* and a *data* stream, with the same `requestid` and `port`, and says what it says on the latter; what is
//! written to the former it shows to its user, and takes for the end of the whole session. So only what concerns the user is written
//! there: that a connection could not be made. One that breaks is reset, and that is all.
//!
//! ```text
//! error, data ──► pair ──► dial ──► copy ──► data: fin, error: fin
//!          │               └─ refused ──► error: why, fin; data: reset
//!          └─ the other one doesn't come ──► error: why, fin; or data: reset
//! ```

use super::Dial;
use super::connection::{self, Client, End, ForwardError};
use super::port;
use crate::streaming::spdy::{Headers, Incoming, Limits, Session, Stream, Writer};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How long one stream of a pair waits for the other.
const PAIRING: Duration = Duration::from_secs(30);
/// How long a connection that takes nothing may hold up the others of its session.
const STALL: Duration = Duration::from_secs(30);

/// What a session for port forwarding may cost. `idle`: see [`Limits::idle`].
pub(crate) fn limits(idle: Duration) -> Limits {
    Limits { stall: Some(STALL), idle, ..Limits::default() }
}

/// Forwards whatever connections the client asks for, until the session ends; then they end too. `pod`: how messages name the pod.
pub(crate) async fn serve(mut session: Session, pod: &str, dial: impl Dial) {
    let mut pairs = Pairs::default();
    // As many as the session has streams for, since each holds two.
    let mut connections = JoinSet::new();
    loop {
        let next = tokio::select! {
            incoming = session.accept() => match incoming {
                Some(incoming) => pairs.offer(incoming),
                None => return,
            },
            () = pairs.too_late() => pairs.next_too_late(),
            Some(_) = connections.join_next() => continue,
        };
        match next {
            Some(Next::Forward(pair)) => {
                let (pod, dial) = (pod.to_owned(), dial.clone());
                connections.spawn(async move { forward(pair, &pod, &dial).await });
            }
            Some(Next::Fail(error, stream)) => {
                connections.spawn(async move { fail(stream, None, &error).await });
            }
            None => {}
        }
    }
}

/// What a stream, or the lack of one, leads to.
enum Next {
    Forward(Pair),
    /// Said on an error stream.
    Fail(ForwardError, Writer),
}

/// Both streams of a connection.
struct Pair {
    port: Result<u16, port::PortError>,
    error: Writer,
    data: Stream,
}

/// The one that came first.
enum Waiting {
    Error(Writer),
    Data(Stream, Headers),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Error,
    Data,
}

/// Streams that wait for their counterpart, by request.
#[derive(Default)]
struct Pairs {
    waiting: HashMap<String, (Instant, Waiting)>,
    /// The same in the order they came, with those that have been paired since.
    order: VecDeque<(Instant, String)>,
}

impl Pairs {
    fn offer(&mut self, incoming: Incoming) -> Option<Next> {
        let kind = match incoming.headers.get("streamtype") {
            Some("error") => Kind::Error,
            Some("data") => Kind::Data,
            // Without the header there is nothing to say it on, either.
            other => {
                tracing::debug!(
                    ?other,
                    "refuse a stream whose streamtype is neither error nor data"
                );
                incoming.refuse();
                return None;
            }
        };
        let request = request(&incoming, kind);
        match (self.waiting.remove(&request), kind) {
            (None, kind) => {
                self.wait(request, kind, incoming);
                None
            }
            (Some((_, Waiting::Error(error))), Kind::Data) => {
                let port = port::from_header(incoming.headers.get("port"));
                let data = incoming.accept();
                Some(Next::Forward(Pair { port, error, data }))
            }
            (Some((_, Waiting::Data(data, headers))), Kind::Error) => {
                let port = port::from_header(headers.get("port"));
                let (_, error) = incoming.accept().split();
                Some(Next::Forward(Pair { port, error, data }))
            }
            (Some((_, Waiting::Error(error))), Kind::Error) => {
                Some(Next::Fail(ForwardError::Twice(request, "error"), error))
            }
            (Some(first @ (_, Waiting::Data(..))), Kind::Data) => {
                tracing::debug!(request, "refuse a second data stream");
                self.waiting.insert(request, first);
                None
            }
        }
    }

    fn wait(&mut self, request: String, kind: Kind, incoming: Incoming) {
        let headers = incoming.headers.clone();
        // Taken at once: clients open the second only when the first has been.
        let stream = incoming.accept();
        let waiting = match kind {
            Kind::Error => Waiting::Error(stream.split().1),
            Kind::Data => Waiting::Data(stream, headers),
        };
        let until = Instant::now() + PAIRING;
        self.order.push_back((until, request.clone()));
        self.waiting.insert(request, (until, waiting));
    }

    /// Until the first has waited for long enough.
    async fn too_late(&self) {
        match self.order.front() {
            Some((until, _)) => tokio::time::sleep_until(*until).await,
            None => std::future::pending().await,
        }
    }

    fn next_too_late(&mut self) -> Option<Next> {
        let (until, request) = self.order.pop_front()?;
        // Paired since, and perhaps the name used once more.
        if self.waiting.get(&request)?.0 != until {
            return None;
        }
        match self.waiting.remove(&request)? {
            (_, Waiting::Error(error)) => Some(Next::Fail(ForwardError::Unpaired(request), error)),
            (_, Waiting::Data(data, _)) => {
                data.reset();
                None
            }
        }
    }
}

/// What pairs a stream. Clients from before there was a header for it open the error stream and then the data stream, each with the
/// next number.
fn request(incoming: &Incoming, kind: Kind) -> String {
    match (incoming.headers.get("requestid"), kind) {
        (Some(request), _) if !request.is_empty() => request.to_owned(),
        (_, Kind::Error) => incoming.id().to_string(),
        (_, Kind::Data) => incoming.id().wrapping_sub(2).to_string(),
    }
}

async fn forward(pair: Pair, pod: &str, dial: &impl Dial) {
    let Pair { port, error, data } = pair;
    let dialled = match port {
        Ok(port) => connection::dial(dial, pod, port).await,
        Err(wrong) => Err(wrong.into()),
    };
    let stream = match dialled {
        Ok(stream) => stream,
        Err(why) => return fail(error, Some(data), &why).await,
    };
    let broken = data.broken();
    let end = connection::copy(data.split(), stream, Client::EndsItsHalf, broken).await;
    if end == End::Broken {
        tracing::debug!("a forwarded connection broke");
    }
    finish(error).await;
}

/// The reset comes last: a client that has lost the data stream looks at the error stream and goes.
async fn fail(mut error: Writer, data: Option<Stream>, why: &ForwardError) {
    tracing::debug!(%why, "forward a port");
    // A client that is gone can't be told.
    drop(error.write_all(why.to_string().as_bytes()).await);
    finish(error).await;
    if let Some(data) = data {
        data.reset();
    }
}

async fn finish(mut error: Writer) {
    if let Err(gone) = error.shutdown().await {
        tracing::debug!(%gone, "end an error stream");
    }
}
