//! Which subnets the pods' addresses are of.
//!
//! Owns what follows from a change of subnets: new pods get addresses of the new ones, those that are there keep theirs, with their gateway and
//! their way to the world, for as long as they have them. Changes nothing in the kernel.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::IpAddr;

/// What new pods get addresses of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::network) struct Subnets {
    pub(in crate::network) v4: Ipv4Net,
    pub(in crate::network) v6: Option<Ipv6Net>,
}

impl Subnets {
    pub(super) fn all(self) -> impl Iterator<Item = IpNet> {
        [Some(IpNet::V4(self.v4)), self.v6.map(IpNet::V6)].into_iter().flatten()
    }
}

/// These, and those that pods got addresses of before.
#[derive(Debug, Clone)]
pub(in crate::network) struct Ranges {
    now: Subnets,
    /// No two of them, nor of these and those of now, have an address in common.
    earlier: Vec<IpNet>,
}

/// A subnet that is not to be had while pods have addresses of one that it overlaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::network) struct InTheWay {
    pub(in crate::network) subnet: IpNet,
    pub(in crate::network) addresses: usize,
}

impl Ranges {
    /// `given`: what the addresses are of that pods have. Where it overlaps what is wanted it stays: its pods' gateway could be another pod's address.
    pub(in crate::network) fn at_start(mut wanted: Subnets, given: &[IpNet]) -> Self {
        for net in given {
            if !overlaps(wanted, *net) {
                continue;
            }
            tracing::error!(%net, "the pods' subnet stays: pods have addresses of it, and it overlaps the one that is configured");
            match net {
                IpNet::V4(net) => wanted.v4 = *net,
                IpNet::V6(net) => wanted.v6 = Some(*net),
            }
        }
        let mut ranges = Self { now: wanted, earlier: Vec::new() };
        for net in given {
            if !ranges.all().any(|known| known == *net) {
                ranges.earlier.push(*net);
            }
        }
        ranges
    }

    pub(in crate::network) fn now(&self) -> Subnets {
        self.now
    }

    /// Those of now first.
    pub(super) fn all(&self) -> impl Iterator<Item = IpNet> {
        self.now.all().chain(self.earlier.iter().copied())
    }

    pub(in crate::network) fn earlier(&self) -> &[IpNet] {
        &self.earlier
    }

    /// What keeps `new` from being had.
    pub(super) fn in_the_way(&self, new: Subnets, leased: &[IpAddr]) -> Option<InTheWay> {
        let addresses = |net: &IpNet| leased.iter().filter(|addr| net.contains(*addr)).count();
        let mut found = self.all().map(|subnet| InTheWay { subnet, addresses: addresses(&subnet) });
        found.find(|found| found.addresses > 0 && overlaps(new, found.subnet))
    }

    /// Has new pods get theirs of `new`. The answer: what is of no pod any more.
    pub(super) fn change(&mut self, new: Subnets, leased: &[IpAddr]) -> Vec<IpNet> {
        let before: Vec<IpNet> = self.all().collect();
        let before = before.into_iter().filter(|net| !new.all().any(|kept| kept == *net));
        self.now = new;
        self.earlier = before.collect();
        self.prune(leased.iter().copied())
    }

    /// Leaves out the earlier ones that nobody has an address of, and tells which those are.
    pub(super) fn prune(&mut self, leased: impl Iterator<Item = IpAddr> + Clone) -> Vec<IpNet> {
        let used = |net: &IpNet| leased.clone().any(|addr| net.contains(&addr));
        let (kept, gone) = std::mem::take(&mut self.earlier).into_iter().partition(used);
        self.earlier = kept;
        gone
    }
}

/// Whether they have addresses in common without being the same.
fn overlaps(wanted: Subnets, net: IpNet) -> bool {
    wanted.all().any(|one| one != net && (one.contains(&net) || net.contains(&one)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn subnets(v4: &str) -> Subnets {
        Subnets { v4: v4.parse().unwrap(), v6: None }
    }

    #[test]
    fn an_earlier_subnet_stays_until_its_last_address_is_free() {
        let mut ranges = Ranges::at_start(subnets("10.1.0.0/24"), &[]);
        let held: Vec<IpAddr> = vec!["10.1.0.2".parse().unwrap()];
        assert_eq!(ranges.change(subnets("10.2.0.0/24"), &held), []);
        assert_eq!(ranges.now(), subnets("10.2.0.0/24"));
        assert_eq!(ranges.earlier(), [net("10.1.0.0/24")]);
        assert_eq!(ranges.change(subnets("10.3.0.0/24"), &held), [net("10.2.0.0/24")]);
        assert_eq!(ranges.prune(std::iter::empty()), [net("10.1.0.0/24")]);
        assert_eq!(ranges.all().collect::<Vec<_>>(), [net("10.3.0.0/24")]);
        // And back to one that pods still have.
        assert_eq!(ranges.change(subnets("10.1.0.0/24"), &held), [net("10.3.0.0/24")]);
        assert_eq!(ranges.earlier(), []);
    }

    #[test]
    fn what_overlaps_addresses_that_pods_have_is_not_to_be_had() {
        let ranges = Ranges::at_start(subnets("10.1.0.0/16"), &[]);
        let held: Vec<IpAddr> = vec!["10.1.9.9".parse().unwrap(), "10.7.0.1".parse().unwrap()];
        let found = ranges.in_the_way(subnets("10.1.1.0/24"), &held);
        assert_eq!(found, Some(InTheWay { subnet: net("10.1.0.0/16"), addresses: 1 }));
        assert_eq!(ranges.in_the_way(subnets("10.1.1.0/24"), &[]), None);
        assert_eq!(ranges.in_the_way(subnets("10.1.0.0/16"), &held), None);
        assert_eq!(ranges.in_the_way(subnets("10.2.0.0/16"), &held), None);
    }

    #[test]
    fn at_the_start_what_pods_have_goes_before_what_is_configured() {
        let given = [net("10.1.0.0/16"), net("10.9.0.0/24"), net("10.9.0.0/24"), net("fd00::/64")];
        let ranges = Ranges::at_start(subnets("10.2.0.0/16"), &given);
        assert_eq!(ranges.now(), subnets("10.2.0.0/16"));
        assert_eq!(ranges.earlier(), [given[0], given[1], given[3]]);
        let ranges = Ranges::at_start(subnets("10.1.1.0/24"), &given);
        assert_eq!(ranges.now(), subnets("10.1.0.0/16"));
        assert_eq!(ranges.earlier(), [given[1], given[3]]);
    }
}
