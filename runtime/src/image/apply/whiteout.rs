//! How a layer says that something of the layers below is gone, in an archive and on disk.
//!
//! In an archive: an empty file `.wh.NAME` hides NAME, `.wh..wh..opq` hides all that its directory had. On disk, for overlayfs: a
//! character device 0:0 under that name, and an extended attribute of the directory.

use super::ApplyError;
use super::entry::EntryPath;
use rustix::fs::{FileType, Stat};

const PREFIX: &[u8] = b".wh.";
const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";
/// Of a directory that hides what lower layers have in it; its value is [`OPAQUE_YES`].
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";
pub(crate) const OPAQUE_YES: &[u8] = b"y";

/// What an entry's name hides.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Whiteout<'a> {
    None,
    Opaque,
    Hides(&'a [u8]),
}

impl<'a> Whiteout<'a> {
    /// # Errors
    /// Names that begin as whiteouts do and are none: AUFS's own files, `.wh.` alone, one that hides `.` or `..`, and
    /// entries below a whiteout.
    pub(super) fn of(path: &'a EntryPath) -> Result<Self, ApplyError> {
        let wrong = |reason| Err(ApplyError::Whiteout { path: path.name(), reason });
        let (parent, last) = path.split();
        if parent.split(|byte| *byte == b'/').any(|part| part.starts_with(PREFIX)) {
            return wrong("has something below it");
        }
        if last == OPAQUE_MARKER {
            return Ok(Self::Opaque);
        }
        match last.strip_prefix(PREFIX) {
            None => Ok(Self::None),
            Some(b"") => wrong("hides nothing"),
            Some(b"." | b"..") => wrong("hides a directory's own name or its parent's"),
            Some(hidden) if hidden.starts_with(PREFIX) => wrong("hides a whiteout"),
            Some(hidden) => Ok(Self::Hides(hidden)),
        }
    }
}

/// Whether this is a whiteout as overlayfs has them.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}
