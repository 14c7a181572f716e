//! The connection by which a shim is called.
//!
//! Owns when it is made: at the first call, and again after it was lost. tonic's own channel does that too, with a queue in front of it that is 9 KiB large
//! whatever waits there; a daemon has as many of these as there are pods.

use super::client::connect;
use crate::error::chain;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::io::ErrorKind;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::Mutex;
use tonic::Status;
use tonic::body::Body;
use tower::Service;

/// What one stream, and one connection, may send before it is read. Small: there is one connection per pod.
const STREAM_WINDOW: u32 = 1 << 16;
const CONNECTION_WINDOW: u32 = 1 << 17;

/// To the shim of the pod in a directory. Clones share the connection.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    directory: Arc<Path>,
    made: Arc<Mutex<Option<SendRequest<Body>>>>,
}

impl Wire {
    pub(super) fn new(directory: Arc<Path>) -> Self {
        Self { directory, made: Arc::default() }
    }

    /// The connection that is there, or a new one.
    async fn sender(&self) -> Result<SendRequest<Body>, Status> {
        let mut made = self.made.lock().await;
        if let Some(sender) = made.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let stream = connect(&self.directory).await.map_err(unconnected)?;
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        let shaken = builder.handshake(TokioIo::new(stream)).await;
        let (sender, connection) = shaken.map_err(|error| gone(&error))?;
        // How it ended is told to the calls that are under way.
        tokio::spawn(async move { drop(connection.await) });
        *made = Some(sender.clone());
        Ok(sender)
    }
}

impl Service<Request<Body>> for Wire {
    type Response = Response<Incoming>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let wire = self.clone();
        Box::pin(async move {
            let mut sender = wire.sender().await?;
            sender.send_request(request).await.map_err(|error| gone(&error))
        })
    }
}

/// What a connection's error means to the call that meets it: no answer comes.
fn gone(error: &dyn std::error::Error) -> Status {
    Status::unavailable(chain(error))
}

/// What it means that there is none: the shim was not asked.
pub(super) fn unconnected(error: std::io::Error) -> Status {
    if error.kind() == ErrorKind::WouldBlock {
        return Status::deadline_exceeded(FULL_QUEUE);
    }
    let mut status = gone(&error);
    // For who asks whether it was this side that lacked something.
    status.set_source(Arc::new(error));
    status
}

/// Of a shim that has left thousands of connections waiting.
const FULL_QUEUE: &str = "the pod's shim takes up no connections";
