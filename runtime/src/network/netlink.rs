//! Asking the kernel about links, addresses and routes, and changing them.
//!
//! Owns one blocking rtnetlink socket, the batching of requests and the entry into another network namespace. Knows nothing of
//! pods. The kernel works while `send` runs, so an asynchronous socket would block its executor for just as long (removing a veth
//! takes 20 ms); callers are on blocking threads instead, and a whole batch costs one `send`.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The kernel answers while the request is being sent: waiting this long means that the answer was lost.
const ANSWER: Duration = Duration::from_secs(10);
/// Bound of one dump: a host with more links or routes than fit in here is refused rather than read for ever.
const MAX_ANSWERS: usize = 200_000;

/// Why the kernel did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket itself failed.
    #[error("{step}")]
    Socket {
        /// Verb and object.
        step: &'static str,
        /// What the call said.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a request.
    #[error("{what}")]
    Refused {
        /// Verb and object of the request.
        what: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel's answer makes no sense.
    #[error("read the kernel's answer: {0}")]
    Garbled(String),
    /// The pod's namespace could not be entered.
    #[error("enter network namespace {path}", path = path.display())]
    Enter {
        /// Its pin.
        path: PathBuf,
        /// What the call said.
        #[source]
        source: io::Error,
    },
}

impl NetlinkError {
    /// The request was refused with this.
    pub(super) fn is(&self, errno: Errno) -> bool {
        match self {
            Self::Refused { source, .. } => source.raw_os_error() == Some(errno.raw_os_error()),
            Self::Socket { .. } | Self::Garbled(_) | Self::Enter { .. } => false,
        }
    }
}

/// One change, and how to name it when it fails.
#[derive(Debug)]
pub(super) struct Change {
    what: String,
    flags: u16,
    message: RouteNetlinkMessage,
}

impl Change {
    /// It must not be there yet.
    pub(super) fn create(what: impl Into<String>, message: RouteNetlinkMessage) -> Self {
        Self { what: what.into(), flags: NLM_F_CREATE | NLM_F_EXCL, message }
    }

    /// It is there afterwards, whether it was before or not.
    pub(super) fn ensure(what: impl Into<String>, message: RouteNetlinkMessage) -> Self {
        Self { what: what.into(), flags: NLM_F_CREATE | NLM_F_REPLACE, message }
    }

    /// It must be there.
    pub(super) fn modify(what: impl Into<String>, message: RouteNetlinkMessage) -> Self {
        Self { what: what.into(), flags: 0, message }
    }
}

/// A connection to the rtnetlink of one network namespace.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// For the namespace of the calling thread.
    pub(super) fn open() -> Result<Self, NetlinkError> {
        let failed = |step| move |source| NetlinkError::Socket { step, source };
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed("open netlink socket"))?;
        socket.bind_auto().map_err(failed("bind netlink socket"))?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed("connect netlink socket"))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER))
            .map_err(io::Error::from)
            .map_err(failed("set netlink timeout"))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends all changes at once. Each is tried whatever became of the others; the answer has one entry per change.
    pub(super) fn try_all(
        &mut self,
        changes: Vec<Change>,
    ) -> Result<Vec<Result<(), NetlinkError>>, NetlinkError> {
        let mut bytes = Vec::new();
        let mut names = Vec::new();
        let first = self.sequence.wrapping_add(1);
        for change in changes {
            names.push(change.what);
            bytes.extend(self.encode(change.message, change.flags | NLM_F_ACK));
        }
        if names.is_empty() {
            return Ok(Vec::new());
        }
        self.send(&bytes)?;
        let mut outcome: Vec<Option<io::Result<()>>> = names.iter().map(|_| None).collect();
        while outcome.iter().any(Option::is_none) {
            for message in self.receive()? {
                let NetlinkPayload::Error(error) = message.payload else { continue };
                let index = message.header.sequence_number.wrapping_sub(first);
                let slot = usize::try_from(index).ok().and_then(|index| outcome.get_mut(index));
                // A late answer to an earlier batch has no slot here.
                if let Some(slot) = slot {
                    *slot = Some(if error.code.is_some() { Err(error.to_io()) } else { Ok(()) });
                }
            }
        }
        let told = names.into_iter().zip(outcome.into_iter().flatten());
        Ok(told
            .map(|(what, done)| done.map_err(|source| NetlinkError::Refused { what, source }))
            .collect())
    }

    /// [`Self::try_all`], where the first refusal counts.
    pub(super) fn apply(&mut self, changes: Vec<Change>) -> Result<(), NetlinkError> {
        self.try_all(changes)?.into_iter().collect()
    }

    /// `None`: no such link.
    pub(super) fn link(&mut self, name: &str) -> Result<Option<LinkMessage>, NetlinkError> {
        let mut question = LinkMessage::default();
        question.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let asked =
            self.ask(format!("look up link {name}"), RouteNetlinkMessage::GetLink(question), 0);
        first_link(asked)
    }

    /// `None`: no such link.
    pub(super) fn link_by_index(
        &mut self,
        index: u32,
    ) -> Result<Option<LinkMessage>, NetlinkError> {
        let mut question = LinkMessage::default();
        question.header.index = index;
        let asked =
            self.ask(format!("look up link {index}"), RouteNetlinkMessage::GetLink(question), 0);
        first_link(asked)
    }

    /// The link that the IPv4 default route leads over.
    pub(super) fn default_route_link(&mut self) -> Result<Option<u32>, NetlinkError> {
        let mut question = RouteMessage::default();
        question.header.address_family = AddressFamily::Inet;
        let answers = self.ask(
            "list routes".to_owned(),
            RouteNetlinkMessage::GetRoute(question),
            NLM_F_DUMP,
        )?;
        let default = answers.into_iter().find_map(|answer| {
            let RouteNetlinkMessage::NewRoute(route) = answer else { return None };
            (route.header.destination_prefix_length == 0).then_some(route)
        });
        let attributes = default.map(|route| route.attributes).unwrap_or_default();
        Ok(attributes.into_iter().find_map(|attribute| {
            if let RouteAttribute::Oif(index) = attribute { Some(index) } else { None }
        }))
    }

    fn ask(
        &mut self,
        what: String,
        question: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        // A plain question is acknowledged so that its end is known; a dump ends with its own message.
        let flags = if flags == 0 { NLM_F_ACK } else { flags };
        let bytes = self.encode(question, flags);
        let sequence = self.sequence;
        self.send(&bytes)?;
        let mut answers = Vec::new();
        while answers.len() < MAX_ANSWERS {
            for message in self.receive()? {
                if message.header.sequence_number != sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(NetlinkError::Refused { what, source: error.to_io() });
                    }
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Noop | NetlinkPayload::Overrun(_) | _ => {}
                }
            }
        }
        Err(NetlinkError::Garbled(format!("{what}: more than {MAX_ANSWERS} answers")))
    }

    fn encode(&mut self, message: RouteNetlinkMessage, flags: u16) -> Vec<u8> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len().next_multiple_of(4)];
        packet.serialize(&mut bytes);
        bytes
    }

    fn send(&self, bytes: &[u8]) -> Result<(), NetlinkError> {
        let failed = |source| NetlinkError::Socket { step: "send netlink request", source };
        match self.socket.send(bytes, 0).map_err(failed)? {
            sent if sent == bytes.len() => Ok(()),
            _ => Err(failed(io::ErrorKind::WriteZero.into())),
        }
    }

    fn receive(&self) -> Result<Vec<NetlinkMessage<RouteNetlinkMessage>>, NetlinkError> {
        let (bytes, _) = self
            .socket
            .recv_from_full()
            .map_err(|source| NetlinkError::Socket { step: "receive netlink answer", source })?;
        let mut messages = Vec::new();
        let mut rest = bytes.as_slice();
        while let Some(length) = rest.first_chunk::<4>() {
            let length = usize::try_from(u32::from_ne_bytes(*length)).unwrap_or(usize::MAX);
            let Some(one) = rest.get(..length).filter(|one| one.len() >= 16) else { break };
            messages.push(
                NetlinkMessage::deserialize(one)
                    .map_err(|error| NetlinkError::Garbled(error.to_string()))?,
            );
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(messages)
    }
}

fn first_link(
    asked: Result<Vec<RouteNetlinkMessage>, NetlinkError>,
) -> Result<Option<LinkMessage>, NetlinkError> {
    match asked {
        Ok(answers) => Ok(answers.into_iter().find_map(|answer| {
            if let RouteNetlinkMessage::NewLink(link) = answer { Some(link) } else { None }
        })),
        Err(error) if error.is(Errno::NODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Runs `work` on a thread of its own inside the namespace pinned at `path`. The thread ends with the work: one that has left the
/// daemon's namespace must never do anything else.
pub(super) fn inside<T: Send>(
    path: &Path,
    netns: &File,
    work: impl FnOnce() -> Result<T, NetlinkError> + Send,
) -> Result<T, NetlinkError> {
    let enter = |source: io::Error| NetlinkError::Enter { path: path.to_owned(), source };
    let body = || {
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|errno| enter(errno.into()))?;
        work()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("davit-netns".to_owned());
        let thread = thread.spawn_scoped(scope, body).map_err(enter)?;
        thread.join().unwrap_or_else(|_| Err(enter(io::Error::other("the thread panicked"))))
    })
}
