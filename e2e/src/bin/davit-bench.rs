//! `davit-bench`: measures davit, alone or beside containerd. hack/bench builds what it needs and runs it.

use anyhow::{Context, Result, bail};
use davit_e2e::bench::{self, Options, Part};
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

const HELP: &str = "davit-bench: what davit costs; hack/bench builds all that it needs and runs it

  --peer containerd   measure containerd beside it, in turns
  --runtime NAME      the OCI runtime of all: crun (default) or runc
  --pods N            how many pods are many: 1 to 200, 50 by default
  --full N            how many pods a full node has: 1 to 1000, 500 by default
  --rounds N          how many times everything is done; 3 by default
  --block N           how many pods one after the other are a block; 7 by default
  --only PART         lifecycles, crowd, full, streams, metrics or pull
  --quick             little of everything, to see that it works: one round, few pods, 64 MiB through streams
  --patience SECONDS  how long to wait, in all, for a machine that others keep busy; 30 by default
  --json              print JSON in the place of a table
";

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "davit-bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let mut out = std::io::stdout();
    if arguments.iter().any(|argument| matches!(argument.as_str(), "--help" | "-h")) {
        return Ok(out.write_all(HELP.as_bytes())?);
    }
    let (options, json) = parse(arguments)?;
    std::thread::spawn(watch_signals);
    let figures = bench::run(options)?;
    let text = if json { figures.json + "\n" } else { figures.markdown };
    out.write_all(text.as_bytes()).context("print the figures")
}

fn parse(arguments: &[String]) -> Result<(Options, bool)> {
    let (mut options, mut json) = (Options::default(), false);
    let mut rest = arguments.iter();
    while let Some(option) = rest.next() {
        if option == "--json" {
            json = true;
            continue;
        }
        if option == "--quick" {
            options = options.quick();
            continue;
        }
        let value = rest.next().with_context(|| format!("{option} needs a value; see --help"))?;
        match option.as_str() {
            "--peer" => match value.as_str() {
                "containerd" => options.peer = true,
                other => bail!("--peer {other:?} is unknown: containerd is known"),
            },
            "--runtime" => options.runtime.clone_from(value),
            "--pods" => options.pods = usize::try_from(number(option, value, 200)?)?,
            "--full" => options.full = usize::try_from(number(option, value, 1000)?)?,
            "--rounds" => options.rounds = number(option, value, 1000)?,
            "--block" => options.block = number(option, value, 1000)?,
            "--patience" => {
                options.patience = Duration::from_secs(number(option, value, 3600)?.into());
            }
            "--only" => options.only = Some(part(value)?),
            other => bail!("unknown option {other:?}; see --help"),
        }
    }
    Ok((options, json))
}

fn part(name: &str) -> Result<Part> {
    Ok(match name {
        "lifecycles" => Part::Lifecycles,
        "crowd" => Part::Crowd,
        "full" => Part::Full,
        "streams" => Part::Streams,
        "metrics" => Part::Metrics,
        "pull" => Part::Pull,
        other => bail!(
            "--only {other:?} is unknown: lifecycles, crowd, full, streams, metrics and pull are known"
        ),
    })
}

fn number(option: &str, value: &str, most: u32) -> Result<u32> {
    let number: u32 = value.parse().with_context(|| format!("{option} {value:?} is no number"))?;
    if !(1..=most).contains(&number) {
        bail!("{option} {value} is not from 1 to {most}");
    }
    Ok(number)
}

/// A run that is told to end takes away what it made.
fn watch_signals() -> Result<()> {
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    executor.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        bench::interrupt();
        Ok(())
    })
}
