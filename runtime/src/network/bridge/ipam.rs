//! Which pod has which address.
//!
//! Owns `<state>/leases/`: one file per address, named after it, that names the sandbox. Pure bookkeeping: no link is touched here.
//! Invariants: an address has one owner at most; a lease is on disk before its address is given out and gone from disk before it is
//! given to another; the network's, the broadcast's and the gateway's address are never given.

use crate::id::SandboxId;
use crate::network::files;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

const VERSION: u32 = 1;
/// Of a huge IPv6 subnet only so many addresses are used: the search for a free one stays bounded.
const MAX_POOL: u128 = 1 << 24;

/// Why there is no address.
#[derive(Debug, thiserror::Error)]
pub enum IpamError {
    /// All are taken.
    #[error("subnet {subnet} has no free address ({leased} leased)")]
    Exhausted {
        /// The subnet.
        subnet: IpNet,
        /// How many pods hold one.
        leased: usize,
    },
    /// The lease could not be written or removed.
    #[error("keep lease of {addr}")]
    Lease {
        /// Whose lease.
        addr: IpAddr,
        /// The system call's word.
        #[source]
        source: io::Error,
    },
    /// The leases could not be read.
    #[error("read leases in {dir}", dir = dir.display())]
    Read {
        /// Their folder.
        dir: PathBuf,
        /// The system call's word.
        #[source]
        source: io::Error,
    },
}

/// What a lease's file says.
#[derive(Debug, Serialize, Deserialize)]
struct LeaseFile {
    version: u32,
    sandbox: SandboxId,
}

/// The leases and where the search goes on.
#[derive(Debug)]
pub(super) struct Ipam {
    dir: PathBuf,
    leases: BTreeMap<IpAddr, SandboxId>,
    last: [Option<IpAddr>; 2],
}

impl Ipam {
    /// Reads the leases that are there. A file that is no lease is put aside as `….broken`.
    pub(super) fn open(dir: PathBuf) -> Result<Self, IpamError> {
        match read_leases(&dir) {
            Ok((leases, last)) => Ok(Self { dir, leases, last }),
            Err(source) => Err(IpamError::Read { dir, source }),
        }
    }

    /// The next free address after the last one given, so that an address rests for as long as possible.
    pub(super) fn lease(&mut self, subnet: IpNet, owner: &SandboxId) -> Result<IpAddr, IpamError> {
        let pool = Pool::of(subnet);
        let start = self.last(subnet).and_then(|last| pool.index(last)).map_or(0, |last| last + 1);
        let free = (0..pool.size)
            .map(|step| pool.address((start + step) % pool.size))
            .find(|addr| !self.leases.contains_key(addr));
        let Some(addr) = free else {
            let leased = self.leases.keys().filter(|addr| subnet.contains(*addr)).count();
            return Err(IpamError::Exhausted { subnet, leased });
        };
        let file = LeaseFile { version: VERSION, sandbox: owner.clone() };
        serde_json::to_vec(&file)
            .map_err(io::Error::from)
            .and_then(|bytes| files::replace(&self.dir, &addr.to_string(), &bytes))
            .map_err(|source| IpamError::Lease { addr, source })?;
        self.leases.insert(addr, owner.clone());
        *self.last_mut(addr) = Some(addr);
        Ok(addr)
    }

    /// Frees all addresses of a pod; none is fine. Goes on after a failure and tells the first.
    pub(super) fn release(&mut self, owner: &SandboxId) -> Result<(), IpamError> {
        let mut first = Ok(());
        for addr in self.of(owner) {
            match files::remove(&self.dir.join(addr.to_string())) {
                Ok(()) => drop(self.leases.remove(&addr)),
                Err(source) => first = first.and(Err(IpamError::Lease { addr, source })),
            }
        }
        first
    }

    /// A pod's addresses.
    pub(super) fn of(&self, owner: &SandboxId) -> Vec<IpAddr> {
        self.leases.iter().filter(|(_, holder)| *holder == owner).map(|(addr, _)| *addr).collect()
    }

    /// All owners.
    pub(super) fn owners(&self) -> impl Iterator<Item = &SandboxId> {
        self.leases.values()
    }

    /// All leased addresses.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> + Clone {
        self.leases.keys().copied()
    }

    fn last(&self, subnet: IpNet) -> Option<IpAddr> {
        let [v4, v6] = self.last;
        if subnet.addr().is_ipv4() { v4 } else { v6 }
    }

    fn last_mut(&mut self, addr: IpAddr) -> &mut Option<IpAddr> {
        let [v4, v6] = &mut self.last;
        if addr.is_ipv4() { v4 } else { v6 }
    }
}

type Leases = (BTreeMap<IpAddr, SandboxId>, [Option<IpAddr>; 2]);

/// The youngest lease of each family is where the search goes on: no file of its own has to say so.
fn read_leases(dir: &PathBuf) -> io::Result<Leases> {
    std::fs::create_dir_all(dir)?;
    let mut leases = BTreeMap::new();
    let mut youngest = [None; 2];
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(Ok(addr)) = name.to_str().map(str::parse::<IpAddr>) else {
            if name.to_str().is_some_and(|name| name.ends_with(".tmp")) {
                files::remove(&entry.path())?;
            }
            continue;
        };
        let bytes = files::read(&entry.path())?;
        let Ok(lease) = serde_json::from_slice::<LeaseFile>(&bytes) else {
            let mut aside = entry.path().into_os_string();
            aside.push(".broken");
            std::fs::rename(entry.path(), aside)?;
            continue;
        };
        leases.insert(addr, lease.sandbox);
        let [v4, v6] = &mut youngest;
        let slot = if addr.is_ipv4() { v4 } else { v6 };
        let found = Some((entry.metadata()?.modified()?, addr));
        *slot = found.max(*slot);
    }
    Ok((leases, youngest.map(|found| found.map(|(_, addr)| addr))))
}

/// The first address after the network's: the bridge's.
pub(super) fn gateway(subnet: IpNet) -> IpNet {
    in_subnet(at(subnet, first_host(subnet)), subnet)
}

/// `addr` with the subnet's prefix length.
pub(super) fn in_subnet(addr: IpAddr, subnet: IpNet) -> IpNet {
    IpNet::new(addr, subnet.prefix_len()).unwrap_or(subnet)
}

fn number(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(addr) => u128::from(addr.to_bits()),
        IpAddr::V6(addr) => addr.to_bits(),
    }
}

/// The address of the subnet's family that has this number.
fn at(subnet: IpNet, number: u128) -> IpAddr {
    match subnet {
        IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(number).unwrap_or(u32::MAX))),
        IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(number)),
    }
}

fn first_host(subnet: IpNet) -> u128 {
    number(subnet.network()) + 1
}

/// The addresses of a subnet that pods may have, numbered from 0.
#[derive(Debug)]
struct Pool {
    subnet: IpNet,
    first: u128,
    size: u128,
}

impl Pool {
    fn of(subnet: IpNet) -> Self {
        let first = first_host(subnet) + 1;
        // The last address is IPv4's broadcast; IPv6's is left out too, which costs nothing.
        let size = (number(subnet.broadcast()) - first).min(MAX_POOL);
        Self { subnet, first, size }
    }

    fn address(&self, index: u128) -> IpAddr {
        at(self.subnet, self.first + index)
    }

    fn index(&self, addr: IpAddr) -> Option<u128> {
        let index = number(addr).checked_sub(self.first)?;
        (index < self.size && self.subnet.contains(&addr)).then_some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipnet::Ipv4Net;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn open(dir: &tempfile::TempDir) -> Ipam {
        Ipam::open(dir.path().join("leases")).unwrap()
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn every_address_but_networks_broadcasts_and_gateways_is_given_once_and_then_none() {
        let dir = tempfile::tempdir().unwrap();
        let mut ipam = open(&dir);
        let subnet = net("10.1.2.0/29");
        let given: BTreeSet<IpAddr> =
            (0..5).map(|_| ipam.lease(subnet, &SandboxId::random().unwrap()).unwrap()).collect();
        let want: BTreeSet<IpAddr> = (2..7).map(|n| IpAddr::from([10, 1, 2, n])).collect();
        assert_eq!(given, want);
        let error = ipam.lease(subnet, &SandboxId::random().unwrap()).unwrap_err();
        assert!(matches!(error, IpamError::Exhausted { leased: 5, .. }), "{error}");
    }

    #[test]
    fn leases_outlive_the_process_and_a_freed_address_rests() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two, three) = (
            SandboxId::random().unwrap(),
            SandboxId::random().unwrap(),
            SandboxId::random().unwrap(),
        );
        let subnet = net("10.1.2.0/24");
        let mut ipam = open(&dir);
        let first = ipam.lease(subnet, &one).unwrap();
        let second = ipam.lease(subnet, &two).unwrap();
        drop(ipam);
        let mut ipam = open(&dir);
        assert_eq!(ipam.of(&one), [first]);
        ipam.release(&one).unwrap();
        ipam.release(&one).unwrap();
        let third = ipam.lease(subnet, &three).unwrap();
        assert!(third != first && third != second, "{third}");
        assert_eq!(open(&dir).addresses().collect::<Vec<_>>(), [second, third]);
    }

    #[test]
    fn a_file_that_is_no_lease_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(&dir));
        files::replace(&dir.path().join("leases"), "10.1.2.2", b"{").unwrap();
        assert_eq!(open(&dir).addresses().count(), 0);
        assert!(dir.path().join("leases/10.1.2.2.broken").exists());
    }

    proptest! {
        #[test]
        fn a_pool_and_its_numbers_agree(bits in any::<u32>(), prefix in 8_u8..=29, at in any::<u32>()) {
            let subnet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from_bits(bits), prefix).trunc());
            let pool = Pool::of(subnet);
            let index = u128::from(at) % pool.size;
            let addr = pool.address(index);
            prop_assert!(subnet.contains(&addr));
            prop_assert_eq!(pool.index(addr), Some(index));
            prop_assert!(addr != subnet.network() && addr != subnet.broadcast() && addr != gateway(subnet).addr());
        }
    }
}
