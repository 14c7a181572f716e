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

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::sync::mpsc;
    use std::thread::JoinHandle;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// A network namespace with loopback up, as long as it lives, and a server in it that sends back one message.
    struct Namespace {
        pin: PathBuf,
        port: u16,
        _end: mpsc::Sender<()>,
        thread: Option<JoinHandle<()>>,
    }

    impl Namespace {
        fn with_server(address: &'static str) -> Self {
            let (tell, told) = mpsc::channel();
            let (end, ended) = mpsc::channel::<()>();
            let thread = std::thread::spawn(move || {
                davit_sys::namespace::unshare(davit_sys::namespace::Namespace::Net).unwrap();
                let mut up = std::process::Command::new("ip");
                assert!(up.args(["link", "set", "lo", "up"]).status().unwrap().success());
                let listener = TcpListener::bind(address).unwrap();
                let own = rustix::thread::gettid().as_raw_pid();
                let pin = format!("/proc/{}/task/{own}/ns/net", std::process::id());
                tell.send((pin, listener.local_addr().unwrap().port())).unwrap();
                std::thread::spawn(move || {
                    for stream in listener.incoming().take(1) {
                        let mut stream = stream.unwrap();
                        std::io::copy(&mut stream.try_clone().unwrap(), &mut stream).unwrap();
                    }
                });
                let _ended = ended.recv();
            });
            let (pin, port) = told.recv().unwrap();
            Self { pin: pin.into(), port, _end: end, thread: Some(thread) }
        }
    }

    impl Drop for Namespace {
        fn drop(&mut self) {
            let (gone, _) = mpsc::channel();
            drop(std::mem::replace(&mut self._end, gone));
            self.thread.take().unwrap().join().unwrap();
        }
    }

    async fn echo(mut stream: TcpStream) -> String {
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut all = String::new();
        stream.read_to_string(&mut all).await.unwrap();
        all
    }

    fn own_namespace() -> PathBuf {
        std::fs::read_link("/proc/thread-self/ns/net").unwrap()
    }

    #[tokio::test]
    async fn a_port_of_the_pod_is_reached_by_either_version_of_ip_and_nobody_moves_house() {
        let before = own_namespace();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let namespace = Namespace::with_server(address);
            let network = PodNetwork::new(Some(namespace.pin.clone()));
            assert_eq!(echo(network.dial(namespace.port).await.unwrap()).await, "hello");
            let here = PodNetwork::new(None).dial(namespace.port).await;
            assert!(here.is_err(), "the host has no such listener");
        }
        assert_eq!(own_namespace(), before);
        let pooled = tokio::task::spawn_blocking(own_namespace).await.unwrap();
        assert_eq!(pooled, before);
    }

    #[tokio::test]
    async fn a_closed_port_is_refused_at_once_and_port_0_is_none() {
        let namespace = Namespace::with_server("127.0.0.1:0");
        let network = PodNetwork::new(Some(namespace.pin.clone()));
        let closed = if namespace.port == 9 { 10 } else { 9 };
        let kind = |result: io::Result<TcpStream>| result.unwrap_err().kind();
        assert_eq!(kind(network.dial(closed).await), io::ErrorKind::ConnectionRefused);
        assert_eq!(kind(network.dial(0).await), io::ErrorKind::InvalidInput);
    }

    #[tokio::test]
    async fn a_pod_with_the_host_s_network_has_the_host_s_ports() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let network = PodNetwork::new(None);
        drop(network.dial(port).await.unwrap());
        drop(listener);
        // A test beside this one that forks just then holds a copy of it until its child's exec closes it.
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        let refused = loop {
            match network.dial(port).await {
                Ok(_) if std::time::Instant::now() < deadline => tokio::task::yield_now().await,
                answer => break answer.unwrap_err(),
            }
        };
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn a_namespace_that_is_gone_is_an_error_and_many_at_once_all_get_through() {
        let gone = PodNetwork::new(Some("/run/netns/davit-test-there-is-none".into()));
        assert_eq!(gone.dial(80).await.unwrap_err().kind(), io::ErrorKind::NotFound);
        let namespace = Namespace::with_server("127.0.0.1:0");
        let network = PodNetwork::new(Some(namespace.pin.clone()));
        let dials = (0..50).map(|_| network.dial(namespace.port));
        let all = futures_util::future::join_all(dials).await;
        assert!(all.iter().all(Result::is_ok), "{all:?}");
    }
}
