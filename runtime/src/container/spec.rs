//! What a container is asked to be, once the request has been found to make sense.
//!
//! Owns the types; whoever makes one (the conversion from CRI) has validated it. Kept in the container's record as it is here.

use crate::sandbox::IdMappings;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A container to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "the flags are the interface's own")]
pub struct ContainerSpec {
    /// Its name in the pod.
    pub name: String,
    /// How many containers of this name the pod had before.
    pub attempt: u32,
    /// The image, as it was asked for.
    pub image: ImageRequest,
    /// Replaces the image's entrypoint (and its command) unless empty.
    pub command: Vec<String>,
    /// Replaces the image's command unless empty.
    pub args: Vec<String>,
    /// Absolute, inside the container; `None`: the image's.
    pub working_dir: Option<PathBuf>,
    /// Added to the image's; a later one wins.
    pub envs: Vec<(String, String)>,
    /// In the order asked for.
    pub mounts: Vec<MountSpec>,
    /// Devices of the host.
    pub devices: Vec<DeviceSpec>,
    /// Devices that vendors describe ([`crate::cdi`]), each `vendor/class=name`.
    #[serde(default)]
    pub cdi_devices: Vec<String>,
    /// Told back as they came.
    pub labels: BTreeMap<String, String>,
    /// Told back as they came.
    pub annotations: BTreeMap<String, String>,
    /// Below the sandbox's log directory; `None`: output is dropped.
    pub log_path: Option<PathBuf>,
    /// Its standard input stays open for clients.
    pub stdin: bool,
    /// Its standard input closes when the first client's does.
    pub stdin_once: bool,
    /// It has a terminal.
    pub tty: bool,
    /// Limits.
    pub resources: Resources,
    /// What it may do.
    pub security: ContainerSecurity,
    /// Sent to stop it; `None`: the image's, else SIGTERM.
    pub stop_signal: Option<Signal>,
}

/// Which image a container is made from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ImageRequest {
    /// An image id, a name with tag or digest.
    pub image: String,
    /// What the pod's author wrote; told back.
    pub user_specified: String,
    /// Told back.
    pub annotations: BTreeMap<String, String>,
    /// The image id or digest that the kubelet recorded when it pulled; told back.
    pub image_ref: String,
}

/// Something mounted into a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    /// Where, inside; absolute.
    pub container_path: PathBuf,
    /// What.
    pub source: MountSource,
    /// Whether it can be written.
    pub readonly: ReadOnly,
    /// Which way mounts below it travel.
    pub propagation: Propagation,
    /// Asked to be relabelled for SELinux (nothing to do on a host without it).
    pub selinux_relabel: bool,
    /// Who the owners in its file system are in the mount; `None`: who they are.
    #[serde(default)]
    pub id_mappings: Option<IdMappings>,
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountSource {
    /// A file, directory, socket or device of the host; absolute.
    Host(PathBuf),
    /// The merged tree of an image, read-only.
    Image {
        /// Which.
        image: ImageRequest,
        /// The directory of it, relative, without `..`; empty: all of it.
        sub_path: PathBuf,
    },
}

/// Whether a mount can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadOnly {
    /// It can.
    No,
    /// It can't; mounts below it may.
    Yes,
    /// Nor can any mount below it.
    Recursive,
}

/// Which way mounts made below a mount travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Propagation {
    /// Neither way.
    Private,
    /// From the host into the container.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// A device of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSpec {
    /// Where, inside; absolute.
    pub container_path: PathBuf,
    /// On the host; absolute. A directory stands for all devices below it.
    pub host_path: PathBuf,
    /// Some of `r`, `w`, `m`.
    pub permissions: String,
}

/// Limits. 0 or empty means: none asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Resources {
    /// CFS period in microseconds.
    pub cpu_period: i64,
    /// CFS quota in microseconds.
    pub cpu_quota: i64,
    /// Relative weight, 2 to 262144.
    pub cpu_shares: i64,
    /// Bytes.
    pub memory_limit: i64,
    /// Memory and swap together, in bytes; -1: no limit.
    pub memory_swap_limit: i64,
    /// -1000 to 1000.
    pub oom_score_adj: i64,
    /// A CPU list, as in cpuset(7).
    pub cpuset_cpus: String,
    /// A memory node list, as in cpuset(7).
    pub cpuset_mems: String,
    /// Per page size.
    pub hugepage_limits: Vec<HugepageLimit>,
    /// cgroup v2 files and what to write into them.
    pub unified: BTreeMap<String, String>,
}

impl Resources {
    /// These limits, changed as `asked`: what is 0 or empty there stays as it is. A swap limit that would come to lie below the new memory limit,
    /// which it includes, falls away with it: no swap, as at creation. The OOM score is no limit of a cgroup, and each process keeps the one
    /// it was started with, so it stays.
    #[must_use]
    pub fn changed(&self, asked: &Self) -> Self {
        let number = |asked: i64, now: i64| if asked == 0 { now } else { asked };
        let text =
            |asked: &String, now: &String| if asked.is_empty() { now } else { asked }.clone();
        let memory_limit = number(asked.memory_limit, self.memory_limit);
        let kept = self.memory_swap_limit == -1 || self.memory_swap_limit >= memory_limit;
        let swap = if kept { self.memory_swap_limit } else { 0 };
        let mut hugepage_limits = self.hugepage_limits.clone();
        for limit in &asked.hugepage_limits {
            hugepage_limits.retain(|known| known.page_size != limit.page_size);
            hugepage_limits.push(limit.clone());
        }
        let mut unified = self.unified.clone();
        unified.extend(asked.unified.clone());
        Self {
            cpu_period: number(asked.cpu_period, self.cpu_period),
            cpu_quota: number(asked.cpu_quota, self.cpu_quota),
            cpu_shares: number(asked.cpu_shares, self.cpu_shares),
            memory_limit,
            memory_swap_limit: number(asked.memory_swap_limit, swap),
            oom_score_adj: self.oom_score_adj,
            cpuset_cpus: text(&asked.cpuset_cpus, &self.cpuset_cpus),
            cpuset_mems: text(&asked.cpuset_mems, &self.cpuset_mems),
            hugepage_limits,
            unified,
        }
    }
}

/// How many huge pages of one size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugepageLimit {
    /// `2MB`, `1GB`.
    pub page_size: String,
    /// Bytes.
    pub limit: u64,
}

/// What a container may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "the flags are the interface's own")]
pub struct ContainerSecurity {
    /// All capabilities and devices, nothing masked, no seccomp.
    pub privileged: bool,
    /// Changes to the default capabilities.
    pub capabilities: Capabilities,
    /// Whose processes it sees.
    pub pid: ContainerPid,
    /// Whom it runs as.
    pub run_as: RunAs,
    /// Besides the primary one.
    pub supplemental_groups: Vec<u32>,
    /// Whether the image's groups count too.
    pub groups_policy: GroupsPolicy,
    /// Its root can't be written.
    pub readonly_rootfs: bool,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privs: bool,
    /// Hidden inside.
    pub masked_paths: Vec<PathBuf>,
    /// Not writable inside.
    pub readonly_paths: Vec<PathBuf>,
    /// Which system calls.
    pub seccomp: Seccomp,
    /// Which AppArmor profile.
    pub apparmor: AppArmor,
    /// The runtime's default is asked for by name: refused where it can't be loaded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub apparmor_required: bool,
    /// Which SELinux label; without effect on a host that has no SELinux.
    #[serde(default)]
    pub selinux: SelinuxOptions,
}

/// Parts of an SELinux label; an empty one is not asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SelinuxOptions {
    /// User.
    pub user: String,
    /// Role.
    pub role: String,
    /// Type.
    pub kind: String,
    /// Level: sensitivities and categories.
    pub level: String,
}

/// Changes to the default capabilities. Names with or without `CAP_`, in any case; `ALL`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Capabilities {
    /// Added, applied first.
    pub add: Vec<String>,
    /// Dropped.
    pub drop: Vec<String>,
    /// Added to the ambient (and inheritable) set as well.
    pub add_ambient: Vec<String>,
}

/// Whose processes a container sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerPid {
    /// All of the pod's.
    Pod,
    /// Its own.
    Container,
    /// The host's.
    Host,
    /// Those of the pod's container with this id (as it came: a prefix is allowed).
    Target(String),
}

/// Whom a container runs as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunAs {
    /// Whom the image says; root if it doesn't. The group may be overridden by none: that is refused before.
    Image,
    /// This uid; the group given, else the uid's in the image's `/etc/passwd`, else 0.
    Uid {
        /// User id.
        uid: u32,
        /// Group id.
        gid: Option<u32>,
    },
    /// This name, looked up in the image's `/etc/passwd`.
    Name {
        /// User name.
        name: String,
        /// Group id.
        gid: Option<u32>,
    },
}

/// Whether the groups that the image's `/etc/group` gives the user count (KEP-3619).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupsPolicy {
    /// They are added.
    Merge,
    /// Only what the pod lists.
    Strict,
}

/// A seccomp profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seccomp {
    /// davit's own default.
    RuntimeDefault,
    /// None.
    Unconfined,
    /// A JSON file of the host; absolute.
    Localhost(PathBuf),
}

/// An AppArmor profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AppArmor {
    /// davit's own: asked for, or nothing said.
    RuntimeDefault,
    /// None.
    Unconfined,
    /// One that the host has loaded.
    Localhost(String),
}

/// A signal's number, 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal(u8);

/// Why a text or number is no signal.
#[derive(Debug, thiserror::Error)]
#[error("unknown signal {0:?}")]
pub struct UnknownSignal(String);

/// Names and numbers on Linux, x86-64 and arm64 alike (signal(7)); the first name of a number is the one told back.
const SIGNALS: [(&str, u8); 35] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("UNUSED", 31),
];
const RTMIN: u8 = 34;
const RTMAX: u8 = 64;

impl Signal {
    /// SIGKILL.
    pub const KILL: Self = Self(9);
    /// SIGTERM.
    pub const TERM: Self = Self(15);

    /// Its number.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }

    /// The signal of this number.
    ///
    /// # Errors
    /// [`UnknownSignal`] outside 1 to 64, and for the two that the C library keeps for itself (32, 33).
    pub fn from_number(number: u8) -> Result<Self, UnknownSignal> {
        let known = (1..=31).contains(&number) || (RTMIN..=RTMAX).contains(&number);
        known.then_some(Self(number)).ok_or_else(|| UnknownSignal(number.to_string()))
    }
}

impl FromStr for Signal {
    type Err = UnknownSignal;

    /// A number, or a name with or without `SIG`, in any case; `RTMIN+n` and `RTMAX-n` too.
    fn from_str(text: &str) -> Result<Self, UnknownSignal> {
        let unknown = || UnknownSignal(text.to_owned());
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text
                .parse()
                .ok()
                .and_then(|number| Self::from_number(number).ok())
                .ok_or_else(unknown);
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some((_, number)) = SIGNALS.iter().find(|(known, _)| *known == name) {
            return Ok(Self(*number));
        }
        let real_time = if let Some(rest) = name.strip_prefix("RTMIN") {
            offset(rest, '+').and_then(|by| RTMIN.checked_add(by))
        } else if let Some(rest) = name.strip_prefix("RTMAX") {
            offset(rest, '-').and_then(|by| RTMAX.checked_sub(by))
        } else {
            None
        };
        real_time.filter(|number| (RTMIN..=RTMAX).contains(number)).map(Self).ok_or_else(unknown)
    }
}

/// `""` is 0, `"+3"` is 3.
fn offset(text: &str, sign: char) -> Option<u8> {
    if text.is_empty() { Some(0) } else { text.strip_prefix(sign)?.parse().ok() }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SIGNALS.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => write!(f, "SIG{name}"),
            None if self.0 < 50 => write!(f, "SIGRTMIN+{}", self.0.saturating_sub(RTMIN)),
            None => write!(f, "SIGRTMAX-{}", RTMAX.saturating_sub(self.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_known_by_number_and_by_name() {
        for (text, number) in [
            ("9", 9),
            ("SIGKILL", 9),
            ("kill", 9),
            ("usr1", 10),
            ("SIGRTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-14", 50),
            ("SIGRTMAX", 64),
        ] {
            assert_eq!(text.parse::<Signal>().unwrap().number(), number, "{text}");
        }
        for text in [
            "",
            "0",
            "32",
            "65",
            "256",
            "SIG",
            "SIGRTMIN-1",
            "SIGRTMIN+31",
            "RTMAX-31",
            "+9",
            "TERM ",
        ] {
            assert!(text.parse::<Signal>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn every_signal_is_told_by_a_name_that_is_understood() {
        for signal in (1..=64).filter_map(|number| Signal::from_number(number).ok()) {
            assert_eq!(signal.to_string().parse::<Signal>().unwrap(), signal);
        }
    }
}
