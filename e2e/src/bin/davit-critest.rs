//! `davit-critest`: the CRI validation suite against davit, in one configuration or in all. hack/critest builds what it needs and runs it.

use anyhow::{Context, Result, bail};
use davit_e2e::critest::{self, Network, Options, Transport, Work};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

const HELP: &str = "davit-critest: the CRI validation suite (critest) against a davit of its own; hack/critest builds what it needs and runs it

  --handler NAME     the OCI runtime: crun (default) or runc
  --network KIND     builtin (default: davit's own bridge) or cni (Debian's plugins: bridge and portmap)
  --seed N           the order of the specs; ginkgo draws one otherwise
  --parallel N       processes that share the specs; 1 by default
  --focus REGEX      only the specs whose names match
  --websocket        exec, attach and port-forward in WebSockets instead of SPDY
  --benchmark        the suite's own measurements in the place of its checks
  --keep DIR         put critest's output and report and davit's log there
  --all              every configuration, one after the other: both handlers with both networks in three orders each (--seed N
                     for one), then in parallel, then in WebSockets; other options do not count
";

/// The orders in which `--all` runs the specs.
const SEEDS: [u32; 3] = [1, 20_260, 424_242];

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "davit-critest: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<bool> {
    if arguments.iter().any(|argument| matches!(argument.as_str(), "--help" | "-h")) {
        return Ok(std::io::stdout().write_all(HELP.as_bytes()).map(|()| true)?);
    }
    let (options, all) = parse(arguments)?;
    let runs = if all { configurations(&options) } else { vec![options] };
    let mut table = Vec::new();
    let mut well = true;
    for options in runs {
        let (summary, good) = match critest::run(&options) {
            Ok(summary) => (summary, true),
            Err(error) => {
                writeln!(std::io::stderr(), "{error:#}")?;
                (format!("FAILED: {}", error.to_string().lines().next().unwrap_or_default()), false)
            }
        };
        well &= good;
        let line = format!("{:<34} {summary}", options.name());
        writeln!(std::io::stdout(), "{line}")?;
        table.push(line);
    }
    if table.len() > 1 {
        writeln!(std::io::stdout(), "\n{}", table.join("\n"))?;
    }
    Ok(well)
}

fn parse(arguments: &[String]) -> Result<(Options, bool)> {
    let (mut options, mut all) = (Options::default(), false);
    let mut rest = arguments.iter();
    while let Some(option) = rest.next() {
        match option.as_str() {
            "--all" => all = true,
            "--websocket" => options.transport = Transport::WebSocket,
            "--benchmark" => options.work = Work::Benchmark,
            _ => {
                let value =
                    rest.next().with_context(|| format!("{option} needs a value; see --help"))?;
                set(&mut options, option, value)?;
            }
        }
    }
    Ok((options, all))
}

fn set(options: &mut Options, option: &str, value: &str) -> Result<()> {
    let number = || value.parse().with_context(|| format!("{option} {value:?} is no number"));
    match option {
        "--handler" => value.clone_into(&mut options.handler),
        "--network" => {
            options.network = match value {
                "cni" => Network::Cni,
                "builtin" => Network::BuiltIn,
                other => bail!("--network {other:?} is unknown: cni and builtin are known"),
            }
        }
        "--seed" => options.seed = Some(number()?),
        "--parallel" => {
            options.parallel = number()?;
            if !(1..=16).contains(&options.parallel) {
                bail!("--parallel {value} is not from 1 to 16");
            }
        }
        "--focus" => options.focus = Some(value.to_owned()),
        "--keep" => options.keep = Some(PathBuf::from(value)),
        other => bail!("unknown option {other:?}; see --help"),
    }
    Ok(())
}

/// What is promised to pass.
fn configurations(given: &Options) -> Vec<Options> {
    let base = Options { keep: given.keep.clone(), seed: given.seed, ..Options::default() };
    let seeds = given.seed.map_or_else(|| SEEDS.to_vec(), |seed| vec![seed]);
    let mut runs = Vec::new();
    for handler in ["crun", "runc"] {
        let base = Options { handler: handler.to_owned(), ..base.clone() };
        for network in [Network::BuiltIn, Network::Cni] {
            let base = Options { network, ..base.clone() };
            runs.extend(seeds.iter().map(|seed| Options { seed: Some(*seed), ..base.clone() }));
        }
        runs.push(Options { parallel: 2, ..base.clone() });
        runs.push(Options { transport: Transport::WebSocket, ..base });
    }
    if let Some(dir) = &given.keep {
        for options in &mut runs {
            options.keep = Some(dir.join(options.name().replace([' ', '='], "-")));
        }
    }
    runs
}
