//! A container that writes lines as fast as it can.
//!
//! Owns their count: each line has its number, and all must be in the log's file when the container's end has been told.

use super::figures::Metric;
use super::lane::Subject;
use super::machine::float;
use super::measure::Bench;
use super::pods::{self, Network};
use crate::host::eventually;
use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::time::Duration;

/// How long it may take to write them.
const END: Duration = Duration::from_secs(180);
/// CRI's word for a container that has ended.
const EXITED: i32 = 2;

impl Bench {
    /// One container, one stream.
    pub(super) fn logs(&mut self, subject: &Subject) -> Result<()> {
        self.begin()?;
        let lines = self.options.lines;
        let command = ["seq".to_owned(), "1".to_owned(), lines.to_string()];
        let command = command.each_ref().map(String::as_str);
        let (running, _) = pods::timed(subject, Network::Host, &command)?;
        let status = eventually(END, "the container has written its lines", || {
            let status = subject.cri.status(&running.container)?;
            Ok((status.state == EXITED).then_some(status))
        })?;
        ensure!(status.exit_code == 0, "the container ended with {}", status.exit_code);
        let took = u64::try_from(status.finished_at - status.started_at)?;
        let seconds = Duration::from_nanos(took).as_secs_f64();
        self.add(subject, Metric::LogRate, float(lines) / seconds / 1000.0);
        let found = numbered(Path::new(&status.log_path))?;
        self.add(subject, Metric::LogLost, float(lines.saturating_sub(found)));
        pods::remove(subject, &running)
    }
}

/// How many of the lines 1, 2, 3… are in a log, in this order. Anything else in it is an error.
fn numbered(log: &Path) -> Result<u64> {
    let file = File::open(log).with_context(|| format!("open {}", log.display()))?;
    let (mut found, mut last, mut whole) = (0, 0, String::new());
    for line in BufReader::with_capacity(1 << 20, file).lines() {
        let line = line.with_context(|| format!("read {}", log.display()))?;
        // `TIME stdout F TEXT`, or with P for a part that goes on in the next.
        let mut words = line.splitn(4, ' ').skip(2);
        let (Some(tag), Some(text)) = (words.next(), words.next()) else {
            bail!("{}: a line of no log: {line}", log.display());
        };
        whole.push_str(text);
        if tag == "P" {
            continue;
        }
        let number: u64 = whole.parse().with_context(|| format!("no number: {whole:?}"))?;
        whole.clear();
        ensure!(number > last, "line {number} comes after {last}");
        last = number;
        found += 1;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::write_whole;

    #[test]
    fn lines_that_are_not_there_are_counted_and_wrong_ones_noticed() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let log = dir.path().join("log");
        let line = |number: u32| format!("2026-01-01T00:00:00.000000000Z stdout F {number}\n");
        write_whole(&log, [line(1), line(2), line(4)].concat().as_bytes())?;
        assert_eq!(numbered(&log)?, 3);
        let parts = [line(1).replace('F', "P"), line(2), line(13)].concat();
        write_whole(&log, parts.as_bytes())?;
        assert_eq!(numbered(&log)?, 2);
        for wrong in [[line(2), line(1)].concat(), line(7).replace('7', "x"), "x\n".to_owned()] {
            write_whole(&log, wrong.as_bytes())?;
            assert!(numbered(&log).is_err(), "{wrong}");
        }
        Ok(())
    }
}
