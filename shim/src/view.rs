//! The mounts that an OCI runtime gets to see: copies of those that it needs, in a copy of a namespace that has none.
//!
//! The other way ([`crate::hidden`]) copies all of the host's mounts first, and takes many of them off again. Which ones are needed is the daemon's to say. All of the
//! copies are private: what is mounted on them goes to nobody, the host least of all.

use crate::error::{Invalid, checked_path};
use crate::rootfs::{RootfsError, at};
use davit_proto::shim::{View, ViewPart};
use davit_sys::mount::make_private;
use davit_sys::namespace::{Namespace, unshare};
use davit_sys::pin::is_mount;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::process::{chroot, fchdir};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

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

/// Leaves the caller's mount namespace for one that has these mounts only. If that fails the caller is where it was.
pub(crate) fn enter(view: &View) -> Result<(), RootfsError> {
    let (own, empty) = (open(OWN)?, open(&view.empty)?);
    let parts: Vec<(OwnedFd, &str)> =
        view.parts.iter().filter(|part| there(&part.path)).map(copy).collect::<Result<_, _>>()?;
    join(&empty, &view.empty)?;
    let made = unshare(Namespace::Mount)
        .map_err(at("copy the mounts of", &view.empty))
        .and_then(|()| attach(&parts));
    if made.is_err() {
        join(&own, OWN)?;
    }
    made
}

fn open(namespace: &str) -> Result<OwnedFd, RootfsError> {
    rustix::fs::open(namespace, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(at("open the mount namespace", namespace))
}

fn join(namespace: &OwnedFd, name: &str) -> Result<(), RootfsError> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))
        .map_err(at("join the mount namespace", name))
}

/// Whether a mount can be reached there: it may be gone since the daemon looked, or lie below another one.
fn there(path: &str) -> bool {
    is_mount(Path::new(path)).unwrap_or(false)
}

fn copy(part: &ViewPart) -> Result<(OwnedFd, &str), RootfsError> {
    let ViewPart { path, whole } = part;
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_NO_AUTOMOUNT;
    flags.set(OpenTreeFlags::AT_RECURSIVE, *whole);
    let copied = open_tree(CWD, path.as_str(), flags).map_err(at("copy the mount at", path))?;
    make_private(copied.as_fd()).map_err(at("make private the copy of", path))?;
    Ok((copied, path))
}

/// The root above the empty one, the others on it.
fn attach(parts: &[(OwnedFd, &str)]) -> Result<(), RootfsError> {
    for (number, (copied, path)) in parts.iter().enumerate() {
        let whole = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(copied, "", CWD, *path, whole).map_err(at("mount the copy of", path))?;
        if number == 0 {
            fchdir(copied).and_then(|()| chroot(".")).map_err(at("make a root of", path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use davit_sys::namespace::no_mounts;
    use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
    use std::os::fd::AsRawFd as _;

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
            let error = enter(&view(offered, &parts)).unwrap_err().to_string();
            assert!(error.contains("mount the copy of") && error.contains(&inner), "{error}");
            assert_eq!(table(), before);
            for absent in ["/proc/self/fd/9999", "/proc/self/ns/net"] {
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
