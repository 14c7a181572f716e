//! Which host port belongs to which pod.
//!
//! Owns the claims, in memory: they are rebuilt from the records. Decides conflicts and says what the claims are as elements of the
//! table's maps; does not speak to nftables.

use crate::id::SandboxId;
use crate::sandbox::{PortMapping, Protocol, SandboxKey};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

/// A pod that claims ports.
#[derive(Debug, Clone)]
pub(in crate::network) struct Owner {
    pub(in crate::network) id: SandboxId,
    pub(in crate::network) key: SandboxKey,
    pub(in crate::network) ips: Vec<IpAddr>,
}

/// A claimed port; `None` is every address of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Port {
    protocol: Protocol,
    number: u16,
    host_ip: Option<IpAddr>,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_ip {
            Some(ip) => write!(f, "{ip} {} {}", protocol(self.protocol), self.number),
            None => write!(f, "{} {}", protocol(self.protocol), self.number),
        }
    }
}

/// Why host ports can't be had.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Another pod has it.
    #[error("host port {port} is held by pod {holder}")]
    Taken {
        /// Address, protocol and number.
        port: String,
        /// The pod's key and id.
        holder: String,
    },
    /// The same pod asks for one port twice, with two meanings.
    #[error("host port {port} is asked for twice, for container ports {first} and {second}")]
    Twice {
        /// Address, protocol and number.
        port: String,
        /// Of the first mapping.
        first: u16,
        /// Of the second mapping.
        second: u16,
    },
    /// The host's address is of a family that the pod has no address of.
    #[error("host address {host_ip} of host port {number}: the pod has no address of that family")]
    Family {
        /// The mapping's.
        host_ip: IpAddr,
        /// The mapping's.
        number: u16,
    },
    /// 0 is no port.
    #[error("port mapping {host_port} to {container_port}: port 0 can't be mapped")]
    Zero {
        /// The mapping's.
        host_port: u16,
        /// The mapping's.
        container_port: u16,
    },
}

#[derive(Debug, Clone)]
struct Claim {
    owner: Owner,
    container_port: u16,
}

/// One element of one of the table's maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) map: &'static str,
    /// `key : value` in nft's words.
    pub(super) text: String,
    pub(super) udp_port: Option<u16>,
}

/// All claims.
#[derive(Debug, Default)]
pub(super) struct Ports {
    claims: BTreeMap<Port, Claim>,
}

impl Ports {
    /// Takes all of a pod's ports or none.
    pub(super) fn claim(
        &mut self,
        owner: &Owner,
        mappings: &[PortMapping],
    ) -> Result<Vec<Element>, PortError> {
        let wanted = wanted(owner, mappings)?;
        for port in wanted.keys() {
            if let Some((held, claim)) = self.conflict(*port, &owner.id) {
                let holder = format!("{} ({})", claim.owner.key, claim.owner.id);
                return Err(PortError::Taken { port: held.to_string(), holder });
            }
        }
        let elements = wanted.iter().flat_map(|(port, claim)| elements(*port, claim)).collect();
        self.claims.extend(wanted);
        Ok(elements)
    }

    /// Gives a pod's ports back; the elements that they were.
    pub(super) fn release(&mut self, owner: &SandboxId) -> Vec<Element> {
        let mut gone = Vec::new();
        self.claims.retain(|port, claim| {
            let keep = claim.owner.id != *owner;
            if !keep {
                gone.extend(elements(*port, claim));
            }
            keep
        });
        gone
    }

    /// What all claims are in the table.
    pub(super) fn elements(&self) -> impl Iterator<Item = Element> {
        self.claims.iter().flat_map(|(port, claim)| elements(*port, claim))
    }

    /// Every address and one address overlap, as they do for sockets.
    fn conflict(&self, wanted: Port, owner: &SandboxId) -> Option<(&Port, &Claim)> {
        self.claims.iter().find(|(held, claim)| overlap(**held, wanted) && claim.owner.id != *owner)
    }
}

fn overlap(one: Port, other: Port) -> bool {
    let addresses = match (one.host_ip, other.host_ip) {
        (Some(one), Some(other)) if one.is_ipv4() != other.is_ipv4() => false,
        (Some(one), Some(other)) => one == other || one.is_unspecified() || other.is_unspecified(),
        (None, _) | (_, None) => true,
    };
    one.protocol == other.protocol && one.number == other.number && addresses
}

fn wanted(owner: &Owner, mappings: &[PortMapping]) -> Result<BTreeMap<Port, Claim>, PortError> {
    let mut wanted: BTreeMap<Port, Claim> = BTreeMap::new();
    for mapping in mappings {
        let Some(number) = mapping.host_port else { continue };
        if number == 0 || mapping.container_port == 0 {
            return Err(PortError::Zero {
                host_port: number,
                container_port: mapping.container_port,
            });
        }
        if let Some(host_ip) = mapping.host_ip
            && !owner.ips.iter().any(|ip| ip.is_ipv4() == host_ip.is_ipv4())
        {
            return Err(PortError::Family { host_ip, number });
        }
        let port = Port { protocol: mapping.protocol, number, host_ip: mapping.host_ip };
        let twice = wanted.iter().find(|(other, claim)| {
            overlap(**other, port) && claim.container_port != mapping.container_port
        });
        if let Some((_, claim)) = twice {
            let (first, second) = (claim.container_port, mapping.container_port);
            return Err(PortError::Twice { port: port.to_string(), first, second });
        }
        wanted.insert(port, Claim { owner: owner.clone(), container_port: mapping.container_port });
    }
    Ok(wanted)
}

fn elements(port: Port, claim: &Claim) -> Vec<Element> {
    let families = |ip: &&IpAddr| port.host_ip.is_none_or(|host| host.is_ipv4() == ip.is_ipv4());
    let one = |ip: &IpAddr| {
        let host_ip = port.host_ip.filter(|host| !host.is_unspecified());
        let map = match (ip.is_ipv4(), host_ip.is_some()) {
            (true, true) => "hostipports4",
            (true, false) => "hostports4",
            (false, true) => "hostipports6",
            (false, false) => "hostports6",
        };
        let address = host_ip.map(|host| format!("{host} . ")).unwrap_or_default();
        let protocol = protocol(port.protocol);
        let text =
            format!("{address}{protocol} . {} : {ip} . {}", port.number, claim.container_port);
        let udp_port = (port.protocol == Protocol::Udp).then_some(port.number);
        Element { map, text, udp_port }
    };
    let (v4, v6): (Vec<&IpAddr>, Vec<&IpAddr>) =
        claim.owner.ips.iter().filter(families).partition(|ip| ip.is_ipv4());
    // A map has one value per key: the first address of each family.
    v4.into_iter().take(1).chain(v6.into_iter().take(1)).map(one).collect()
}

/// As nft and CNI call it.
pub(crate) fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(ips: &[&str]) -> Owner {
        let key =
            SandboxKey { namespace: "n".into(), name: "p".into(), uid: "u".into(), attempt: 0 };
        Owner {
            id: SandboxId::random().unwrap(),
            key,
            ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        }
    }

    fn map(protocol: Protocol, host: u16, container: u16, ip: Option<&str>) -> PortMapping {
        let host_ip = ip.map(|ip| ip.parse().unwrap());
        PortMapping { protocol, container_port: container, host_port: Some(host), host_ip }
    }

    #[test]
    fn a_port_has_one_holder_and_the_error_names_both() {
        use Protocol::{Tcp, Udp};
        let (one, two) = (owner(&["10.0.0.2"]), owner(&["10.0.0.3"]));
        for (held, wanted, conflict) in [
            (map(Tcp, 80, 1, None), map(Tcp, 80, 2, None), true),
            (map(Tcp, 80, 1, None), map(Udp, 80, 2, None), false),
            (map(Tcp, 80, 1, None), map(Tcp, 81, 1, None), false),
            (map(Tcp, 80, 1, Some("192.0.2.1")), map(Tcp, 80, 1, Some("192.0.2.2")), false),
            (map(Tcp, 80, 1, Some("192.0.2.1")), map(Tcp, 80, 1, None), true),
            (map(Tcp, 80, 1, Some("0.0.0.0")), map(Tcp, 80, 1, Some("192.0.2.1")), true),
        ] {
            let mut ports = Ports::default();
            ports.claim(&one, &[held]).unwrap();
            match ports.claim(&two, &[wanted]) {
                Ok(_) => assert!(!conflict),
                Err(error) => {
                    assert!(conflict, "{error}");
                    assert!(
                        error.to_string().contains("80")
                            && error.to_string().contains(one.id.as_str())
                    );
                }
            }
            ports.release(&one.id);
            assert!(ports.claim(&two, &[map(Tcp, 80, 2, None)]).is_ok());
        }
    }

    #[test]
    fn one_pod_may_repeat_itself_but_not_contradict_itself() {
        let pod = owner(&["10.0.0.2"]);
        let twice = [map(Protocol::Tcp, 80, 1, None), map(Protocol::Tcp, 80, 1, None)];
        assert_eq!(Ports::default().claim(&pod, &twice).unwrap().len(), 1);
        let two = [map(Protocol::Tcp, 80, 1, None), map(Protocol::Tcp, 80, 2, None)];
        assert!(matches!(
            Ports::default().claim(&pod, &two),
            Err(PortError::Twice { first: 1, second: 2, .. })
        ));
        let zero = [map(Protocol::Tcp, 80, 0, None)];
        assert!(matches!(Ports::default().claim(&pod, &zero), Err(PortError::Zero { .. })));
        let family = [map(Protocol::Tcp, 80, 1, Some("::1"))];
        assert!(matches!(Ports::default().claim(&pod, &family), Err(PortError::Family { .. })));
    }

    #[test]
    fn a_claim_is_one_element_per_family() {
        let pod = owner(&["10.0.0.2", "fd01::2"]);
        let got = Ports::default().claim(&pod, &[map(Protocol::Udp, 53, 5353, None)]).unwrap();
        let texts: Vec<_> =
            got.iter().map(|element| (element.map, element.text.as_str())).collect();
        assert_eq!(
            texts,
            [
                ("hostports4", "udp . 53 : 10.0.0.2 . 5353"),
                ("hostports6", "udp . 53 : fd01::2 . 5353")
            ]
        );
        let got = Ports::default()
            .claim(&pod, &[map(Protocol::Tcp, 80, 8080, Some("192.0.2.1"))])
            .unwrap();
        assert_eq!(
            (got[0].map, got[0].text.as_str()),
            ("hostipports4", "192.0.2.1 . tcp . 80 : 10.0.0.2 . 8080")
        );
        assert_eq!(got.len(), 1);
    }
}
