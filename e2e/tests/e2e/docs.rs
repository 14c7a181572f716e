//! What the documents say of the tests: that each call and each promise has one, and that those that they name are there.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::path::Path;

const CALLS: &str = include_str!("../../../docs/rpcs.md");
const RELIABILITY: &str = include_str!("../../../docs/reliability.md");
const INTERFACE: &str = include_str!("../../../proto/proto/cri.proto");

/// The words in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The rows of the table of tests: a call, and the tests that prove it.
fn rows() -> Result<Vec<(&'static str, Vec<&'static str>)>> {
    let (_, section) = CALLS.split_once("## Which test proves it").context("the table is there")?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let mut words = quoted(row);
        Ok((words.next().context("a row names a call")?, words.collect()))
    })
    .collect()
}

#[test]
fn each_call_of_the_interface_has_a_test_that_proves_it() -> Result<()> {
    let name = |line: &'static str| line.trim().strip_prefix("rpc ")?.split('(').next();
    let calls: BTreeSet<&str> = INTERFACE.lines().filter_map(name).map(str::trim).collect();
    let rows = rows()?;
    let listed: BTreeSet<&str> = rows.iter().map(|(call, _)| *call).collect();
    assert_eq!(listed, calls);
    assert!(rows.iter().all(|(_, tests)| !tests.is_empty()));
    Ok(())
}

/// The rows of docs/reliability.md: a promise, and the tests that prove it.
fn promises() -> Vec<(&'static str, Vec<&'static str>)> {
    let rows = RELIABILITY.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | "));
    let rows = rows.filter(|(promise, _)| *promise != "davit promises");
    rows.map(|(promise, tests)| (promise, quoted(tests).collect())).collect()
}

#[test]
fn each_promise_has_a_test_that_proves_it() {
    let promises = promises();
    assert!(promises.len() > 30, "the tables were not found: {promises:?}");
    for (promise, tests) in promises {
        assert!(!tests.is_empty(), "{promise}");
    }
}

/// Whether a line of a source begins this test.
fn begins(line: &str, name: &str) -> bool {
    let line = line.trim();
    let head = line.strip_prefix("on_both!(").or_else(|| line.strip_prefix("on_one!("));
    let head = head.or_else(|| line.strip_prefix("fn "));
    let head = head.or_else(|| line.strip_prefix("async fn ")).unwrap_or(line);
    head.strip_prefix(name).is_some_and(|rest| rest.starts_with([',', '(']))
}

#[test]
fn the_tests_that_the_documents_name_are_there() -> Result<()> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (what, tests) in rows()?.into_iter().chain(promises()) {
        for test in tests {
            let (module, name) =
                test.split_once("::").with_context(|| format!("{what}: {test:?} has no module"))?;
            // A unit test's module is named by its file.
            let path = match module.ends_with(".rs") {
                true => top.join(module),
                false => top.join("e2e/tests/e2e").join(format!("{module}.rs")),
            };
            let source = std::fs::read_to_string(&path)
                .with_context(|| format!("{what}: read {}", path.display()))?;
            ensure!(source.lines().any(|line| begins(line, name)), "{what}: {test} is not there");
        }
    }
    Ok(())
}
