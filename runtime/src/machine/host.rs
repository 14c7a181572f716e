//! What the host's facts, which the daemon decides by, mean for containers.

use super::{Finding, Verdict, text};
use crate::oci::Host;

/// How many files a container could have open where nothing stands against it.
const NOFILE: u64 = 1_048_576;

/// What this host can't do though containers may ask for it, each a sentence for the log: to be said once, at start.
pub(crate) fn shortcomings(host: &Host) -> Vec<String> {
    let cgroups = super::cgroups::findings(host.cgroups.layout());
    let all = findings(host).into_iter().chain(cgroups);
    all.filter(|one| one.verdict != Verdict::Ok).map(|one| one.text).collect()
}

pub(super) fn findings(host: &Host) -> Vec<Finding> {
    let mut found = Vec::new();
    let lowest = host.lowest_oom_score_adj;
    if lowest > -1000 {
        found.push(Finding::warning(
            "oom_score_adj",
            format!("oom_score_adj below {lowest} is raised to it: CAP_SYS_RESOURCE is missing"),
            "give davit CAP_SYS_RESOURCE",
        ));
    }
    let (_, hard) = host.nofile;
    if hard < NOFILE {
        found.push(Finding::warning(
            "open files",
            format!("containers can open {hard} files at most: it is this process's own limit"),
            "raise it (LimitNOFILE in davit's unit, ulimit -n at a shell)",
        ));
    }
    found.push(security(host));
    found
}

/// The modules that keep containers in.
fn security(host: &Host) -> Finding {
    if !host.seccomp {
        return Finding::warning(
            "security",
            "containers that ask for a seccomp profile are refused: the kernel has no seccomp",
            "run a kernel with CONFIG_SECCOMP_FILTER",
        );
    }
    let selinux = selinux(host).map(|mode| format!("SELinux ({mode})"));
    let apparmor = host.apparmor.then(|| "AppArmor".to_owned());
    let there = [Some("seccomp".to_owned()), apparmor, selinux].into_iter().flatten();
    Finding::ok("security", there.collect::<Vec<_>>().join(", "))
}

/// Whether SELinux holds to its policy: `enforcing` or `permissive`; `None` where there is none.
#[must_use]
pub fn selinux(host: &Host) -> Option<&'static str> {
    host.selinux.as_ref()?;
    let enforces = text("/sys/fs/selinux/enforce").trim() == "1";
    Some(if enforces { "enforcing" } else { "permissive" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::HostConfig;

    #[test]
    fn what_the_host_can_not_do_is_said_for_the_log() {
        let mut host = Host::probe(&HostConfig::default()).unwrap();
        (host.lowest_oom_score_adj, host.nofile, host.seccomp) = (-1000, (1024, NOFILE), true);
        let before = shortcomings(&host).len();
        (host.lowest_oom_score_adj, host.nofile, host.seccomp) = (-5, (512, 512), false);
        let said = shortcomings(&host);
        assert_eq!(said.len(), before + 3, "{said:?}");
        for part in ["below -5", "512 files", "seccomp"] {
            assert!(said.iter().any(|one| one.contains(part)), "{part}: {said:?}");
        }
    }
}
