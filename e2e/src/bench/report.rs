//! The figures as a table in Markdown, and as JSON.
//!
//! Owns no number: all come from [`super::rows`] and the samples; beside them stands what the machine was like, as far as it can be seen.

use super::figures::Row;
use super::lane::Lane;
use super::machine::{Ticks, load};
use super::measure::Bench;
use super::rows::ROWS;
use crate::tools;
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::process::Command;

/// What the machine was like before the first block.
#[derive(Debug)]
pub(super) struct Before {
    load: String,
    ticks: Ticks,
}

impl Before {
    pub(super) fn now() -> Result<Self> {
        Ok(Self { load: load()?, ticks: Ticks::now()? })
    }
}

/// All that is known at the end.
#[derive(Debug)]
pub(super) struct Report<'a> {
    pub(super) bench: &'a Bench,
    pub(super) lanes: &'a [Lane],
    pub(super) before: Before,
}

impl Report<'_> {
    /// A table for people.
    pub(super) fn markdown(&self) -> Result<String> {
        let mut text = self.conditions()?;
        text.push_str("\n| figure | unit |");
        for lane in self.lanes {
            write!(text, " {} |", lane.title())?;
        }
        for lane in self.compared() {
            write!(text, " ratio: {} |", lane.title())?;
        }
        text.push_str(" budget | kept |\n");
        let columns = 4 + self.lanes.len() + self.compared().len();
        writeln!(text, "|{}", "---|".repeat(columns))?;
        let measured = |row: &&Row| self.lanes.iter().any(|lane| self.value(*lane, row).is_some());
        for row in ROWS.iter().filter(measured) {
            writeln!(text, "{}", self.line(row)?)?;
        }
        if !self.bench.failed.is_empty() {
            text.push_str("\nWhat failed calls said:\n");
        }
        for error in &self.bench.failed {
            writeln!(text, "- {error}")?;
        }
        Ok(text)
    }

    fn conditions(&self) -> Result<String> {
        let options = &self.bench.options;
        Ok(format!(
            "{}: {}.\n\
             {} cores, Linux {}; OCI runtime {}; {} pods, {} on a full node; rounds {}.\n\
             Load average {} before and {} after; steal {:.1} %; blocks begun on a machine that was busy already: {} of {}.\n",
            today()?,
            versions(self.lanes)?.join(", "),
            cores(),
            kernel(),
            options.runtime,
            options.pods,
            options.full,
            options.rounds,
            self.before.load,
            load()?,
            Ticks::now()?.steal_percent_since(self.before.ticks),
            self.bench.gate.busy,
            self.bench.gate.blocks,
        ))
    }

    fn line(&self, row: &Row) -> Result<String> {
        let mut line = format!("| {} | {} |", row.title, row.unit);
        for lane in self.lanes {
            write!(line, " {} |", number(self.value(*lane, row)))?;
        }
        for lane in &self.compared() {
            let ratio = self.ratio(*lane, row);
            write!(line, " {} |", ratio_text(ratio, row.least_ratio(*lane)))?;
        }
        let mut budgets = Vec::new();
        let mut kept = Vec::new();
        for lane in self.lanes {
            let Some(limit) = row.budget.limit(*lane) else { continue };
            let text = limit.to_string();
            if budgets.last() != Some(&text) {
                budgets.push(text);
            }
            let value = self.value(*lane, row);
            kept.push(match value.and_then(|value| row.budget.kept(*lane, value)) {
                Some(true) => "yes",
                Some(false) => "**no**",
                None => "–",
            });
        }
        write!(line, " {} | {} |", budgets.join(" / "), kept.join(" / "))?;
        Ok(line)
    }

    /// All of it for programs.
    pub(super) fn json(&self) -> Result<String> {
        let options = &self.bench.options;
        let report = json!({
            "date": today()?,
            "versions": versions(self.lanes)?,
            "machine": {
                "cores": cores(),
                "kernel": kernel(),
                "load_before": self.before.load,
                "load_after": load()?,
                "steal_percent": Ticks::now()?.steal_percent_since(self.before.ticks),
                "blocks": self.bench.gate.blocks,
                "blocks_begun_busy": self.bench.gate.busy,
            },
            "runtime": options.runtime,
            "pods": options.pods,
            "full": options.full,
            "transfer": options.transfer,
            "rounds": options.rounds,
            "failed": self.bench.failed,
            "figures": ROWS.iter().map(|row| self.figure(row)).collect::<Vec<_>>(),
        });
        serde_json::to_string_pretty(&report).context("write JSON")
    }

    fn figure(&self, row: &Row) -> Value {
        let mut lanes = Map::new();
        for lane in self.lanes {
            let value = self.value(*lane, row);
            let entry = json!({
                "value": value,
                "samples": self.bench.samples.count(*lane, row),
                "ratio": self.ratio(*lane, row),
                "least_ratio": row.least_ratio(*lane),
                "budget": row.budget.limit(*lane),
                "kept": value.and_then(|value| row.budget.kept(*lane, value)),
            });
            lanes.insert(lane.key().to_owned(), entry);
        }
        json!({"key": row.key, "title": row.title, "unit": row.unit, "lanes": lanes})
    }

    fn value(&self, lane: Lane, row: &Row) -> Option<f64> {
        self.bench.samples.get(lane, row)
    }

    /// How many times better than containerd with the same OCI runtime.
    fn ratio(&self, lane: Lane, row: &Row) -> Option<f64> {
        let theirs = self.value(Lane::Containerd, row)?;
        row.ratio(self.value(lane, row)?, theirs).filter(|_| lane.is_ours())
    }

    /// davit's lanes, if there is somebody to compare them with.
    fn compared(&self) -> Vec<Lane> {
        let there = self.lanes.contains(&Lane::Containerd);
        self.lanes.iter().copied().filter(|lane| there && lane.is_ours()).collect()
    }
}

/// A ratio beside the one that was promised; one that is below it stands out.
fn ratio_text(ratio: Option<f64>, least: Option<f64>) -> String {
    match (ratio, least) {
        (None, _) => "–".to_owned(),
        (Some(ratio), None) => format!("{ratio:.1}"),
        (Some(ratio), Some(least)) if ratio < least => format!("**{ratio:.1}** (≥ {least})"),
        (Some(ratio), Some(least)) => format!("{ratio:.1} (≥ {least})"),
    }
}

/// Three digits that say something.
fn number(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(value) if value >= 100.0 => format!("{value:.0}"),
        Some(value) if value >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

/// The day, in UTC.
fn today() -> Result<String> {
    Ok(tools::run(Command::new("date").args(["-u", "+%F"]))?.trim().to_owned())
}

/// What was measured and what it ran: each program's own word.
fn versions(lanes: &[Lane]) -> Result<Vec<String>> {
    let davit = tools::binaries()?.join("davit");
    let mut command = Command::new(davit);
    command.args(["version", "--format", "{{ client.version }} {{ client.commit }}"]);
    // It fails where no daemon answers, and tells its own side all the same.
    let told = command.output().context("run davit version")?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let mut words = told.split_whitespace();
    let version = words.next().unwrap_or("unknown");
    let commit: String = words.next().unwrap_or("unknown").chars().take(12).collect();
    let mut all = vec![format!("davit {version} ({commit})")];
    for kind in lanes.iter().filter_map(|lane| lane.peer()) {
        let version = kind.version()?;
        if !all.contains(&version) {
            all.push(version);
        }
    }
    for runtime in ["crun", "runc"] {
        let told = tools::run(Command::new(tools::oci_runtime(runtime)?).arg("--version"))?;
        all.push(told.lines().next().unwrap_or_default().replacen(" version", "", 1));
    }
    Ok(all)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}

fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}
