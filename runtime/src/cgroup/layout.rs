//! Which cgroup hierarchies this host has and where they are mounted (cgroups(7)).
//!
//! Owns the detection; changes nothing. Read once at start: a host does not change its hierarchies while pods run, and one that
//! does is told apart by [`Layout::fingerprint`].

use crate::oci::mountinfo::{self, Mount};
use std::path::{Path, PathBuf};

/// Where every OCI runtime looks for the hierarchies.
const ROOT: &str = "/sys/fs/cgroup";
/// Options of a v1 mount that are not a controller's name.
const NOT_CONTROLLERS: [&str; 7] =
    ["rw", "ro", "noprefix", "clone_children", "xattr", "cpuset_v2_mode", "favordynmods"];

/// Which of the kernel's two interfaces governs the controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy per controller (or several).
    V1,
    /// The unified hierarchy.
    V2,
    /// v1 for the controllers, and a unified hierarchy beside it.
    Hybrid,
}

impl Version {
    /// In one word, for messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::Hybrid => "hybrid",
        }
    }
}

/// One hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// What it governs; a named v1 hierarchy has its `name=…` here.
    pub controllers: Vec<String>,
}

impl Hierarchy {
    /// Whether it governs `controller`.
    #[must_use]
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|have| have == controller)
    }
}

/// All hierarchies that OCI runtimes put containers into.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layout {
    /// The v1 ones; empty on a host of v2.
    pub v1: Vec<Hierarchy>,
    /// The unified one.
    pub v2: Option<Hierarchy>,
    /// Swap can be limited.
    pub swap: bool,
}

/// Why the hierarchies are not known.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// A file of the kernel can't be read.
    #[error("read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No cgroup file system is mounted.
    #[error("find a mounted cgroup hierarchy: there is none below {ROOT}")]
    None,
}

impl Layout {
    /// This host's.
    ///
    /// # Errors
    /// [`LayoutError`] if there is none or the mount table can't be read.
    pub fn read() -> Result<Self, LayoutError> {
        let table = read(Path::new("/proc/self/mountinfo"))?;
        let mut layout = Self::of_mounts(&mountinfo::parse(&table));
        if let Some(v2) = &mut layout.v2 {
            let text = read(&v2.mount.join("cgroup.controllers"))?;
            let words = String::from_utf8_lossy(&text);
            v2.controllers = words.split_ascii_whitespace().map(str::to_owned).collect();
        }
        if layout.v1.is_empty() && layout.v2.is_none() {
            return Err(LayoutError::None);
        }
        layout.swap = layout.limits_swap();
        Ok(layout)
    }

    /// What the mount table says, the unified hierarchy's controllers aside.
    pub(crate) fn of_mounts(mounts: &[Mount]) -> Self {
        let mut layout = Self::default();
        for mount in mounts.iter().filter(|mount| mount.point.starts_with(ROOT)) {
            match mount.fs_type.as_str() {
                "cgroup" => layout.add_v1(mount),
                "cgroup2" if layout.v2.is_none() => {
                    let mount = mount.point.clone();
                    layout.v2 = Some(Hierarchy { mount, controllers: Vec::new() });
                }
                _ => {}
            }
        }
        // With cgroup2 as the root every runtime goes by that alone, even if a v1 hierarchy is mounted below for a single controller.
        if layout.v2.as_ref().is_some_and(|v2| v2.mount == Path::new(ROOT)) {
            layout.v1.clear();
        }
        layout
    }

    fn add_v1(&mut self, mount: &Mount) {
        let controllers: Vec<String> = mount
            .super_options
            .split(',')
            .filter(|option| !NOT_CONTROLLERS.contains(option))
            .filter(|option| !option.contains('=') || option.starts_with("name="))
            .map(str::to_owned)
            .collect();
        // The same hierarchy mounted twice is one hierarchy.
        if !self.v1.iter().any(|known| known.controllers == controllers) {
            self.v1.push(Hierarchy { mount: mount.point.clone(), controllers });
        }
    }

    /// Which interface governs the controllers.
    #[must_use]
    pub fn version(&self) -> Version {
        match (self.v1.is_empty(), &self.v2) {
            (true, _) => Version::V2,
            (false, Some(_)) => Version::Hybrid,
            (false, None) => Version::V1,
        }
    }

    /// Every hierarchy, v1 first.
    pub fn hierarchies(&self) -> impl Iterator<Item = &Hierarchy> {
        self.v1.iter().chain(&self.v2)
    }

    /// Whether a limit of `controller` can be set by an OCI runtime: on a hybrid host only the v1 hierarchies count.
    #[must_use]
    pub fn has(&self, controller: &str) -> bool {
        match self.version() {
            Version::V1 | Version::Hybrid => self.v1.iter().any(|one| one.has(controller)),
            Version::V2 => self.v2.iter().any(|one| one.has(controller)),
        }
    }

    /// Text that is the same exactly as long as the layout is.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let one = |hierarchy: &Hierarchy| {
            format!("{}={}", hierarchy.mount.display(), hierarchy.controllers.join("+"))
        };
        self.hierarchies().map(one).collect::<Vec<_>>().join(";")
    }

    fn limits_swap(&self) -> bool {
        if let Some(memory) = self.v1.iter().find(|one| one.has("memory")) {
            return memory.mount.join("memory.memsw.limit_in_bytes").exists();
        }
        // The root of cgroup2 has no memory.swap.max: this process's own cgroup, or else any child of the root, shows it.
        let Some(v2) = &self.v2 else { return false };
        let children = std::fs::read_dir(&v2.mount).into_iter().flatten().flatten();
        v2.has("memory")
            && children.into_iter().any(|child| child.path().join("memory.swap.max").exists())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, LayoutError> {
    std::fs::read(path).map_err(|source| LayoutError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(table: &str) -> Layout {
        Layout::of_mounts(&mountinfo::parse(table.as_bytes()))
    }

    #[test]
    fn the_three_kinds_of_host_are_told_apart() {
        let v1 = "31 23 0:29 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
            32 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            33 31 0:31 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd\n\
            34 31 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n";
        let layout = of(v1);
        assert_eq!(layout.version(), Version::V1);
        assert_eq!(layout.v1.len(), 2, "one hierarchy, mounted twice, counts once");
        assert_eq!(layout.v1[0].controllers, ["cpu", "cpuacct"]);
        assert_eq!(layout.v1[1].controllers, ["name=systemd"]);
        assert!(layout.has("cpu") && !layout.has("memory"));

        let unified = "35 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let hybrid = of(&format!("{v1}{unified}"));
        assert_eq!(hybrid.version(), Version::Hybrid);
        assert_eq!(hybrid.v2.unwrap().mount, Path::new("/sys/fs/cgroup/unified"));

        let v2 = "31 23 0:29 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n\
            32 31 0:30 / /sys/fs/cgroup/net_cls rw - cgroup cgroup rw,net_cls\n";
        assert_eq!(of(v2).version(), Version::V2);
        assert!(of(v2).v1.is_empty(), "a v1 mount below cgroup2 does not count");
    }

    #[test]
    fn a_cgroup_file_system_elsewhere_is_somebody_elses() {
        let layout = of("31 23 0:29 / /mnt/guest/sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        assert_eq!(layout, Layout::default());
    }

    #[test]
    fn this_hosts_hierarchies_are_found() {
        let layout = Layout::read().unwrap();
        for hierarchy in layout.hierarchies() {
            assert!(hierarchy.mount.join("cgroup.procs").exists(), "{hierarchy:?}");
        }
        assert!(layout.has("memory") && layout.has("pids"), "{layout:?}");
    }
}
