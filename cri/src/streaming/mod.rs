//! What flows outside gRPC: the protocols by which clients reach into pods.
//!
//! | module | owns |
//! |---|---|
//! | [`spdy`] | SPDY/3.1 sessions: frames, streams, bounds |
//! | [`forward`] | port forwarding over them, and over WebSockets |

pub(crate) mod forward;
pub(crate) mod spdy;
