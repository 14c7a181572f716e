//! What the service manager is told (sd_notify(3)). Without one, nothing.
//!
//! Owns the words. docs/startup.md lists them; [`super::watchdog`] decides when the daemon is alive.

use sd_notify::NotifyState;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

/// What `systemctl status` shows while all is well.
const SERVES: &str = "serves";

/// The sockets are bound, and what an earlier daemon has left is taken up.
pub(crate) fn taking_up() {
    send(&[NotifyState::Status("takes up what is there")]);
}

/// The daemon is ready: what comes to its sockets will be answered.
pub(crate) fn ready() {
    send(&[NotifyState::Ready, NotifyState::Status(SERVES)]);
}

/// The daemon stops, and so many calls are under way.
pub(crate) fn stopping(calls: usize) {
    let status = format!("stops; calls under way: {calls}");
    send(&[NotifyState::Stopping, NotifyState::Status(&status)]);
}

/// The configuration is read again; [`ready`] or [`reload_refused`] follows.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => {
            send(&[NotifyState::Reloading, now, NotifyState::Status("reads its configuration")])
        }
        Err(error) => tracing::debug!(%error, "read the clock"),
    }
}

/// The new configuration is not in effect. There is no word for a reload that failed, so people are told by the status.
pub(crate) fn reload_refused() {
    let status = "serves with the old configuration: the new one was refused, see the log";
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The daemon lives.
pub(crate) fn alive() {
    send(&[NotifyState::Watchdog]);
}

/// The daemon could not start, or not go on: `error` in one line.
pub(crate) fn failed(error: &str) {
    send(&[NotifyState::Status(error)]);
}

/// A manager that does not listen changes nothing about what is served, and one that does not read holds up nobody: that is why it is not the library that
/// sends, which would wait.
fn send(states: &[NotifyState<'_>]) {
    let Some(address) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let text: String = states.iter().map(|state| format!("{state}\n")).collect();
    if let Err(error) = send_now(&address, text.as_bytes()) {
        tracing::debug!(%error, "notify the service manager");
    }
}

/// To a path, or, with an `@` in front, a name that no file has.
fn send_now(address: &OsStr, text: &[u8]) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    match address.as_bytes() {
        [b'@', name @ ..] => {
            let address = SocketAddr::from_abstract_name(name)?;
            socket.send_to_addr(text, &address).map(drop)
        }
        _ => socket.send_to(text, Path::new(address)).map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_that_does_not_read_holds_up_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let sent = (0..10_000).map(|_| send_now(path.as_os_str(), b"WATCHDOG=1\n"));
        let full = sent.into_iter().find_map(Result::err).unwrap();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        let mut told = [0; 32];
        let length = manager.recv(&mut told).unwrap();
        assert_eq!(&told[..length], b"WATCHDOG=1\n");
    }

    #[test]
    fn a_name_that_no_file_has_is_an_address_too() {
        let name = format!("davit-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        send_now(format!("@{name}").as_ref(), b"READY=1\n").unwrap();
        let mut told = [0; 32];
        assert_eq!(manager.recv(&mut told).unwrap(), 8);
    }
}
