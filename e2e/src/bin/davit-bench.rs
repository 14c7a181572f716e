//! `davit-bench`: measures davit, alone or beside containerd. hack/bench builds what it needs and runs it.

use anyhow::{Context, Result, bail};
use davit_e2e::bench::{self, Options, Part, Peer};
use davit_e2e::registry::write_whole;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

const HELP: &str = "davit-bench: what davit costs; hack/bench builds all that it needs and runs it

  --peer NAME         measure this beside it, in turns: containerd, containerd-runc (with runc), crio, or all; may be given again
  --runtime NAME      the OCI runtime of all: crun (default) or runc
  --pods N            how many pods are many: 1 to 200, 50 by default
  --full N            how many pods a full node has: 1 to 1000, 500 by default
  --rounds N          how many times everything is done; 3 by default
  --block N           how many pods one after the other are a block; 7 by default
  --only PART         lifecycles, crowd, full, streams, logs, metrics or pull
  --quick             little of everything, to see that it works: one round, few pods, 64 MiB through streams
  --patience SECONDS  how long to wait, in all, for a machine that others keep busy; 30 by default
  --json              print JSON in the place of a table
  --keep FILE         also put the table into this document, between its marks
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
    let Asked { options, json, keep } = parse(arguments)?;
    let document = keep.as_ref().map(std::fs::read_to_string).transpose();
    let document = document.context("read the document")?;
    if let Some(document) = &document {
        // Known before all is measured.
        bench::keep(document, "")?;
    }
    std::thread::spawn(watch_signals);
    let figures = bench::run(options)?;
    if let (Some(path), Some(document)) = (keep, document) {
        write_whole(&path, bench::keep(&document, &figures.markdown)?.as_bytes())?;
    }
    let text = if json { figures.json + "\n" } else { figures.markdown };
    out.write_all(text.as_bytes()).context("print the figures")
}

/// What the command line asks for.
struct Asked {
    options: Options,
    json: bool,
    keep: Option<PathBuf>,
}

fn parse(arguments: &[String]) -> Result<Asked> {
    let (mut options, mut json, mut keep) = (Options::default(), false, None);
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
            "--peer" => options.peers.extend(peers(value)?),
            "--keep" => keep = Some(PathBuf::from(value)),
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
    if options.runtime == "runc" && options.peers.contains(&Peer::ContainerdRunc) {
        bail!("--runtime runc makes containerd-runc the same as containerd: ask for that");
    }
    Ok(Asked { options, json, keep })
}

fn peers(name: &str) -> Result<Vec<Peer>> {
    Ok(match name {
        "containerd" => vec![Peer::Containerd],
        "containerd-runc" => vec![Peer::ContainerdRunc],
        "crio" => vec![Peer::Crio],
        "all" => vec![Peer::Containerd, Peer::ContainerdRunc, Peer::Crio],
        other => bail!(
            "--peer {other:?} is unknown: containerd, containerd-runc, crio and all are known"
        ),
    })
}

fn part(name: &str) -> Result<Part> {
    Ok(match name {
        "lifecycles" => Part::Lifecycles,
        "crowd" => Part::Crowd,
        "full" => Part::Full,
        "streams" => Part::Streams,
        "logs" => Part::Logs,
        "metrics" => Part::Metrics,
        "pull" => Part::Pull,
        other => bail!(
            "--only {other:?} is unknown: lifecycles, crowd, full, streams, logs, metrics and pull are known"
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
