//! `davit-chaos`: kills davit at random while it works, and tells what was lost. hack/chaos builds what it needs and runs it.

use anyhow::{Context, Result, bail};
use davit_e2e::arguments::{self, number};
use davit_e2e::chaos::{self, Options};
use std::io::Write as _;
use std::process::ExitCode;

const HELP: &str = "davit-chaos: kills davit at random while it works, and tells what was lost; hack/chaos builds all that it needs and runs it

  --kills N           how often the daemon is killed; 50 by default
  --seed S            repeats the decisions of another run with this seed; 1 by default
  --shim-kills PERCENT  how many of a hundred pods lose their shim; 0 by default
  --network NAME      builtin (default) or cni
  --handler NAME      the OCI runtime: crun (default) or runc
  --workers N         how many pods live at a time; 4 by default
";

fn main() -> ExitCode {
    arguments::main("davit-chaos", HELP, run)
}

fn run(arguments: &[String]) -> Result<()> {
    let summary = chaos::run(&parse(arguments)?)?;
    writeln!(std::io::stdout(), "{summary}").context("print the summary")?;
    if summary.losses() > 0 {
        bail!("{} losses", summary.losses());
    }
    Ok(())
}

fn parse(arguments: &[String]) -> Result<Options> {
    let mut options = Options::default();
    arguments::each(arguments, |option, value| {
        match option {
            "--kills" => options.kills = number(option, value, 0..=1_000_000)?,
            "--seed" => options.seed = number(option, value, 0..=u64::MAX)?,
            "--shim-kills" => options.shim_kills = number(option, value, 0..=100)?,
            "--workers" => options.workers = number(option, value, 0..=64)?,
            "--handler" => value.clone_into(&mut options.handler),
            "--network" => {
                options.cni = match value {
                    "cni" => true,
                    "builtin" => false,
                    other => bail!("--network {other:?} is unknown: builtin and cni are known"),
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(options)
}
