//! What a daemon asks its heap for, all told.
//!
//! Owns a small library in C, compiled here and preloaded into the daemon, and the file in which it counts. Whoever clears the environment for what it starts, as
//! davit does for its shims, starts it uncounted.

use crate::daemon::Settings;
use crate::registry::write_whole;
use crate::tools::run;
use anyhow::{Context as _, Result};
use std::path::PathBuf;
use std::process::Command;

const SOURCE: &str = include_str!("allocations.c");

/// Has the daemon of these settings counted from its next start on.
///
/// # Errors
/// If there is no C compiler.
pub fn count(settings: &mut Settings) -> Result<()> {
    let (source, library) =
        (settings.dir.join("allocations.c"), settings.dir.join("allocations.so"));
    write_whole(&source, SOURCE.as_bytes())?;
    let mut compiler = Command::new("cc");
    run(compiler.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source))?;
    let file = counter(settings);
    write_whole(&file, &[0; 8])?;
    for (name, value) in [("LD_PRELOAD", &library), ("DAVIT_ALLOCATIONS", &file)] {
        settings.env.push((name.to_owned(), value.display().to_string()));
    }
    Ok(())
}

fn counter(settings: &Settings) -> PathBuf {
    settings.dir.join("allocated")
}

/// The bytes until now.
///
/// # Errors
/// If they were not counted.
pub fn bytes(settings: &Settings) -> Result<u64> {
    let file = counter(settings);
    let bytes = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
    Ok(u64::from_ne_bytes(bytes.as_slice().try_into().context("the counter has 8 bytes")?))
}
