//! The command lines of this crate's programs: `--option VALUE` pairs, and one text for `--help`.
//!
//! Owns how they are taken apart and how a failure is told; what an option means is its program's.

use anyhow::{Context, Result, bail};
use std::fmt::Display;
use std::io::Write as _;
use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::str::FromStr;

/// Does what the arguments ask for, or prints `help`.
pub fn main(program: &str, help: &str, run: impl FnOnce(&[String]) -> Result<()>) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let asked = arguments.iter().any(|argument| matches!(argument.as_str(), "--help" | "-h"));
    let done = if asked {
        std::io::stdout().write_all(help.as_bytes()).context("print the help")
    } else {
        run(&arguments)
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "{program}: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Gives each option with its value to `take`, which tells whether it knows the option.
///
/// # Errors
/// An option without a value, or unknown; whatever `take` says.
pub fn each(arguments: &[String], mut take: impl FnMut(&str, &str) -> Result<bool>) -> Result<()> {
    let mut rest = arguments.iter();
    while let Some(option) = rest.next() {
        let value = rest.next().with_context(|| format!("{option} needs a value; see --help"))?;
        if !take(option, value)? {
            bail!("unknown option {option:?}; see --help");
        }
    }
    Ok(())
}

/// A number within bounds.
///
/// # Errors
/// If it is none, with the bounds.
pub fn number<N: FromStr + PartialOrd + Display>(
    option: &str,
    value: &str,
    bounds: RangeInclusive<N>,
) -> Result<N> {
    let Some(number) = value.parse::<N>().ok().filter(|number| bounds.contains(number)) else {
        bail!("{option} {value:?} is no number from {} to {}", bounds.start(), bounds.end());
    };
    Ok(number)
}
