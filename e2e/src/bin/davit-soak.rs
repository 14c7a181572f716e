//! `davit-soak`: thousands of pods' lives, and what the daemon holds meanwhile. hack/soak builds what it needs and runs it.

use anyhow::{Context, Result, bail};
use davit_e2e::soak::{self, Options};
use std::io::Write as _;
use std::process::ExitCode;

const HELP: &str = "davit-soak: thousands of pods' lives, and what the daemon holds meanwhile; hack/soak builds all that it needs and runs it

  --cycles N          how many pods live and die; 2000 by default
  --samples N         how often what the daemon holds is looked at, 3 or more; 9 by default
  --handler NAME      the OCI runtime: crun (default) or runc
  --workers N         how many pods live at a time; 4 by default
";

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "davit-soak: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let mut out = std::io::stdout();
    if arguments.iter().any(|argument| matches!(argument.as_str(), "--help" | "-h")) {
        return Ok(out.write_all(HELP.as_bytes())?);
    }
    let samples = soak::run(&parse(arguments)?)?;
    writeln!(out, "{samples}").context("print the samples")?;
    let growth = samples.growth();
    if !growth.is_empty() {
        bail!("not flat: {}", growth.join("; "));
    }
    Ok(())
}

fn parse(arguments: &[String]) -> Result<Options> {
    let mut options = Options::default();
    let mut rest = arguments.iter();
    while let Some(option) = rest.next() {
        let value = rest.next().with_context(|| format!("{option} needs a value; see --help"))?;
        match option.as_str() {
            "--cycles" => options.cycles = number(option, value, 1_000_000)?,
            "--samples" => options.samples = number(option, value, 1000)?,
            "--workers" => options.workers = number(option, value, 64)?,
            "--handler" => options.handler.clone_from(value),
            other => bail!("unknown option {other:?}; see --help"),
        }
    }
    Ok(options)
}

fn number(option: &str, value: &str, most: u32) -> Result<u32> {
    let Some(number) = value.parse().ok().filter(|number| (1..=most).contains(number)) else {
        bail!("{option} {value:?} is no number from 1 to {most}");
    };
    Ok(number)
}
