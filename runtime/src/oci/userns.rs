//! What a container in its pod's user namespace has otherwise.
//!
//! Owns who may be its users, what its spec says of the namespace, and which mounts the shim maps for it: OCI runtimes differ in that, so they are given
//! paths at which the mapped mounts are there already.

use super::user::{Identity, UserError};
use crate::container::{ContainerSecurity, RunAs};
use crate::sandbox::{IdMapping, IdMappings};
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, Mount};
use rustix::fs::StatVfsMountFlags;
use std::path::{Path, PathBuf};

/// A mount of the host's that the shim makes for the container, with other owners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedBind {
    /// What is mounted.
    pub source: PathBuf,
    /// Where, for the OCI runtime to find: an empty file or directory that is to be made first.
    pub target: PathBuf,
    /// The source is a directory.
    pub is_dir: bool,
    /// Who the file system's owners are in it.
    pub mappings: IdMappings,
}

impl MappedBind {
    /// `bind`, made to show what the shim will have mapped at `target`.
    pub(super) fn instead_of(bind: &mut Mount, target: PathBuf, mappings: &IdMappings) -> Self {
        let source = bind.source().clone().unwrap_or_default();
        bind.set_source(Some(target.clone()));
        Self { is_dir: source.is_dir(), source, target, mappings: mappings.clone() }
    }
}

/// For the spec: which ids are which.
pub(super) fn table(ranges: &[IdMapping]) -> Vec<LinuxIdMapping> {
    let one = |range: &IdMapping| {
        let IdMapping { inside, host, length } = *range;
        LinuxIdMappingBuilder::default().container_id(inside).host_id(host).size(length).build()
    };
    ranges.iter().filter_map(|range| one(range).ok()).collect()
}

/// Refuses who is nobody in the namespace: the kernel would, with a number.
pub(super) fn check(
    identity: &Identity,
    security: &ContainerSecurity,
    mappings: &IdMappings,
) -> Result<(), UserError> {
    let (user, group) = match &security.run_as {
        RunAs::Image => ("the image's USER", "the image's USER"),
        RunAs::Uid { gid, .. } => ("run_as_user", gid.map_or("run_as_user", |_| "run_as_group")),
        RunAs::Name { gid, .. } => {
            ("run_as_username", gid.map_or("run_as_username", |_| "run_as_group"))
        }
    };
    let unmapped = |field, id| Err(UserError::Unmapped { field, id });
    if mappings.host_uid(identity.uid).is_none() {
        return unmapped(user, identity.uid);
    }
    for gid in &identity.groups {
        if mappings.host_gid(*gid).is_none() {
            let field = if *gid == identity.gid {
                group
            } else if security.supplemental_groups.contains(gid) {
                "supplemental_groups"
            } else {
                "the image's /etc/group"
            };
            return unmapped(field, *gid);
        }
    }
    Ok(())
}

/// The restrictions that the mount of `source` has. Who mounts it again in a user namespace can't take them away, and an OCI runtime that forgets to name
/// them is refused by the kernel.
pub(super) fn restrictions(source: &Path) -> impl Iterator<Item = &'static str> {
    let flags = rustix::fs::statvfs(source).map(|stat| stat.f_flag);
    let flags = flags.unwrap_or(StatVfsMountFlags::empty());
    [
        (StatVfsMountFlags::NOSUID, "nosuid"),
        (StatVfsMountFlags::NODEV, "nodev"),
        (StatVfsMountFlags::NOEXEC, "noexec"),
        (StatVfsMountFlags::RDONLY, "ro"),
    ]
    .into_iter()
    .filter_map(move |(flag, name)| flags.contains(flag).then_some(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::testing::security;

    #[test]
    fn who_is_not_in_the_namespace_is_refused_by_the_field_that_says_so() {
        let range = IdMapping { inside: 0, host: 100_000, length: 1000 };
        let mappings = IdMappings { uids: vec![range], gids: vec![range] };
        let identity = |uid, groups: &[u32]| Identity {
            uid,
            gid: groups[0],
            groups: groups.to_vec(),
            home: None,
        };
        let named = |run_as, identity: Identity| {
            let security =
                ContainerSecurity { run_as, supplemental_groups: vec![5, 2000], ..security() };
            check(&identity, &security, &mappings).map_err(|error| error.to_string())
        };
        let uid = |uid, gid| RunAs::Uid { uid, gid };
        assert_eq!(named(uid(999, None), identity(999, &[0, 5, 999])), Ok(()));
        let refused = "is not in the pod's user namespace";
        for (run_as, identity, field) in [
            (RunAs::Image, identity(1000, &[0]), "the image's USER 1000"),
            (uid(1000, None), identity(1000, &[0]), "run_as_user 1000"),
            (uid(1, None), identity(1, &[1000]), "run_as_user 1000"),
            (uid(1, Some(1001)), identity(1, &[1001]), "run_as_group 1001"),
            (
                RunAs::Name { name: "a".into(), gid: None },
                identity(1000, &[0]),
                "run_as_username 1000",
            ),
            (uid(1, None), identity(1, &[0, 2000]), "supplemental_groups 2000"),
            (uid(1, None), identity(1, &[0, 3000]), "the image's /etc/group 3000"),
        ] {
            assert_eq!(named(run_as, identity), Err(format!("{field} {refused}")));
        }
    }

    #[test]
    fn a_mounts_restrictions_are_those_of_the_mount() {
        let of = |path: &str| restrictions(Path::new(path)).collect::<Vec<_>>();
        assert_eq!(of("/"), Vec::<&str>::new());
        assert_eq!(of("/none"), Vec::<&str>::new());
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        // The last one is on top.
        let mut lines = table.lines().rev();
        let proc = lines.find(|line| line.split(' ').nth(4) == Some("/proc")).unwrap();
        assert_eq!(of("/proc").contains(&"nosuid"), proc.contains("nosuid"));
    }
}
