//! Limits.
//!
//! 0 means "none asked for" all through this message. What the kernel would refuse, or silently turn into something else, is refused
//! here, with the field's name.

use super::error::{InvalidField, refuse};
use davit_proto::cri;
use davit_runtime::container::{HugepageLimit, Resources};

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
    let within = |name: &str, value: i64, fits: bool, problem: &'static str| {
        if fits { Ok(value) } else { Err(refuse(format!("{field}.{name}"), &value, problem)) }
    };
    within(
        "cpu_period",
        cpu_period,
        cpu_period == 0 || PERIODS.contains(&cpu_period),
        "is not between 1000 and 1000000",
    )?;
    within(
        "cpu_quota",
        cpu_quota,
        matches!(cpu_quota, -1 | 0) || cpu_quota >= QUOTA_MIN,
        "is neither -1 nor at least 1000",
    )?;
    within(
        "cpu_shares",
        cpu_shares,
        (0..=SHARES_MAX).contains(&cpu_shares),
        "is not between 0 and 262144",
    )?;
    within(
        "memory_limit_in_bytes",
        memory_limit_in_bytes,
        memory_limit_in_bytes >= 0,
        "is negative",
    )?;
    within(
        "memory_swap_limit_in_bytes",
        memory_swap_limit_in_bytes,
        memory_swap_limit_in_bytes >= -1,
        "is less than -1",
    )?;
    let swap_fits =
        memory_swap_limit_in_bytes <= 0 || memory_swap_limit_in_bytes >= memory_limit_in_bytes;
    within(
        "memory_swap_limit_in_bytes",
        memory_swap_limit_in_bytes,
        swap_fits,
        "is less than memory_limit_in_bytes, which it includes",
    )?;
    within(
        "oom_score_adj",
        oom_score_adj,
        (-1000..=1000).contains(&oom_score_adj),
        "is not between -1000 and 1000",
    )?;
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
