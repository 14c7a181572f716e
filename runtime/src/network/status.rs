//! How the network is, and what the kubelet wants its subnet to be.
//!
//! Owns the status that CRI's `Status` tells and the pod CIDR's file. The status is computed when asked and never waits.

use super::bridge::{InTheWay, Subnets};
use super::config::validate_subnets;
use super::{Inner, Network, NetworkConfig, PodCidrError, files};
use crate::error::chain;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::Arc;

const POD_CIDR_FILE: &str = "pod-cidr";
const VERSION: u32 = 1;
/// What the kubelet knows this condition by.
const NOT_READY: &str = "NetworkPluginNotReady";

/// Whether pods can be attached now.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkStatus {
    /// They can.
    pub ready: bool,
    /// One word; empty when ready.
    pub reason: String,
    /// For people; may be set although ready.
    pub message: String,
    /// `cni:<network>`, `bridge`, or `none`.
    pub name: String,
    /// What is in effect, for the verbose status.
    pub config: serde_json::Value,
}

/// What became of the kubelet's pod CIDR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodCidrOutcome {
    /// New pods get their addresses from it.
    Applied,
    /// They did so before.
    Unchanged,
    /// A CNI configuration is there: it decides, and nothing was changed.
    CniDecides,
}

#[derive(Debug, Serialize, Deserialize)]
struct PodCidrFile {
    version: u32,
    subnet: Ipv4Net,
    subnet6: Option<Ipv6Net>,
}

impl Network {
    /// Whether pods can be attached now, and to what. Looks at the configuration folder; asks plugins in the background only, where the table is
    /// written anew, too, that somebody has flushed.
    #[must_use]
    pub fn status(&self) -> NetworkStatus {
        if self.inner.bridge.is_table_lost() {
            let inner = Arc::clone(&self.inner);
            self.inner.runtime.spawn_blocking(move || inner.bridge.restore_table());
        }
        self.inner.status()
    }

    /// The subnets that new pods get addresses from: `"10.1.2.0/24"` or `"10.1.2.0/24,fd01::/64"`, as UpdateRuntimeConfig has them. Kept
    /// over restarts. Pods that are there keep their addresses.
    ///
    /// # Errors
    /// [`PodCidrError`]; that CNI decides is an outcome.
    pub async fn set_pod_cidr(&self, cidrs: &str) -> Result<PodCidrOutcome, PodCidrError> {
        let (inner, value) = (Arc::clone(&self.inner), cidrs.to_owned());
        let task = tokio::task::spawn_blocking(move || inner.set_subnets(value));
        task.await.unwrap_or(Err(PodCidrError::Interrupted))
    }
}

impl Inner {
    fn status(&self) -> NetworkStatus {
        let loaded = self.cni.current();
        let not_ready = |name: String, message: String, config| NetworkStatus {
            ready: false,
            reason: NOT_READY.to_owned(),
            message,
            name,
            config,
        };
        let ready = |name, message, config| NetworkStatus {
            ready: true,
            reason: String::new(),
            message,
            name,
            config,
        };
        if let Some(conf) = &loaded.conf {
            let config = serde_json::json!({
                "file": conf.source, "name": conf.name, "cniVersion": conf.cni_version, "plugins": conf.plugins,
                "problems": loaded.problems,
            });
            let name = format!("cni:{}", conf.name);
            return match self.cni.problem(conf, &self.runtime) {
                Some(problem) => not_ready(name, problem, config),
                None => ready(name, loaded.problems.join("; "), config),
            };
        }
        if !self.is_bridged(&loaded) {
            let config = serde_json::json!({"problems": loaded.problems});
            return not_ready("none".to_owned(), self.no_network(&loaded.problems), config);
        }
        let problem = self.bridge.masquerade_problem();
        let message = problem
            .map(|problem| format!("pods reach this node only: {problem}"))
            .unwrap_or_default();
        ready("bridge".to_owned(), message, self.bridge_config())
    }

    pub(super) fn no_network(&self, problems: &[String]) -> String {
        let dir = self.config.cni_conf_dir.display();
        if problems.is_empty() {
            format!("no CNI configuration in {dir}, and the built-in bridge is off")
        } else {
            format!("no valid CNI configuration in {dir}: {}", problems.join("; "))
        }
    }

    fn bridge_config(&self) -> serde_json::Value {
        let (bridge, ranges) = (&self.config.bridge, self.bridge.ranges());
        let subnets = ranges.now();
        serde_json::json!({
            "bridge": bridge.name, "subnet": subnets.v4, "subnet6": subnets.v6,
            "earlierSubnets": ranges.earlier(), "mtu": bridge.mtu,
            "table": bridge.table, "ipMasq": bridge.ip_masq,
        })
    }

    fn set_subnets(&self, value: String) -> Result<PodCidrOutcome, PodCidrError> {
        let given = Given::parse(&value)?;
        // Which families and sizes there may be is its plugins' to say.
        if !self.is_bridged(&self.cni.current()) {
            return Ok(PodCidrOutcome::CniDecides);
        }
        let subnets = given.subnets(&value, self.config.bridge.subnet6)?;
        let outcome = if subnets == self.bridge.ranges().now() {
            PodCidrOutcome::Unchanged
        } else {
            match self.bridge.set_subnets(subnets) {
                Err(source) => return Err(PodCidrError::Bridge { value, source }),
                Ok(Err(InTheWay { subnet, addresses })) => {
                    return Err(PodCidrError::InTheWay { value, subnet, addresses });
                }
                Ok(Ok(())) => PodCidrOutcome::Applied,
            }
        };
        // What could not be written down the last time is now.
        match self.keep_subnets(subnets) {
            Ok(()) => Ok(outcome),
            Err(source) => Err(PodCidrError::Keep { value, source }),
        }
    }

    fn keep_subnets(&self, subnets: Subnets) -> io::Result<()> {
        let file = PodCidrFile { version: VERSION, subnet: subnets.v4, subnet6: subnets.v6 };
        let bytes = serde_json::to_vec(&file)?;
        match files::read(&self.config.state.join(POD_CIDR_FILE)) {
            Ok(kept) if kept == bytes => Ok(()),
            Ok(_) | Err(_) => files::replace(&self.config.state, POD_CIDR_FILE, &bytes),
        }
    }
}

/// The subnets of the last pod CIDR, or those of the configuration.
pub(super) fn kept_subnets(config: &NetworkConfig) -> io::Result<Subnets> {
    let configured = Subnets {
        v4: config.bridge.subnet.trunc(),
        v6: config.bridge.subnet6.map(|net| net.trunc()),
    };
    let bytes = match files::read(&config.state.join(POD_CIDR_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(configured),
        other => other?,
    };
    match serde_json::from_slice::<PodCidrFile>(&bytes) {
        Ok(file) => {
            let kept = Subnets { v4: file.subnet, v6: file.subnet6 };
            if kept != configured {
                tracing::info!(subnet = %kept.v4, configured = %configured.v4, "the pods' subnet is the kubelet's pod CIDR, not the configured one");
            }
            Ok(kept)
        }
        Err(error) => {
            // The kubelet says it again at its next start; meanwhile the configuration's will do.
            tracing::error!(error = chain(&error), file = POD_CIDR_FILE, "read the kept pod CIDR");
            Ok(configured)
        }
    }
}

/// What the text of a pod CIDR says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Given {
    v4: Option<Ipv4Net>,
    v6: Option<Ipv6Net>,
}

impl Given {
    fn parse(cidrs: &str) -> Result<Self, PodCidrError> {
        let mut given = Self { v4: None, v6: None };
        for part in cidrs.split(',').map(str::trim) {
            let net: IpNet = part
                .parse()
                .map_err(|error| invalid(cidrs, format!("has {part:?} in it: {error}")))?;
            let twice = match net {
                IpNet::V4(net) => given.v4.replace(net.trunc()).is_some(),
                IpNet::V6(net) => given.v6.replace(net.trunc()).is_some(),
            };
            if twice {
                return Err(invalid(cidrs, "has two subnets of one family".to_owned()));
            }
        }
        Ok(given)
    }

    /// Where the built-in bridge is to take it.
    fn subnets(self, cidrs: &str, configured6: Option<Ipv6Net>) -> Result<Subnets, PodCidrError> {
        let none = || "has no IPv4 subnet, which the built-in bridge needs".to_owned();
        let v4 = self.v4.ok_or_else(|| invalid(cidrs, none()))?;
        let v6 = self.v6.or(configured6.map(|net| net.trunc()));
        validate_subnets(v4, v6).map_err(|error| invalid(cidrs, error.to_string()))?;
        Ok(Subnets { v4, v6 })
    }
}

fn invalid(cidrs: &str, problem: String) -> PodCidrError {
    PodCidrError::Invalid { value: cidrs.to_owned(), problem }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_pod_cidr_has_an_ipv4_subnet_and_at_most_one_of_each_family() {
        let parse = |text: &str| Given::parse(text)?.subnets(text, None);
        let ok = parse("10.1.2.0/24,fd01::/64").unwrap();
        assert_eq!(
            ok,
            Subnets { v4: "10.1.2.0/24".parse().unwrap(), v6: Some("fd01::/64".parse().unwrap()) }
        );
        for text in [
            "",
            "x",
            "10.1.2.0",
            "fd01::/64",
            "10.0.0.0/24,10.0.1.0/24",
            "10.0.0.0/32",
            "127.0.0.0/8",
            "10.0.0.0/24,",
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }

    proptest! {
        #[test]
        fn foreign_text_never_panics(text in "[0-9a-f.:/,]{0,40}") {
            drop(Given::parse(&text).and_then(|given| given.subnets(&text, None)));
        }
    }
}
