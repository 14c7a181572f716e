//! What is in an archive, without making any of it.
//!
//! Owns the walk over archives that are no layers: their members' names and kinds, and the contents of a few small ones. Each name is there once, and
//! all that the applier would refuse of a name or a header is refused here too.

use super::archive::Archive;
use super::entry::{Content, Entry, Kind};
use super::{ApplyError, Name};
use crate::image::Limits;
use std::collections::BTreeMap;
use std::io::BufRead;

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A regular file.
    File,
    Directory,
    /// A link, a device, a pipe.
    Other,
}

/// An archive's members.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// By name, without a leading `./` and a `/` at the end.
    pub(crate) members: BTreeMap<Vec<u8>, Shape>,
    /// The contents of those that were asked for and are there.
    pub(crate) kept: BTreeMap<&'static str, Vec<u8>>,
}

/// Walks over an archive to its end, and keeps the contents of the files `keep`, each with the bytes that it may have.
///
/// # Errors
/// [`ApplyError`], for what is wrong with the archive.
pub(crate) fn survey(
    reader: impl BufRead,
    limits: &Limits,
    keep: &[(&'static str, u64)],
) -> Result<Survey, ApplyError> {
    let mut archive = Archive::new(reader, limits);
    let mut found = Survey::default();
    while let Some(entry) = archive.next()? {
        let name = entry.path.bytes().to_vec();
        let wanted = keep.iter().find(|(wanted, _)| wanted.as_bytes() == name);
        if let (Some((wanted, limit)), Kind::Regular(content)) = (wanted, &entry.kind) {
            found.kept.insert(wanted, contents(&mut archive, &entry, content, *limit)?);
        }
        let shape = match entry.kind {
            Kind::Regular(_) => Shape::File,
            Kind::Directory => Shape::Directory,
            Kind::HardLink(_)
            | Kind::Symlink(_)
            | Kind::Fifo
            | Kind::Character { .. }
            | Kind::Block { .. } => Shape::Other,
        };
        if found.members.insert(name, shape).is_some() {
            return Err(ApplyError::BadName { path: entry.path.name(), reason: "is there twice" });
        }
    }
    archive.drain()?;
    Ok(found)
}

fn contents<R: BufRead>(
    archive: &mut Archive<'_, R>,
    entry: &Entry,
    content: &Content,
    limit: u64,
) -> Result<Vec<u8>, ApplyError> {
    let length = match content {
        Content::Whole(length) => *length,
        Content::Sparse { .. } => {
            return Err(ApplyError::Field {
                path: entry.path.name(),
                field: "type",
                value: "sparse".to_owned(),
            });
        }
    };
    if length > limit {
        let (what, path) = ("size", Name::new(entry.path.bytes()));
        return Err(ApplyError::Limit { what, limit, path });
    }
    let mut bytes = Vec::new();
    let mut left = length;
    while left > 0 {
        let part = archive.data(left)?;
        let read = part.len();
        bytes.extend_from_slice(part);
        archive.consume(read);
        left = left.saturating_sub(read as u64);
    }
    Ok(bytes)
}
