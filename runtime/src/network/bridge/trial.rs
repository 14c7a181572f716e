//! The bridge, a pod's link and the firewall's table, tried where nothing is changed.
//!
//! Owns a thread with a network namespace of its own: whatever is made in there goes with it. The table is shown to the kernel and not put in force.

use super::{BridgeError, Firewall, FirewallError, Ranges, Subnets, link, rules, setup};
use crate::network::BridgeConfig;
use crate::network::netlink::Netlink;
use davit_sys::namespace::{Namespace, unshare};
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path;

const OWN: &str = "/proc/thread-self/ns/net";

/// Makes the bridge, and a pod's pair of links on it.
///
/// # Errors
/// As for a pod; and [`BridgeError::NotABridge`] for a name that something else has on this host.
pub(in crate::network) fn try_links(
    config: &BridgeConfig,
    subnets: Subnets,
) -> Result<(), BridgeError> {
    let taken = Path::new("/sys/class/net").join(&config.name);
    if taken.exists() && !taken.join("bridge").exists() {
        return Err(BridgeError::NotABridge(config.name.clone()));
    }
    // A thread's namespace is its own, and nobody else's.
    let inside = std::thread::scope(|scope| scope.spawn(|| links(config, subnets)).join());
    inside.unwrap_or(Err(BridgeError::Interrupted))
}

fn links(config: &BridgeConfig, subnets: Subnets) -> Result<(), BridgeError> {
    let closed = |source| BridgeError::Namespace { path: OWN.into(), source };
    unshare(Namespace::Net).map_err(|error| closed(error.into()))?;
    let own = File::open(OWN).map_err(closed)?;
    let mut netlink = Netlink::open()?;
    let up = setup::make_bridge(config, &Ranges::at_start(subnets, &[]), &mut netlink)?;
    let pair = link::Pair {
        host: "dvtrial",
        bridge: up.index,
        netns: own.as_raw_fd(),
        mac: Some(link::mac(subnets.v4.addr())),
        mtu: up.mtu,
    };
    Ok(netlink.apply(vec![pair.create(), link::enable("dvtrial")])?)
}

/// Has the kernel look at the table. On a blocking thread of the runtime.
///
/// # Errors
/// nft's, or the kernel's.
pub(in crate::network) fn try_firewall(
    config: &BridgeConfig,
    subnets: Subnets,
) -> Result<(), FirewallError> {
    Firewall::new(rules(config, &Ranges::at_start(subnets, &[]))).check()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::NetworkConfig;

    fn config(name: &str) -> (BridgeConfig, Subnets) {
        let bridge = NetworkConfig::new("/x".into()).bridge;
        let config = BridgeConfig { name: name.to_owned(), table: name.to_owned(), ..bridge };
        let subnets = Subnets { v4: config.subnet, v6: None };
        (config, subnets)
    }

    #[test]
    fn a_trial_leaves_nothing_on_the_host() {
        let name = format!("dvtry{}", std::process::id() % 10_000);
        let (config, subnets) = config(&name);
        try_links(&config, subnets).unwrap();
        assert!(!Path::new("/sys/class/net").join(&name).exists());
        let (loopback, subnets) = self::config("lo");
        assert!(matches!(try_links(&loopback, subnets), Err(BridgeError::NotABridge(_))));
    }

    #[tokio::test]
    async fn a_table_is_looked_at_and_not_put_in_force() {
        let name = format!("dvtable{}", std::process::id() % 10_000);
        let (config, subnets) = config(&name);
        let tried = tokio::task::spawn_blocking(move || try_firewall(&config, subnets));
        tried.await.unwrap().unwrap();
        let listed = std::process::Command::new("nft").args(["list", "tables"]).output().unwrap();
        assert!(!String::from_utf8_lossy(&listed.stdout).contains(&name));
    }
}
