//! Limits: from what the pod asks to what the OCI spec says.
//!
//! Owns the ranges and the rules between the values. The conversion of v1's units to v2's is the OCI runtime's.

use super::handlers::Handler;
use super::host::Host;
use crate::cgroup::Version;
use crate::container::{HugepageLimit, Resources};
use oci_spec::runtime::{LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxResources};
use std::collections::{BTreeMap, HashMap};

/// Why limits can't be as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("resources.{field} {value:?} {problem}")]
pub struct ResourceError {
    /// Which.
    pub field: &'static str,
    /// What it says.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
}

fn invalid(field: &'static str, value: impl ToString, problem: impl Into<String>) -> ResourceError {
    let value = value.to_string().chars().take(200).collect();
    ResourceError { field, value, problem: problem.into() }
}

/// Limits as the OCI spec has them, devices aside.
pub(super) fn build(
    asked: &Resources,
    handler: &Handler,
    host: &Host,
    warnings: &mut Vec<String>,
) -> Result<LinuxResources, ResourceError> {
    let mut out = LinuxResources::default();
    out.set_cpu(Some(cpu(asked)?)).set_memory(memory(asked, handler, host, warnings)?);
    out.set_hugepage_limits(hugepages(&asked.hugepage_limits, host, warnings)?);
    out.set_unified(unified(&asked.unified, host)?);
    Ok(out)
}

/// A change of a container's limits, as OCI runtimes take it.
#[derive(Debug, Clone)]
pub struct LimitChange {
    /// All limits as they are to be, devices aside: what the container's own spec says afterwards.
    pub all: LinuxResources,
    /// What the OCI runtime is told: what was asked for, and what the kernel takes only together with it.
    pub apply: LinuxResources,
    /// What it is told if it fails half-way.
    pub revert: LinuxResources,
    /// What was asked for and isn't done, each a sentence for the log.
    pub warnings: Vec<String>,
}

/// The change from the limits `now` to those `asked`, validated as at creation.
///
/// # Errors
/// [`ResourceError`] if the limits as they would be afterwards make no sense.
pub fn limit_change(
    now: &Resources,
    asked: &Resources,
    handler: &Handler,
    host: &Host,
) -> Result<LimitChange, ResourceError> {
    let mut warnings = Vec::new();
    let all = build(&now.changed(asked), handler, host, &mut warnings)?;
    let before = build(now, handler, host, &mut Vec::new())?;
    let mut revert = only(asked, &before);
    fill_unlimited(asked, host, &mut revert);
    Ok(LimitChange { apply: only(asked, &all), all, revert, warnings })
}

/// Of these limits the ones that were asked for. Quota and period go together, since runtimes write cpu.max as one; memory and swap do, since
/// version 1 counts them together and the order of the writes depends on both.
fn only(asked: &Resources, all: &LinuxResources) -> LinuxResources {
    let mut out = LinuxResources::default();
    out.set_devices(None).set_cpu(all.cpu().as_ref().map(|all| only_cpu(asked, all)));
    if asked.memory_limit != 0 || asked.memory_swap_limit != 0 {
        out.set_memory(*all.memory());
    }
    let sizes = all.hugepage_limits().iter().flatten().filter(|one| {
        asked.hugepage_limits.iter().any(|asked| asked.page_size == *one.page_size())
    });
    let sizes: Vec<_> = sizes.cloned().collect();
    out.set_hugepage_limits((!sizes.is_empty()).then_some(sizes));
    let unified =
        all.unified().iter().flatten().filter(|(key, _)| asked.unified.contains_key(*key));
    let unified: HashMap<_, _> = unified.map(|(key, value)| (key.clone(), value.clone())).collect();
    out.set_unified((!unified.is_empty()).then_some(unified));
    out
}

fn only_cpu(asked: &Resources, all: &LinuxCpu) -> LinuxCpu {
    let mut cpu = LinuxCpu::default();
    if asked.cpu_shares != 0 {
        cpu.set_shares(all.shares());
    }
    if asked.cpu_quota != 0 || asked.cpu_period != 0 {
        cpu.set_quota(all.quota()).set_period(all.period());
    }
    if !asked.cpuset_cpus.is_empty() {
        cpu.set_cpus(all.cpus().clone());
    }
    if !asked.cpuset_mems.is_empty() {
        cpu.set_mems(all.mems().clone());
    }
    cpu
}

/// What there was no limit of before, in the words for "no limit". Where there are none (a CPU list, huge pages, a file of version 2) the new
/// value stays: the limit was asked for, after all.
fn fill_unlimited(asked: &Resources, host: &Host, revert: &mut LinuxResources) {
    let mut cpu = revert.cpu().clone().unwrap_or_default();
    if asked.cpu_shares != 0 && cpu.shares().is_none() {
        cpu.set_shares(Some(1024));
    }
    if asked.cpu_quota != 0 || asked.cpu_period != 0 {
        let (quota, period) = (cpu.quota().unwrap_or(-1), cpu.period().unwrap_or(100_000));
        cpu.set_quota(Some(quota)).set_period(Some(period));
    }
    revert.set_cpu(Some(cpu));
    let asks_memory = asked.memory_limit != 0 || asked.memory_swap_limit != 0;
    if asks_memory && revert.memory().is_none() {
        let mut memory = LinuxMemory::default();
        memory.set_limit(Some(-1)).set_swap(host.cgroups.layout().swap.then_some(-1));
        revert.set_memory(Some(memory));
    }
}

fn cpu(asked: &Resources) -> Result<LinuxCpu, ResourceError> {
    let mut cpu = LinuxCpu::default();
    match asked.cpu_shares {
        0 => {}
        shares @ 2..=262_144 => {
            cpu.set_shares(u64::try_from(shares).ok());
        }
        other => return Err(invalid("cpu_shares", other, "is not between 2 and 262144")),
    }
    match asked.cpu_period {
        0 => {}
        period @ 1_000..=1_000_000 => {
            cpu.set_period(u64::try_from(period).ok());
        }
        other => {
            return Err(invalid(
                "cpu_period",
                other,
                "is not between 1000 and 1000000 microseconds",
            ));
        }
    }
    match asked.cpu_quota {
        0 => {}
        quota if quota == -1 || quota >= 1_000 => {
            cpu.set_quota(Some(quota));
        }
        other => {
            return Err(invalid(
                "cpu_quota",
                other,
                "is neither -1 nor at least 1000 microseconds",
            ));
        }
    }
    cpu.set_cpus(list("cpuset_cpus", &asked.cpuset_cpus)?);
    cpu.set_mems(list("cpuset_mems", &asked.cpuset_mems)?);
    Ok(cpu)
}

/// A list as in cpuset(7): `0-3,7`.
fn list(field: &'static str, text: &str) -> Result<Option<String>, ResourceError> {
    if text.is_empty() {
        return Ok(None);
    }
    let number = |part: &str| -> Option<u32> {
        let digits =
            !part.is_empty() && part.len() <= 5 && part.bytes().all(|byte| byte.is_ascii_digit());
        if digits { part.parse().ok() } else { None }
    };
    let range = |part: &str| match part.split_once('-') {
        Some((from, to)) => number(from).zip(number(to)).is_some_and(|(from, to)| from <= to),
        None => number(part).is_some(),
    };
    if text.len() > 4096 || !text.split(',').all(range) {
        return Err(invalid(field, text, "is not a list such as 0-3,7"));
    }
    Ok(Some(text.to_owned()))
}

fn memory(
    asked: &Resources,
    handler: &Handler,
    host: &Host,
    warnings: &mut Vec<String>,
) -> Result<Option<LinuxMemory>, ResourceError> {
    let (limit, swap) = (asked.memory_limit, asked.memory_swap_limit);
    let least = handler.least_memory();
    if limit < 0 {
        return Err(invalid("memory_limit", limit, "is negative"));
    }
    if limit > 0 && limit < least {
        let problem = format!(
            "is less than the {least} bytes that handler {:?} needs to start a process",
            handler.name
        );
        return Err(invalid("memory_limit", limit, problem));
    }
    if swap < -1 {
        return Err(invalid("memory_swap_limit", swap, "is neither -1 nor a size"));
    }
    if swap > 0 && limit == 0 {
        return Err(invalid("memory_swap_limit", swap, "needs a memory_limit"));
    }
    if swap > 0 && swap < limit {
        let problem =
            format!("is less than memory_limit {limit}: it counts memory and swap together");
        return Err(invalid("memory_swap_limit", swap, problem));
    }
    if limit == 0 && swap == 0 {
        return Ok(None);
    }
    let mut memory = LinuxMemory::default();
    memory.set_limit((limit > 0).then_some(limit));
    // A limited container gets no swap unless it asks: it would be as large as it likes otherwise.
    let swap = if swap == 0 { limit } else { swap };
    if host.cgroups.layout().swap {
        memory.set_swap(Some(swap));
    } else if swap > limit {
        warnings.push(format!(
            "resources.memory_swap_limit {swap} is not applied: this host can't limit swap"
        ));
    }
    Ok(Some(memory))
}

fn hugepages(
    asked: &[HugepageLimit],
    host: &Host,
    warnings: &mut Vec<String>,
) -> Result<Option<Vec<LinuxHugepageLimit>>, ResourceError> {
    let mut out = Vec::new();
    for one in asked {
        let digits = ["KB", "MB", "GB"].iter().find_map(|unit| one.page_size.strip_suffix(unit));
        let sound = digits.is_some_and(|digits| {
            (1..=6).contains(&digits.len())
                && !digits.starts_with('0')
                && digits.bytes().all(|byte| byte.is_ascii_digit())
        });
        if !sound {
            return Err(invalid(
                "hugepage_limits.page_size",
                &one.page_size,
                "is not a size such as 2MB or 1GB",
            ));
        }
        let mut limit = LinuxHugepageLimit::default();
        // The kernel's own "no limit" is below i64::MAX, too.
        limit
            .set_page_size(one.page_size.clone())
            .set_limit(i64::try_from(one.limit).unwrap_or(i64::MAX));
        out.push(limit);
    }
    if out.is_empty() || host.cgroups.layout().has("hugetlb") {
        return Ok((!out.is_empty()).then_some(out));
    }
    // The kubelet sends a limit of 0 for every size of page that the host knows: without the controller that is no reason to fail.
    if asked.iter().any(|one| one.limit > 0) {
        warnings.push(
            "resources.hugepage_limits are not applied: this host has no hugetlb controller"
                .to_owned(),
        );
    }
    Ok(None)
}

fn unified(
    asked: &BTreeMap<String, String>,
    host: &Host,
) -> Result<Option<HashMap<String, String>>, ResourceError> {
    let Some(first) = asked.keys().next() else { return Ok(None) };
    let version = host.cgroups.layout().version();
    if version != Version::V2 {
        let problem = format!("needs cgroup v2, and this host has {}", version.name());
        return Err(invalid("unified", first, problem));
    }
    for (key, value) in asked {
        // A file of a controller, in the container's own cgroup. The cgroup's own files (cgroup.procs, cgroup.kill…) are no limits.
        let word = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        if !key.contains('.')
            || !key.split('.').all(word)
            || key.starts_with("cgroup.")
            || key.len() > 100
        {
            return Err(invalid("unified", key, "is not a file of a controller"));
        }
        if value.is_empty() || value.len() > 4096 || value.contains('\0') {
            return Err(invalid(
                "unified",
                format!("{key}={value}"),
                "has no value that can be written",
            ));
        }
    }
    Ok(Some(asked.clone().into_iter().collect()))
}

/// The score of a container's processes, as near to `asked` as this host lets it be set. 0 counts as asked for: a container that says
/// nothing must not inherit its shim's, which is as low as can be.
pub(super) fn oom_score_adj(asked: i64, host: &Host) -> Result<i32, ResourceError> {
    match i32::try_from(asked) {
        Ok(score @ -1000..=1000) => Ok(score.max(host.lowest_oom_score_adj)),
        Ok(_) | Err(_) => Err(invalid("oom_score_adj", asked, "is not between -1000 and 1000")),
    }
}
