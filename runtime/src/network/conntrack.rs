//! Forgetting tracked UDP flows.
//!
//! Owns one request to the kernel's connection tracking: delete the flows to one UDP port of the host.

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST};
use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use std::io;
use std::time::Duration;

const CT_DELETE: u16 = (1 << 8) | 2;
const NESTED: u16 = 1 << 15;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
/// `CTA_FILTER_F_CTA_PROTO_NUM | CTA_FILTER_F_CTA_PROTO_DST_PORT`: these two of the tuple count.
const MATCHED: u32 = (1 << 3) | (1 << 5);
const UDP: u8 = 17;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const ANSWER: Duration = Duration::from_secs(10);

/// Deletes the flows, of both families, whose original destination is UDP port `port`.
///
/// # Errors
/// The system call that failed. A kernel before 5.8 knows no filter and says that there is no such flow, which is no error: there the
/// flows expire by themselves.
pub(super) fn forget_udp(port: u16) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER))?;
    for family in [AF_INET, AF_INET6] {
        socket.send(&request(family, port), 0)?;
        let (answer, _) = socket.recv_from_full()?;
        let code = answer
            .get(16..)
            .and_then(|rest| rest.first_chunk::<4>())
            .map(|code| i32::from_ne_bytes(*code));
        match code.map(|code| io::Error::from_raw_os_error(-code)) {
            Some(error) if code != Some(0) && error.kind() != io::ErrorKind::NotFound => {
                return Err(error);
            }
            _ => {}
        }
    }
    Ok(())
}

fn request(family: u8, port: u16) -> Vec<u8> {
    let proto =
        [attribute(CTA_PROTO_NUM, &[UDP]), attribute(CTA_PROTO_DST_PORT, &port.to_be_bytes())]
            .concat();
    let tuple = attribute(CTA_TUPLE_PROTO | NESTED, &proto);
    let flags = [
        attribute(CTA_FILTER_ORIG_FLAGS, &MATCHED.to_ne_bytes()),
        attribute(CTA_FILTER_REPLY_FLAGS, &0_u32.to_ne_bytes()),
    ]
    .concat();
    let body = [
        vec![family, 0, 0, 0],
        attribute(CTA_TUPLE_ORIG | NESTED, &tuple),
        attribute(CTA_FILTER | NESTED, &flags),
    ]
    .concat();
    let length = u32::try_from(body.len() + 16).unwrap_or(u32::MAX);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(CT_DELETE.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
