//! The files of a pod that its containers see: `/etc/hostname` and `/etc/resolv.conf`. `/etc/hosts` is the kubelet's.

use super::{DnsConfig, NetworkMode, RunSandboxError};
use crate::store::{SandboxRecord, write_bytes};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The name that the pod has on the network: what was asked for, else the first digits of its id; with the host's network, the host's.
pub(crate) fn hostname(record: &SandboxRecord) -> String {
    match record.spec.network {
        NetworkMode::Host => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        NetworkMode::Pod if record.spec.hostname.is_empty() => {
            record.id.as_str().chars().take(12).collect()
        }
        NetworkMode::Pod => record.spec.hostname.clone(),
    }
}

/// Where the pod's `/etc/hostname` is.
pub(crate) fn hostname_file(directory: &Path) -> PathBuf {
    directory.join("hostname")
}

/// Where the pod's `/etc/resolv.conf` is.
pub(crate) fn resolv_conf(directory: &Path) -> PathBuf {
    directory.join("resolv.conf")
}

/// Writes both.
pub(super) fn write(directory: &Path, record: &SandboxRecord) -> Result<(), RunSandboxError> {
    write_bytes(&hostname_file(directory), format!("{}\n", hostname(record)).as_bytes(), 0o644)?;
    let resolver = match &record.spec.dns {
        Some(dns) => render(dns).into_bytes(),
        None => hosts_resolv_conf()?,
    };
    write_bytes(&resolv_conf(directory), &resolver, 0o644)?;
    Ok(())
}

/// A host without the file has no resolver to hand on.
fn hosts_resolv_conf() -> Result<Vec<u8>, RunSandboxError> {
    match fs::read(RESOLV_CONF) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(|source| RunSandboxError::ResolvConf {
            path: PathBuf::from(RESOLV_CONF),
            source,
        }),
    }
}

/// As resolv.conf(5) wants it.
fn render(dns: &DnsConfig) -> String {
    let mut text = String::new();
    let mut line = |words: &str| writeln!(text, "{words}").unwrap_or_default();
    if !dns.searches.is_empty() {
        line(&format!("search {}", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        line(&format!("nameserver {server}"));
    }
    if !dns.options.is_empty() {
        line(&format!("options {}", dns.options.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_says_what_was_asked_for() {
        let dns = DnsConfig {
            servers: vec!["10.0.0.10".to_owned(), "fd00::10".to_owned()],
            searches: vec!["ns.svc".to_owned(), "svc".to_owned()],
            options: vec!["ndots:5".to_owned()],
        };
        assert_eq!(
            render(&dns),
            "search ns.svc svc\nnameserver 10.0.0.10\nnameserver fd00::10\noptions ndots:5\n"
        );
        assert_eq!(render(&DnsConfig::default()), "");
    }
}
