//! The built-in network: a bridge, a veth pair per pod, addresses from one subnet, masquerading and host ports.
//!
//! Owns the bridge, the `dv…` links, the leases and the nftables table. Its functions block (netlink and nft are waited for) and
//! run on blocking threads, to their end whoever went away meanwhile. Records are the caller's ([`super::record`]).
//!
//! What it does not do: it never changes a rule or table of anybody else, so a host whose own firewall drops forwarded packets has to
//! accept those of the bridge; `[::1]` does not reach host ports, because the kernel routes it nowhere else.

mod ahead;
pub(super) mod firewall;
pub(super) mod ipam;
pub(super) mod link;
pub(super) mod ports;
mod ranges;
pub(super) mod reaper;
mod setup;
mod table;
mod trial;

pub(super) use ahead::without_link;
pub(super) use ranges::{InTheWay, Ranges, Subnets};
pub(super) use setup::bring_up_loopback;
pub(super) use trial::{try_firewall, try_links};

use super::netfilter::Netfilter;
use super::netlink::{Netlink, NetlinkError};
use super::{BridgeConfig, NetworkAhead, sysctl};
use crate::id::SandboxId;
use crate::sandbox::PortMapping;
use firewall::{Firewall, FirewallError, Rules};
use ipam::{Ipam, IpamError};
use ipnet::IpNet;
use ports::{Owner, PortError};
use reaper::Reaper;
use rustix::io::Errno;
use setup::{configure_pod, is_bridge, make_bridge, open_netns, result, settle};
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Why the built-in bridge could not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// There is no address.
    #[error(transparent)]
    Address(#[from] IpamError),
    /// A host port can't be had.
    #[error(transparent)]
    Port(#[from] PortError),
    /// nftables.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    /// The kernel refused a link, an address or a route.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The name is taken by something else.
    #[error("link {0} is there, and is no bridge")]
    NotABridge(String),
    /// The pod's namespace has no link where one was just made.
    #[error("link {link} is gone from {netns}", netns = netns.display())]
    LinkGone {
        /// Its name.
        link: String,
        /// The pod's.
        netns: PathBuf,
    },
    /// The pod's namespace can't be opened.
    #[error("open network namespace {path}", path = path.display())]
    Namespace {
        /// Its pin.
        path: PathBuf,
        /// The system call's word.
        #[source]
        source: io::Error,
    },
    /// It panicked.
    #[error("the task ended early")]
    Interrupted,
    /// A kernel parameter.
    #[error("set {path}")]
    Sysctl {
        /// The file.
        path: String,
        /// The system call's word.
        #[source]
        source: io::Error,
    },
}

fn sysctl_failed((path, source): (String, io::Error)) -> BridgeError {
    BridgeError::Sysctl { path, source }
}

/// What a pod was given.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) ips: Vec<IpAddr>,
    pub(super) mac: String,
    pub(super) result: serde_json::Value,
}

/// The bridge as it is in the kernel.
#[derive(Debug, Clone, Copy)]
struct Up {
    index: u32,
    mtu: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Bridge {
    config: BridgeConfig,
    ranges: Mutex<Ranges>,
    up: Mutex<Option<Up>>,
    netlink: Mutex<Netlink>,
    ipam: Mutex<Ipam>,
    firewall: Mutex<Firewall>,
    /// The firewall's own: pods without host ports don't wait for its lock, under which nft runs.
    installed: Arc<AtomicBool>,
    /// What masquerading lacks, for the status.
    masquerade_problem: Mutex<Option<String>>,
    /// Whom to ask whether the table is there still; opened when it is first asked.
    netfilter: Mutex<Option<Netfilter>>,
    pub(super) reaper: Arc<Reaper>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves bookkeeping that is right or that `recover` puts right.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The name of a pod's link.
pub(super) fn link_of(id: &SandboxId) -> String {
    link::host_link(id)
}

/// The links on a bridge that are named as pods' are.
pub(super) fn pod_links(bridge: &str) -> Vec<String> {
    let ports = std::fs::read_dir(format!("/sys/class/net/{bridge}/brif"));
    let names = ports.into_iter().flatten().flatten();
    let names = names.filter_map(|port| port.file_name().into_string().ok());
    names.filter(|name| link::is_host_link(name)).collect()
}

impl Bridge {
    /// Opens sockets and leases; makes nothing yet.
    pub(super) fn open(
        config: BridgeConfig,
        ranges: Ranges,
        leases: PathBuf,
        group: u32,
    ) -> Result<Self, BridgeError> {
        let firewall = Firewall::new(rules(&config, &ranges));
        Ok(Self {
            ranges: Mutex::new(ranges),
            netlink: Mutex::new(Netlink::open()?),
            up: Mutex::new(None),
            ipam: Mutex::new(Ipam::open(leases)?),
            installed: firewall.installed(),
            firewall: Mutex::new(firewall),
            masquerade_problem: Mutex::new(None),
            netfilter: Mutex::new(None),
            reaper: Reaper::new(Netlink::open()?, group),
            config,
        })
    }

    /// Gives a pod its link, addresses, routes and host ports. After an error, [`Self::detach_now`] undoes what was done.
    pub(super) fn attach(
        &self,
        owner: &mut Owner,
        netns: &Path,
        ports: &[PortMapping],
        ahead: Option<NetworkAhead>,
    ) -> Result<Given, BridgeError> {
        self.ensure_masquerade();
        let NetworkAhead { netns: file, netlink: mut pod, kind: _, pod_link } = match ahead {
            Some(ahead) => ahead,
            None => ahead::furnish(netns, open_netns(netns)?)?,
        };
        let (subnets, addresses) = self.lease(&owner.id)?;
        owner.ips = addresses.iter().map(IpNet::addr).collect();
        let mac = self.mac(&addresses);
        let gateways: Vec<IpAddr> =
            subnets.all().map(|subnet| ipam::gateway(subnet).addr()).collect();
        match pod_link.filter(|_| self.enable(&owner.id)) {
            Some(eth0) => {
                self.ensure_bridge()?;
                let mut changes = vec![link::set_mac(eth0, mac, "set the address of eth0")];
                changes.extend(settle(eth0, &addresses, &gateways));
                pod.apply(changes)?;
            }
            None => {
                self.make_pair(&owner.id, &file, Some(mac))?;
                configure_pod(&mut pod, netns, &addresses, &gateways)?;
            }
        }
        if ports.iter().any(|mapping| mapping.host_port.is_some()) {
            self.publish(owner, ports)?;
        }
        let mac = link::format_mac(&mac);
        let result = result(&link::host_link(&owner.id), &mac, netns, &addresses, &gateways);
        Ok(Given { ips: owner.ips.clone(), mac, result })
    }

    /// Takes host ports back at once; the link is left to the reaper.
    pub(super) fn unpublish(&self, id: &SandboxId) -> Result<(), BridgeError> {
        let mut firewall = lock(&self.firewall);
        let gone = firewall.ports.release(id);
        if !gone.is_empty() {
            firewall.remove(&gone)?;
            forget_flows(&gone);
        }
        Ok(())
    }

    /// Frees a pod's addresses, once its link is gone.
    pub(super) fn release(&self, id: &SandboxId) -> Result<(), BridgeError> {
        let mut ranges = lock(&self.ranges);
        let mut ipam = lock(&self.ipam);
        ipam.release(id)?;
        if ranges.earlier().is_empty() {
            return Ok(());
        }
        let gone = ranges.prune(ipam.addresses());
        drop(ipam);
        self.follow(&ranges, &gone)
    }

    /// Takes everything back, now. Goes on after a failure; the first error counts.
    pub(super) fn detach_now(&self, id: &SandboxId) -> Result<(), BridgeError> {
        let unpublished = self.unpublish(id);
        let deleted = reaper::delete_one(&mut lock(&self.netlink), id);
        // An address whose link may still be there is not given to another.
        let released = if deleted.is_ok() { self.release(id) } else { Ok(()) };
        unpublished.and(deleted.map_err(Into::into)).and(released)
    }

    /// Enters a live pod's claims, as its record has them; the table is written by [`Self::reinstall`] or at the next change.
    pub(super) fn remember(&self, owner: &Owner, ports: &[PortMapping]) -> Result<(), BridgeError> {
        lock(&self.firewall).ports.claim(owner, ports)?;
        Ok(())
    }

    /// Writes the table from memory and removes those that earlier configurations named.
    pub(super) fn reinstall(&self, old_tables: &[String]) -> Result<(), BridgeError> {
        let mut firewall = lock(&self.firewall);
        for table in old_tables {
            Firewall::drop_table(table)?;
        }
        Ok(firewall.install()?)
    }

    /// Removes the bridge and the table. A bridge that something is attached to stays: it may be somebody else's.
    pub(super) fn purge(&self) -> Result<(), BridgeError> {
        let name = &self.config.name;
        let mut netlink = lock(&self.netlink);
        if netlink.link(name)?.is_none() {
            return Ok(());
        }
        let ports = std::fs::read_dir(format!("/sys/class/net/{name}/brif"));
        let has_none = match ports {
            Ok(mut ports) => ports.next().is_none(),
            // Otherwise it may have.
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if !has_none {
            return Ok(());
        }
        netlink.apply(vec![link::delete(name)])?;
        *lock(&self.up) = None;
        Ok(Firewall::drop_table(&self.config.table)?)
    }

    /// Pods that have a lease.
    pub(super) fn owners(&self) -> Vec<SandboxId> {
        lock(&self.ipam).owners().cloned().collect()
    }

    pub(super) fn ranges(&self) -> Ranges {
        lock(&self.ranges).clone()
    }

    /// Gives pods addresses from other subnets from now on; those that are there keep theirs. `Err` inside: what keeps it from that.
    pub(super) fn set_subnets(&self, new: Subnets) -> Result<Result<(), InTheWay>, BridgeError> {
        let mut ranges = lock(&self.ranges);
        let leased: Vec<IpAddr> = lock(&self.ipam).addresses().collect();
        if let Some(in_the_way) = ranges.in_the_way(new, &leased) {
            return Ok(Err(in_the_way));
        }
        let gone = ranges.change(new, &leased);
        self.follow(&ranges, &gone)?;
        Ok(Ok(()))
    }

    /// Has bridge and table, where they are there, be as the ranges are by now.
    fn follow(&self, ranges: &Ranges, gone: &[IpNet]) -> Result<(), BridgeError> {
        let mut up = lock(&self.up);
        let mut netlink = lock(&self.netlink);
        let known = up.map(|up| up.index);
        // One that an earlier daemon made and this one has not needed yet has the addresses, too.
        let mut found = || netlink.link(&self.config.name).ok()?.filter(is_bridge);
        if let Some(index) = known.or_else(|| found().map(|link| link.header.index)) {
            let old = gone.iter().map(|net| link::delete_address(index, ipam::gateway(*net)));
            // First: to the kernel an IPv6 address is the same with another length. One that somebody else removed is as good as removed by us.
            drop(netlink.try_all(old.collect())?);
        }
        if let Some(index) = known {
            let gateways = ranges.now().all().map(ipam::gateway);
            let there = gateways.map(|gateway| link::add_address(index, gateway)).collect();
            if netlink.apply(there).is_err() {
                // Somebody removed the bridge: the next pod makes it anew.
                *up = None;
            }
            forward_ipv6(ranges)?;
        }
        drop((up, netlink));
        let mut firewall = lock(&self.firewall);
        firewall.rules = rules(&self.config, ranges);
        if self.installed.load(Ordering::Acquire) {
            firewall.install()?;
        }
        Ok(())
    }

    /// Under the ranges' lock: a change of subnets sees the lease, or the lease sees the change.
    fn lease(&self, id: &SandboxId) -> Result<(Subnets, Vec<IpNet>), BridgeError> {
        let ranges = lock(&self.ranges);
        let subnets = ranges.now();
        let mut ipam = lock(&self.ipam);
        let lease = |subnet| Ok(ipam::in_subnet(ipam.lease(subnet, id)?, subnet));
        let addresses: Result<Vec<IpNet>, BridgeError> = subnets.all().map(lease).collect();
        Ok((subnets, addresses?))
    }

    fn mac(&self, addresses: &[IpNet]) -> link::Mac {
        let mac = addresses.iter().find_map(|net| match net {
            IpNet::V4(net) => Some(link::mac(net.addr())),
            IpNet::V6(_) => None,
        });
        mac.unwrap_or_else(|| link::mac(lock(&self.ranges).now().v4.addr()))
    }

    fn make_pair(
        &self,
        id: &SandboxId,
        netns: &File,
        mac: Option<link::Mac>,
    ) -> Result<(), BridgeError> {
        let host = link::host_link(id);
        let make = |up: Up| {
            let pair = link::Pair {
                host: &host,
                bridge: up.index,
                netns: netns.as_raw_fd(),
                mac,
                mtu: up.mtu,
            };
            lock(&self.netlink).apply(vec![pair.create(), link::enable(&host)])
        };
        match make(self.ensure_bridge()?) {
            // One that was made ahead and not taken is on its way out.
            Err(error) if error.is(Errno::EXIST) => {
                reaper::delete_one(&mut lock(&self.netlink), id)?;
                make(self.ensure_bridge()?)?;
            }
            // The bridge that was there is gone: somebody deleted it.
            Err(error) if error.is(Errno::INVAL) || error.is(Errno::NODEV) => {
                lock(&self.up).take();
                reaper::delete_one(&mut lock(&self.netlink), id)?;
                make(self.ensure_bridge()?)?;
            }
            made => made?,
        }
        Ok(())
    }

    fn ensure_bridge(&self) -> Result<Up, BridgeError> {
        // Locks are taken in the order of the fields.
        let ranges = lock(&self.ranges);
        let mut up = lock(&self.up);
        if let Some(up) = *up {
            return Ok(up);
        }
        let made = make_bridge(&self.config, &ranges, &mut lock(&self.netlink))?;
        let name = &self.config.name;
        sysctl::set("ipv4/ip_forward", "1").map_err(sysctl_failed)?;
        // CVE-2020-10749: a pod must not make itself the host's IPv6 router.
        sysctl::set_if_there(&format!("ipv6/conf/{name}"), &[("accept_ra", "0")])
            .map_err(sysctl_failed)?;
        forward_ipv6(&ranges)?;
        *up = Some(made);
        Ok(made)
    }

    fn publish(&self, owner: &Owner, ports: &[PortMapping]) -> Result<(), BridgeError> {
        let mut firewall = lock(&self.firewall);
        let elements = firewall.ports.claim(owner, ports)?;
        firewall.add(&elements)?;
        drop(firewall);
        // After the table, whose guard chain keeps pods out of what this opens.
        let path = format!("ipv4/conf/{}/route_localnet", self.config.name);
        sysctl::set(&path, "1").map_err(sysctl_failed)?;
        forget_flows(&elements);
        Ok(())
    }
}

fn forward_ipv6(ranges: &Ranges) -> Result<(), BridgeError> {
    if ranges.all().any(|net| matches!(net, IpNet::V6(_))) {
        sysctl::set("ipv6/conf/all/forwarding", "1").map_err(sysctl_failed)?;
    }
    Ok(())
}

/// UDP has no end that the kernel sees: a client that keeps sending would keep its old translation for ever.
fn forget_flows(elements: &[ports::Element]) {
    let mut udp: Vec<u16> = elements.iter().filter_map(|element| element.udp_port).collect();
    udp.sort_unstable();
    udp.dedup();
    for port in udp {
        if let Err(error) = super::conntrack::forget_udp(port) {
            // The port works for new clients; old ones wait until their flow expires.
            tracing::warn!(
                port,
                error = crate::error::chain(&error),
                "forget UDP flows of host port"
            );
        }
    }
}

fn rules(config: &BridgeConfig, ranges: &Ranges) -> Rules {
    let (mut subnets, mut subnets6) = (Vec::new(), Vec::new());
    for net in ranges.all() {
        match net {
            IpNet::V4(net) => subnets.push(net),
            IpNet::V6(net) => subnets6.push(net),
        }
    }
    Rules {
        table: config.table.clone(),
        bridge: config.name.clone(),
        subnets,
        subnets6,
        ip_masq: config.ip_masq,
    }
}
