//! `davit-soak`: thousands of pods' lives, and what the daemon holds meanwhile. hack/soak builds what it needs and runs it.

use anyhow::{Context, Result, bail};
use davit_e2e::arguments::{self, number};
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
    arguments::main("davit-soak", HELP, run)
}

fn run(arguments: &[String]) -> Result<()> {
    let samples = soak::run(&parse(arguments)?)?;
    writeln!(std::io::stdout(), "{samples}").context("print the samples")?;
    let growth = samples.growth();
    if !growth.is_empty() {
        bail!("not flat: {}", growth.join("; "));
    }
    Ok(())
}

fn parse(arguments: &[String]) -> Result<Options> {
    let mut options = Options::default();
    arguments::each(arguments, |option, value| {
        match option {
            "--cycles" => options.cycles = number(option, value, 1..=1_000_000)?,
            "--samples" => options.samples = number(option, value, 1..=1000)?,
            "--workers" => options.workers = number(option, value, 1..=64)?,
            "--handler" => value.clone_into(&mut options.handler),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(options)
}
