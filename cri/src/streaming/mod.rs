//! What flows outside gRPC: the streams of Exec, Attach and PortForward, and the server that clients meet them on.
//!
//! Owns the way from a call to a connection. A call is checked, becomes a [`grant::Grant`] with a secret token, and its caller gets a URL
//! with that token in it; whoever comes with the URL within a minute, once, speaks with the process or the pod.
//!
//! ```text
//! Exec, Attach, PortForward ─► service/runtime ─► Urls ─► URL ─► (kubelet) ─► client
//!                                                  │ token → grant              │
//! process, pod ◄── backend ◄── command, forward ◄── server ◄────────────────────┘
//! ```
//!
//! | module | owns |
//! |---|---|
//! | [`grant`], [`token`] | what a URL is for, and for how long |
//! | [`server`], [`upgrade`], [`speak`] | connections, the negotiation of what is spoken on them, and its choice |
//! | [`command`] | exec and attach: remotecommand over SPDY and over WebSocket |
//! | [`forward`] | port forwarding over them |
//! | [`spdy`] | SPDY/3.1 sessions: frames, streams, bounds |
//! | [`backend`] | the seam to the runtime |
//! | [`activity`] | when a connection is idle |
//!
//! Invariant: a stream belongs to its connection. When that ends, so does what it began, but for containers' own processes, which belong to
//! their pods and go on.

pub(crate) mod activity;
pub(crate) mod backend;
pub(crate) mod command;
pub(crate) mod forward;
pub(crate) mod grant;
pub(crate) mod runtime;
pub(crate) mod server;
pub(crate) mod spdy;
mod speak;
#[cfg(test)]
mod tests;
pub(crate) mod token;
pub(crate) mod upgrade;

pub(crate) use server::Server;

use grant::Grant;
use std::sync::Arc;
use std::time::Duration;
use token::{TokenError, Tokens};

/// How long clients may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// How long nothing may happen on a connection.
    pub(crate) idle: Duration,
    /// How long a client may take to open the streams of its call.
    pub(crate) creation: Duration,
}

/// Hands out URLs. Clones hand out the same.
#[derive(Debug, Clone)]
pub(crate) struct Urls {
    base: Arc<str>,
    tokens: Tokens,
}

impl Urls {
    /// That begin like this, without a slash at the end.
    pub(crate) fn new(base: &str) -> Self {
        Self { base: base.into(), tokens: Tokens::default() }
    }

    /// One for this grant.
    ///
    /// # Errors
    /// [`TokenError`].
    pub(crate) fn give(&self, grant: Grant) -> Result<String, TokenError> {
        let kind = grant.kind().name();
        Ok(format!("{}/{kind}/{}", self.base, self.tokens.give(grant)?))
    }

    fn tokens(&self) -> &Tokens {
        &self.tokens
    }
}
