//! What critest reports of a run: ginkgo's JSON report.
//!
//! Owns the part of its form that matters here. A state that is not known is none of those that are good, so it counts as a failure.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::path::Path;

/// One run of the suite.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Report {
    /// Ginkgo's own verdict.
    pub suite_succeeded: bool,
    /// Every spec, and what runs before and after all of them.
    #[serde(default)]
    pub spec_reports: Vec<Spec>,
}

/// One spec.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Spec {
    #[serde(default)]
    container_hierarchy_texts: Option<Vec<String>>,
    #[serde(default)]
    leaf_node_text: String,
    /// `It` for a spec.
    pub leaf_node_type: String,
    /// `passed`, `skipped`, and what is neither.
    pub state: String,
    /// Why it failed, or what it said when it skipped itself.
    pub failure: Option<Failure>,
    /// What it wrote.
    #[serde(default)]
    pub captured_ginkgo_writer_output: String,
    /// Nanoseconds.
    #[serde(default)]
    pub run_time: u64,
}

/// Why a spec did not pass.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Failure {
    /// In its words.
    #[serde(default)]
    pub message: String,
    /// Where.
    #[serde(default)]
    pub location: Location,
}

/// A line of the suite's source.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Location {
    /// The file.
    #[serde(default)]
    pub file_name: String,
    /// The line.
    #[serde(default)]
    pub line_number: u32,
}

/// How a spec ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Passed,
    /// It did not run: a filter left it out, or it found that the machine lacks something.
    Skipped,
    /// In any other way.
    Failed,
}

impl Report {
    /// Reads a report of one suite.
    ///
    /// # Errors
    /// If there is none, or it has another form.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read(path).with_context(|| format!("critest left no {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("read {}", path.display()))
    }

    /// As [`Self::read`], from the file's content.
    ///
    /// # Errors
    /// If it has another form.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let mut suites: Vec<Self> = serde_json::from_slice(text)?;
        match (suites.pop(), suites.is_empty()) {
            (Some(suite), true) => Ok(suite),
            (Some(_), false) => bail!("the report is one of several suites"),
            (None, _) => bail!("the report is one of no suite"),
        }
    }

    /// The specs with this outcome; what runs before and after all of them, only if it failed.
    pub fn with(&self, outcome: Outcome) -> impl Iterator<Item = &Spec> {
        self.spec_reports.iter().filter(move |spec| {
            spec.outcome() == outcome && (spec.leaf_node_type == "It" || outcome == Outcome::Failed)
        })
    }

    /// How many specs there are.
    #[must_use]
    pub fn total(&self) -> usize {
        self.spec_reports.iter().filter(|spec| spec.leaf_node_type == "It").count()
    }
}

impl Spec {
    /// Its name, from the outermost container's text to its own.
    #[must_use]
    pub fn name(&self) -> String {
        let mut words = self.container_hierarchy_texts.clone().unwrap_or_default();
        words.push(if self.leaf_node_text.is_empty() {
            self.leaf_node_type.clone()
        } else {
            self.leaf_node_text.clone()
        });
        words.join(" ")
    }

    /// How it ended.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self.state.as_str() {
            "passed" => Outcome::Passed,
            "skipped" => Outcome::Skipped,
            _ => Outcome::Failed,
        }
    }

    /// What it said; empty if a filter left it out.
    #[must_use]
    pub fn said(&self) -> &str {
        self.failure.as_ref().map_or("", |failure| failure.message.trim())
    }
}

#[cfg(test)]
mod tests {
    use super::{Outcome, Report};

    const REPORT: &str = r#"[{"SuitePath": "/x", "SuiteSucceeded": false, "SpecReports": [
        {"ContainerHierarchyTexts": null, "LeafNodeType": "BeforeSuite", "LeafNodeText": "", "State": "passed"},
        {"ContainerHierarchyTexts": ["[k8s.io] A", "b"], "LeafNodeType": "It", "LeafNodeText": "c", "State": "passed", "RunTime": 5},
        {"ContainerHierarchyTexts": ["[k8s.io] A"], "LeafNodeType": "It", "LeafNodeText": "d", "State": "skipped",
         "Failure": {"Message": " not here ", "Location": {"FileName": "x.go", "LineNumber": 7}}},
        {"ContainerHierarchyTexts": ["[k8s.io] A"], "LeafNodeType": "It", "LeafNodeText": "e", "State": "timedout"},
        {"ContainerHierarchyTexts": null, "LeafNodeType": "AfterSuite", "LeafNodeText": "", "State": "panicked"}]}]"#;

    #[test]
    fn states_are_counted_and_an_unknown_one_is_a_failure() {
        let report = Report::parse(REPORT.as_bytes()).unwrap();
        let names = |outcome| report.with(outcome).map(super::Spec::name).collect::<Vec<_>>();
        assert_eq!(names(Outcome::Passed), ["[k8s.io] A b c"]);
        assert_eq!(names(Outcome::Skipped), ["[k8s.io] A d"]);
        assert_eq!(names(Outcome::Failed), ["[k8s.io] A e", "AfterSuite"]);
        assert_eq!(report.total(), 3);
        assert_eq!(report.with(Outcome::Skipped).next().unwrap().said(), "not here");
        assert!(!report.suite_succeeded);
    }

    #[test]
    fn a_report_of_no_suite_or_two_is_none() {
        assert!(Report::parse(b"[]").is_err());
        let two = REPORT.replace("]}]", "]}, {\"SuiteSucceeded\": true}]");
        assert!(Report::parse(two.as_bytes()).is_err());
        assert!(Report::parse(b"{").is_err());
    }
}
