//! Limits.
//!
//! 0 means "none asked for" all through this message. What the kernel would refuse, or silently turn into something else, is refused
//! here, with the field's name.

use super::error::{InvalidField, refuse};
use davit_proto::cri;
use davit_runtime::container::{HugepageLimit, Resources};
use davit_runtime::sandbox::SandboxLimits;

/// The kernel's bounds of a CFS period, and the least quota, in microseconds.
const PERIODS: std::ops::RangeInclusive<i64> = 1_000..=1_000_000;
const QUOTA_MIN: i64 = 1_000;
/// `MAX_SHARES` of the kernel; the kubelet stops there too.
const SHARES_MAX: i64 = 262_144;

/// Limits as they are asked for.
pub(crate) fn resources(
    field: &str,
    wire: cri::LinuxContainerResources,
) -> Result<Resources, InvalidField> {
    check_numbers(field, &wire)?;
    let cri::LinuxContainerResources {
        cpu_period,
        cpu_quota,
        cpu_shares,
        memory_limit_in_bytes,
        oom_score_adj,
        cpuset_cpus,
        cpuset_mems,
        hugepage_limits,
        unified,
        memory_swap_limit_in_bytes,
    } = wire;
    for (name, value) in &unified {
        unified_entry(&format!("{field}.unified"), name, value)?;
    }
    let hugepage_limits = hugepage_limits.into_iter().map(|limit| hugepages(field, limit));
    Ok(Resources {
        cpu_period,
        cpu_quota,
        cpu_shares,
        memory_limit: memory_limit_in_bytes,
        memory_swap_limit: memory_swap_limit_in_bytes,
        oom_score_adj,
        cpuset_cpus: list(&format!("{field}.cpuset_cpus"), cpuset_cpus)?,
        cpuset_mems: list(&format!("{field}.cpuset_mems"), cpuset_mems)?,
        hugepage_limits: hugepage_limits.collect::<Result<_, _>>()?,
        unified,
    })
}

/// A change of a container's limits. What is 0 or empty stays as it is, also if there is nothing else.
pub(crate) fn update_of_container(
    linux: Option<cri::LinuxContainerResources>,
    windows: Option<cri::WindowsContainerResources>,
) -> Result<Resources, InvalidField> {
    if let Some(windows) = windows {
        return Err(refuse("windows", &windows, "makes no sense on Linux"));
    }
    resources("linux", linux.unwrap_or_default())
}

/// What a pod as a whole may use from now on.
pub(crate) fn update_of_sandbox(
    overhead: Option<cri::LinuxContainerResources>,
    limits: Option<cri::LinuxContainerResources>,
) -> Result<SandboxLimits, InvalidField> {
    Ok(SandboxLimits {
        overhead: overhead.map(|wire| resources("overhead", wire)).transpose()?,
        resources: limits.map(|wire| resources("resources", wire)).transpose()?,
    })
}

/// The first number that is out of its bounds.
fn check_numbers(field: &str, wire: &cri::LinuxContainerResources) -> Result<(), InvalidField> {
    let (memory, swap) = (wire.memory_limit_in_bytes, wire.memory_swap_limit_in_bytes);
    let (period, quota, shares) = (wire.cpu_period, wire.cpu_quota, wire.cpu_shares);
    let fits_period = period == 0 || PERIODS.contains(&period);
    let fits_quota = matches!(quota, -1 | 0) || quota >= QUOTA_MIN;
    let fits_swap = swap <= 0 || swap >= memory;
    let checks = [
        ("cpu_period", period, fits_period, "is not between 1000 and 1000000"),
        ("cpu_quota", quota, fits_quota, "is neither -1 nor at least 1000"),
        ("cpu_shares", shares, (0..=SHARES_MAX).contains(&shares), "is not between 0 and 262144"),
        ("memory_limit_in_bytes", memory, memory >= 0, "is negative"),
        ("memory_swap_limit_in_bytes", swap, swap >= -1, "is less than -1"),
        (
            "memory_swap_limit_in_bytes",
            swap,
            fits_swap,
            "is less than the memory limit that it includes",
        ),
        (
            "oom_score_adj",
            wire.oom_score_adj,
            (-1000..=1000).contains(&wire.oom_score_adj),
            "is not between -1000 and 1000",
        ),
    ];
    match checks.iter().find(|(_, _, fits, _)| !fits) {
        Some((name, value, _, problem)) => Err(refuse(format!("{field}.{name}"), value, *problem)),
        None => Ok(()),
    }
}

/// A list as in cpuset(7): `0-2,7`.
fn list(field: &str, text: String) -> Result<String, InvalidField> {
    let number = |text: &str| text.parse::<u32>().ok();
    let range = |part: &str| match part.split_once('-') {
        Some((from, to)) => {
            matches!((number(from), number(to)), (Some(from), Some(to)) if from <= to)
        }
        None => number(part).is_some(),
    };
    if text.is_empty() || text.split(',').all(range) {
        Ok(text)
    } else {
        Err(refuse(field, &text, "is no list such as 0-2,7"))
    }
}

fn hugepages(field: &str, limit: cri::HugepageLimit) -> Result<HugepageLimit, InvalidField> {
    let cri::HugepageLimit { page_size, limit } = limit;
    let digits = page_size.trim_end_matches("KB").trim_end_matches("MB").trim_end_matches("GB");
    let is_size =
        digits.len() + 2 == page_size.len() && digits.parse::<u32>().is_ok_and(|size| size > 0);
    if !is_size {
        let field = format!("{field}.hugepage_limits.page_size");
        return Err(refuse(field, &page_size, "is no size such as 2MB or 1GB"));
    }
    Ok(HugepageLimit { page_size, limit })
}

/// The name becomes a file of the container's cgroup, so it must be one and lie there.
fn unified_entry(field: &str, name: &str, value: &str) -> Result<(), InvalidField> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let (controller, file) = name.split_once('.').unwrap_or_default();
    if controller.is_empty() || file.is_empty() || !name.bytes().all(fits) || name.contains("..") {
        return Err(refuse(field, name, "is no file of a cgroup such as memory.high"));
    }
    if value.contains('\0') {
        return Err(refuse(format!("{field}[{name:?}]"), value, "has a NUL in it"));
    }
    Ok(())
}

/// Limits as they are in force.
pub(crate) fn resources_to_cri(resources: &Resources) -> cri::LinuxContainerResources {
    let Resources {
        cpu_period,
        cpu_quota,
        cpu_shares,
        memory_limit,
        memory_swap_limit,
        oom_score_adj,
        cpuset_cpus,
        cpuset_mems,
        hugepage_limits,
        unified,
    } = resources.clone();
    let hugepages = |HugepageLimit { page_size, limit }| cri::HugepageLimit { page_size, limit };
    cri::LinuxContainerResources {
        cpu_period,
        cpu_quota,
        cpu_shares,
        memory_limit_in_bytes: memory_limit,
        memory_swap_limit_in_bytes: memory_swap_limit,
        oom_score_adj,
        cpuset_cpus,
        cpuset_mems,
        hugepage_limits: hugepage_limits.into_iter().map(hugepages).collect(),
        unified,
    }
}
