//! `davit-images build --out DIR [--cache DIR]`: makes the images that tests, the demo and critest pull; `list DIR` names them.

use anyhow::{Context, Result, bail};
use davit_e2e::images::catalog;
use davit_e2e::registry::Store;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

const HELP: &str = "davit-images: images for tests, made from Debian's packages

  davit-images build [--out DIR] [--cache DIR]   make them; without --out in the cache, once
  davit-images list DIR                          name what a registry directory holds

The cache folder is $DAVIT_CACHE or ~/.cache/davit. Serve DIR with davit-registry.
";

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(text) => {
            let written = std::io::stdout().write_all(text.as_bytes());
            if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            drop(writeln!(std::io::stderr(), "davit-images: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<String> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["list", dir] => Ok(Store::open(&PathBuf::from(dir))?.names()?.join("\n") + "\n"),
        ["build", options @ ..] => build(options),
        ["--help" | "-h" | "help"] | [] => Ok(HELP.to_owned()),
        [other, ..] => bail!("unknown command {other:?}; see --help"),
    }
}

fn build(options: &[&str]) -> Result<String> {
    let (mut out, mut cache) = (None, catalog::cache());
    let mut rest = options.iter();
    while let Some(option) = rest.next() {
        let value = rest.next().with_context(|| format!("{option} needs a value"))?;
        match *option {
            "--out" => out = Some(PathBuf::from(value)),
            "--cache" => cache = PathBuf::from(value),
            other => bail!("unknown option {other:?}; see --help"),
        }
    }
    let dir = match out {
        Some(dir) => {
            catalog::build(&cache, &dir)?;
            dir
        }
        None => catalog::ensure(&cache)?,
    };
    Ok(format!("{}\n", dir.display()))
}
