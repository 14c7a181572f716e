//! Debian packages, unpacked.
//!
//! Owns the cache of what apt downloads: `debian/NAME/` below the cache folder, one unpacked tree per package, and `debian/NAME.version`
//! written last, so that half of a download is never taken for one. With the cache filled nothing is asked of a network.

use crate::registry::write_whole;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The tree of package `name`, downloaded and unpacked if it is not there yet.
///
/// # Errors
/// If apt or dpkg fail.
pub fn package(cache: &Path, name: &str) -> Result<PathBuf> {
    let dir = cache.join("debian");
    let tree = dir.join(name);
    let stamp = dir.join(format!("{name}.version"));
    if stamp.is_file() && tree.is_dir() {
        return Ok(tree);
    }
    std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let download = tempfile::tempdir_in(&dir).context("make a download directory")?;
    let deb = download_package(download.path(), name)?;
    let unpacked = download.path().join("tree");
    run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&unpacked))?;
    if tree.exists() {
        std::fs::remove_dir_all(&tree).with_context(|| format!("remove {}", tree.display()))?;
    }
    std::fs::rename(&unpacked, &tree).with_context(|| format!("make {}", tree.display()))?;
    let file = deb.file_name().context("a package has no file name")?;
    write_whole(&stamp, file.as_encoded_bytes())?;
    Ok(tree)
}

/// Downloads, after `apt-get update` if apt does not know the package (a fresh machine has no lists).
fn download_package(dir: &Path, name: &str) -> Result<PathBuf> {
    let download = || run(Command::new("apt-get").args(["-q", "download", name]).current_dir(dir));
    if download().is_err() {
        run(Command::new("apt-get").args(["-q", "update"]))?;
        download()?;
    }
    for entry in std::fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry.context("list the download")?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            return Ok(path);
        }
    }
    bail!("apt-get download {name} left no package in {}", dir.display())
}

/// Runs a command to its end.
///
/// # Errors
/// If it cannot be started or fails; what it wrote to its standard error is in the message.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
