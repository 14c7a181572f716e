//! How the network is, and what the kubelet wants its subnet to be.
//!
//! Owns the status that CRI's `Status` tells and the pod CIDR's file. The status is computed when asked and never waits.

use super::config::validate_subnets;
use super::{Inner, Network, NetworkConfig, PodCidrError, Subnets, files};
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
    /// Pods have addresses outside of it; nothing was changed.
    InUse {
        /// How many addresses.
        addresses: usize,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct PodCidrFile {
    version: u32,
    subnet: Ipv4Net,
    subnet6: Option<Ipv6Net>,
}

impl Network {
    /// Whether pods can be attached now, and to what. Looks at the configuration folder; asks plugins in the background only.
    #[must_use]
    pub fn status(&self) -> NetworkStatus {
        self.inner.status()
    }

    /// The subnets that pods get addresses from: `"10.1.2.0/24"` or `"10.1.2.0/24,fd01::/64"`, as UpdateRuntimeConfig has them. Kept
    /// over restarts.
    ///
    /// # Errors
    /// [`PodCidrError`]; that CNI or living pods stand against it is an outcome, not an error.
    pub async fn set_pod_cidr(&self, cidrs: &str) -> Result<PodCidrOutcome, PodCidrError> {
        let subnets = parse(cidrs, self.inner.config.bridge.subnet6)?;
        let (inner, value) = (Arc::clone(&self.inner), cidrs.to_owned());
        let task = tokio::task::spawn_blocking(move || inner.set_subnets(subnets, value));
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
        let (bridge, subnets) = (&self.config.bridge, self.bridge.subnets());
        serde_json::json!({
            "bridge": bridge.name, "subnet": subnets.v4, "subnet6": subnets.v6, "mtu": bridge.mtu,
            "table": bridge.table, "ipMasq": bridge.ip_masq,
        })
    }

    fn set_subnets(&self, subnets: Subnets, value: String) -> Result<PodCidrOutcome, PodCidrError> {
        let loaded = self.cni.current();
        if !self.is_bridged(&loaded) {
            return Ok(PodCidrOutcome::CniDecides);
        }
        if subnets == self.bridge.subnets() {
            return Ok(PodCidrOutcome::Unchanged);
        }
        match self.bridge.set_subnets(subnets) {
            Err(source) => return Err(PodCidrError::Bridge { value, source }),
            Ok(Err(addresses)) => return Ok(PodCidrOutcome::InUse { addresses }),
            Ok(Ok(())) => {}
        }
        let file = PodCidrFile { version: VERSION, subnet: subnets.v4, subnet6: subnets.v6 };
        let kept = serde_json::to_vec(&file).map_err(io::Error::from);
        kept.and_then(|bytes| files::replace(&self.config.state, POD_CIDR_FILE, &bytes))
            .map_err(|source| PodCidrError::Keep { value, source })?;
        Ok(PodCidrOutcome::Applied)
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
        Ok(file) => Ok(Subnets { v4: file.subnet, v6: file.subnet6 }),
        Err(error) => {
            // The kubelet says it again at its next start; meanwhile the configuration's will do.
            tracing::error!(error = chain(&error), file = POD_CIDR_FILE, "read the kept pod CIDR");
            Ok(configured)
        }
    }
}

fn parse(cidrs: &str, configured6: Option<Ipv6Net>) -> Result<Subnets, PodCidrError> {
    let invalid = |problem: String| PodCidrError::Invalid { value: cidrs.to_owned(), problem };
    let (mut v4, mut v6) = (None, None);
    for part in cidrs.split(',').map(str::trim) {
        let net: IpNet =
            part.parse().map_err(|error| invalid(format!("has {part:?} in it: {error}")))?;
        let twice = match net {
            IpNet::V4(net) => v4.replace(net.trunc()).is_some(),
            IpNet::V6(net) => v6.replace(net.trunc()).is_some(),
        };
        if twice {
            return Err(invalid("has two subnets of one family".to_owned()));
        }
    }
    let v4 = v4
        .ok_or_else(|| invalid("has no IPv4 subnet, which the built-in bridge needs".to_owned()))?;
    let v6 = v6.or(configured6.map(|net| net.trunc()));
    validate_subnets(v4, v6).map_err(|error| invalid(error.to_string()))?;
    Ok(Subnets { v4, v6 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_pod_cidr_has_an_ipv4_subnet_and_at_most_one_of_each_family() {
        let ok = parse("10.1.2.0/24,fd01::/64", None).unwrap();
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
            let error = parse(text, None).unwrap_err();
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }

    proptest! {
        #[test]
        fn foreign_text_never_panics(text in "[0-9a-f.:/,]{0,40}") {
            drop(parse(&text, None));
        }
    }
}
