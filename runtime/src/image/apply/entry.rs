//! One entry of an archive, checked and free of the archive's many spellings.

use super::pax::Xattrs;
use super::sparse::Region;
use super::{ApplyError, Name};
use rustix::fs::Timespec;

/// What an entry is, with what only that kind has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Regular(Content),
    HardLink(EntryPath),
    Symlink(Vec<u8>),
    Directory,
    Fifo,
    Character { major: u32, minor: u32 },
    Block { major: u32, minor: u32 },
}

/// How a regular file's data lies in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// All of it, this many bytes.
    Whole(u64),
    /// Regions, and holes between them; the file's length.
    Sparse { regions: Vec<Region>, length: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) path: EntryPath,
    pub(super) kind: Kind,
    pub(super) metadata: Metadata,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Metadata {
    /// Permission bits, set-id and sticky ones included.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Timespec,
    pub(super) xattrs: Xattrs,
}

/// A name below the layer's root: no leading slash, no empty part, no `.`, no `..`; empty for the root itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct EntryPath(Vec<u8>);

impl EntryPath {
    /// A leading slash means the layer's root: some tools write all names so, some the targets of hard links.
    ///
    /// # Errors
    /// The name climbs, or is none.
    pub(super) fn parse(raw: &[u8], max: usize) -> Result<Self, ApplyError> {
        let path = || Name::new(raw);
        if raw.is_empty() {
            return Err(ApplyError::BadName { path: path(), reason: "is empty" });
        }
        if raw.len() > max {
            return Err(ApplyError::BadName { path: path(), reason: "is too long" });
        }
        if raw.contains(&0) {
            return Err(ApplyError::BadName { path: path(), reason: "has a zero byte" });
        }
        let mut clean = Vec::with_capacity(raw.len());
        for part in raw.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => continue,
                b".." => return Err(ApplyError::DotDot { path: path() }),
                part if part.len() > 255 => {
                    return Err(ApplyError::BadName {
                        path: path(),
                        reason: "has a part of more than 255 bytes",
                    });
                }
                part => {
                    if !clean.is_empty() {
                        clean.push(b'/');
                    }
                    clean.extend_from_slice(part);
                }
            }
        }
        Ok(Self(clean))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn name(&self) -> Name {
        Name(if self.is_root() { b"/".to_vec() } else { self.0.clone() })
    }

    /// What the names of all that is below this directory begin with, and nothing else's.
    pub(super) fn below(&self) -> Self {
        let mut prefix = self.0.clone();
        prefix.push(b'/');
        Self(prefix)
    }

    /// The parent's bytes and the last part; the root has the empty last part.
    pub(super) fn split(&self) -> (&[u8], &[u8]) {
        let at = self.0.iter().rposition(|byte| *byte == b'/');
        match at.and_then(|at| Some((self.0.get(..at)?, self.0.get(at + 1..)?))) {
            Some(parts) => parts,
            None => (b"", &self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_parsed_name_stays_below_the_root(raw in proptest::collection::vec(
            prop_oneof![Just(b'/'), Just(b'.'), Just(0_u8), any::<u8>()], 0..40)
        ) {
            if let Ok(path) = EntryPath::parse(&raw, 4095) {
                prop_assert!(!path.bytes().starts_with(b"/") && !path.bytes().contains(&0));
                for part in path.bytes().split(|byte| *byte == b'/').filter(|_| !path.is_root()) {
                    prop_assert!(!part.is_empty() && part != b"." && part != b"..");
                }
                let (parent, last) = path.split();
                let mut whole = parent.to_vec();
                if !parent.is_empty() { whole.push(b'/'); }
                whole.extend_from_slice(last);
                prop_assert_eq!(whole, path.bytes());
            }
        }
    }
}
