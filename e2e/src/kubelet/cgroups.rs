//! The kubelet's root cgroup, one per test and in every hierarchy that the kubelet looks at.
//!
//! Owns making it before the kubelet starts, which takes it for granted, and removing it with what the kubelet leaves in it: `kubepods` and
//! the two cgroups of its qualities of service, empty.

use crate::host::{names_in, read_optional};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

const TOP: &str = "/sys/fs/cgroup";
/// What a cgroup of version 1 needs before a process fits in: these are empty at first.
const INHERITED: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

/// The tops of the hierarchies; one and the same on a host that has version 2 only.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let top = Path::new(TOP);
    if top.join("cgroup.controllers").is_file() {
        return Ok(vec![top.to_owned()]);
    }
    let dirs = names_in(top)?.into_iter().map(|name| top.join(name));
    // `cpu` and `cpuacct` may be links to one hierarchy.
    Ok(dirs.filter(|dir| dir.is_dir() && !dir.is_symlink()).collect())
}

/// Makes the cgroup `name` at the top of each hierarchy.
pub(super) fn make(name: &str) -> Result<()> {
    for top in hierarchies()? {
        let cgroup = top.join(name);
        std::fs::create_dir_all(&cgroup)
            .with_context(|| format!("make cgroup {}", cgroup.display()))?;
        for file in INHERITED {
            if let Some(value) = read_optional(&top.join(file))? {
                set(&cgroup.join(file), value.as_bytes())?;
            }
        }
    }
    Ok(())
}

/// A kernel's file takes a value in one write; it cannot be replaced.
pub(super) fn set(path: &Path, value: &[u8]) -> Result<()> {
    use std::io::Write as _;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .with_context(|| format!("open {}", path.display()))?;
    file.write_all(value).with_context(|| format!("write {}", path.display()))
}

/// The pods' cgroups in it.
pub(super) fn pods(name: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for top in hierarchies()? {
        for place in ["kubepods", "kubepods/besteffort", "kubepods/burstable"] {
            let dir = top.join(name).join(place);
            let pods = names_in(&dir)?.into_iter().filter(|name| name.starts_with("pod"));
            found.extend(pods.map(|pod| dir.join(pod)));
        }
    }
    Ok(found)
}

/// Removes it.
///
/// # Errors
/// If anything else is left in it.
pub(super) fn remove(name: &str) -> Result<()> {
    for top in hierarchies()? {
        for place in ["kubepods/besteffort", "kubepods/burstable", "kubepods", ""] {
            let cgroup = top.join(name).join(place);
            match std::fs::remove_dir(&cgroup) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                removed => {
                    removed.with_context(|| format!("remove cgroup {}", cgroup.display()))?;
                }
            }
        }
    }
    Ok(())
}
