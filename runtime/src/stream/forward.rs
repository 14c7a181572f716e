//! Connections to ports of a pod, from inside of its network namespace.
//!
//! A socket belongs for ever to the namespace it was made in, whoever uses it: so only the making happens there, on a thread that ends
//! afterwards and never does anything else, and the connecting happens where everything else does.

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream as StdStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Semaphore, oneshot};

/// How long one address may take. On loopback somebody answers at once, unless the listener's queue is full.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Threads in a pod's namespace at a time. Each takes some microseconds.
const ENTERING: usize = 8;

/// The network that a pod's processes see; clones are the same one.
#[derive(Debug, Clone)]
pub struct PodNetwork {
    /// Opened anew for each connection, so that nothing here keeps the namespace of a pod that has gone.
    pin: Option<Arc<PathBuf>>,
    entering: Arc<Semaphore>,
}

impl PodNetwork {
    /// The network whose namespace is pinned there; the host's if there is no pin.
    pub(crate) fn new(pin: Option<PathBuf>) -> Self {
        Self { pin: pin.map(Arc::new), entering: Arc::new(Semaphore::new(ENTERING)) }
    }

    /// Connects to `port` of 127.0.0.1, or else of `::1`. Takes 10 s at most.
    ///
    /// # Errors
    /// That the namespace is gone, or what connect(2) says, to IPv4 if both fail.
    pub async fn dial(&self, port: u16) -> io::Result<TcpStream> {
        if port == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "port 0 is none"));
        }
        let (first, second) = self.sockets().await?;
        let first_error = match connect(first, (Ipv4Addr::LOCALHOST, port).into()).await {
            Err(error) => error,
            connected => return connected,
        };
        match second {
            Some(second) => connect(second, (Ipv6Addr::LOCALHOST, port).into())
                .await
                .map_err(|_the_first_says_more| first_error),
            None => Err(first_error),
        }
    }

    async fn sockets(&self) -> io::Result<(OwnedFd, Option<OwnedFd>)> {
        let Some(pin) = self.pin.clone() else { return sockets_here() };
        let ended = |_| io::Error::other("the thread in the pod's network namespace ended");
        let _turn = self.entering.acquire().await.map_err(io::Error::other)?;
        let (tell, told) = oneshot::channel();
        let body = move || {
            let made = File::open(&*pin).and_then(|namespace| {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
                sockets_here()
            });
            // Nobody waits any more: the sockets close.
            drop(tell.send(made));
        };
        // Its own thread: one that has left the host's namespace must do nothing else afterwards.
        std::thread::Builder::new().name("davit-netns".to_owned()).spawn(body)?;
        told.await.map_err(ended)?
    }
}

/// A socket for each version of IP, of the calling thread's namespace. IPv6 may be switched off.
fn sockets_here() -> io::Result<(OwnedFd, Option<OwnedFd>)> {
    let make = |family| {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socket_with(family, SocketType::STREAM, flags, None)
    };
    Ok((make(AddressFamily::INET)?, make(AddressFamily::INET6).ok()))
}

async fn connect(socket: OwnedFd, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::from_std_stream(StdStream::from(socket));
    let connecting = tokio::time::timeout(CONNECT_LIMIT, socket.connect(address));
    let stream = connecting.await.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
