//! What is spoken on a connection that was upgraded.
//!
//! Owns the choice: which protocol serves which grant. A connection that the negotiation let through has both, and they fit each other.

use super::backend::{Backend, Ports};
use super::command::websocket::Coding;
use super::command::{self, Command, Terms};
use super::forward::websocket::{Codec, Request};
use super::forward::{self, tunnel};
use super::grant::{Forward, Grant};
use super::spdy;
use super::upgrade::Protocol;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

/// Speaks until a side has ended or the daemon does.
pub(crate) async fn speak<IO>(
    io: IO,
    grant: Grant,
    protocol: Protocol,
    backend: Arc<dyn Backend>,
    terms: Terms,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match grant {
        Grant::Exec(exec) => run(io, Command::exec(backend, exec), protocol, terms).await,
        Grant::Attach(attach) => run(io, Command::attach(backend, attach), protocol, terms).await,
        Grant::Forward(asked) => {
            let end = terms.end.clone();
            tokio::select! {
                () = carry(io, asked, protocol, backend, terms) => {}
                () = end.cancelled() => {}
            }
        }
    }
}

async fn run<IO>(io: IO, command: Command, protocol: Protocol, terms: Terms)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match protocol {
        Protocol::CommandSpdy(version) => command::spdy::serve(io, version, command, terms).await,
        Protocol::CommandWebSocket(flavour) => {
            command::websocket::serve(io, flavour, command, terms).await;
        }
        Protocol::ForwardSpdy | Protocol::ForwardWebSocket(_) | Protocol::ForwardTunnel => {}
    }
}

async fn carry<IO>(
    io: IO,
    asked: Forward,
    protocol: Protocol,
    backend: Arc<dyn Backend>,
    terms: Terms,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // A pod that has gone since is told of on each connection that the client asks for: before that there is nowhere to tell it.
    let ports = backend.forward(&asked).await.unwrap_or_else(|problem| {
        Ports::new(move |_| std::future::ready(Err(io::Error::other(problem.clone()))))
    });
    let Forward { pod, ports: numbers } = asked;
    let limits = forward::spdy::limits(terms.idle);
    match protocol {
        Protocol::ForwardSpdy => {
            forward::spdy::serve(spdy::serve(io, limits), &pod, ports).await;
        }
        Protocol::ForwardTunnel => {
            let tunnel = tunnel::Tunnel::new(socket(io).await);
            forward::spdy::serve(spdy::serve(tunnel, limits), &pod, ports).await;
        }
        Protocol::ForwardWebSocket(coding) => {
            let codec = match coding {
                Coding::Binary => Codec::Binary,
                Coding::Text => Codec::Base64,
            };
            let request = Request { codec, ports: numbers, pod, idle: terms.idle };
            forward::websocket::serve(socket(io).await, request, ports).await;
        }
        Protocol::CommandSpdy(_) | Protocol::CommandWebSocket(_) => {}
    }
}

async fn socket<IO: AsyncRead + AsyncWrite + Unpin>(io: IO) -> WebSocketStream<IO> {
    WebSocketStream::from_raw_socket(io, Role::Server, Some(tunnel::config())).await
}
