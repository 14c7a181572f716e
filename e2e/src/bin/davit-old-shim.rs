//! `davit-old-shim old|new SHIM --pod-dir DIR`: a shim of another age, made of today's, for tests. Its listening socket is its standard input.

use anyhow::{Result, bail};
use davit_e2e::old_shim::{Age, run};
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match parse_and_run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "davit-shim: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn parse_and_run(arguments: &[String]) -> Result<()> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["old", shim, "--pod-dir", dir] => run(Age::Old, Path::new(shim), Path::new(dir)),
        ["new", shim, "--pod-dir", dir] => run(Age::New, Path::new(shim), Path::new(dir)),
        other => bail!("unknown arguments {other:?}"),
    }
}
