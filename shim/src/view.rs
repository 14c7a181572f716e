//! The mounts that an OCI runtime gets to see: copies of those that it needs, in a copy of a namespace that has none.
//!
//! The other way ([`crate::hidden`]) copies all of the host's mounts first, and takes many of them off again. Which ones are needed is the daemon's to say. All of the
//! copies are private: what is mounted on them goes to nobody, the host least of all.

use crate::error::{Invalid, checked_path};
use crate::rootfs::{RootfsError, at};
use davit_proto::shim::{View, ViewPart};
use davit_sys::mount::make_private;
use davit_sys::namespace::{Namespace, unshare};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::process::{chroot, fchdir};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::os::fd::{AsFd as _, OwnedFd};

const OWN: &str = "/proc/thread-self/ns/mnt";

/// Refuses what names no path, or does not begin with the root.
pub(crate) fn check(view: &View) -> Result<(), Invalid> {
    let View { empty, parts } = view;
    checked_path("rootfs.view.empty", empty)?;
    let path = |part: &ViewPart| checked_path("rootfs.view.parts.path", &part.path);
    parts.iter().try_for_each(path)?;
    match parts.first() {
        Some(first) if first.path == "/" => Ok(()),
        first => {
            let first = first.map(|part| part.path.as_str()).unwrap_or_default();
            Err(Invalid::new("rootfs.view.parts", first, "the root is to come first"))
        }
    }
}

/// Why there is no such namespace.
#[derive(Debug)]
pub(crate) enum NoView {
    /// The caller is where it was.
    Refused(RootfsError),
    /// It is nowhere that it could use.
    Lost(RootfsError),
}

/// Leaves the caller's mount namespace for one that has these mounts only.
pub(crate) fn enter(view: &View) -> Result<(), NoView> {
    let refused = NoView::Refused;
    let (own, empty) = (open(OWN).map_err(refused)?, open(&view.empty).map_err(refused)?);
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let root = root.map_err(at("open", "/")).map_err(refused)?;
    let parts = view.parts.iter().filter_map(|part| copy(part).transpose());
    let parts: Vec<(OwnedFd, &str)> = parts.collect::<Result<_, _>>().map_err(refused)?;
    join(&empty, &view.empty).map_err(refused)?;
    make(&view.empty, &parts).map_err(|error| {
        // The root need not be its namespace's.
        let back = join(&own, OWN).and_then(|()| become_root(&root, "/"));
        back.map_or_else(NoView::Lost, |()| refused(error))
    })
}

fn make(empty: &str, parts: &[(OwnedFd, &str)]) -> Result<(), RootfsError> {
    unshare(Namespace::Mount).map_err(at("copy the mounts of", empty))?;
    // The daemon may have ended, and its number may be another's.
    let mounts = davit_sys::mounts::list().map_err(at("list the mounts of", empty))?;
    if mounts.len() != 1 {
        return Err(at("find nothing in", empty)(Errno::NOTEMPTY));
    }
    attach(parts)
}

fn open(namespace: &str) -> Result<OwnedFd, RootfsError> {
    rustix::fs::open(namespace, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(at("open the mount namespace", namespace))
}

fn join(namespace: &OwnedFd, name: &str) -> Result<(), RootfsError> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))
        .map_err(at("join the mount namespace", name))
}

/// Whether a mount can be reached there: it may be gone since the daemon looked, or lie below another one. One that can't be looked at is there, and
/// what is below it is not to be taken for it.
fn there(path: &str) -> Result<bool, RootfsError> {
    // Of a share, the server is not asked.
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC;
    match rustix::fs::statx(CWD, path, flags, StatxFlags::empty()) {
        Ok(stat) => Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(error) => Err(at("look at", path)(error)),
    }
}

fn copy(part: &ViewPart) -> Result<Option<(OwnedFd, &str)>, RootfsError> {
    let ViewPart { path, whole } = part;
    if !there(path)? {
        return Ok(None);
    }
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_NO_AUTOMOUNT;
    flags.set(OpenTreeFlags::AT_RECURSIVE, *whole);
    let copied = open_tree(CWD, path.as_str(), flags).map_err(at("copy the mount at", path))?;
    make_private(copied.as_fd()).map_err(at("make private the copy of", path))?;
    Ok(Some((copied, path)))
}

/// The root above the empty one, the others on it.
fn attach(parts: &[(OwnedFd, &str)]) -> Result<(), RootfsError> {
    for (number, (copied, path)) in parts.iter().enumerate() {
        let whole = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(copied, "", CWD, *path, whole).map_err(at("mount the copy of", path))?;
        if number == 0 {
            become_root(copied, path)?;
        }
    }
    Ok(())
}

fn become_root(directory: &OwnedFd, path: &str) -> Result<(), RootfsError> {
    fchdir(directory).and_then(|()| chroot(".")).map_err(at("make a root of", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use davit_sys::namespace::no_mounts;
    use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
    use std::os::fd::AsRawFd as _;
    use std::path::Path;

    fn table() -> String {
        std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap()
    }

    fn points() -> Vec<String> {
        let table = table();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        points.map(str::to_owned).collect()
    }

    fn view(empty: String, parts: &[(&str, bool)]) -> View {
        let parts = parts.iter();
        let part = |(path, whole): &(&str, bool)| ViewPart { path: (*path).into(), whole: *whole };
        View { empty, parts: parts.map(part).collect() }
    }

    /// In a thread of its own, whose mounts are shared among themselves and nobody else sees.
    fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
        let inner = || {
            unshare(Namespace::Mount).unwrap();
            let change = |how| mount_change("/", how | MountPropagationFlags::REC).unwrap();
            change(MountPropagationFlags::PRIVATE);
            change(MountPropagationFlags::SHARED);
            work()
        };
        std::thread::scope(|scope| scope.spawn(inner).join().unwrap())
    }

    #[test]
    fn what_was_chosen_is_there_and_nothing_of_it_goes_to_the_host() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        let at = |name: &str| path.join(name).to_string_lossy().into_owned();
        for name in ["alone", "alone/in", "whole", "whole/in", "left", "gone"] {
            std::fs::create_dir(path.join(name)).unwrap();
        }
        let empty = no_mounts().unwrap();
        apart(|| {
            for name in ["alone", "alone/in", "whole", "whole/in", "left"] {
                mount_bind(at(name), at(name)).unwrap();
            }
            crate::files::write_new(&path.join("whole/in/file"), b"text").unwrap();
            let before = table();
            let (alone, whole, gone) = (at("alone"), at("whole"), at("gone"));
            let parts =
                [("/", false), ("/proc", true), (&alone, false), (&gone, true), (&whole, true)];
            let view = view(format!("/proc/self/fd/{}", empty.as_raw_fd()), &parts);
            check(&view).unwrap();
            std::thread::scope(|scope| {
                let child = scope.spawn(|| {
                    // A thread has its own root and directory only then.
                    unshare(Namespace::Mount).unwrap();
                    enter(&view).unwrap();
                    let here = points();
                    for present in ["/", "/proc", &alone, &whole, &at("whole/in")] {
                        assert_eq!(
                            here.iter().filter(|one| **one == *present).count(),
                            1,
                            "{present}"
                        );
                    }
                    for absent in [at("alone/in"), at("left"), gone.clone()] {
                        assert!(!here.contains(&absent) && Path::new(&absent).is_dir(), "{absent}");
                    }
                    assert!(table().lines().all(|line| !line.contains("shared:")), "{}", table());
                    assert_eq!(std::fs::read(path.join("whole/in/file")).unwrap(), b"text");
                    assert_eq!(std::env::current_dir().unwrap(), Path::new("/"));
                    mount_bind(at("gone"), at("gone")).unwrap();
                });
                child.join().unwrap();
            });
            assert_eq!(table(), before);
        });
    }

    #[test]
    fn what_fails_leaves_the_caller_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        let inner = path.join("mounted/inner").to_string_lossy().into_owned();
        std::fs::create_dir(path.join("mounted")).unwrap();
        let empty = no_mounts().unwrap();
        apart(|| {
            let memory = rustix::mount::MountFlags::empty();
            rustix::mount::mount("x", path.join("mounted"), "tmpfs", memory, None).unwrap();
            std::fs::create_dir(&inner).unwrap();
            mount_bind(&inner, &inner).unwrap();
            let before = table();
            // The one between is missing.
            let parts = [("/", false), ("/proc", true), (inner.as_str(), true)];
            let offered = format!("/proc/self/fd/{}", empty.as_raw_fd());
            let Err(NoView::Refused(error)) = enter(&view(offered, &parts)) else { panic!() };
            let error = error.to_string();
            assert!(error.contains("mount the copy of") && error.contains(&inner), "{error}");
            assert_eq!(table(), before);
            // None, one of another kind, and one in which something is.
            for absent in ["/proc/self/fd/9999", "/proc/self/ns/net", "/proc/self/ns/mnt"] {
                assert!(enter(&view(absent.to_owned(), &parts[..2])).is_err());
                assert_eq!(table(), before);
            }
        });
    }

    #[test]
    fn where_it_cannot_be_entered_others_mounts_are_taken_away_as_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        let pins = path.join("pins").to_string_lossy().into_owned();
        std::fs::create_dir(&pins).unwrap();
        apart(|| {
            mount_bind(&pins, &pins).unwrap();
            let before = table();
            let rootfs = davit_proto::shim::Rootfs {
                target: path.to_string_lossy().into_owned(),
                hidden: vec![davit_proto::shim::Hidden {
                    point: pins.clone(),
                    ..Default::default()
                }],
                view: Some(view("/proc/self/fd/9999".to_owned(), &[("/", false)])),
                ..Default::default()
            };
            std::thread::scope(|scope| {
                let child = scope.spawn(|| {
                    crate::rootfs::leave_mounts_for(&rootfs).unwrap();
                    assert!(points().contains(&"/proc".to_owned()) && !points().contains(&pins));
                });
                child.join().unwrap();
            });
            assert_eq!(table(), before);
        });
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let refused = |empty: &str, parts: &[(&str, bool)]| {
            check(&view(empty.to_owned(), parts)).unwrap_err().to_string()
        };
        assert!(refused("fd", &[("/", false)]).contains("rootfs.view.empty"));
        assert!(refused("/fd", &[]).contains("rootfs.view.parts"));
        assert!(refused("/fd", &[("/proc", true)]).contains("rootfs.view.parts"));
        assert!(refused("/fd", &[("/", false), ("proc", true)]).contains("rootfs.view.parts.path"));
    }
}
