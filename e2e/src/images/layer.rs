//! A layer as an archive.
//!
//! Owns the bytes of the tar format as far as other tools refuse to write them: names with `..` or a leading `/`, entries twice,
//! hard links to anything. [`Layer`] writes its entries in the order given and checks nothing; what is meant to be well made
//! comes from [`super::Tree`].

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use tar::{EntryType, Header};

/// Modification time of all that is made here: 2024-01-01, as no clock may be read.
const MTIME: u64 = 1_704_067_200;

/// The longest name that fits the header itself.
const NAME_MAX: usize = 100;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file with this content.
    File(Vec<u8>),
    /// A symbolic link to this.
    Symlink(String),
    /// A hard link to the entry of this name.
    HardLink(String),
    /// A character device.
    Char {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    Block {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// One entry of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name, as it stands in the archive.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Extended attributes.
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

impl Entry {
    /// An entry of root's with these permissions.
    #[must_use]
    pub fn new(path: &str, kind: Kind, mode: u32) -> Self {
        Self { path: path.to_owned(), kind, mode, uid: 0, gid: 0, xattrs: BTreeMap::new() }
    }
}

/// A layer in the making.
#[derive(Debug, Clone, Default)]
pub struct Layer {
    entries: Vec<Entry>,
}

impl Layer {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry as it is.
    pub fn entry(&mut self, entry: Entry) -> &mut Self {
        self.entries.push(entry);
        self
    }

    /// Adds a directory, 0755.
    pub fn directory(&mut self, path: &str) -> &mut Self {
        self.entry(Entry::new(path, Kind::Directory, 0o755))
    }

    /// Adds a file, 0644.
    pub fn file(&mut self, path: &str, content: impl Into<Vec<u8>>) -> &mut Self {
        self.entry(Entry::new(path, Kind::File(content.into()), 0o644))
    }

    /// Adds a file, 0755.
    pub fn program(&mut self, path: &str, content: impl Into<Vec<u8>>) -> &mut Self {
        self.entry(Entry::new(path, Kind::File(content.into()), 0o755))
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> &mut Self {
        self.entry(Entry::new(path, Kind::Symlink(target.to_owned()), 0o777))
    }

    /// Adds a hard link.
    pub fn hard_link(&mut self, path: &str, target: &str) -> &mut Self {
        self.entry(Entry::new(path, Kind::HardLink(target.to_owned()), 0o755))
    }

    /// Adds a whiteout: `path` of the layers below is gone.
    pub fn whiteout(&mut self, path: &str) -> &mut Self {
        let (dir, name) = path.rsplit_once('/').map_or(("", path), |(dir, name)| (dir, name));
        let slash = if dir.is_empty() { "" } else { "/" };
        self.file(&format!("{dir}{slash}.wh.{name}"), "")
    }

    /// Adds an opaque mark: nothing of the layers below shows in `dir`.
    pub fn opaque(&mut self, dir: &str) -> &mut Self {
        self.file(&format!("{dir}/.wh..wh..opq"), "")
    }

    /// The archive.
    ///
    /// # Errors
    /// If an attribute cannot be written down.
    pub fn archive(&self) -> Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        for entry in &self.entries {
            append(&mut tar, entry).with_context(|| format!("archive {:?}", entry.path))?;
        }
        tar.into_inner().context("finish the archive")
    }
}

fn append(tar: &mut tar::Builder<Vec<u8>>, entry: &Entry) -> Result<()> {
    if !entry.xattrs.is_empty() {
        let keys: Vec<(String, &[u8])> = entry
            .xattrs
            .iter()
            .map(|(name, value)| (format!("SCHILY.xattr.{name}"), value.as_slice()))
            .collect();
        tar.append_pax_extensions(keys.iter().map(|(key, value)| (key.as_str(), *value)))?;
    }
    let mut header = Header::new_gnu();
    header.set_mtime(MTIME);
    header.set_mode(entry.mode);
    header.set_uid(entry.uid);
    header.set_gid(entry.gid);
    let empty: &[u8] = &[];
    let (kind, link, data) = match &entry.kind {
        Kind::Directory => (EntryType::Directory, None, empty),
        Kind::File(content) => (EntryType::Regular, None, content.as_slice()),
        Kind::Symlink(target) => (EntryType::Symlink, Some(target), empty),
        Kind::HardLink(target) => (EntryType::Link, Some(target), empty),
        Kind::Char { .. } => (EntryType::Char, None, empty),
        Kind::Block { .. } => (EntryType::Block, None, empty),
        Kind::Fifo => (EntryType::Fifo, None, empty),
    };
    if let Kind::Char { major, minor } | Kind::Block { major, minor } = entry.kind {
        header.set_device_major(major)?;
        header.set_device_minor(minor)?;
    }
    header.set_entry_type(kind);
    header.set_size(u64::try_from(data.len())?);
    if let Some(link) = link {
        set_link(tar, &mut header, link)?;
    }
    set_name(tar, &mut header, &entry.path)?;
    header.set_cksum();
    tar.append(&header, data)?;
    Ok(())
}

/// The crate's own setters refuse `..` and make absolute names relative: so the field is written here.
fn set_name(tar: &mut tar::Builder<Vec<u8>>, header: &mut Header, name: &str) -> Result<()> {
    if name.len() > NAME_MAX {
        append_long(tar, EntryType::GNULongName, name)?;
    }
    fill(&mut header.as_old_mut().name, name);
    Ok(())
}

fn set_link(tar: &mut tar::Builder<Vec<u8>>, header: &mut Header, name: &str) -> Result<()> {
    if name.len() > NAME_MAX {
        append_long(tar, EntryType::GNULongLink, name)?;
    }
    fill(&mut header.as_old_mut().linkname, name);
    Ok(())
}

fn fill(field: &mut [u8; NAME_MAX], text: &str) {
    for (place, byte) in field.iter_mut().zip(text.bytes()) {
        *place = byte;
    }
}

fn append_long(tar: &mut tar::Builder<Vec<u8>>, kind: EntryType, name: &str) -> Result<()> {
    let mut header = Header::new_gnu();
    fill(&mut header.as_old_mut().name, "././@LongLink");
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    let mut data = name.as_bytes().to_vec();
    data.push(0);
    header.set_size(u64::try_from(data.len())?);
    header.set_cksum();
    tar.append(&header, data.as_slice())?;
    Ok(())
}
