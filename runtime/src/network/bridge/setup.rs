//! Making the bridge and furnishing a pod's namespace, step by step.
//!
//! Owns the order of the kernel's requests; holds no state. [`super::Bridge`] decides when.

use super::{BridgeError, Ranges, Up, ipam, link};
use crate::network::netlink::{Change, Netlink, inside};
use crate::network::{BridgeConfig, sysctl};
use ipnet::IpNet;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::Path;

const DEFAULT_MTU: u32 = 1500;

/// For the links to come in the calling thread's namespace: no router advertisement is believed (CVE-2020-10749), and no address is
/// probed for a second before it works.
pub(super) fn quiet_ipv6() -> Result<(), (String, io::Error)> {
    sysctl::set_if_there("ipv6/conf/default", &[("accept_ra", "0"), ("accept_dad", "0")])
}

pub(super) fn make_bridge(
    config: &BridgeConfig,
    ranges: &Ranges,
    netlink: &mut Netlink,
) -> Result<Up, BridgeError> {
    let mtu = config.mtu.or_else(|| uplink_mtu(netlink)).unwrap_or(DEFAULT_MTU);
    let subnets = ranges.now();
    let gateway = ipam::gateway(IpNet::V4(subnets.v4));
    let mac = match gateway.addr() {
        IpAddr::V4(addr) => link::mac(addr),
        IpAddr::V6(_) => link::mac(subnets.v4.addr()),
    };
    let created = netlink.apply(vec![link::create_bridge(&config.name, mac, mtu)]);
    match created {
        Err(error) if !error.is(Errno::EXIST) => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    let not_a_bridge = || BridgeError::NotABridge(config.name.clone());
    let found = netlink.link(&config.name)?.filter(is_bridge).ok_or_else(not_a_bridge)?;
    let index = found.header.index;
    let mut changes: Vec<Change> =
        ranges.all().map(|subnet| link::add_address(index, ipam::gateway(subnet))).collect();
    changes.push(link::bring_up(index, format!("bring up bridge {}", config.name)));
    netlink.apply(changes)?;
    Ok(Up { index, mtu })
}

/// Packets that leave over a link with a smaller MTU than the pod's would be lost wherever ICMP is filtered.
fn uplink_mtu(netlink: &mut Netlink) -> Option<u32> {
    let index = netlink.default_route_link().ok().flatten()?;
    let uplink = netlink.link_by_index(index).ok().flatten()?;
    uplink.attributes.iter().find_map(|attribute| {
        if let LinkAttribute::Mtu(mtu) = attribute { Some(*mtu) } else { None }
    })
}

pub(super) fn is_bridge(link: &LinkMessage) -> bool {
    let bridge = LinkInfo::Kind(InfoKind::Bridge);
    link.attributes.iter().any(
        |attribute| matches!(attribute, LinkAttribute::LinkInfo(infos) if infos.contains(&bridge)),
    )
}

pub(super) fn open_netns(path: &Path) -> Result<File, BridgeError> {
    File::open(path).map_err(|source| BridgeError::Namespace { path: path.to_owned(), source })
}

/// What the loopback plugin would do, without a process.
pub(in crate::network) fn bring_up_loopback(netns: &Path) -> Result<(), BridgeError> {
    let mut pod = inside(netns, &open_netns(netns)?, Netlink::open)?;
    configure_pod(&mut pod, netns, &[], &[])
}

pub(super) fn find(pod: &mut Netlink, netns: &Path, name: &str) -> Result<u32, BridgeError> {
    let gone = || BridgeError::LinkGone { link: name.to_owned(), netns: netns.to_owned() };
    Ok(pod.link(name)?.ok_or_else(gone)?.header.index)
}

pub(super) fn configure_pod(
    pod: &mut Netlink,
    netns: &Path,
    addresses: &[IpNet],
    gateways: &[IpAddr],
) -> Result<(), BridgeError> {
    let mut changes = vec![link::bring_up(find(pod, netns, "lo")?, "bring up lo")];
    if !addresses.is_empty() {
        changes.extend(settle(find(pod, netns, link::POD_LINK)?, addresses, gateways));
    }
    Ok(pod.apply(changes)?)
}

/// What makes a link with this number the pod's.
pub(super) fn settle(
    eth0: u32,
    addresses: &[IpNet],
    gateways: &[IpAddr],
) -> impl Iterator<Item = Change> {
    let only_v4 = addresses.iter().all(|net| matches!(net, IpNet::V4(_)));
    let quiet = only_v4.then(|| link::keep_without_link_local(eth0, "keep eth0 without IPv6"));
    let addresses = addresses.iter().map(move |net| link::add_address(eth0, *net));
    let routes = gateways.iter().map(move |gateway| link::default_route(eth0, *gateway));
    quiet.into_iter().chain([link::bring_up(eth0, "bring up eth0")]).chain(addresses).chain(routes)
}

/// What a CNI plugin would have said: one shape for whoever looks at it.
pub(super) fn result(
    host: &str,
    mac: &str,
    netns: &Path,
    addresses: &[IpNet],
    gateways: &[IpAddr],
) -> serde_json::Value {
    let ips: Vec<_> = addresses
        .iter()
        .zip(gateways)
        .map(|(net, gateway)| serde_json::json!({"address": net, "gateway": gateway, "interface": 1}))
        .collect();
    let routes: Vec<_> = gateways
        .iter()
        .map(|gateway| serde_json::json!({"dst": if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" }, "gw": gateway}))
        .collect();
    serde_json::json!({
        "cniVersion": "1.1.0",
        "interfaces": [
            {"name": host},
            {"name": link::POD_LINK, "mac": mac, "sandbox": netns},
        ],
        "ips": ips,
        "routes": routes,
    })
}
