//! Which specs do not run, and why. `docs/critest.md` says it to readers.
//!
//! Owns the table and the judgement: each spec of the table is skipped exactly where its reason holds; any other skip is a failure, and so
//! is a spec of the table that ran although it should not have been able to, since then the table is wrong.

use super::report::{Outcome, Report, Spec};
use std::path::Path;

/// The one spec that is left out by name: it pulls an image by a digest, which nobody but the image's owner can make.
pub(super) const BY_DIGEST: &str = "public image with digest should be pulled and removed";

/// A reason why specs do not run.
struct Skip {
    /// Part of the specs' names.
    specs: &'static str,
    /// Part of what they say when they skip themselves; empty for those that a filter leaves out.
    said: &'static str,
    /// Whether it holds on this machine.
    holds: fn() -> bool,
}

const SKIPS: [Skip; 3] = [
    // critest leaves them out unless it is asked for them with --benchmark.
    Skip { specs: "benchmark about", said: "", holds: || true },
    Skip { specs: BY_DIGEST, said: "", holds: || true },
    Skip {
        specs: "[k8s.io] AppArmor",
        said: "AppArmor is disabled on this host",
        holds: || !apparmor(),
    },
];

/// As the suite asks it: the kernel has it and it is on.
fn apparmor() -> bool {
    let path = Path::new("/sys/module/apparmor/parameters/enabled");
    crate::host::read_optional(path).ok().flatten().is_some_and(|text| text.starts_with('Y'))
}

/// Lines about specs that were skipped and should not have been, or the other way round.
#[must_use]
pub(super) fn unexpected(report: &Report) -> Vec<String> {
    judge(report, |skip| (skip.holds)())
}

fn judge(report: &Report, holds: impl Fn(&Skip) -> bool) -> Vec<String> {
    let reason = |spec: &Spec| {
        let name = spec.name();
        SKIPS.iter().find(|skip| name.contains(skip.specs) && holds(skip))
    };
    let mut problems = Vec::new();
    for spec in report.with(Outcome::Skipped) {
        let said = spec.said();
        let known = reason(spec).is_some_and(|skip| {
            skip.said.is_empty() == said.is_empty() && said.contains(skip.said)
        });
        if !known {
            let said = if said.is_empty() { "a filter left it out" } else { said };
            problems.push(format!("skipped: {}: {said}", spec.name()));
        }
    }
    for spec in report.with(Outcome::Passed) {
        if reason(spec).is_some() {
            problems.push(format!("ran, although it is listed as skipped: {}", spec.name()));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(specs: &[(&str, &str, &str)]) -> Report {
        let specs: Vec<_> = specs
            .iter()
            .map(|(name, state, said)| {
                let failure = (!said.is_empty()).then(|| serde_json::json!({"Message": said}));
                serde_json::json!({"LeafNodeType": "It", "LeafNodeText": name, "State": state, "Failure": failure})
            })
            .collect();
        let suite = serde_json::json!([{"SuiteSucceeded": true, "SpecReports": specs}]);
        Report::parse(suite.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn only_what_is_listed_may_be_skipped_and_only_for_its_reason() {
        let off = "AppArmor is disabled on this host";
        let listed = [
            ("Image benchmark about listing", "skipped", ""),
            (BY_DIGEST, "skipped", ""),
            ("[k8s.io] AppArmor x", "skipped", off),
            ("[k8s.io] Streaming", "passed", ""),
        ];
        assert!(judge(&report(&listed), |_| true).is_empty());
        for (spec, why) in [
            (("[k8s.io] Streaming", "skipped", ""), "a filter left it out"),
            (("[k8s.io] Streaming", "skipped", off), off),
            (("[k8s.io] AppArmor x", "skipped", ""), "a filter left it out"),
            (("[k8s.io] AppArmor x", "skipped", "too late"), "too late"),
            ((BY_DIGEST, "skipped", "no network"), "no network"),
            ((BY_DIGEST, "passed", ""), "although"),
        ] {
            let problems = judge(&report(&[spec]), |_| true);
            assert_eq!(problems.len(), 1, "{spec:?}");
            assert!(problems[0].contains(why), "{problems:?}");
        }
    }

    #[test]
    fn what_the_machine_has_must_run() {
        let skipped = [("[k8s.io] AppArmor x", "skipped", "AppArmor is disabled on this host")];
        assert_eq!(judge(&report(&skipped), |_| false).len(), 1);
        let ran = [("[k8s.io] AppArmor x", "passed", "")];
        assert!(judge(&report(&ran), |_| false).is_empty());
    }

    #[test]
    fn the_docs_name_every_skip() {
        let docs = include_str!("../../../docs/critest.md");
        for skip in SKIPS {
            assert!(docs.contains(skip.specs), "docs/critest.md does not name {:?}", skip.specs);
            assert!(docs.contains(skip.said), "docs/critest.md does not name {:?}", skip.said);
        }
    }
}
