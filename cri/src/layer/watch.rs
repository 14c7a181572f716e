//! Learning how a call ended.
//!
//! A gRPC call has ended when its status was sent, which for anything but a refusal is in the trailers, after the last message. A call
//! whose caller went away ends by being dropped. [`Watch`] tells its concern in both cases, exactly once.

use super::Held;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::body::Body;
use tonic::{Code, Status};

/// Tells a concern once how its call ended.
#[derive(Debug)]
pub(crate) struct Watch<H: Held>(Option<H>);

impl<H: Held> Watch<H> {
    pub(crate) fn new(held: H) -> Self {
        Self(Some(held))
    }

    pub(crate) fn end(&mut self, code: Code) {
        if let Some(mut held) = self.0.take() {
            held.end(code);
        }
    }
}

impl<H: Held> Drop for Watch<H> {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// A body that is passed on as it is while its end is looked for.
#[derive(Debug)]
pub(crate) struct WatchedBody<H: Held> {
    inner: Body,
    watch: Watch<H>,
}

impl<H: Held> WatchedBody<H> {
    pub(crate) fn new(inner: Body, watch: Watch<H>) -> Self {
        Self { inner, watch }
    }
}

impl<H: Held> HttpBody for WatchedBody<H> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_frame(context);
        match &polled {
            Poll::Pending => {}
            Poll::Ready(None) => this.watch.end(Code::Ok),
            Poll::Ready(Some(Err(status))) => this.watch.end(status.code()),
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    let code =
                        Status::from_header_map(trailers).map_or(Code::Ok, |status| status.code());
                    this.watch.end(code);
                }
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
