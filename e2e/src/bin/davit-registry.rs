//! `davit-registry DIR [--listen HOST:PORT]`: serves a directory of images until it is told to end.

use anyhow::{Context, Result, bail};
use davit_e2e::registry::{Registry, Store};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

const HELP: &str = "davit-registry: serves images from a directory, for pulling only, over plain HTTP

  davit-registry DIR [--listen HOST:PORT]

Prints the address it listens on (127.0.0.1 and a free port, unless told otherwise) and serves until SIGTERM or SIGINT.
";

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "davit-registry: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (dir, address) = match words.as_slice() {
        ["--help" | "-h"] | [] => return Ok(std::io::stdout().write_all(HELP.as_bytes())?),
        [dir] => (dir, "127.0.0.1:0"),
        [dir, "--listen", address] => (dir, *address),
        _ => bail!("one directory, and --listen HOST:PORT at most; see --help"),
    };
    let address =
        address.parse().with_context(|| format!("--listen {address:?} is no HOST:PORT"))?;
    let path = PathBuf::from(dir);
    if !path.join("repositories").is_dir() {
        bail!("{dir} holds no images; make them with davit-images build");
    }
    let registry = Registry::start_at(Store::open(&path)?, address)?;
    writeln!(std::io::stdout(), "{}", registry.address()).context("print the address")?;
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    executor.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    })
}
