//! Which of root's capabilities this process has not, and what that costs.

use super::Finding;
use oci_spec::runtime::{Capabilities, Capability};

/// Without one of these there are no containers.
const NEEDED: [Capability; 9] = [
    Capability::SysAdmin,
    Capability::NetAdmin,
    Capability::SysChroot,
    Capability::Setuid,
    Capability::Setgid,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Kill,
];
/// Without one of these something of containers is missing.
const WANTED: [(Capability, &str); 5] = [
    (Capability::SysResource, "limits can't be raised, nor processes kept from the OOM killer"),
    (Capability::Mknod, "layers with device files can't be unpacked"),
    (Capability::Setfcap, "files keep no capabilities, and pods have no user namespace"),
    (Capability::Setpcap, "containers keep capabilities that they should not have"),
    (Capability::NetBindService, "containers can't have ports below 1024"),
];

pub(super) fn finding(bounding: &Capabilities) -> Finding {
    let subject = "capabilities";
    let missing: Vec<String> = NEEDED
        .iter()
        .filter(|needed| !bounding.contains(needed))
        .map(|needed| name(*needed))
        .collect();
    let advice = "give them to davit: in its unit, CapabilityBoundingSet=~ takes none away";
    if !missing.is_empty() {
        let text = format!("{} are missing: no container can be made", missing.join(", "));
        return Finding::problem(subject, text, advice);
    }
    let lacking: Vec<String> = WANTED
        .iter()
        .filter(|(wanted, _)| !bounding.contains(wanted))
        .map(|(wanted, cost)| format!("{} is missing: {cost}", name(*wanted)))
        .collect();
    if lacking.is_empty() {
        return Finding::ok(subject, format!("{} in the bounding set", bounding.len()));
    }
    Finding::warning(subject, lacking.join("; "), advice)
}

/// As capabilities(7) has it.
fn name(capability: Capability) -> String {
    let name = capability.to_string();
    if name.starts_with("CAP_") { name } else { format!("CAP_{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Verdict;

    #[test]
    fn what_is_missing_is_named() {
        let all: Capabilities =
            NEEDED.iter().chain(WANTED.iter().map(|(one, _)| one)).copied().collect();
        assert_eq!(finding(&all).verdict, Verdict::Ok);
        let without = |gone: Capability| {
            let mut left = all.clone();
            left.remove(&gone);
            finding(&left)
        };
        let found = without(Capability::SysResource);
        assert_eq!(found.verdict, Verdict::Warning);
        assert!(found.text.starts_with("CAP_SYS_RESOURCE is missing: "), "{found:?}");
        let found = without(Capability::SysAdmin);
        assert_eq!(found.verdict, Verdict::Problem);
        assert!(found.text.contains("CAP_SYS_ADMIN"), "{found:?}");
    }
}
