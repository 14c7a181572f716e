//! What stands behind the streams: containers to run commands in and to attach to, and pods whose ports are dialled.
//!
//! Owns the seam between protocols and the runtime, and nothing that lives: a trait, so that each protocol is tested against a process
//! that does what the test says.

use super::forward::Dial;
use super::grant::{Attach, Exec, Forward};
pub(crate) use davit_runtime::stream::Size;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// What a process reads.
pub(crate) type Input = Box<dyn AsyncWrite + Send + Unpin>;
/// What a process writes.
pub(crate) type Output = Box<dyn AsyncRead + Send + Unpin>;
/// What is yet to come.
pub(crate) type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// How a process let go of its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It has ended.
    Exited {
        /// The exit code, or 128 + the signal's number.
        code: i32,
    },
    /// The client was let go; the process goes on.
    Detached {
        /// Why, if it was not the client's wish.
        reason: Option<String>,
    },
}

/// A process with a client. Dropping it hangs up.
pub(crate) struct Session {
    /// There if it was wanted.
    pub(crate) stdin: Option<Input>,
    /// There if it was wanted.
    pub(crate) stdout: Option<Output>,
    /// There if it was wanted.
    pub(crate) stderr: Option<Output>,
    /// Sets its terminal's size, if it has one. Never waits: of sizes that come too fast the last one counts.
    pub(crate) resize: Box<dyn Fn(Size) + Send + Sync>,
    /// Ends when the process does, or lets go. Hangs up when dropped.
    pub(crate) ended: Later<Result<Ended, String>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

/// The way to a pod's ports. Clones are the same.
#[derive(Clone)]
pub(crate) struct Ports(Arc<dyn Fn(u16) -> Later<io::Result<TcpStream>> + Send + Sync>);

impl Ports {
    /// Reached by `dial`.
    pub(crate) fn new<F>(dial: impl Fn(u16) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = io::Result<TcpStream>> + Send + 'static,
    {
        Self(Arc::new(move |port| Box::pin(dial(port))))
    }
}

impl Dial for Ports {
    fn dial(&self, port: u16) -> impl Future<Output = io::Result<TcpStream>> + Send {
        (self.0)(port)
    }
}

impl std::fmt::Debug for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ports").finish_non_exhaustive()
    }
}

/// Where sessions come from. Errors are what the user reads.
#[tonic::async_trait]
pub(crate) trait Backend: Send + Sync {
    /// Runs a command.
    async fn exec(&self, exec: &Exec) -> Result<Session, String>;

    /// Attaches to a container's own process.
    async fn attach(&self, attach: &Attach) -> Result<Session, String>;

    /// Finds a pod's network.
    async fn forward(&self, forward: &Forward) -> Result<Ports, String>;
}
