//! What every call goes through on its way to a service: one concern per file.
//!
//! Owns the frame ([`Through`]): how a concern sees a call begin, refuses it, and learns how it ended, be that with an answer, with the
//! last message of a stream, or because the caller went away and the handler was dropped. Owns no work: nothing here is lost when a
//! future is dropped.
//!
//! ```text
//! connection ─► request ─► operations ─► bound ─► in_flight ─► routes ─► service
//!               id, span,  counters,     shed     counted until it ends,
//!               log        latency       load     refused while stopping
//! ```

mod bound;
mod in_flight;
mod method;
mod operations;
mod request;
#[cfg(test)]
mod tests;
mod watch;

pub(crate) use bound::Bound;
pub(crate) use in_flight::InFlight;
pub(crate) use method::Method;
pub(crate) use operations::Operations;
pub(crate) use request::Requests;

use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use std::convert::Infallible;
use std::task::{Context, Poll};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::Instrument;
use watch::{Watch, WatchedBody};

/// One thing that is done for every call.
pub(crate) trait Concern: Clone + Send + Sync + 'static {
    /// Kept for as long as the call takes.
    type Held: Held;

    /// A call begins, with these headers.
    ///
    /// # Errors
    /// The status with which it is refused; nothing further in sees it.
    fn begin(&self, method: Method, headers: &HeaderMap) -> Result<Self::Held, Box<Status>>;
}

/// What a concern keeps during a call. Dropped right after [`Held::end`].
pub(crate) trait Held: Send + Unpin + 'static {
    /// The call is over. [`Code::Cancelled`] if the caller went away first.
    fn end(&mut self, code: Code);

    /// The span that the handler runs in.
    fn span(&self) -> tracing::Span {
        tracing::Span::none()
    }
}

/// The tower layer and service of a concern.
#[derive(Debug, Clone)]
pub(crate) struct Through<C, S = ()> {
    concern: C,
    inner: S,
}

/// The layer of a concern.
pub(crate) fn through<C: Concern>(concern: C) -> Through<C> {
    Through { concern, inner: () }
}

impl<C: Concern, S> Layer<S> for Through<C> {
    type Service = Through<C, S>;

    fn layer(&self, inner: S) -> Self::Service {
        Through { concern: self.concern.clone(), inner }
    }
}

impl<C, S, B> Service<Request<B>> for Through<C, S>
where
    C: Concern,
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let held = match self.concern.begin(Method::of(request.uri().path()), request.headers()) {
            Ok(held) => held,
            Err(refused) => return Box::pin(async move { Ok(refused.into_http()) }),
        };
        let span = held.span();
        let watch = Watch::new(held);
        let answer = span.in_scope(|| self.inner.call(request));
        Box::pin(async move { Ok(watched(answer.instrument(span).await?, watch)) })
    }
}

/// Ends the watch now if the answer is its head alone, as refusals are; else when the body has ended.
fn watched<H: Held>(answer: Response<Body>, mut watch: Watch<H>) -> Response<Body> {
    if let Some(status) = Status::from_header_map(answer.headers()) {
        watch.end(status.code());
        return answer;
    }
    answer.map(|body| Body::new(WatchedBody::new(body, watch)))
}
