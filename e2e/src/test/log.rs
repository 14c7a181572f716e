//! A container's log, in the format of CRI: `TIME STREAM TAGS CONTENT`.

use anyhow::{Context, Result, bail};

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// RFC 3339 with nanoseconds.
    pub time: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// A part of a line that goes on in the next of its stream.
    pub partial: bool,
    /// What was written, without the line's end.
    pub content: String,
}

/// Reads a log, and checks each line's form.
///
/// # Errors
/// If a line has another form.
pub fn parse_log(text: &str) -> Result<Vec<Line>> {
    text.lines()
        .map(|line| parse_line(line).with_context(|| format!("log line {line:?}")))
        .collect()
}

fn parse_line(line: &str) -> Result<Line> {
    let mut parts = line.splitn(4, ' ');
    let mut part = |what: &str| parts.next().with_context(|| format!("has no {what}"));
    let (time, stream, tags) = (part("time")?, part("stream")?, part("tags")?);
    let content = part("content")?;
    if !matches!(stream, "stdout" | "stderr") {
        bail!("stream {stream:?} is none");
    }
    let partial = match tags {
        "F" => false,
        "P" => true,
        other => bail!("tag {other:?} is none"),
    };
    if !(time.len() >= 20 && time.contains('T') && time.contains('.')) {
        bail!("time {time:?} is not RFC 3339 with nanoseconds");
    }
    Ok(Line {
        time: time.to_owned(),
        stream: stream.to_owned(),
        partial,
        content: content.to_owned(),
    })
}
