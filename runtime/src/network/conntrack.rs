//! Forgetting tracked UDP flows.
//!
//! Owns one request to the kernel's connection tracking: delete the flows to one UDP port of the host.

use super::netfilter::{NESTED, Netfilter, Question, attribute};
use netlink_packet_core::NLM_F_ACK;
use std::io;

const CT_DELETE: u16 = (1 << 8) | 2;
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

/// Deletes the flows, of both families, whose original destination is UDP port `port`.
///
/// # Errors
/// The system call that failed. A kernel before 5.8 knows no filter and says that there is no such flow, which is no error: there the
/// flows expire by themselves.
pub(super) fn forget_udp(port: u16) -> io::Result<()> {
    let netfilter = Netfilter::open()?;
    for family in [AF_INET, AF_INET6] {
        match netfilter.ask(&question(family, port)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn question(family: u8, port: u16) -> Question {
    let proto =
        [attribute(CTA_PROTO_NUM, &[UDP]), attribute(CTA_PROTO_DST_PORT, &port.to_be_bytes())]
            .concat();
    let tuple = attribute(CTA_TUPLE_PROTO | NESTED, &proto);
    let flags = [
        attribute(CTA_FILTER_ORIG_FLAGS, &MATCHED.to_ne_bytes()),
        attribute(CTA_FILTER_REPLY_FLAGS, &0_u32.to_ne_bytes()),
    ]
    .concat();
    let attributes =
        [attribute(CTA_TUPLE_ORIG | NESTED, &tuple), attribute(CTA_FILTER | NESTED, &flags)]
            .concat();
    Question { kind: CT_DELETE, flags: NLM_F_ACK, family, attributes }
}
