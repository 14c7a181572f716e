//! Control groups: which hierarchies the host has, what a pod's is called, and making, ending and removing it.
//!
//! Owns the parents of containers' cgroups where nobody else makes them (crictl, tests, davit's own); the kubelet makes its pods'
//! itself, and OCI runtimes make each container's below. Invariant: only what [`Cgroups::ensure`] said it made is ever removed, and what is empty below that.
//! Keeps no state: the list of what was made belongs into the pod's record.
//!
//! ```text
//! ensure ──made: [..]──► (recorded) ──► containers come and go ──► remove(made)
//!    └─ failed: what it made is gone again
//! ```

pub(crate) mod detail;
mod group;
mod kill;
mod layout;
mod limit;
mod manage;
mod moves;
pub(crate) mod usage;

pub use group::{Driver, Group, InvalidGroup, default_parent};
pub use layout::{Hierarchy, Layout, LayoutError, Version};
pub use manage::{Cgroups, Ensured};
pub(crate) use moves::Moves;

use std::path::PathBuf;

#[cfg(test)]
mod tests;

/// Why a cgroup could not be made, filled or removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A file of the kernel refuses.
    #[error("{verb} {}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// systemd does not do as it is told.
    #[error("{verb} {slice}: {reason}")]
    Systemd {
        /// What was asked.
        verb: &'static str,
        /// Of which slice.
        slice: String,
        /// Its answer.
        reason: String,
    },
    /// Processes or cgroups are still in it.
    #[error("remove {}: still in use after {waited_ms} ms", path.display())]
    Busy {
        /// Which.
        path: PathBuf,
        /// For how long it was tried.
        waited_ms: u64,
    },
    /// A record names what davit can't have made.
    #[error("remove {}: not below a cgroup hierarchy", path.display())]
    Foreign {
        /// Which.
        path: PathBuf,
    },
    /// Several at once.
    #[error("{first}, and {more} more errors")]
    Several {
        /// The first.
        #[source]
        first: Box<Self>,
        /// How many besides.
        more: usize,
    },
}

/// Whether the process runs, and in the group or below.
///
/// # Errors
/// What keeps it from being looked at.
pub(crate) fn runs_in(pid: u32, group: &Group) -> std::io::Result<bool> {
    kill::runs_in(pid, group.path())
}

impl CgroupError {
    /// One error for all of `errors`, or none.
    fn of_all(mut errors: Vec<Self>) -> Result<(), Self> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            count => {
                let first = Box::new(errors.remove(0));
                Err(Self::Several { first, more: count.saturating_sub(1) })
            }
        }
    }
}
