//! The sockets: bound before anything else is begun, so that a wrong or taken address is told at once.
//!
//! Owns the rule about files that are in the way: an old socket is removed only if nobody listens on it, and anything else that is
//! there stays. A socket's file is removed at the end if it is still the one that was made here.

use super::group::{Callers, GroupError};
use super::tls::{Certificates, Purpose, TlsError};
use crate::config::{Config, Listen};
use std::fs::Permissions;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// How many connections wait to be accepted, those that come during recovery included.
const BACKLOG: i32 = 1024;

/// Why a listener could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    /// Somebody has made them for us.
    #[error(
        "LISTEN_FDS: {0} sockets were passed, and davit makes its own: no socket unit may belong to its service"
    )]
    Passed(usize),
    /// `LISTEN_FDS` or `LISTEN_PID` makes no sense.
    #[error("read LISTEN_FDS and LISTEN_PID")]
    PassedWrong(#[source] io::Error),
    /// Another process has it.
    #[error("listen on {}: another process listens on it", .0.display())]
    Taken(PathBuf),
    /// Something is there that is no socket.
    #[error("listen on {}: it exists and is no socket", .0.display())]
    InTheWay(PathBuf),
    /// The kernel refused.
    #[error("listen on {address}: {step}")]
    Io {
        /// The address, or the file.
        address: String,
        /// What was tried.
        step: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The PEM files can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// `socket_group` can't be let in.
    #[error(transparent)]
    Group(#[from] GroupError),
}

/// Everything that is listened on.
#[derive(Debug)]
pub(crate) struct Bound {
    /// For gRPC.
    pub(crate) listeners: Vec<Listener>,
    /// For scrapes.
    pub(crate) metrics: Option<Listener>,
    /// For the streams of exec, attach and port-forward.
    pub(crate) streams: Streams,
    /// What the listeners show; their files are read again when the configuration is.
    pub(crate) certificates: Vec<Certificates>,
    /// The Unix sockets' files; dropping removes them.
    pub(crate) files: Vec<SocketFile>,
}

/// Where streams are served.
#[derive(Debug)]
pub(crate) struct Streams {
    /// TCP, with TLS or without.
    pub(crate) listener: Listener,
    /// What URLs begin with, without a slash at the end: `http://127.0.0.1:40123`.
    pub(crate) url: String,
}

/// One address.
pub(crate) enum Listener {
    /// In the file system.
    Unix(UnixListener),
    /// TCP on loopback.
    Tcp(TcpListener),
    /// TCP with a certificate on this side at least.
    Tls(TcpListener, Certificates),
}

/// One connection.
pub(crate) enum Stream {
    /// In the file system.
    Unix(UnixStream),
    /// TCP on loopback.
    Tcp(TcpStream),
    /// TCP whose handshake is still to be done.
    Tls(TcpStream, Certificates),
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(listener) => listener.fmt(f),
            Self::Tcp(listener) | Self::Tls(listener, _) => listener.fmt(f),
        }
    }
}

impl Listener {
    /// The next connection.
    pub(crate) async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Unix(listener) => Ok(Stream::Unix(listener.accept().await?.0)),
            Self::Tcp(listener) => Ok(Stream::Tcp(prompt(listener.accept().await?.0)?)),
            Self::Tls(listener, certificates) => {
                Ok(Stream::Tls(prompt(listener.accept().await?.0)?, certificates.clone()))
            }
        }
    }
}

/// Small answers at once: Nagle's algorithm would wait for more. And a peer whose machine has gone is found out, also on a connection
/// where nobody has anything to say: after a minute.
fn prompt(stream: TcpStream) -> io::Result<TcpStream> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, Duration::from_secs(30))?;
    sockopt::set_tcp_keepintvl(&stream, Duration::from_secs(10))?;
    sockopt::set_tcp_keepcnt(&stream, 3)?;
    Ok(stream)
}

/// Sockets of the service manager's (socket activation) are refused rather than left unused: whoever connects to one would wait for ever.
///
/// # Errors
/// [`ListenError::Passed`] with how many there are.
pub(crate) fn refuse_passed() -> Result<(), ListenError> {
    match sd_notify::listen_fds().map_err(ListenError::PassedWrong)?.len() {
        0 => Ok(()),
        count => Err(ListenError::Passed(count)),
    }
}

/// Binds every address of the configuration, or none: what was bound is let go when a later one fails.
///
/// # Errors
/// [`ListenError`] for the first address that can't be had.
pub(crate) fn bind(config: &Config) -> Result<Bound, ListenError> {
    let shown = config.tls().map(|tls| Certificates::read(Purpose::Calls, tls)).transpose()?;
    let callers = config.socket_group().map(Callers::find).transpose()?;
    let (mut listeners, mut files) = (Vec::new(), Vec::new());
    for address in config.listen() {
        let listener = match (address, &shown) {
            (Listen::Unix(path), _) => {
                let missing = path.ancestors().skip(1).filter(|above| !above.exists());
                let own: Vec<&Path> = missing.chain([config.state()]).collect();
                let (listener, file) = bind_unix(path)?;
                files.push(file);
                if let Some(callers) = &callers {
                    let_in(callers, path, &own)?;
                }
                Listener::Unix(listener)
            }
            // Loopback needs no certificates, but once they are there they count everywhere.
            (Listen::Tcp(address), None) => Listener::Tcp(bind_tcp(*address)?),
            (Listen::Tcp(address), Some(shown)) => {
                Listener::Tls(bind_tcp(*address)?, shown.clone())
            }
        };
        listeners.push(listener);
        tracing::info!(%address, "listening");
    }
    let (metrics, shown_to_scrapers) = bind_metrics(config)?;
    let (streams, shown_to_streams) = bind_streams(config)?;
    let certificates = shown.into_iter().chain(shown_to_scrapers).chain(shown_to_streams).collect();
    Ok(Bound { listeners, metrics, streams, certificates, files })
}

fn bind_metrics(config: &Config) -> Result<(Option<Listener>, Option<Certificates>), ListenError> {
    let Some(asked) = config.metrics_listen() else { return Ok((None, None)) };
    let shown =
        config.metrics_tls().map(|tls| Certificates::read(Purpose::Metrics, tls)).transpose()?;
    let listener = bind_tcp(asked)?;
    let address = listener.local_addr().ok();
    tracing::info!(?address, tls = shown.is_some(), "listening for scrapes");
    let listener = match &shown {
        Some(shown) => Listener::Tls(listener, shown.clone()),
        None => Listener::Tcp(listener),
    };
    Ok((Some(listener), shown))
}

fn bind_streams(config: &Config) -> Result<(Streams, Option<Certificates>), ListenError> {
    let shown =
        config.streaming_tls().map(|tls| Certificates::read(Purpose::Streams, tls)).transpose()?;
    let asked = config.streaming_listen();
    let listener = bind_tcp(asked)?;
    let failed =
        |source| ListenError::Io { address: asked.to_string(), step: "read its port", source };
    let reached = reachable(listener.local_addr().map_err(failed)?);
    if shown.is_none() && !asked.ip().is_loopback() {
        tracing::warn!(address = %asked, "streams go over the network unencrypted: streaming_tls is not set");
    }
    let (scheme, listener) = match &shown {
        Some(shown) => ("https", Listener::Tls(listener, shown.clone())),
        None => ("http", Listener::Tcp(listener)),
    };
    let url = format!("{scheme}://{reached}");
    tracing::info!(address = %asked, url, "listening for streams");
    Ok((Streams { listener, url }, shown))
}

/// The address for the kubelet, which is on this node: all addresses are none that could be connected to, and loopback is one of them.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

fn bind_tcp(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let failed =
        |step| move |source| ListenError::Io { address: address.to_string(), step, source };
    // The standard library's bind sets SO_REUSEADDR: a restart does not wait for old connections.
    let listener = std::net::TcpListener::bind(address).map_err(failed("bind"))?;
    listener.set_nonblocking(true).map_err(failed("set non-blocking"))?;
    TcpListener::from_std(listener).map_err(failed("register"))
}

fn bind_unix(path: &Path) -> Result<(UnixListener, SocketFile), ListenError> {
    let failed =
        |step| move |source| ListenError::Io { address: path.display().to_string(), step, source };
    if let Some(parent) = path.parent() {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(parent).map_err(failed("make its directory"))?;
    }
    make_way(path)?;
    let listener = bound_socket(path).map_err(failed("bind"))?;
    // The umask, whatever it is, may have taken rights away.
    std::fs::set_permissions(path, Permissions::from_mode(0o660)).map_err(failed("chmod"))?;
    let made = std::fs::symlink_metadata(path).map_err(failed("stat"))?;
    let file = SocketFile { path: path.to_owned(), identity: identity(&made) };
    Ok((listener, file))
}

/// Lets a group come to a socket, and use it. Of the directories above only davit's `own` are changed: those that it has just made, and the state directory,
/// which lets everybody pass in any case once the runtime is open.
fn let_in(callers: &Callers, socket: &Path, own: &[&Path]) -> Result<(), ListenError> {
    for directory in own.iter().filter(|directory| socket.starts_with(directory)) {
        callers.let_pass(directory)?;
    }
    callers.can_reach(socket)?;
    Ok(callers.own(socket)?)
}

/// A listening socket whose file has no rights for others from the first moment on: bind(2) gives it the mode that the socket has,
/// less the umask. Changing the umask instead would change it for every thread.
fn bound_socket(path: &Path) -> io::Result<UnixListener> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(0o660))?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    UnixListener::from_std(std::os::unix::net::UnixListener::from(socket))
}

/// Removes an old socket that nobody listens on.
fn make_way(path: &Path) -> Result<(), ListenError> {
    let failed =
        |step| move |source| ListenError::Io { address: path.display().to_string(), step, source };
    let there = match std::fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("stat")(error)),
    };
    if !there.file_type().is_socket() {
        return Err(ListenError::InTheWay(path.to_owned()));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed("remove the old socket"))
        }
        Ok(_) | Err(_) => Err(ListenError::Taken(path.to_owned())),
    }
}

/// Device, inode, and when the inode was last changed: a file system gives an inode's number to the next file at once.
type Identity = (u64, u64, i64, i64);

fn identity(file: &std::fs::Metadata) -> Identity {
    (file.dev(), file.ino(), file.ctime(), file.ctime_nsec())
}

/// A socket's file, removed when this is dropped, unless another has taken its place.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: Identity,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|there| identity(&there) == self.identity);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "remove socket");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_for_root_and_its_group_and_goes_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/davit.sock");
        let (listener, file) = bind_unix(&path).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&path), 0o660);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        assert!(matches!(bind_unix(&path), Err(ListenError::Taken(_))));
        drop((listener, file));
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn an_old_socket_is_replaced_and_a_new_one_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("davit.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "closing a socket leaves its file");
        let (listener, file) = bind_unix(&path).unwrap();
        drop(listener);
        // A successor takes the place before the predecessor has cleaned up.
        let (_next, _next_file) = bind_unix(&path).unwrap();
        drop(file);
        assert!(path.exists());
    }

    #[test]
    fn an_url_never_names_all_addresses() {
        for (bound, told) in [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1"),
            ("127.0.0.2:1", "127.0.0.2:1"),
            ("192.0.2.1:1", "192.0.2.1:1"),
        ] {
            assert_eq!(reachable(bound.parse().unwrap()).to_string(), told);
        }
    }

    #[tokio::test]
    async fn what_is_no_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("davit.sock");
        std::fs::File::create(&path).unwrap();
        assert!(matches!(bind_unix(&path), Err(ListenError::InTheWay(_))));
        assert!(path.exists());
    }
}
