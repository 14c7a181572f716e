//! What davit writes to standard output and standard error, and how a program ends.
//!
//! Owns the one rule about both: a reader that has gone (`davit ps | head -1`) is no error, and nothing panics over it. The daemon's
//! log is not written here.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

/// Standard output can't be written.
#[derive(Debug, thiserror::Error)]
#[error("write standard output")]
pub(crate) struct OutputError(#[from] io::Error);

/// Writes to standard output; a reader that has gone counts as read.
///
/// # Errors
/// [`OutputError`] for everything but a closed pipe.
pub(crate) fn print(text: &str) -> Result<(), OutputError> {
    forgiving(write_all(&mut io::stdout().lock(), text.as_bytes())).map_err(OutputError)
}

/// Writes bytes as they are, and at once.
///
/// # Errors
/// As [`fn@print`].
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<(), OutputError> {
    forgiving(write_all(&mut io::stdout().lock(), bytes)).map_err(OutputError)
}

/// Whether somebody reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    /// As far as can be told.
    There,
    /// Not any more.
    Gone,
}

/// The same for who would go on for ever: answers whether it is worth it.
///
/// # Errors
/// As [`fn@print`].
pub(crate) fn tell(bytes: &[u8]) -> Result<Audience, OutputError> {
    match write_all(&mut io::stdout().lock(), bytes) {
        Ok(()) => Ok(Audience::There),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Audience::Gone),
        Err(error) => Err(OutputError(error)),
    }
}

/// The same to standard error.
///
/// # Errors
/// As [`fn@print`].
pub(crate) fn print_error_bytes(bytes: &[u8]) -> Result<(), OutputError> {
    forgiving(write_all(&mut io::stderr().lock(), bytes)).map_err(OutputError)
}

/// One line on standard error. Nothing can be done if that can't be written, so nothing is told.
pub(crate) fn complain(line: &str) {
    drop(writeln!(io::stderr().lock(), "{line}"));
}

fn write_all(to: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

fn forgiving(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// How a program ends whose failure has one code: 0, or 1 and one line that says why.
pub(crate) fn end(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("davit: {}", one_line(&error)));
            ExitCode::FAILURE
        }
    }
}

/// An error and all its causes in one line.
pub(crate) fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}").replace('\n', " ")
}

/// What clap has to say: help and version on standard output with success, a refusal on standard error with `code`.
pub(crate) fn refused_arguments(refused: &clap::Error, code: u8) -> ExitCode {
    // What could not be printed can't be reported either.
    drop(refused.print());
    // Help and the version are asked for as arguments are, and are no mistake.
    if refused.use_stderr() { ExitCode::from(code) } else { ExitCode::SUCCESS }
}

/// Rows below their headings, each column as wide as its widest cell.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(headings.get(column).map(|heading| heading.chars().count())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &dyn fmt::Display>| {
        let padded: Vec<String> = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}", cell = cell.to_string()))
            .collect();
        text.push_str(padded.join("   ").trim_end());
        text.push('\n');
    };
    line(&mut headings.iter().map(|heading| heading as &dyn fmt::Display));
    for row in rows {
        line(&mut row.iter().map(|cell| cell as &dyn fmt::Display));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![
            vec!["a".to_owned(), "long cell".to_owned()],
            vec!["bbb".to_owned(), String::new()],
        ];
        assert_eq!(table(&["X", "YY"], &rows), "X     YY\na     long cell\nbbb\n");
        assert_eq!(table(&["ID"], &[]), "ID\n");
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        assert!(forgiving(Err(io::ErrorKind::BrokenPipe.into())).is_ok());
        assert!(forgiving(Err(io::ErrorKind::StorageFull.into())).is_err());
    }
}
