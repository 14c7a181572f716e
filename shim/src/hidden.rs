//! Mounts of the host's that an OCI runtime need not see: those of the other pods.
//!
//! Every call of one that makes a mount namespace copies all mounts that it sees, reads their list, and tears them down again, so each start would take the
//! longer the more pods there are. Runs in the child that has left the host's mounts; the host's own stay as they are. Which ones is the daemon's to say: it knows
//! what the container's volumes are.

use crate::error::{Invalid, checked_path};
use crate::rootfs::{RootfsError, at, keep_from_propagating};
use davit_proto::shim::Hidden;
use davit_sys::pin::is_mount;
use rustix::fs::CWD;
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change, move_mount,
    open_tree, unmount,
};
use std::path::Path;

/// Refuses what names no path, or would keep what isn't there.
pub(crate) fn check(hidden: &[Hidden]) -> Result<(), Invalid> {
    hidden.iter().try_for_each(|Hidden { point, keep }| {
        checked_path("rootfs.hidden.point", point)?;
        if keep.is_empty() {
            return Ok(());
        }
        checked_path("rootfs.hidden.keep", keep)?;
        if Path::new(keep) != Path::new(point) && Path::new(keep).starts_with(point) {
            return Ok(());
        }
        Err(Invalid::new("rootfs.hidden.keep", keep, "not below the point"))
    })
}

/// Takes the mounts away, but for the one that is kept of each. Where there is no mount, nothing is hidden.
pub(crate) fn hide(hidden: &[Hidden]) -> Result<(), RootfsError> {
    hidden.iter().filter(|hidden| there(&hidden.point)).try_for_each(one)
}

fn one(Hidden { point, keep }: &Hidden) -> Result<(), RootfsError> {
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let kept = (!keep.is_empty() && there(keep))
        .then(|| open_tree(CWD, keep.as_str(), clone))
        .transpose()
        .map_err(at("keep the mount at", keep))?;
    // What the point is mounted in may be shared with the host, where nothing is to be taken away.
    if let Some(above) = Path::new(point).parent() {
        keep_from_propagating(above)?;
    }
    // And so may the point be: `ip netns` makes it so whenever it likes. What goes below it would go from the host too.
    mount_change(point.as_str(), MountPropagationFlags::PRIVATE)
        .map_err(at("make private", point))?;
    unmount(point.as_str(), UnmountFlags::DETACH).map_err(at("hide the mounts at", point))?;
    let Some(kept) = kept else { return Ok(()) };
    let whole = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&kept, "", CWD, keep.as_str(), whole).map_err(at("mount again", keep))
}

/// Whether something is mounted right there.
fn there(path: &str) -> bool {
    is_mount(Path::new(path)).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use davit_sys::namespace::{Namespace, unshare};
    use rustix::mount::mount_bind;

    fn mounts(below: &Path) -> Vec<String> {
        let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        let below = points.filter_map(|point| Path::new(point).strip_prefix(below).ok());
        below.map(|rest| rest.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn one_of_them_is_kept_and_whoever_shares_the_mounts_keeps_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        let text = |name: &str| path.join(name).to_string_lossy().into_owned();
        for name in ["deep/pins/a", "deep/pins/b", "plain"] {
            std::fs::create_dir_all(path.join(name)).unwrap();
        }
        // A way through a link: what is mounted above is not what the path's words say.
        let elsewhere = tempfile::tempdir().unwrap();
        let link = elsewhere.path().join("link");
        std::os::unix::fs::symlink(path.join("deep"), &link).unwrap();
        let by_link = |name: &str| link.join(name).to_string_lossy().into_owned();
        std::thread::scope(|scope| {
            let host = scope.spawn(|| {
                unshare(Namespace::Mount).unwrap();
                let whole = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
                mount_change("/", whole).unwrap();
                mount_bind(&path, &path).unwrap();
                // Apart from what is above it, whose peers would get all of this a second time.
                mount_change(&path, MountPropagationFlags::PRIVATE).unwrap();
                mount_change(&path, MountPropagationFlags::SHARED).unwrap();
                let pins = path.join("deep/pins");
                mount_bind(&pins, &pins).unwrap();
                // Apart from what is above, and shared: as `ip netns` has it, and agents that watch the directory from a container.
                mount_change(&pins, MountPropagationFlags::PRIVATE).unwrap();
                mount_change(&pins, MountPropagationFlags::SHARED).unwrap();
                for name in ["deep/pins/a", "deep/pins/b"] {
                    mount_bind(path.join(name), path.join(name)).unwrap();
                }
                let before = mounts(&path);
                assert_eq!(before, ["", "deep/pins", "deep/pins/a", "deep/pins/b"]);
                std::thread::scope(|scope| {
                    let child = scope.spawn(|| {
                        unshare(Namespace::Mount).unwrap();
                        let hidden = [
                            Hidden { point: text("plain"), keep: String::new() },
                            Hidden { point: by_link("pins"), keep: by_link("pins/b") },
                        ];
                        hide(&hidden).unwrap();
                        assert_eq!(mounts(&path), ["", "deep/pins/b"]);
                        assert!(path.join("deep/pins/a").is_dir(), "the directories are the same");
                    });
                    child.join().unwrap();
                });
                assert_eq!(mounts(&path), before, "the host's own mounts were changed");
            });
            host.join().unwrap();
        });
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let hidden = |point: &str, keep: &str| {
            check(&[Hidden { point: point.to_owned(), keep: keep.to_owned() }])
                .map_err(|invalid| invalid.to_string())
        };
        assert_eq!(hidden("/run/netns", "/run/netns/a"), Ok(()));
        assert_eq!(hidden("/run/netns", ""), Ok(()));
        for (point, keep) in [
            ("run", ""),
            ("", ""),
            ("/run/netns", "/run/netns"),
            ("/run/netns", "/run/other"),
            ("/run/netns", "netns"),
        ] {
            assert!(hidden(point, keep).unwrap_err().contains("rootfs.hidden."), "{point} {keep}");
        }
    }
}
