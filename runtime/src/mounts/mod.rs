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
    /// nothing is left out, or this kernel can't list mounts one by one (before Linux 6.8).
    pub(crate) fn view(&self, unseen: &[Place], needed: &[PathBuf]) -> Option<View> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.update(&davit_sys::mounts::list().ok()?, unseen);
        let parts = choice::choose(&known, unseen, needed)?.into_iter();
        let parts =
            parts.map(|part| ViewPart { path: text(part.path), whole: part.whole }).collect();
        drop(known);
        Some(View { empty: self.empty()?, parts })
    }

    /// The file of the namespace without mounts, which lives as long as this daemon.
    fn empty(&self) -> Option<String> {
        let make = || {
            davit_sys::namespace::no_mounts()
                .inspect_err(|error| tracing::debug!(%error, "OCI runtimes see all mounts"))
                .ok()
        };
        let held = self.empty.get_or_init(make).as_ref()?;
        Some(format!("/proc/{}/fd/{}", std::process::id(), held.as_raw_fd()))
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
