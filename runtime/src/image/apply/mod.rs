//! Layers: from an archive's bytes to a directory that overlayfs can stack.
//!
//! Owns the reading of the archive ([`archive`]) and the writing of the tree ([`tree`]); owns neither download nor commit, and
//! knows nothing of other layers. The archive is hostile: every name is resolved by the kernel below the layer's own root
//! (`openat2` with `RESOLVE_BENEATH`), every count and size has a bound, and what cannot be done exactly is refused with the
//! entry's name rather than done nearly.
//!
//! What is decided here and differs among runtimes:
//! - A name that has `..` is refused, though some strip it. `./x` is `x`, and so is `/x`: an absolute name, a hard link's target too,
//!   begins at the layer's root.
//! - A parent that is a symbolic link of the same layer is followed if it stays inside the layer by itself (a relative link);
//!   one that would leave it, an absolute one included, is refused. Links of *lower* layers are not seen: a layer that writes
//!   below one gets a directory of its own, which hides the link, as overlayfs has it.
//! - A hard link's target must be in the same layer.
//! - An entry that is there twice counts as its last occurrence; a directory that is named twice keeps its contents.
//! - A whiteout hides what lower layers have, never what its own layer has, whichever comes first in the archive.
//! - Extended attributes: `user.*` (not `user.overlay.*`), `security.capability` and POSIX ACLs are kept. All others say something
//!   about the machine where the archive was made, or would be orders to overlayfs, and are left out.

mod archive;
mod entry;
mod pax;
mod sparse;
mod survey;
mod tree;
mod whiteout;
mod write;

pub(crate) use survey::{Shape, Survey, survey};
pub(crate) use tree::Applied;
pub(crate) use whiteout::{OPAQUE, is_whiteout};

use super::Limits;
use archive::Archive;
use entry::EntryPath;
use rustix::fd::OwnedFd;
use std::io::BufRead;
use std::path::PathBuf;
use tree::Tree;

/// Why an archive is no layer. Names are the archive's, shown escaped.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The archive's own structure is broken.
    #[error("archive is broken at byte {offset}: {reason}")]
    Archive {
        /// Of the unpacked archive.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// The name or a link's target has `..`.
    #[error("entry {path} climbs out by `..`")]
    DotDot {
        /// As the archive has it.
        path: Name,
    },
    /// A parent of the entry is a symbolic link that leads out of the layer, or in circles.
    #[error("entry {path} leaves the layer through a symbolic link")]
    SymlinkEscape {
        /// As the archive has it.
        path: Name,
    },
    /// A parent of the entry is no directory.
    #[error("entry {path} is below something that is no directory")]
    NotDirectory {
        /// As the archive has it.
        path: Name,
    },
    /// A name that no file can have.
    #[error("entry {path} has a name that {reason}")]
    BadName {
        /// As the archive has it.
        path: Name,
        /// What is wrong.
        reason: &'static str,
    },
    /// A hard link to nothing, to a directory, or to a whiteout.
    #[error("entry {path} is a hard link to {target}, which {reason}")]
    HardLink {
        /// As the archive has it.
        path: Name,
        /// As the archive has it.
        target: Name,
        /// What is wrong.
        reason: &'static str,
    },
    /// A whiteout that hides nothing that can be.
    #[error("entry {path} is a whiteout that {reason}")]
    Whiteout {
        /// As the archive has it.
        path: Name,
        /// What is wrong.
        reason: &'static str,
    },
    /// A value that cannot be kept.
    #[error("entry {path} has {field} {value}, which cannot be kept")]
    Field {
        /// As the archive has it.
        path: Name,
        /// Which.
        field: &'static str,
        /// As the archive has it, escaped.
        value: String,
    },
    /// More than the limits allow.
    #[error("{what} is above the limit of {limit}, at entry {path}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How much there may be.
        limit: u64,
        /// Where it was reached.
        path: Name,
    },
    /// The stream ended in error: the download, or its decompression.
    #[error("read the layer")]
    Read(#[source] std::io::Error),
    /// The layer's directory could not be written.
    #[error("{operation} {path}")]
    Write {
        /// `create`, `write`, …
        operation: &'static str,
        /// The entry.
        path: Name,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl ApplyError {
    /// The fault is this machine's (a full disk, a missing permission), not the archive's.
    #[must_use]
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Write { .. })
    }
}

/// A name out of an archive, shown so that it cannot break a terminal or a log line, and cut.
#[derive(Clone, PartialEq, Eq)]
pub struct Name(Vec<u8>);

impl Name {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cut: Vec<u8> = self.0.iter().take(300).copied().collect();
        write!(f, "{:?}", String::from_utf8_lossy(&cut))
    }
}

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// Unpacks the archive into `root`, an empty directory; what has to be replaced on the way is moved to `junk`, another empty
/// directory of the same filesystem.
///
/// # Errors
/// [`ApplyError`]; `root` is then half-made and to be deleted.
pub(crate) fn apply(
    reader: impl BufRead,
    root: OwnedFd,
    junk: PathBuf,
    limits: &Limits,
) -> Result<Applied, ApplyError> {
    apply_diff(reader, root, junk, limits, &[])
}

/// The same, and then hides what lower layers have under the names `gone`, as whiteouts in the archive would.
///
/// # Errors
/// [`ApplyError`]; `root` is then half-made and to be deleted.
pub(crate) fn apply_diff(
    reader: impl BufRead,
    root: OwnedFd,
    junk: PathBuf,
    limits: &Limits,
    gone: &[String],
) -> Result<Applied, ApplyError> {
    let mut archive = Archive::new(reader, limits);
    let mut tree = Tree::new(root, junk, limits);
    while let Some(entry) = archive.next()? {
        tree.add(&entry, &mut archive)?;
    }
    archive.drain()?;
    for name in gone {
        tree.remove(&EntryPath::parse(name.as_bytes(), limits.path_bytes)?)?;
    }
    tree.finish()
}

#[cfg(test)]
mod tests;
