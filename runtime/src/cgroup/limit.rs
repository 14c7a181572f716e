//! Limits of a cgroup that davit made: those of a pod for which no kubelet makes one.
//!
//! Writes what is asked for and nothing else; a refusal puts back what was written before it. A slice is systemd's: what is written into its files
//! behind systemd's back is gone at its next reload, so nothing is.

use super::CgroupError;
use super::group::{Driver, Group};
use super::layout::Version;
use super::manage::{Cgroups, write};
use crate::container::Resources;
use std::fs;
use std::path::PathBuf;

/// The kernel's own period, where nobody names one.
const PERIOD: i64 = 100_000;

impl Cgroups {
    /// Sets CPU weight, CPU quota and memory limit, where they are not 0.
    ///
    /// # Errors
    /// [`CgroupError::Io`] with the file that refused; the limits are as they were.
    pub fn limit(&self, group: &Group, limits: &Resources) -> Result<(), CgroupError> {
        if group.made_by() == Driver::Systemd {
            return Ok(());
        }
        let values = match self.layout().version() {
            Version::V2 => of_v2(limits),
            Version::V1 | Version::Hybrid => of_v1(limits),
        };
        let mut written: Vec<(PathBuf, Vec<u8>)> = Vec::new();
        for (controller, file, value) in values {
            let Some(directory) = self.directory(controller, group) else { continue };
            let path = directory.join(file);
            let replaced = fs::read(&path).and_then(|before| {
                write(&path, value.as_bytes())?;
                Ok(before)
            });
            match replaced {
                Ok(before) => written.push((path, before)),
                Err(source) => {
                    for (path, before) in written.iter().rev() {
                        // What it held a moment ago it takes again, or nothing can be done.
                        drop(write(path, before.trim_ascii()));
                    }
                    return Err(CgroupError::Io { verb: "write", path, source });
                }
            }
        }
        Ok(())
    }

    /// The group's directory in the hierarchy that has `controller`; with version 2 there is one for all.
    pub(super) fn directory(&self, controller: &str, group: &Group) -> Option<PathBuf> {
        let layout = self.layout();
        let hierarchy = match layout.version() {
            Version::V2 => layout.v2.as_ref(),
            Version::V1 | Version::Hybrid => layout.v1.iter().find(|one| one.has(controller)),
        };
        hierarchy.map(|one| one.mount.join(group.path()))
    }
}

type Value = (&'static str, &'static str, String);

fn of_v1(limits: &Resources) -> Vec<Value> {
    let asked =
        |value: i64, controller, file| (value != 0).then(|| (controller, file, value.to_string()));
    [
        asked(limits.cpu_shares, "cpu", "cpu.shares"),
        asked(limits.cpu_period, "cpu", "cpu.cfs_period_us"),
        asked(limits.cpu_quota, "cpu", "cpu.cfs_quota_us"),
        asked(limits.memory_limit, "memory", "memory.limit_in_bytes"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn of_v2(limits: &Resources) -> Vec<Value> {
    let mut values = Vec::new();
    if limits.cpu_shares != 0 {
        values.push(("cpu", "cpu.weight", weight(limits.cpu_shares).to_string()));
    }
    if limits.cpu_quota != 0 || limits.cpu_period != 0 {
        let period = if limits.cpu_period == 0 { PERIOD } else { limits.cpu_period };
        let quota = match limits.cpu_quota {
            quota if quota > 0 => quota.to_string(),
            _ => "max".to_owned(),
        };
        values.push(("cpu", "cpu.max", format!("{quota} {period}")));
    }
    if limits.memory_limit > 0 {
        values.push(("memory", "memory.max", limits.memory_limit.to_string()));
    }
    values
}

/// 2 to 262144 shares as 1 to 10000 of weight, as the kubelet reckons.
fn weight(shares: i64) -> i64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_asked_for_is_written() {
        assert_eq!(of_v1(&Resources::default()), []);
        assert_eq!(of_v2(&Resources::default()), []);
        let limits = Resources {
            cpu_shares: 1024,
            cpu_quota: 50_000,
            memory_limit: 1 << 20,
            ..Resources::default()
        };
        let files = |values: Vec<Value>| -> Vec<String> {
            values.into_iter().map(|(_, file, value)| format!("{file}={value}")).collect()
        };
        assert_eq!(
            files(of_v1(&limits)),
            ["cpu.shares=1024", "cpu.cfs_quota_us=50000", "memory.limit_in_bytes=1048576"]
        );
        assert_eq!(
            files(of_v2(&limits)),
            ["cpu.weight=39", "cpu.max=50000 100000", "memory.max=1048576"]
        );
    }

    #[test]
    fn the_ends_of_the_two_scales_meet() {
        assert_eq!((weight(2), weight(262_144), weight(1)), (1, 10_000, 1));
    }

    #[tokio::test]
    async fn limits_are_set_and_a_refused_one_undoes_those_before_it() {
        let cgroups = Cgroups::new(super::super::Layout::read().unwrap());
        let group = Group::at(&format!("davit-test-limit-{}", std::process::id())).unwrap();
        let made = cgroups.ensure(&group).await.unwrap().made;
        let memory = || {
            let at = cgroups.directory("memory", &group).unwrap();
            let read = |file| fs::read_to_string(at.join(file));
            read("memory.max").or_else(|_| read("memory.limit_in_bytes")).unwrap()
        };
        let limits = |cpu_shares, memory_limit| Resources {
            cpu_shares,
            memory_limit,
            ..Resources::default()
        };
        cgroups.limit(&group, &limits(512, 64 << 20)).unwrap();
        assert_eq!(memory().trim(), (64 << 20).to_string());
        let quota = Resources { cpu_quota: 1, ..limits(256, 32 << 20) };
        let refused = cgroups.limit(&group, &quota).unwrap_err();
        assert!(refused.to_string().contains("cpu"), "{refused}");
        assert_eq!(memory().trim(), (64 << 20).to_string());
        let at = cgroups.directory("cpu", &group).unwrap();
        if let Ok(shares) = fs::read_to_string(at.join("cpu.shares")) {
            assert_eq!(shares.trim(), "512", "what was written before it is put back");
        }
        cgroups.remove(&made).await.unwrap();
    }
}
