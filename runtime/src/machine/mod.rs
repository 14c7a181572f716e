//! What this machine is, and what it lacks for containers and pods.
//!
//! Owns the facts that `davit info` tells and each finding that `davit info` warns of and `davit doctor` lists: one place for both, so that they never differ.
//! Everything here is read when it is asked for, costs milliseconds, blocks, and changes nothing; what takes a trial is [`crate::doctor`]'s. What the daemon
//! itself decides by is [`crate::oci::Host`]'s; here it is only put into words.

mod capability;
mod cgroups;
mod clock;
mod disk;
mod finding;
mod host;
mod kernel;
mod memory;
mod sysctl;

pub use disk::Disk;
pub(crate) use disk::nearest;
pub use finding::{Finding, Verdict};
pub use host::selinux;
pub use memory::proportional;

use crate::config::RuntimeConfig;
use crate::oci::Host;
use std::path::Path;

/// What kind of machine it is. What the kernel does not tell is empty, or 0.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Machine {
    /// Its host name.
    pub name: String,
    /// The kernel's release.
    pub kernel: String,
    /// The distribution, as os-release(5) names it.
    pub os: String,
    /// As images name it: `amd64`.
    pub architecture: String,
    /// Processors that are online.
    pub cpus: u32,
    /// Bytes.
    pub memory: u64,
    /// Bytes.
    pub swap: u64,
}

impl Machine {
    /// This one.
    #[must_use]
    pub fn read() -> Self {
        let uname = rustix::system::uname();
        let meminfo = text("/proc/meminfo");
        Self {
            name: uname.nodename().to_string_lossy().into_owned(),
            kernel: uname.release().to_string_lossy().into_owned(),
            os: os(&text("/etc/os-release"))
                .or_else(|| os(&text("/usr/lib/os-release")))
                .unwrap_or_default(),
            architecture: crate::image::Platform::host().architecture,
            cpus: cpus(&text("/sys/devices/system/cpu/online")),
            memory: meminfo_bytes(&meminfo, "MemTotal"),
            swap: meminfo_bytes(&meminfo, "SwapTotal"),
        }
    }
}

/// What there is to say of the machine: good, lacking and broken. Blocks.
#[must_use]
pub fn survey(config: &RuntimeConfig, host: &Host) -> Vec<Finding> {
    let mut found = base(host);
    found.push(disk::finding("disk of root", &config.root));
    found.push(disk::finding("disk of state", &config.state));
    found
}

/// The part that depends on no configuration.
pub(crate) fn base(host: &Host) -> Vec<Finding> {
    let mut found = kernel::findings();
    found.push(capability::finding(&host.bounding));
    found.extend(cgroups::findings(host.cgroups.layout()));
    found.extend(host::findings(host));
    found.extend(sysctl::findings());
    found.extend(clock::findings());
    found
}

pub(crate) use host::shortcomings;

/// A file of the kernel or the distribution; empty if it can't be read.
fn text(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// `PRETTY_NAME`, as a shell would read it.
fn os(release: &str) -> Option<String> {
    let value = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    let value = value.trim().trim_matches(['"', '\'']).replace('\\', "");
    (!value.is_empty()).then_some(value)
}

/// A list such as `0-3,5`.
fn cpus(list: &str) -> u32 {
    let count = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    list.trim().split(',').filter_map(count).fold(0, u32::saturating_add)
}

fn meminfo_bytes(meminfo: &str, name: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kibibytes =
        line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kibibytes.unwrap_or_default().saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn this_machine_is_something() {
        let machine = Machine::read();
        let Machine { name, kernel, os: _, architecture, cpus, memory, swap: _ } = machine;
        assert!(!name.is_empty() && !kernel.is_empty() && !architecture.is_empty());
        assert!(cpus >= 1 && memory > 1 << 20);
    }

    #[test]
    fn the_kernels_lists_are_read() {
        assert_eq!(cpus("0-3,5\n"), 5);
        assert_eq!(cpus("0\n"), 1);
        assert_eq!(cpus("3-1,x"), 0);
        assert_eq!(
            os("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n").as_deref(),
            Some("Debian GNU/Linux 12 (bookworm)")
        );
        assert_eq!(os("NAME=x\n"), None);
        let meminfo = "MemTotal:        2048 kB\nSwapTotal:          0 kB\n";
        assert_eq!(
            (meminfo_bytes(meminfo, "MemTotal"), meminfo_bytes(meminfo, "SwapTotal")),
            (2 << 20, 0)
        );
    }

    proptest! {
        #[test]
        fn foreign_text_never_panics(text in "[0-9,\\-a-zA-Z:= \n\"]{0,60}") {
            cpus(&text);
            os(&text);
            meminfo_bytes(&text, "MemTotal");
        }
    }
}
