//! Speaking to the kernel's netfilter: one request, one answer.
//!
//! Owns the socket, the shape of a request and of its attributes. What is asked is [`super::conntrack`]'s and [`super::nftables`]'s.

use netlink_packet_core::NLM_F_REQUEST;
use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use std::io;
use std::time::Duration;

/// Marks an attribute that is made of others.
pub(super) const NESTED: u16 = 1 << 15;
/// The kernel answers while the request is being sent: waiting this long means that the answer was lost.
const ANSWER: Duration = Duration::from_secs(10);
/// `NLMSG_ERROR`: how a request ended that has no answer of its own.
const ERROR: u16 = 2;
/// Of a message's head.
const HEAD: usize = 16;

/// A connection to it, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Netfilter {
    socket: Socket,
}

/// What is asked: `<linux/netfilter/nfnetlink.h>`.
#[derive(Debug)]
pub(super) struct Question {
    /// Subsystem and message.
    pub(super) kind: u16,
    /// Beside `NLM_F_REQUEST`.
    pub(super) flags: u16,
    pub(super) family: u8,
    /// Attributes, one behind the other.
    pub(super) attributes: Vec<u8>,
}

impl Netfilter {
    /// # Errors
    /// The system call that failed.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER))?;
        Ok(Self { socket })
    }

    /// Asks, and reads the first message of the answer.
    ///
    /// # Errors
    /// The system call that failed, or what the kernel says to it.
    pub(super) fn ask(&self, question: &Question) -> io::Result<()> {
        self.socket.send(&question.encode(), 0)?;
        let (answer, _) = self.socket.recv_from_full()?;
        let kind = answer.get(4..).and_then(|rest| rest.first_chunk()).copied();
        let code = answer.get(HEAD..).and_then(|rest| rest.first_chunk()).copied();
        match (kind.map(u16::from_ne_bytes), code.map(i32::from_ne_bytes)) {
            (Some(ERROR), Some(code)) if code != 0 => Err(io::Error::from_raw_os_error(-code)),
            (Some(_), _) => Ok(()),
            (None, _) => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl Question {
    fn encode(&self) -> Vec<u8> {
        let Self { kind, flags, family, attributes } = self;
        let body = [&[*family, 0, 0, 0], attributes.as_slice()].concat();
        let length = u32::try_from(body.len() + HEAD).unwrap_or(u32::MAX);
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        message.extend([0; 8]);
        message.extend(body);
        message
    }
}

/// One attribute, padded.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
