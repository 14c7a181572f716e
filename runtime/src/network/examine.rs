//! Whether pods could be attached here, found out without attaching one.
//!
//! Owns what is told of it, not the knowing: configurations are read as the daemon reads them, and the bridge, its links and its firewall's table are made by the
//! same code as pods' are, in a network namespace that is gone afterwards. Nothing of the host's network is changed.

use super::bridge::Subnets;
use super::bridge::{self, BridgeError};
use super::cni::conf::{self, NetworkConf};
use super::{Cni, NetworkConfig, status};
use crate::error::chain;
use crate::machine::Finding;
use std::path::PathBuf;

const SUBJECT: &str = "network";
const PLUGINS: &str = "CNI plugins";

/// What there is to say.
pub(crate) async fn examine(config: &NetworkConfig) -> Vec<Finding> {
    if let Err(error) = super::config::validate(config) {
        return vec![Finding::problem(SUBJECT, chain(&error), "correct the configuration")];
    }
    let loaded = match conf::fingerprint(&config.cni_conf_dir).and_then(|files| conf::load(&files))
    {
        Ok(loaded) => loaded,
        Err(error) => {
            let text = format!("{} can't be read: {error}", config.cni_conf_dir.display());
            return vec![Finding::problem(SUBJECT, text, "make it a directory that root can read")];
        }
    };
    let broken = "correct the file, or remove it";
    let mut found = Vec::new();
    match &loaded.conf {
        Some(conf) => {
            found.push(Finding::ok(
                SUBJECT,
                format!("{} of {}, CNI {}", conf.name, conf.source.display(), conf.cni_version),
            ));
            let passed = loaded.problems.iter();
            found.extend(passed.map(|problem| {
                Finding::warning(SUBJECT, format!("passed over: {problem}"), broken)
            }));
            for plugin in &conf.plugins {
                found.push(plugin_finding(Cni::kind(plugin), conf, &config.cni_bin_dirs).await);
            }
        }
        None if loaded.any_file => {
            let text = format!("no pod can be attached: {}", loaded.problems.join("; "));
            found.push(Finding::problem(SUBJECT, text, broken));
        }
        None if config.bridge.enabled => found.extend(bridge_findings(config).await),
        None => {
            let text = format!(
                "there is no CNI configuration in {}, and the built-in bridge is off",
                config.cni_conf_dir.display()
            );
            found.push(Finding::problem(SUBJECT, text, "install a CNI network"));
        }
    }
    found
}

async fn plugin_finding(kind: &str, conf: &NetworkConf, bin_dirs: &[PathBuf]) -> Finding {
    let install = "install it there, or set cni_bin_dir";
    match super::cni::versions(kind, bin_dirs, &conf.cni_version).await {
        Err(failure) => Finding::problem(PLUGINS, format!("{kind}: {}", chain(&failure)), install),
        Ok(versions) if versions.contains(&conf.cni_version) => {
            Finding::ok(PLUGINS, format!("{kind} speaks {}", conf.cni_version))
        }
        Ok(versions) => Finding::problem(
            PLUGINS,
            format!(
                "{kind} speaks [{}], and {} asks for {}",
                versions.join(", "),
                conf.source.display(),
                conf.cni_version
            ),
            "install another version of it, or change cniVersion",
        ),
    }
}

async fn bridge_findings(config: &NetworkConfig) -> Vec<Finding> {
    let (bridge, config) = (config.bridge.clone(), config.clone());
    let tried = tokio::task::spawn_blocking(move || {
        let configured = Subnets {
            v4: config.bridge.subnet.trunc(),
            v6: config.bridge.subnet6.map(|net| net.trunc()),
        };
        let subnets = status::kept_subnets(&config).unwrap_or(configured);
        (
            bridge::try_links(&config.bridge, subnets),
            bridge::try_firewall(&config.bridge, subnets),
            subnets,
        )
    });
    let Ok((links, firewall, subnets)) = tried.await else {
        return vec![Finding::problem(SUBJECT, BridgeError::Interrupted.to_string(), "")];
    };
    let links = match links {
        Ok(()) => Finding::ok(SUBJECT, format!("built-in bridge {}, {}", bridge.name, subnets.v4)),
        Err(error) => Finding::problem(
            SUBJECT,
            format!("no pod can be attached to the built-in bridge: {}", chain(&error)),
            "install a CNI network, or run a kernel with bridge and veth",
        ),
    };
    let firewall = match firewall {
        Ok(()) => Finding::ok("firewall", format!("nftables takes table {}", bridge.table)),
        Err(error) => Finding::warning(
            "firewall",
            format!("pods reach this node only, and have no host ports: {}", chain(&error)),
            "install nftables (nft), and run a kernel with nf_tables and nft_masq",
        ),
    };
    vec![links, firewall]
}
