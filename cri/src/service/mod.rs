//! The gRPC services: one method per RPC, each a conversion, a call of the runtime, and a conversion back.
//!
//! Owns nothing that lives longer than a call: a handler may be dropped at any await, and the runtime's work goes on without it. What a message means is
//! [`crate::convert`]'s; what an error is on the wire is [`status`]'s.

mod about;
mod check;
mod davit;
mod events;
mod image;
mod logs;
mod runtime;
mod stats;
mod status;
mod streams;

pub(crate) use davit::Admin;
pub(crate) use image::Images;
pub(crate) use runtime::RuntimeApi;

use std::pin::Pin;
use tokio_stream::Stream;
use tonic::Status;

/// How many items one message of a streamed list carries (KEP-5825): far below the 16 MiB that clients take.
const CHUNK: usize = 1000;

/// The stream of a streamed list.
type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A streamed list: every item once, in messages of at most [`CHUNK`], none of them empty.
fn streamed<T: Clone + Send + 'static, M: Send + 'static>(
    items: Vec<T>,
    message: impl Fn(Vec<T>) -> M + Send + 'static,
) -> Streamed<M> {
    let mut items = items.into_iter();
    let chunks = std::iter::from_fn(move || {
        let chunk: Vec<T> = items.by_ref().take(CHUNK).collect();
        (!chunk.is_empty()).then(|| Ok(message(chunk)))
    });
    Box::pin(tokio_stream::iter(chunks))
}

/// A field that every caller must give.
fn required<T>(value: Option<T>, field: &str) -> Result<T, Status> {
    value.ok_or_else(|| Status::invalid_argument(format!("{field}: missing")))
}

/// A number of seconds that must not be negative.
fn seconds(value: i64, field: &str) -> Result<std::time::Duration, Status> {
    let seconds = u64::try_from(value)
        .map_err(|_negative| Status::invalid_argument(format!("{field}: {value} is negative")))?;
    Ok(std::time::Duration::from_secs(seconds))
}
