//! The host's mounts, of which an OCI runtime gets to see some while it makes a container.
//!
//! Owns the namespace without mounts that shims copy, what is known of each mount of the host, and which of them are left out: other pods', and what may hang while nobody
//! needs it. Owns no decision whether anything may be left out for a container, which is [`crate::container`]'s, and mounts nothing.
//!
//! Whoever begins a mount namespace of the usual kind gets a copy of every mount of the host, has them in the list of mounts that he reads, and takes them off again: with two
//! mounts of each pod, and kubelets' volumes, that is most of what a start among many pods takes longer than a start alone.

mod choice;
mod known;

use davit_proto::shim::{View, ViewPart};
use known::Known;
use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

/// A directory that has a mount of each pod's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The directory, a mount itself.
    pub(crate) all: PathBuf,
    /// The pod's own, if it has one; it may be elsewhere.
    pub(crate) own: Option<PathBuf>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Mounts {
    empty: OnceLock<Option<OwnedFd>>,
    known: Mutex<Known>,
}

impl Mounts {
    /// What an OCI runtime is to see if it need not see what is in `unseen`, whose paths are real, but all that `needed` are on, and that is below them. `None`: all, as
    /// nothing is left out, or this kernel can't list mounts one by one (before Linux 6.8), or something about them is odd.
    pub(crate) fn view(&self, unseen: &[Place], needed: &[PathBuf]) -> Option<View> {
        // Before the lock: one of them may be a share that hangs.
        let points: Vec<PathBuf> = needed.iter().map(|path| point(path)).collect::<Option<_>>()?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.update(&davit_sys::mounts::list().ok()?, unseen).is_err() || known.unbindable > 0 {
            return None;
        }
        let parts = choice::choose(&known, unseen, needed)?;
        let shown = |point: &PathBuf| parts.iter().any(|part| part.shows(point));
        if !points.iter().all(shown) {
            // A mount keeps its number when it is moved, or when a directory above it is renamed.
            *known = Known::default();
            return None;
        }
        let part = |part: choice::Part<'_>| {
            Some(ViewPart { path: part.path.to_str()?.to_owned(), whole: part.whole })
        };
        let parts = parts.into_iter().map(part).collect::<Option<_>>()?;
        drop(known);
        Some(View { empty: self.empty()?, parts })
    }

    /// The file of the namespace without mounts, which lives as long as this daemon.
    fn empty(&self) -> Option<String> {
        let make = || {
            // In a user namespace the host's mounts may be locked to what is mounted on them.
            let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            open_tree(CWD, "/", clone)
                .map_err(std::io::Error::from)
                .and_then(|_copy| davit_sys::namespace::no_mounts())
                .inspect_err(|error| tracing::debug!(%error, "OCI runtimes see all mounts"))
                .ok()
        };
        let held = self.empty.get_or_init(make).as_ref()?;
        Some(format!("/proc/{}/fd/{}", std::process::id(), held.as_raw_fd()))
    }
}

/// Where the mount is on which this path is, as the kernel has it now. `None` if that can't be said.
fn point(path: &Path) -> Option<PathBuf> {
    let mount = davit_sys::mounts::look(davit_sys::mounts::number_at(path).ok()?).ok()?;
    mount.bindable.then_some(mount.point)
}

#[cfg(test)]
mod tests {
    use super::*;
    use davit_sys::namespace::{Namespace, unshare};
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

    #[test]
    fn what_was_moved_by_a_rename_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        let (pins, data) = (path.join("pins"), path.join("data"));
        std::fs::create_dir(&pins).unwrap();
        std::fs::create_dir_all(data.join("volume")).unwrap();
        let work = || {
            unshare(Namespace::Mount).unwrap();
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount_change("/", private).unwrap();
            mount("x", data.join("volume"), "tmpfs", MountFlags::empty(), None).unwrap();
            let mounts = Mounts::default();
            let unseen = [Place { all: pins.clone(), own: None }];
            let seen = |volume: &Path| {
                let view = mounts.view(&unseen, &[volume.to_owned()])?;
                Some(view.parts.iter().any(|part| Path::new(&part.path) == volume))
            };
            assert_eq!(seen(&data.join("volume")), Some(true));
            std::fs::rename(&data, path.join("renamed")).unwrap();
            // All is seen for once, and known again then.
            assert_eq!(seen(&path.join("renamed/volume")), None);
            assert_eq!(seen(&path.join("renamed/volume")), Some(true));
            let odd = MountPropagationFlags::UNBINDABLE;
            mount_change(path.join("renamed/volume"), odd).unwrap();
            assert_eq!(seen(&path.join("renamed/volume")), None);
            assert_eq!(seen(&path.join("gone")), None);
        };
        std::thread::scope(|scope| scope.spawn(work).join().unwrap());
    }
}
