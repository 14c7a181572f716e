//! What this host and this process can do, found once at start.
//!
//! Owns the facts that decide how a spec is written. Invariant: nothing is promised to a container that the kernel would refuse its OCI
//! runtime, which inherits this process's limits.

use super::capabilities;
use super::selinux::SelinuxHost;
use crate::cgroup::{Cgroups, Driver, Group, InvalidGroup, Layout, LayoutError, default_parent};
use crate::id::SandboxId;
use crate::sandbox::SandboxSpec;
use oci_spec::runtime::{Capabilities, Capability};
use rustix::process::{Resource, getrlimit};
use std::io::Write as _;
use std::path::Path;

/// How many files a container's process may open, at first and at most. Far below what units often give a daemon ("infinity"): programs
/// that close every possible descriptor would take minutes.
const NOFILE: (u64, u64) = (1024, 1_048_576);
const OOM_SCORE: &str = "/proc/self/oom_score_adj";

/// What may be chosen.
#[derive(Debug, Clone, Default)]
pub struct HostConfig {
    /// The cgroup driver; `None`: systemd's where systemd runs. Must be the kubelet's.
    pub cgroup_driver: Option<Driver>,
    /// What to do about a mount's source that doesn't exist.
    pub missing_sources: MissingSources,
}

/// What to do about a mount's source that doesn't exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MissingSources {
    /// Make a directory, as other runtimes do and volumes without a type count on.
    #[default]
    Create,
    /// Refuse the container, as the interface says.
    Refuse,
}

/// The facts.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Host {
    /// Its cgroups.
    pub cgroups: Cgroups,
    /// Who makes containers' cgroups.
    pub driver: Driver,
    /// This process's bounding set: what can be given to a container.
    pub bounding: Capabilities,
    /// The lowest `oom_score_adj` that can be set.
    pub lowest_oom_score_adj: i32,
    /// The soft and hard limit of open files that a container gets.
    pub nofile: (u64, u64),
    /// The kernel filters system calls.
    pub seccomp: bool,
    /// AppArmor is enabled.
    pub apparmor: bool,
    /// Its profile for containers that ask for no other is loaded, or why it isn't: a daemon loads it when it starts.
    pub apparmor_default: Result<(), String>,
    /// What SELinux has for containers; `None`: it isn't enabled.
    pub selinux: Option<SelinuxHost>,
    /// What to do about a mount's source that doesn't exist.
    pub missing_sources: MissingSources,
}

/// Why the facts aren't known.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// There are no cgroups.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A file of the kernel can't be read.
    #[error("read {path}")]
    Read {
        /// Which.
        path: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file of the kernel has changed its format.
    #[error("read {path}: no {what} in it")]
    Missing {
        /// Which.
        path: &'static str,
        /// What should be in it.
        what: &'static str,
    },
}

impl Host {
    /// This host's.
    ///
    /// # Errors
    /// [`HostError`] if the kernel doesn't tell: without `/proc` and cgroups there are no containers.
    pub fn probe(config: &HostConfig) -> Result<Self, HostError> {
        let bounding = bounding()?;
        // sd_booted(3).
        let systemd = Path::new("/run/systemd/system").is_dir();
        let found = if systemd { Driver::Systemd } else { Driver::Cgroupfs };
        Ok(Self {
            cgroups: Cgroups::new(Layout::read()?),
            driver: config.cgroup_driver.unwrap_or(found),
            lowest_oom_score_adj: lowest_oom_score_adj(&bounding)?,
            nofile: nofile(&bounding),
            bounding,
            seccomp: Path::new("/proc/sys/kernel/seccomp/actions_avail").exists(),
            apparmor: begins_with("/sys/module/apparmor/parameters/enabled", b'Y'),
            apparmor_default: Err("davit has not tried".to_owned()),
            selinux: SelinuxHost::probe(),
            missing_sources: config.missing_sources,
        })
    }

    /// The cgroup of a pod: what the kubelet asked for, else one of its own.
    ///
    /// # Errors
    /// [`InvalidGroup`] if the cgroup driver can't have what was asked for.
    pub fn pod_group(&self, id: &SandboxId, sandbox: &SandboxSpec) -> Result<Group, InvalidGroup> {
        match &sandbox.cgroup_parent {
            Some(parent) => Group::of_parent(self.driver, parent),
            None => Group::of_parent(self.driver, &default_parent(self.driver, id)),
        }
    }
}

fn bounding() -> Result<Capabilities, HostError> {
    let path = "/proc/self/status";
    let text = std::fs::read_to_string(path).map_err(|source| HostError::Read { path, source })?;
    let line = text.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let bits = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    bits.map(capabilities::of_bits).ok_or(HostError::Missing { path, what: "CapBnd" })
}

/// Without CAP_SYS_RESOURCE the kernel lets a process go down only to where a capable one once set it, and shows that place nowhere:
/// it is found by trying, on this process, whose score is put back each time.
fn lowest_oom_score_adj(bounding: &Capabilities) -> Result<i32, HostError> {
    let path = OOM_SCORE;
    if bounding.contains(&Capability::SysResource) {
        return Ok(-1000);
    }
    let text = std::fs::read_to_string(path).map_err(|source| HostError::Read { path, source })?;
    let own: i32 = text.trim().parse().ok().ok_or(HostError::Missing { path, what: "number" })?;
    let (mut refused, mut taken) = (-1001, own);
    while taken - refused > 1 {
        let between = refused + (taken - refused) / 2;
        if set_oom_score_adj(between).is_ok() { taken = between } else { refused = between }
    }
    set_oom_score_adj(own).map_err(|source| HostError::Read { path, source })?;
    Ok(taken)
}

fn set_oom_score_adj(score: i32) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).open(OOM_SCORE)?;
    file.write_all(score.to_string().as_bytes())
}

/// A hard limit can be raised only with CAP_SYS_RESOURCE, and only to the kernel's own.
fn nofile(bounding: &Capabilities) -> (u64, u64) {
    let (soft, hard) = NOFILE;
    let own = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let kernel = std::fs::read_to_string("/proc/sys/fs/nr_open").ok();
    let kernel = kernel.and_then(|text| text.trim().parse().ok()).unwrap_or(hard);
    let hard = hard.min(if bounding.contains(&Capability::SysResource) { kernel } else { own });
    (soft.min(hard), hard)
}

fn begins_with(path: &str, byte: u8) -> bool {
    std::fs::read(path).is_ok_and(|bytes| bytes.first() == Some(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_promised_can_be_done_by_a_child_of_this_process() {
        let before = std::fs::read_to_string(OOM_SCORE).unwrap();
        let host = Host::probe(&HostConfig::default()).unwrap();
        assert_eq!(std::fs::read_to_string(OOM_SCORE).unwrap(), before);
        let run = |script: String| {
            std::process::Command::new("sh")
                .args(["-c", &script])
                .output()
                .unwrap()
                .status
                .success()
        };
        let lowest = host.lowest_oom_score_adj;
        assert!(run(format!("echo {lowest} > {OOM_SCORE}")));
        if lowest > -1000 {
            assert!(!run(format!("echo {} > {OOM_SCORE} 2> /dev/null", lowest - 1)));
        }
        let (soft, hard) = host.nofile;
        assert!(soft <= hard && hard <= NOFILE.1);
        assert!(run(format!("ulimit -Hn {hard} && ulimit -Sn {soft}")));
        assert!(host.bounding.contains(&Capability::Chown));
    }
}
