//! Kernel parameters of the pod's namespaces.
//!
//! Owns the rule which may be set: only what a namespace of the pod's holds. Anything else would change the host. A name's dots
//! separate, and a slash stands for a dot inside a part (`net.ipv4.conf.eth0/100.forwarding`), as in sysctl(8).

use crate::files;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A namespace that the pod has of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Own {
    Net,
    Ipc,
}

/// Why a parameter was not set.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SysctlError {
    #[error(
        "set sysctl {name} to {value:?}: no namespace of the pod holds it, so it would change the host's"
    )]
    NotTheirs { name: String, value: String },
    #[error("set sysctl {name} to {value:?}: not a name")]
    Name { name: String, value: String },
    #[error("set sysctl {name} to {value:?}")]
    Write { name: String, value: String, source: std::io::Error },
}

/// Sets one parameter, from inside of the namespaces.
pub(crate) fn set(name: &str, value: &str, own: &[Own]) -> Result<(), SysctlError> {
    let path = path_of(name, value, own)?;
    files::write_kernel(&path, value).map_err(|source| SysctlError::Write {
        name: name.to_owned(),
        value: value.to_owned(),
        source,
    })
}

/// What a pod's parameters are to be.
pub(crate) struct Sysctls<'a> {
    pub(crate) needed: &'a BTreeMap<String, String>,
    /// A host may refuse these. One of them may be among the others by another spelling: those have the last word.
    pub(crate) optional: &'a BTreeMap<String, String>,
}

impl Sysctls<'_> {
    /// Sets them.
    ///
    /// # Errors
    /// [`SysctlError`] for the first that is needed and refused.
    pub(crate) fn set(&self, own: &[Own]) -> Result<(), SysctlError> {
        for (name, value) in self.optional {
            let _ = set(name, value, own);
        }
        self.needed.iter().try_for_each(|(name, value)| set(name, value, own))
    }
}

fn path_of(name: &str, value: &str, own: &[Own]) -> Result<PathBuf, SysctlError> {
    let relative: String = name.chars().map(swap_separator).collect();
    let bad_part = |part: &str| part.is_empty() || part == "." || part == "..";
    if relative.split('/').any(bad_part) || name.contains('\0') {
        return Err(SysctlError::Name { name: name.to_owned(), value: value.to_owned() });
    }
    if !is_held(&relative, own) {
        return Err(SysctlError::NotTheirs { name: name.to_owned(), value: value.to_owned() });
    }
    Ok(Path::new("/proc/sys").join(relative))
}

fn swap_separator(c: char) -> char {
    match c {
        '.' => '/',
        '/' => '.',
        other => other,
    }
}

fn is_held(relative: &str, own: &[Own]) -> bool {
    if relative.starts_with("net/") {
        return own.contains(&Own::Net);
    }
    let ipc = relative.starts_with("fs/mqueue/")
        || relative.strip_prefix("kernel/").is_some_and(|n| {
            !n.contains('/') && (n == "sem" || n.starts_with("shm") || n.starts_with("msg"))
        });
    ipc && own.contains(&Own::Ipc)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &[Own] = &[Own::Net, Own::Ipc];

    fn path(name: &str, own: &[Own]) -> Option<String> {
        path_of(name, "1", own).ok().map(|p| p.to_string_lossy().into_owned())
    }

    #[test]
    fn what_a_namespace_holds_is_found_below_proc() {
        assert_eq!(path("net.ipv4.ip_forward", BOTH).unwrap(), "/proc/sys/net/ipv4/ip_forward");
        assert_eq!(
            path("net.ipv4.conf.e/1.forwarding", BOTH).unwrap(),
            "/proc/sys/net/ipv4/conf/e.1/forwarding"
        );
        assert_eq!(
            path("kernel.shm_rmid_forced", BOTH).unwrap(),
            "/proc/sys/kernel/shm_rmid_forced"
        );
        assert_eq!(path("kernel.sem", BOTH).unwrap(), "/proc/sys/kernel/sem");
        assert_eq!(path("fs.mqueue.msg_max", BOTH).unwrap(), "/proc/sys/fs/mqueue/msg_max");
    }

    #[test]
    fn nothing_reaches_the_host() {
        for name in [
            "vm.swappiness",
            "kernel.panic",
            "kernel.hostname",
            "kernel.semx.y",
            "kernel",
            "fs.file-max",
        ] {
            assert_eq!(path(name, BOTH), None, "{name}");
        }
        for name in
            ["net.//.//.kernel.panic", "net..x", "net.", ".net", "net.//", "net/../x", "net.a\0b"]
        {
            assert_eq!(path(name, BOTH), None, "{name}");
        }
        assert_eq!(path("net.ipv4.ip_forward", &[Own::Ipc]), None);
        assert_eq!(path("kernel.shmmax", &[Own::Net]), None);
    }
}
