//! Port forwarding: a client's connections, carried into a pod's network.
//!
//! Owns the protocols that clients ask for it by, and the copying. Doesn't know how a pod's network is reached ([`Dial`]), nor how a
//! request comes to be one for port forwarding.
//!
//! | file | a client that asks for | gets |
//! |---|---|---|
//! | [`spdy`] | `portforward.k8s.io` | pairs of streams on a SPDY session, one pair for each connection |
//! | [`tunnel`] | `SPDY/3.1+portforward.k8s.io` over a WebSocket | the same session, in binary messages |
//! | [`websocket`] | `v4.channel.k8s.io`, `v4.base64.channel.k8s.io`, or nothing, over a WebSocket | one connection for each port named in the query |
//!
//! [`connection`] is one of those connections, [`port`] what a port may be. Everything that serves a client ends with its session.

pub(crate) mod connection;
pub(crate) mod port;
pub(crate) mod spdy;
#[cfg(test)]
mod tests;
pub(crate) mod tunnel;
pub(crate) mod websocket;

use std::io;
use tokio::net::TcpStream;

/// The sub-protocol of SPDY by which connections are forwarded.
pub(crate) const PROTOCOL: &str = "portforward.k8s.io";
/// The WebSocket sub-protocol that carries a SPDY session.
pub(crate) const TUNNEL_PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";
/// The WebSocket sub-protocol with a channel per port.
pub(crate) const CHANNEL_PROTOCOL: &str = "v4.channel.k8s.io";
/// The same with text messages.
pub(crate) const BASE64_CHANNEL_PROTOCOL: &str = "v4.base64.channel.k8s.io";

/// Reaches into one pod's network.
pub(crate) trait Dial: Clone + Send + Sync + 'static {
    /// A connection to what listens on `port` of the pod's own loopback.
    fn dial(&self, port: u16) -> impl Future<Output = io::Result<TcpStream>> + Send;
}
