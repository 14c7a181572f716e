//! The figures as a table in Markdown, and as JSON.
//!
//! Owns no number: all come from [`super::rows`] and the samples; beside them stands what the machine was like, as far as it can be seen.

use super::figures::Row;
use super::lane::Lane;
use super::machine::{Ticks, load};
use super::measure::Bench;
use super::rows::ROWS;
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

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
            "{} cores, Linux {}; OCI runtime {}; {} pods, {} on a full node; rounds {}.\n\
             Load average {} before and {} after; steal {:.1} %; blocks begun on a machine that was busy already: {} of {}.\n",
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
        for lane in self.compared() {
            let ratio = self.ratio(*lane, row).map_or("–".to_owned(), |it| format!("{it:.1}"));
            write!(line, " {ratio} |")?;
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

    /// How many times better than the peer; none for the peer itself.
    fn ratio(&self, lane: Lane, row: &Row) -> Option<f64> {
        let theirs = self.value(Lane::Containerd, row)?;
        row.ratio(self.value(lane, row)?, theirs).filter(|_| lane != Lane::Containerd)
    }

    /// The lanes that have somebody to be compared with.
    fn compared(&self) -> &[Lane] {
        match self.lanes {
            [ours @ .., Lane::Containerd] => ours,
            _ => &[],
        }
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

fn cores() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}

fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}
