//! The bridge's and the pods' links, as netlink requests.
//!
//! Owns what each request says and how links are named and numbered; sends nothing.

use crate::id::SandboxId;
use crate::network::netlink::Change;
use ipnet::IpNet;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridgePort, InfoData, InfoKind, InfoPortData,
    InfoPortKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::RawFd;

/// A hardware address.
pub(crate) type Mac = [u8; 6];
/// The name of the pod's interface: the kubelet and the peers know no other.
pub(crate) const POD_LINK: &str = "eth0";

/// The host's end of a pod's veth pair: `dv` and 11 digits of the id. 44 bits of a random id name a pod on one machine.
pub(super) fn host_link(id: &SandboxId) -> String {
    id.as_str()
        .chars()
        .take(11)
        .fold("dv".to_owned(), |name, digit| name + digit.encode_utf8(&mut [0; 4]))
}

/// Whether [`host_link`] may have made this name.
pub(super) fn is_host_link(name: &str) -> bool {
    let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    name.strip_prefix("dv").is_some_and(|rest| rest.len() == 11 && rest.bytes().all(lower))
}

/// Derived from the address, so that a neighbour's cached entry is still right when the address has a new owner; and, for the
/// bridge, so that it does not change with the ports, as the kernel's own choice would.
pub(super) fn mac(addr: Ipv4Addr) -> Mac {
    let [a, b, c, d] = addr.octets();
    [0x0a, 0x58, a, b, c, d]
}

pub(super) fn format_mac(mac: &[u8]) -> String {
    mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

fn named(name: &str) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(name.to_owned()));
    link
}

fn set_up(link: &mut LinkMessage) {
    link.header.flags |= LinkFlags::Up;
    link.header.change_mask |= LinkFlags::Up;
}

/// No IPv6 link-local address, and so none of the traffic that comes with one: a bridge floods that to every pod, so each start would cost the more the more
/// pods there are. For a link that carries others' packets only, and for a pod's own without an IPv6 subnet. Before the link is up.
pub(super) fn keep_without_link_local(index: u32, what: impl Into<String>) -> Change {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes.push(without_link_local());
    Change::modify(what, RouteNetlinkMessage::SetLink(link))
}

fn without_link_local() -> LinkAttribute {
    let none = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![none])])
}

pub(super) fn create_bridge(name: &str, mac: Mac, mtu: u32) -> Change {
    let mut link = named(name);
    link.attributes.extend([
        LinkAttribute::Address(mac.to_vec()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
    ]);
    Change::create(format!("create bridge {name}"), RouteNetlinkMessage::NewLink(link))
}

pub(crate) fn bring_up(index: u32, what: impl Into<String>) -> Change {
    let mut link = LinkMessage::default();
    link.header.index = index;
    set_up(&mut link);
    Change::modify(what, RouteNetlinkMessage::SetLink(link))
}

/// A veth pair whose ends are to be.
#[derive(Debug)]
pub(super) struct Pair<'a> {
    pub(super) host: &'a str,
    pub(super) bridge: u32,
    pub(super) netns: RawFd,
    /// Of the pod's end; the kernel makes one up else.
    pub(super) mac: Option<Mac>,
    pub(super) mtu: u32,
}

impl Pair<'_> {
    /// Made with the peer inside the pod and the host's end already a port of the bridge. Both are down: the kernel opens no end of
    /// a pair before it is one.
    pub(super) fn create(&self) -> Change {
        let mut peer = named(POD_LINK);
        peer.attributes.extend([LinkAttribute::NetNsFd(self.netns), LinkAttribute::Mtu(self.mtu)]);
        peer.attributes.extend(self.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
        let mut link = named(self.host);
        link.attributes.extend([
            LinkAttribute::Mtu(self.mtu),
            LinkAttribute::Controller(self.bridge),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ]);
        Change::create(format!("create veth {}", self.host), RouteNetlinkMessage::NewLink(link))
    }
}

/// Hairpin: where br_netfilter shows bridged packets to the NAT rules, a pod that reaches itself over a host port comes back on
/// the port it came from. A second request, because the kernel takes a port's settings for a link that is a port already; up
/// last, so that no address is made before it is said that there shall be none.
pub(super) fn enable(host: &str) -> Change {
    let mut link = named(host);
    set_up(&mut link);
    link.attributes.extend([
        without_link_local(),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)])),
        ]),
    ]);
    Change::modify(format!("set up bridge port {host}"), RouteNetlinkMessage::NewLink(link))
}

/// Gives a link that is down its hardware address.
pub(super) fn set_mac(index: u32, mac: Mac, what: impl Into<String>) -> Change {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes.push(LinkAttribute::Address(mac.to_vec()));
    Change::modify(what, RouteNetlinkMessage::SetLink(link))
}

pub(super) fn delete(name: &str) -> Change {
    Change::modify(format!("delete link {name}"), RouteNetlinkMessage::DelLink(named(name)))
}

/// Puts a link into a group, for [`delete_group`].
pub(super) fn join_group(name: &str, group: u32) -> Change {
    let mut link = named(name);
    link.attributes.push(LinkAttribute::Group(group));
    Change::modify(format!("group link {name}"), RouteNetlinkMessage::SetLink(link))
}

/// Deletes all links of a group at once: the kernel then waits once for all of them, not 20 ms for each.
pub(super) fn delete_group(group: u32) -> Change {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::Group(group));
    Change::modify(format!("delete link group {group}"), RouteNetlinkMessage::DelLink(link))
}

fn address(index: u32, net: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = net.prefix_len();
    message.header.scope = AddressScope::Universe;
    message.attributes.push(AddressAttribute::Address(net.addr()));
    message.attributes.push(AddressAttribute::Local(net.addr()));
    match net {
        IpNet::V4(net) => {
            message.header.family = AddressFamily::Inet;
            message.attributes.push(AddressAttribute::Broadcast(net.broadcast()));
        }
        IpNet::V6(_) => {
            message.header.family = AddressFamily::Inet6;
            // We are the ones who give addresses out: nobody need be asked, and the second it takes is not waited for.
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
    }
    message
}

pub(super) fn add_address(index: u32, net: IpNet) -> Change {
    Change::ensure(
        format!("add address {net}"),
        RouteNetlinkMessage::NewAddress(address(index, net)),
    )
}

pub(super) fn delete_address(index: u32, net: IpNet) -> Change {
    Change::modify(
        format!("delete address {net}"),
        RouteNetlinkMessage::DelAddress(address(index, net)),
    )
}

/// The default route of `gateway`'s family.
pub(super) fn default_route(index: u32, gateway: IpAddr) -> Change {
    let mut route = RouteMessage::default();
    route.header.address_family =
        if gateway.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::Boot;
    route.header.scope = RouteScope::Universe;
    route.header.kind = RouteType::Unicast;
    route.attributes.push(RouteAttribute::Gateway(RouteAddress::from(gateway)));
    route.attributes.push(RouteAttribute::Oif(index));
    Change::ensure(format!("add default route via {gateway}"), RouteNetlinkMessage::NewRoute(route))
}
