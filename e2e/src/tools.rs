//! The programs that tests run: davit's own, crictl, and what hack/setup installs.
//!
//! Owns where they are found and that a missing one fails a test with the command that brings it. Nothing is skipped.

use crate::images::catalog;
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::OnceLock;

/// How much older the programs with failpoints may be than the others, which are built after them.
const FAILPOINTS_AGE: std::time::Duration = std::time::Duration::from_secs(1800);

/// The directory with `davit` and `davit-shim`: `DAVIT_BIN_DIR`, else the build that these tests belong to, brought up to date
/// once per run of the tests.
///
/// # Errors
/// If they cannot be built.
pub fn binaries() -> Result<PathBuf> {
    static BUILT: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| find_or_build().map_err(|error| format!("{error:#}")));
    built.clone().map_err(anyhow::Error::msg)
}

fn find_or_build() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("DAVIT_BIN_DIR") {
        let dir = PathBuf::from(dir);
        for name in ["davit", "davit-shim"] {
            if !dir.join(name).is_file() {
                bail!("DAVIT_BIN_DIR={} has no {name}", dir.display());
            }
        }
        return Ok(dir);
    }
    let test = std::env::current_exe().context("find the test's own program")?;
    // …/target/debug/deps/e2e-0123456789abcdef, or …/target/debug/davit-critest
    let mut dirs = test.ancestors().skip(1).skip_while(|dir| dir.ends_with("deps"));
    let profile = dirs.next().context("the test's program is not in a target directory")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "-p", "davit", "-p", "davit-shim", "--manifest-path"]);
    build.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"));
    build.arg("--target-dir").arg(profile.parent().context("the target directory has no parent")?);
    if profile.ends_with("release") {
        build.arg("--release");
    }
    run(&mut build)?;
    Ok(profile.to_owned())
}

/// The directory with `davit` and `davit-shim` that were built with failpoints: below [`binaries`], where `hack/check build` puts them.
///
/// # Errors
/// If they are not there, or are older than those without.
pub fn failpoint_binaries() -> Result<PathBuf> {
    let usual = binaries()?;
    let dir = usual.join("failpoints");
    let time = |path: PathBuf| path.metadata().and_then(|metadata| metadata.modified());
    for name in ["davit", "davit-shim"] {
        let fresh = match (time(dir.join(name)), time(usual.join(name))) {
            (Ok(own), Ok(usual)) => own + FAILPOINTS_AGE >= usual,
            (Err(_), _) | (_, Err(_)) => false,
        };
        if !fresh {
            bail!("{} is missing or old: run hack/failpoints", dir.join(name).display());
        }
    }
    Ok(dir)
}

/// The validated version of crictl, which hack/setup builds into the cache folder.
///
/// # Errors
/// If it is not there.
pub fn crictl() -> Result<PathBuf> {
    built("crictl", "hack/setup")
}

/// The validation suite of the same version, with `ginkgo` beside it.
///
/// # Errors
/// If one of them is not there.
pub fn critest() -> Result<PathBuf> {
    built("ginkgo", "hack/setup --critest")?;
    built("critest", "hack/setup --critest")
}

/// The kubelet.
///
/// # Errors
/// If it is not there.
pub fn kubelet() -> Result<PathBuf> {
    built("kubelet", "hack/setup --kubelet")
}

/// Kubernetes' own server to try gRPC probes on: a static program.
///
/// # Errors
/// If it is not there.
pub fn health() -> Result<PathBuf> {
    built("health", "hack/setup --kubelet")
}

/// Kubernetes' client library as a program that moves bytes through streams.
///
/// # Errors
/// If it is not there.
pub fn streampeer() -> Result<PathBuf> {
    built("streampeer", "hack/setup")
}

fn built(name: &str, by: &str) -> Result<PathBuf> {
    let path = catalog::cache().join("bin").join(name);
    if !path.is_file() {
        bail!("{} is missing: run {by}", path.display());
    }
    Ok(path)
}

/// The OCI runtime of this name, from `PATH`.
///
/// # Errors
/// If it is not there.
pub fn oci_runtime(name: &str) -> Result<PathBuf> {
    installed(name)
}

/// A program of Debian's, from `PATH`.
///
/// # Errors
/// If it is not there.
pub fn installed(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin =
        [PathBuf::from("/usr/local/sbin"), PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")];
    std::env::split_paths(&path)
        .chain(sbin)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is not installed: run hack/setup"))
}

/// Runs a command to its end and tells its standard output.
///
/// # Errors
/// If it cannot be started or fails; all that it wrote is in the message.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", describe(&output));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// How a command ended and what it wrote, for a message.
#[must_use]
pub fn describe(output: &Output) -> String {
    format!(
        "{}\nstdout: {}\nstderr: {}",
        output.status,
        String::from_utf8_lossy(&output.stdout).trim_end(),
        String::from_utf8_lossy(&output.stderr).trim_end()
    )
}
