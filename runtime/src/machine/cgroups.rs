//! Which limits this machine's cgroups can set.

use super::Finding;
use crate::cgroup::{Layout, Version};

/// What each controller is for: without the first the kubelet does not start, without the others something is not limited.
const CONTROLLERS: [(&str, &str); 6] = [
    ("memory", "memory is not limited"),
    ("cpu", "CPU time is not shared as asked"),
    ("pids", "processes are not limited"),
    ("cpuset", "containers can't be bound to CPUs"),
    ("io", "disks are not shared as asked"),
    ("hugetlb", "huge pages are not limited"),
];
const NEEDED: [&str; 3] = ["memory", "cpu", "pids"];

pub(super) fn findings(layout: &Layout) -> Vec<Finding> {
    let mut found = vec![version(layout.version())];
    let missing = CONTROLLERS.iter().filter(|(name, _)| !has(layout, name));
    found.extend(missing.map(|(name, cost)| {
        let text = format!("{cost}: there is no {name} controller");
        let advice = format!("boot with cgroup_enable={name}, or mount its hierarchy");
        if NEEDED.contains(name) {
            Finding::problem("cgroups", text, advice)
        } else {
            Finding::warning("cgroups", text, advice)
        }
    }));
    if !layout.swap {
        let text = "swap is not limited: the kernel does not account for it";
        found.push(Finding::warning("swap", text, "boot with swapaccount=1"));
    }
    found
}

/// Version 1 has another name for one of them.
fn has(layout: &Layout, controller: &str) -> bool {
    layout.has(controller) || (controller == "io" && layout.has("blkio"))
}

fn version(version: Version) -> Finding {
    let lost =
        "there are no pressure figures (PSI), and kubelets refuse it unless failCgroupV1 is false";
    let advice = "boot with systemd.unified_cgroup_hierarchy=1";
    match version {
        Version::V2 => Finding::ok("cgroups", "version 2"),
        Version::V1 => Finding::warning("cgroups", format!("version 1: {lost}"), advice),
        Version::Hybrid => Finding::warning(
            "cgroups",
            format!(
                "version 1 for the controllers with version 2 beside it (hybrid): {lost}; some OCI runtimes refuse it"
            ),
            advice,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Hierarchy;
    use crate::machine::Verdict;

    fn unified(controllers: &str) -> Layout {
        let controllers = controllers.split(' ').map(str::to_owned).collect();
        let v2 = Hierarchy { mount: "/sys/fs/cgroup".into(), controllers };
        Layout { v1: Vec::new(), v2: Some(v2), swap: true }
    }

    #[test]
    fn each_controller_that_is_missing_is_told_with_its_cost() {
        let whole = findings(&unified("memory cpu pids cpuset io hugetlb"));
        assert_eq!(whole, [Finding::ok("cgroups", "version 2")]);
        let found = findings(&Layout { swap: false, ..unified("cpu pids cpuset io") });
        let told: Vec<(Verdict, &str)> =
            found.iter().map(|one| (one.verdict, one.text.as_str())).collect();
        assert_eq!(
            told,
            [
                (Verdict::Ok, "version 2"),
                (Verdict::Problem, "memory is not limited: there is no memory controller"),
                (Verdict::Warning, "huge pages are not limited: there is no hugetlb controller"),
                (Verdict::Warning, "swap is not limited: the kernel does not account for it"),
            ]
        );
    }

    #[test]
    fn version_one_names_the_disks_controller_otherwise() {
        let v1 = |name: &str| Hierarchy { mount: "/x".into(), controllers: vec![name.to_owned()] };
        let v1 = ["memory", "cpu", "pids", "cpuset", "blkio", "hugetlb"].map(v1).to_vec();
        let found = findings(&Layout { v1, v2: None, swap: true });
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].verdict, Verdict::Warning);
    }
}
