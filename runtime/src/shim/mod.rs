//! The daemon's side of a shim: spawning it, talking to it, noticing its end.
//!
//! Owns the process's start and the connection. What a shim does is its own affair (`davit-shim`); what its answers mean for the pod
//! is the pod's task's ([`crate::sandbox`]).

mod client;
mod process;
mod spawn;
mod wire;

pub use client::{ShimClient, ShimError};
pub(crate) use process::end_child;
pub use process::{ProcessHandle, start_time};
pub(crate) use spawn::{ReadyShim, last_words};
pub use spawn::{SpawnError, spawn};
