//! The names of cgroups: the kubelet's word for a pod's, and the path it means.
//!
//! Owns the two drivers' rules. Touches no file.

use crate::id::{ContainerId, SandboxId};
use crate::sandbox::CgroupParent;
use std::path::{Path, PathBuf};

/// Who makes the cgroups of containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// Whoever needs one, by mkdir(2).
    Cgroupfs,
    /// systemd, asked for a scope.
    Systemd,
}

impl Driver {
    /// As kubelet and configuration spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cgroupfs => "cgroupfs",
            Self::Systemd => "systemd",
        }
    }
}

/// A cgroup's name that the driver in use can't have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cgroup {value:?} {problem}")]
pub struct InvalidGroup {
    /// The name.
    pub value: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// One cgroup, by its path below the root of every hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    path: PathBuf,
    made_by: Driver,
}

impl Group {
    /// The cgroup that the kubelet means by `parent`. With systemd: a slice, alone or with the slices above it.
    ///
    /// # Errors
    /// [`InvalidGroup`] if the driver can't have it. A slice under cgroupfs, and a path under systemd, tell that kubelet and davit
    /// are set to different drivers: the pod would be accounted where nobody looks.
    pub fn of_parent(driver: Driver, parent: &CgroupParent) -> Result<Self, InvalidGroup> {
        match driver {
            Driver::Cgroupfs => Self::at(parent.as_str()),
            Driver::Systemd => Self::slice(parent.as_str()),
        }
    }

    /// The cgroup at this path, made by mkdir(2) whatever the driver: davit's own, outside of all pods.
    ///
    /// # Errors
    /// [`InvalidGroup`] for what is no path below the root, and for a slice.
    pub fn at(value: &str) -> Result<Self, InvalidGroup> {
        let invalid = |problem| Err(InvalidGroup { value: value.to_owned(), problem });
        let parts: Vec<&str> = value.split('/').filter(|part| !part.is_empty()).collect();
        if parts.is_empty() {
            return invalid("is the root of the hierarchy");
        }
        if parts.iter().any(|part| matches!(*part, "." | "..")) {
            return invalid("has a `.` or `..` in it");
        }
        if parts.iter().any(|part| part.len() > 255) || parts.len() > 64 {
            return invalid("is longer than a path may be");
        }
        if value.bytes().any(|byte| byte.is_ascii_control() || byte == b':') {
            return invalid("has a colon or a control character in it");
        }
        if parts.last().is_some_and(|last| last.ends_with(".slice")) {
            return invalid("is a systemd slice, but the cgroup driver is cgroupfs");
        }
        Ok(Self { path: parts.iter().collect(), made_by: Driver::Cgroupfs })
    }

    fn slice(value: &str) -> Result<Self, InvalidGroup> {
        let invalid = |problem| InvalidGroup { value: value.to_owned(), problem };
        let trimmed = value.trim_matches('/');
        let name = trimmed.rsplit('/').next().unwrap_or_default();
        let path = expand(name).map_err(invalid)?;
        // The kubelet sends the whole path, crictl's users the name alone: both mean the same, anything else is a mistake.
        if trimmed != name && Path::new(trimmed) != path {
            return Err(invalid("is not where systemd keeps the slice of that name"));
        }
        Ok(Self { path, made_by: Driver::Systemd })
    }

    /// A cgroup below this one, made by mkdir(2).
    ///
    /// # Errors
    /// [`InvalidGroup`] if `name` is not one part of a path.
    pub fn child(&self, name: &str) -> Result<Self, InvalidGroup> {
        let bad = name.is_empty()
            || name.len() > 255
            || matches!(name, "." | "..")
            || name.bytes().any(|byte| byte.is_ascii_control() || byte == b'/' || byte == b':');
        if bad {
            return Err(InvalidGroup {
                value: name.to_owned(),
                problem: "is not one part of a path",
            });
        }
        Ok(Self { path: self.path.join(name), made_by: Driver::Cgroupfs })
    }

    /// The cgroup of container `id` below this one, as its OCI runtime makes it from [`Self::cgroups_path`].
    ///
    /// # Errors
    /// [`InvalidGroup`], as [`Self::child`].
    pub fn container(&self, id: &ContainerId) -> Result<Self, InvalidGroup> {
        match self.made_by {
            Driver::Cgroupfs => self.child(id.as_str()),
            Driver::Systemd => self.child(&format!("davit-{id}.scope")),
        }
    }

    /// Its path below the root of a hierarchy, without a leading slash.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who makes it.
    #[must_use]
    pub fn made_by(&self) -> Driver {
        self.made_by
    }

    /// The slice's name, if it is one.
    pub(super) fn slice_name(&self) -> Option<&str> {
        match self.made_by {
            Driver::Systemd => self.path.file_name()?.to_str(),
            Driver::Cgroupfs => None,
        }
    }

    /// What an OCI spec says so that the runtime makes the cgroup of container `id` below this one.
    #[must_use]
    pub fn cgroups_path(&self, id: &ContainerId) -> String {
        match self.slice_name() {
            Some(slice) => format!("{slice}:davit:{id}"),
            None => format!("/{}/{id}", self.path.display()),
        }
    }
}

/// The parent of a pod for which nobody named one: its own, so that the pod can be measured and ended as a whole.
#[must_use]
#[expect(clippy::expect_used, reason = "an id is 64 hex digits")]
pub fn default_parent(driver: Driver, sandbox: &SandboxId) -> CgroupParent {
    let name = match driver {
        Driver::Cgroupfs => format!("/davit-pods/{sandbox}"),
        // The dash makes it a child of davit_pods.slice.
        Driver::Systemd => format!("davit_pods-{sandbox}.slice"),
    };
    CgroupParent::try_from(name).expect("hex digits and fixed text are a valid parent")
}

/// Where systemd keeps a slice: `a-b.slice` is `a.slice/a-b.slice` (systemd.slice(5)).
fn expand(name: &str) -> Result<PathBuf, &'static str> {
    let Some(stem) = name.strip_suffix(".slice") else {
        return Err("is not a systemd slice, but the cgroup driver is systemd");
    };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b":_.\\-@".contains(&byte);
    if name.len() > 255 || !stem.bytes().all(allowed) {
        return Err("is not a name that systemd can have");
    }
    // `-.slice` is the root of all slices; nothing is to be put into it directly.
    if stem.split('-').any(str::is_empty) {
        return Err("has an empty part in its name");
    }
    let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
    Ok(ends.filter_map(|end| stem.get(..end)).map(|part| format!("{part}.slice")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(text: &str) -> CgroupParent {
        CgroupParent::try_from(text.to_owned()).unwrap()
    }

    fn id() -> ContainerId {
        ContainerId::try_from("c".repeat(64)).unwrap()
    }

    #[test]
    fn a_parent_is_where_its_driver_keeps_it() {
        let id = id();
        for (driver, text, path, cgroups_path) in [
            (
                Driver::Cgroupfs,
                "/kubepods/burstable/pod1",
                "kubepods/burstable/pod1",
                format!("/kubepods/burstable/pod1/{id}"),
            ),
            (Driver::Cgroupfs, "davit", "davit", format!("/davit/{id}")),
            (Driver::Cgroupfs, "//a//b/", "a/b", format!("/a/b/{id}")),
            (Driver::Systemd, "system.slice", "system.slice", format!("system.slice:davit:{id}")),
            (
                Driver::Systemd,
                "kubepods-burstable-pod1_2.slice",
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice",
                format!("kubepods-burstable-pod1_2.slice:davit:{id}"),
            ),
            (
                Driver::Systemd,
                "/kubepods.slice/kubepods-pod1.slice",
                "kubepods.slice/kubepods-pod1.slice",
                format!("kubepods-pod1.slice:davit:{id}"),
            ),
        ] {
            let group = Group::of_parent(driver, &parent(text)).unwrap();
            assert_eq!(group.path(), Path::new(path), "{text}");
            assert_eq!(group.cgroups_path(&id), cgroups_path, "{text}");
        }
    }

    #[test]
    fn what_the_driver_cannot_have_is_refused_by_name() {
        for (driver, text) in [
            (Driver::Cgroupfs, "/"),
            (Driver::Cgroupfs, "/kubepods.slice/kubepods-pod1.slice"),
            (Driver::Cgroupfs, "kubepods.slice:cri:x"),
            (Driver::Systemd, "/kubepods/pod1"),
            (Driver::Systemd, "-.slice"),
            (Driver::Systemd, ".slice"),
            (Driver::Systemd, "a--b.slice"),
            (Driver::Systemd, "a-.slice"),
            (Driver::Systemd, "a b.slice"),
            (Driver::Systemd, "/elsewhere/kubepods-pod1.slice"),
        ] {
            let error = Group::of_parent(driver, &parent(text)).unwrap_err();
            assert_eq!(error.value, text);
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn a_pod_without_a_parent_gets_one_of_its_own_under_either_driver() {
        let sandbox = SandboxId::try_from("d".repeat(64)).unwrap();
        for driver in [Driver::Cgroupfs, Driver::Systemd] {
            let group = Group::of_parent(driver, &default_parent(driver, &sandbox)).unwrap();
            assert!(group.path().to_str().unwrap().contains(sandbox.as_str()));
        }
    }

    #[test]
    fn a_child_is_one_part_of_a_path() {
        let group = Group::at("/davit-pods").unwrap();
        assert_eq!(group.child("init").unwrap().path(), Path::new("davit-pods/init"));
        for name in ["", ".", "..", "a/b", "a\n", "a:b"] {
            assert!(group.child(name).is_err(), "{name:?}");
        }
    }
}
