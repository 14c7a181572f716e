//! The gRPC services: one method per RPC, each a conversion, a call of the runtime, and a conversion back.
//!
//! Owns nothing that lives longer than a call: a handler may be dropped at any await, and the runtime's work goes on without it. What a message means is
//! [`crate::convert`]'s; what an error is on the wire is [`status`]'s.

mod about;
mod check;
mod checkpoints;
mod davit;
mod event_filter;
mod events;
mod happened;
mod image;
mod info;
mod lists;
mod logs;
mod registry;
mod restore;
mod runtime;
mod standing;
mod state;
mod stats;
mod status;
mod streams;
mod usage;

pub(crate) use davit::Admin;
pub(crate) use image::Images;
pub(crate) use registry::Keyring;
pub(crate) use runtime::RuntimeApi;
pub(crate) use status::exit_code as command_code;

use lists::{Streamed, streamed, whole};
use tonic::Status;

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
