//! Idmapped mounts: the layers of a container in a user namespace, and volumes whose owners are to be others.
//!
//! Runs in the child that is about to become the OCI runtime, in its own mount namespace. Done here and not by the OCI runtimes, since not all of them
//! can. A copy of an image with other owners is never made.

use crate::error::{Invalid, checked_path};
use crate::overlay::open_path;
use crate::rootfs::{RootfsError, at, keep_from_propagating};
use crate::userns::{Holder, Userns, UsernsError};
use davit_proto::disk::{IdMapping, IdMappings};
use davit_proto::shim::MappedMount;
use davit_sys::mount::{Change, change};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_change, move_mount, open_tree,
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The kernel takes no more ranges in one map.
const RANGES: usize = 340;

/// Why there is no such mount, as it goes through the pipe to the shim.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MappedError {
    #[error(transparent)]
    Step(#[from] RootfsError),
    #[error("map the ids of {}: {}", path.display(), crate::error::chain(source))]
    Userns { path: PathBuf, source: UsernsError },
}

/// Refuses what could not be mounted or would land outside of the pod's directory.
pub(crate) fn check(mount: &MappedMount, pod_dir: &Path) -> Result<(), Invalid> {
    let MappedMount { source, target, uids, gids } = mount;
    checked_path("mapped_mounts.source", source)?;
    checked_path("mapped_mounts.target", target)?;
    if !Path::new(target).starts_with(pod_dir) {
        let problem = "not below the pod's directory";
        return Err(Invalid::new("mapped_mounts.target", target, problem));
    }
    for (field, ranges) in [("mapped_mounts.uids", uids), ("mapped_mounts.gids", gids)] {
        if ranges.is_empty() || ranges.len() > RANGES {
            let count = format!("{} ranges", ranges.len());
            return Err(Invalid::new(field, &count, "not between 1 and 340"));
        }
    }
    Ok(())
}

/// Mounts all of them. The mount namespace is the caller's own.
pub(crate) fn prepare(mounts: &[MappedMount], userns: Option<&Userns>) -> Result<(), MappedError> {
    for mount in mounts {
        let MappedMount { source, target, uids, gids } = mount;
        keep_from_propagating(Path::new(target))?;
        let ranges = |wire: &[davit_proto::shim::IdMapping]| wire.iter().map(range).collect();
        let mappings = IdMappings { uids: ranges(uids), gids: ranges(gids) };
        let made;
        let namespace = match userns.filter(|userns| userns.mappings == mappings) {
            Some(userns) => userns.as_fd(),
            None => {
                made = namespace_of(&mappings)
                    .map_err(|error| MappedError::Userns { path: source.into(), source: error })?;
                made.as_fd()
            }
        };
        // What is mounted below comes along, unmapped: its file system may be one that can't be.
        let below = OpenTreeFlags::AT_RECURSIVE;
        attach(&mapped(source, below, namespace)?, target)?;
    }
    Ok(())
}

fn range(wire: &davit_proto::shim::IdMapping) -> IdMapping {
    let davit_proto::shim::IdMapping { inside, host, length } = *wire;
    IdMapping { inside, host, length }
}

/// A user namespace that nobody is in, to be read for its maps.
fn namespace_of(mappings: &IdMappings) -> Result<OwnedFd, UsernsError> {
    let holder = Holder::start(mappings, || Ok(()))?;
    let opened =
        rustix::fs::open(holder.namespace("user"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    opened.map_err(|e| UsernsError::Step { step: "open it", source: e.into() })
}

/// A copy of the mount at `source`, mapped, attached nowhere.
fn mapped(
    source: &str,
    flags: OpenTreeFlags,
    namespace: BorrowedFd<'_>,
) -> Result<OwnedFd, RootfsError> {
    let flags = flags | OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let copy = open_tree(CWD, source, flags).map_err(at("open", source))?;
    // EINVAL: a file system that knows no such thing, a share of the network for one.
    let ids = Change { map_ids: Some(namespace), ..Change::default() };
    change(copy.as_fd(), ids).map_err(at("map the ids of", source))?;
    Ok(copy)
}

fn attach(mount: &OwnedFd, target: &str) -> Result<(), RootfsError> {
    let whole = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(mount, "", CWD, target, whole).map_err(at("mount on", target))
}

/// The layers as an overlay is to be made of, mapped into the pod's user namespace. However many there are it takes one mount, of the directory that
/// all of them are in: one for each would be thousands on a node, and every mount or look at the table would have to go by them.
///
/// Attached at `target`, where the overlay will cover it: before Linux 6.15 overlay takes no layer from a mount that is nowhere. Private, or the
/// overlay would show on the host, at the directory that this is a copy of.
pub(crate) fn layers(
    lower: &[String],
    target: &str,
    userns: &Userns,
) -> Result<Vec<OwnedFd>, RootfsError> {
    let alone = |path: &str| -> Result<OwnedFd, RootfsError> {
        let copy = mapped(path, OpenTreeFlags::empty(), userns.as_fd())?;
        attach(&copy, target)?;
        mount_change(target, MountPropagationFlags::PRIVATE).map_err(at("make private", target))?;
        Ok(copy)
    };
    let above = common(lower);
    let whole = match &above {
        Some(above) if lower.len() > 1 => Some(alone(&above.to_string_lossy())?),
        Some(_) | None => None,
    };
    let open = |path: &String| -> Result<OwnedFd, RootfsError> {
        if let (Some(whole), Some(above)) = (&whole, &above)
            && let Some(found) = inside(whole, above, path)
        {
            return Ok(found);
        }
        alone(path)
    };
    lower.iter().map(open).collect()
}

/// The deepest directory that all are below.
fn common(paths: &[String]) -> Option<PathBuf> {
    let mut above = Path::new(paths.first()?).parent()?;
    while !paths.iter().all(|path| Path::new(path).starts_with(above)) {
        above = above.parent()?;
    }
    Some(above.to_owned())
}

/// The layer at `path` seen through the copy of the mount of `above`; none if something else is mounted on the way, which the copy hasn't got.
fn inside(whole: &OwnedFd, above: &Path, path: &str) -> Option<OwnedFd> {
    let relative = Path::new(path).strip_prefix(above).ok()?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let found = rustix::fs::openat2(whole, relative, flags, Mode::empty(), beneath).ok()?;
    let identity = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    let same = identity(&found).ok()? == identity(&open_path(path).ok()?).ok()?;
    same.then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_share_the_directory_that_they_are_in() {
        let of = |paths: &[&str]| {
            common(&paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(of(&["/l/a/fs", "/l/b/fs"]), Some("/l".into()));
        assert_eq!(of(&["/l/a", "/m/b"]), Some("/".into()));
        assert_eq!(of(&["/l/a/fs"]), Some("/l/a".into()));
        assert_eq!(of(&["/l/ab", "/l/a/b"]), Some("/l".into()));
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn what_would_land_elsewhere_or_maps_nobody_is_refused() {
        let one = davit_proto::shim::IdMapping { inside: 0, host: 1, length: 1 };
        let good = MappedMount {
            source: "/data".into(),
            target: "/pod/c/mounts/0".into(),
            uids: vec![one],
            gids: vec![one],
        };
        let with = |change: &dyn Fn(&mut MappedMount)| {
            let mut mount = good.clone();
            change(&mut mount);
            check(&mount, Path::new("/pod")).map_err(|error| error.field)
        };
        assert_eq!(with(&|_| ()), Ok(()));
        assert_eq!(with(&|m| m.source = "data".into()), Err("mapped_mounts.source"));
        assert_eq!(with(&|m| m.target = "/pods".into()), Err("mapped_mounts.target"));
        assert_eq!(with(&|m| m.target = "/pod/../etc".into()), Err("mapped_mounts.target"));
        assert_eq!(with(&|m| m.uids.clear()), Err("mapped_mounts.uids"));
        assert_eq!(with(&|m| m.gids = vec![one; 341]), Err("mapped_mounts.gids"));
    }
}
