//! `davit-profile`: where a pod's start and end go. hack/profile builds what it needs and runs it.

use anyhow::{Context, Result};
use davit_e2e::arguments::{self, number};
use davit_e2e::profile::{self, Options};
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

const HELP: &str = "davit-profile: where a pod's start and end go; hack/profile builds all that it needs and runs it

  --pods N            how many pods the times are of; 30 by default
  --there N           how many others there are meanwhile, 900 at most; none by default
  --pause MS          how long nothing happens before each start; 0 by default
  --handler NAME      the OCI runtime: crun (default) or runc
";

fn main() -> ExitCode {
    arguments::main("davit-profile", HELP, run)
}

fn run(arguments: &[String]) -> Result<()> {
    let mut options = Options::default();
    arguments::each(arguments, |option, value| {
        match option {
            "--pods" => options.pods = number(option, value, 1..=10_000)?,
            "--there" => options.there = number(option, value, 0..=900)?,
            "--pause" => {
                options.pause = Duration::from_millis(number(option, value, 0..=10_000)?);
            }
            "--handler" => value.clone_into(&mut options.handler),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    write!(std::io::stdout(), "{}", profile::run(&options)?).context("print the profile")
}
