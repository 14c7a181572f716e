//! Whether a daemon with this configuration could listen, or does.
//!
//! Owns what `davit doctor` tells of sockets and certificates. Makes none: one that a daemon has is left to it, and one that is free is only looked at.

use super::group::Callers;
use super::tls::{Certificates, Purpose};
use crate::config::{Config, Listen};
use davit_runtime::error::chain;
use davit_runtime::machine::Finding;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

const SUBJECT: &str = "sockets";

/// What there is to say of each.
pub(crate) fn examine(config: &Config) -> Vec<Finding> {
    let mut found: Vec<Finding> = config.listen().iter().map(listener).collect();
    if let Some(group) = config.socket_group() {
        found.push(match Callers::find(group) {
            Ok(callers) => who(&callers, config),
            Err(error) => {
                Finding::problem(SUBJECT, chain(&error), "make the group, or set socket_group")
            }
        });
    }
    let tables = [
        (Purpose::Calls, config.tls()),
        (Purpose::Streams, config.streaming_tls()),
        (Purpose::Metrics, config.metrics_tls()),
    ];
    for (purpose, tls) in tables {
        if let Some(Err(error)) = tls.map(|tls| Certificates::read(purpose, tls)) {
            found.push(Finding::problem(
                "certificates",
                chain(&error),
                "correct the file, or the key that names it",
            ));
        }
    }
    found
}

fn listener(address: &Listen) -> Finding {
    match address {
        Listen::Unix(path) => unix(path),
        Listen::Tcp(tcp) => self::tcp(*tcp),
    }
}

fn unix(path: &Path) -> Finding {
    let shown = path.display();
    let there = std::fs::symlink_metadata(path).ok();
    match there {
        None => Finding::ok(SUBJECT, format!("{shown} is free: davit serve does not run")),
        Some(there) if !there.file_type().is_socket() => Finding::problem(
            SUBJECT,
            format!("{shown} exists and is no socket"),
            "move it out of the way",
        ),
        Some(_) => match UnixStream::connect(path) {
            Ok(_) => Finding::ok(SUBJECT, format!("a daemon listens on {shown}")),
            Err(_) => Finding::ok(
                SUBJECT,
                format!("{shown} is left of a daemon that is gone: the next one replaces it"),
            ),
        },
    }
}

fn tcp(address: SocketAddr) -> Finding {
    match TcpListener::bind(address) {
        Ok(_) => Finding::ok(SUBJECT, format!("tcp://{address} is free")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            Finding::ok(SUBJECT, format!("somebody listens on tcp://{address}"))
        }
        Err(error) => Finding::problem(
            SUBJECT,
            format!("tcp://{address} can't be had: {error}"),
            "give an address of this machine",
        ),
    }
}

/// Directories that davit makes are no hindrance: it lets the group pass.
fn who(callers: &Callers, config: &Config) -> Finding {
    let sockets = config.listen().iter().filter_map(|listen| match listen {
        Listen::Unix(path) => Some(path.as_path()),
        Listen::Tcp(_) => None,
    });
    for socket in sockets.filter(|socket| socket.parent() != Some(config.state())) {
        let above = socket.ancestors().skip(1).find(|above| above.is_dir()).unwrap_or(socket);
        if let Err(error) = callers.can_reach(&above.join("davit.sock")) {
            return Finding::problem(SUBJECT, chain(&error), "chmod it, or listen elsewhere");
        }
    }
    Finding::ok(SUBJECT, "socket_group can call")
}
