//! `davit-chaos`: kills davit at random while it works, and tells what was lost. hack/chaos builds what it needs and runs it.

use anyhow::{Context, Result, bail};
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
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "davit-chaos: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let mut out = std::io::stdout();
    if arguments.iter().any(|argument| matches!(argument.as_str(), "--help" | "-h")) {
        return Ok(out.write_all(HELP.as_bytes())?);
    }
    let summary = chaos::run(&parse(arguments)?)?;
    writeln!(out, "{summary}").context("print the summary")?;
    if summary.losses() > 0 {
        bail!("{} losses", summary.losses());
    }
    Ok(())
}

fn parse(arguments: &[String]) -> Result<Options> {
    let mut options = Options::default();
    let mut rest = arguments.iter();
    while let Some(option) = rest.next() {
        let value = rest.next().with_context(|| format!("{option} needs a value; see --help"))?;
        match option.as_str() {
            "--kills" => options.kills = number(option, value, 1_000_000)?,
            "--seed" => options.seed = number(option, value, u64::MAX)?,
            "--shim-kills" => options.shim_kills = number(option, value, 100)?,
            "--workers" => options.workers = number(option, value, 64)?,
            "--handler" => options.handler.clone_from(value),
            "--network" => {
                options.cni = match value.as_str() {
                    "cni" => true,
                    "builtin" => false,
                    other => bail!("--network {other:?} is unknown: builtin and cni are known"),
                }
            }
            other => bail!("unknown option {other:?}; see --help"),
        }
    }
    Ok(options)
}

fn number<N: std::str::FromStr + PartialOrd + std::fmt::Display>(
    option: &str,
    value: &str,
    most: N,
) -> Result<N> {
    let Some(number) = value.parse::<N>().ok().filter(|number| *number <= most) else {
        bail!("{option} {value:?} is no number from 0 to {most}");
    };
    Ok(number)
}
