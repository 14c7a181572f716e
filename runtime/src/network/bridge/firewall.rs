//! The nftables table: masquerading and host ports.
//!
//! Owns the table named in the configuration, whole, and nothing beside it. A pod without host ports costs no call of nft; one with
//! them costs one call that adds elements to maps. The table is written as one transaction at first use and whenever an element
//! can't be added or removed (somebody flushed the ruleset): replacing it from memory is right in every case.
//!
//! nft is spoken to in its own language. The JSON dialect (the `nftables` crate) is four times as long for the same table, nobody
//! at a node's shell can compare it with `nft list table`, and that crate's runner has no deadline. All that is put into the text
//! are numbers, addresses and the two names that the configuration's check lets through.
//!
//! What the rules are for: host ports are translated for the host's own addresses only (matching every destination would catch
//! traffic that merely passes through: CVE-2025-67499); what comes back over the bridge (hairpin, or from 127.0.0.1) is
//! masqueraded so that replies return through the host; pods are kept away from the host's 127.0.0.0/8, which `route_localnet`
//! would otherwise open to them (CVE-2020-8558).

use super::ports::{Element, Ports};
use crate::network::child::{self, ChildError};
use ipnet::{Ipv4Net, Ipv6Net};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::process::Command;

const NFT: &str = "nft";
const DEADLINE: Duration = Duration::from_secs(15);

/// Why the table is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// There is no nft.
    #[error("{NFT} is not installed: host ports and masquerading need it")]
    Missing,
    /// It did not answer.
    #[error("run {NFT} for table {table}")]
    Run {
        /// The table.
        table: String,
        /// Why.
        #[source]
        source: ChildError,
    },
    /// It refused.
    #[error("change nftables table {table}: {said}")]
    Refused {
        /// The table.
        table: String,
        /// nft's own words.
        said: String,
    },
    /// A sysctl that host ports need.
    #[error("set {path}")]
    Sysctl {
        /// The file.
        path: String,
        /// The system call's word.
        #[source]
        source: io::Error,
    },
}

/// What the table is made from.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) table: String,
    pub(super) bridge: String,
    /// Of new pods, and of those that are there. Never empty.
    pub(super) subnets: Vec<Ipv4Net>,
    pub(super) subnets6: Vec<Ipv6Net>,
    pub(super) ip_masq: bool,
}

/// The table and the claims that are in it.
#[derive(Debug)]
pub(super) struct Firewall {
    pub(super) rules: Rules,
    pub(super) ports: Ports,
    /// Written under the lock of whoever owns this; read without.
    installed: Arc<AtomicBool>,
}

impl Firewall {
    pub(super) fn new(rules: Rules) -> Self {
        Self { rules, ports: Ports::default(), installed: Arc::default() }
    }

    /// The table is there as far as we know; installs it if not.
    pub(super) fn ensure(&mut self) -> Result<(), FirewallError> {
        if self.is_installed() { Ok(()) } else { self.install() }
    }

    /// Replaces the table by what it should be.
    pub(super) fn install(&mut self) -> Result<(), FirewallError> {
        self.installed.store(false, Ordering::Release);
        run(&self.rules.table, &table(&self.rules, &self.ports), Force::In)?;
        self.installed.store(true, Ordering::Release);
        Ok(())
    }

    /// Has the kernel look at the table, and no more.
    pub(super) fn check(&self) -> Result<(), FirewallError> {
        run(&self.rules.table, &table(&self.rules, &self.ports), Force::Out)
    }

    /// Whether the table is there as far as we know.
    pub(super) fn installed(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.installed)
    }

    fn is_installed(&self) -> bool {
        self.installed.load(Ordering::Acquire)
    }

    /// The elements are in `self.ports` already.
    pub(super) fn add(&mut self, elements: &[Element]) -> Result<(), FirewallError> {
        self.change(|table| elements.iter().map(|element| change("add", table, element)).collect())
    }

    /// The elements are no longer in `self.ports`. Added first: what is not there can't be deleted, and nft tells the difference in
    /// words only.
    pub(super) fn remove(&mut self, elements: &[Element]) -> Result<(), FirewallError> {
        let gone = |table: &str| {
            let both = |element| change("add", table, element) + &change("delete", table, element);
            elements.iter().map(both).collect()
        };
        self.change(gone)
    }

    /// Removes a table that an earlier configuration named.
    pub(super) fn drop_table(table: &str) -> Result<(), FirewallError> {
        run(table, &format!("add table inet {table}\ndelete table inet {table}\n"), Force::In)
    }

    fn change(&mut self, script: impl FnOnce(&str) -> String) -> Result<(), FirewallError> {
        if !self.is_installed() {
            return self.install();
        }
        match run(&self.rules.table, &script(&self.rules.table), Force::In) {
            Ok(()) => Ok(()),
            Err(_) => self.install(),
        }
    }
}

fn change(verb: &str, table: &str, element: &Element) -> String {
    format!("{verb} element inet {table} {} {{ {} }}\n", element.map, element.text)
}

/// What becomes of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Force {
    /// It is done.
    In,
    /// It is checked.
    Out,
}

/// On a blocking thread of the runtime.
fn run(table: &str, script: &str, force: Force) -> Result<(), FirewallError> {
    let mut command = Command::new(NFT);
    if force == Force::Out {
        command.arg("--check");
    }
    command.args(["-f", "-"]);
    let failed = |source| FirewallError::Run { table: table.to_owned(), source };
    match tokio::runtime::Handle::current().block_on(child::run(
        command,
        script.as_bytes(),
        DEADLINE,
    )) {
        Ok(done) if done.status.success() => Ok(()),
        Ok(done) => Err(FirewallError::Refused {
            table: table.to_owned(),
            said: child::printable(&done.stderr),
        }),
        Err(ChildError::Start { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Err(FirewallError::Missing)
        }
        Err(error) => Err(failed(error)),
    }
}

fn table(rules: &Rules, ports: &Ports) -> String {
    let Rules { table, bridge, subnets, .. } = rules;
    let (subnets, masquerade, hairpin6) = (list(subnets), masquerade(rules), hairpin6(rules));
    let mut text = format!(
        r#"add table inet {table}
delete table inet {table}
table inet {table} {{
  map hostports4 {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
  map hostipports4 {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
  map hostports6 {{ type inet_proto . inet_service : ipv6_addr . inet_service; }}
  map hostipports6 {{ type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }}
  chain guard {{
    type filter hook prerouting priority -300;
    iifname "{bridge}" ip daddr 127.0.0.0/8 drop
  }}
  chain hostports {{
    dnat ip to ip daddr . meta l4proto . th dport map @hostipports4
    meta nfproto ipv4 dnat ip to meta l4proto . th dport map @hostports4
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @hostipports6
    meta nfproto ipv6 dnat ip6 to meta l4proto . th dport map @hostports6
  }}
  chain prerouting {{
    type nat hook prerouting priority -100;
    fib daddr type local jump hostports
  }}
  chain output {{
    type nat hook output priority -100;
    fib daddr type local jump hostports
  }}
  chain postrouting {{
    type nat hook postrouting priority 100;
    oifname "{bridge}" ct status dnat ip saddr {{ 127.0.0.0/8, {subnets} }} masquerade
{hairpin6}{masquerade}  }}
}}
"#
    );
    for element in ports.elements() {
        text.push_str(&change("add", table, &element));
    }
    text
}

fn hairpin6(rules: &Rules) -> String {
    let Rules { bridge, subnets6, .. } = rules;
    if subnets6.is_empty() {
        return String::new();
    }
    let subnets6 = list(subnets6);
    format!("    oifname \"{bridge}\" ct status dnat ip6 saddr {{ {subnets6} }} masquerade\n")
}

fn masquerade(rules: &Rules) -> String {
    let Rules { bridge, subnets, subnets6, ip_masq, .. } = rules;
    if !ip_masq {
        return String::new();
    }
    let rule = |family: &str, subnets: &str, beyond: &str| {
        format!(
            "    oifname != \"{bridge}\" {family} saddr {{ {subnets} }} {family} daddr != {{ {subnets}, {beyond} }} masquerade\n"
        )
    };
    let v4 = rule("ip", &list(subnets), "224.0.0.0/4, 255.255.255.255");
    let v6 =
        if subnets6.is_empty() { String::new() } else { rule("ip6", &list(subnets6), "ff00::/8") };
    v4 + &v6
}

fn list(nets: &[impl ToString]) -> String {
    nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
