//! A file tree that becomes a well-made layer.
//!
//! Owns the promises of such a layer: each path once, each directory before what is in it, sorted, no time of day. Files come from
//! memory or are copied from a directory of unpacked packages.

use super::layer::{Entry, Kind, Layer};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

/// Paths (relative, without `.` or `..`) with what they are.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    entries: BTreeMap<String, Entry>,
}

impl Tree {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts an entry in, in the place of an earlier one of this path, and the directories above it.
    pub fn put(&mut self, entry: Entry) -> &mut Self {
        let mut above = String::new();
        let parts: Vec<&str> = entry.path.split('/').collect();
        for part in parts.iter().take(parts.len().saturating_sub(1)) {
            if !above.is_empty() {
                above.push('/');
            }
            above.push_str(part);
            let directory = || Entry::new(&above, Kind::Directory, 0o755);
            self.entries.entry(above.clone()).or_insert_with(directory);
        }
        self.entries.insert(entry.path.clone(), entry);
        self
    }

    /// Puts a directory in.
    pub fn directory(&mut self, path: &str, mode: u32) -> &mut Self {
        self.put(Entry::new(path, Kind::Directory, mode))
    }

    /// Puts a file in.
    pub fn file(&mut self, path: &str, content: impl Into<Vec<u8>>, mode: u32) -> &mut Self {
        self.put(Entry::new(path, Kind::File(content.into()), mode))
    }

    /// Puts a symbolic link in.
    pub fn symlink(&mut self, path: &str, target: &str) -> &mut Self {
        self.put(Entry::new(path, Kind::Symlink(target.to_owned()), 0o777))
    }

    /// Puts a hard link in, to a path that is no hard link itself.
    pub fn hard_link(&mut self, path: &str, target: &str) -> &mut Self {
        self.put(Entry::new(path, Kind::HardLink(target.to_owned()), 0o755))
    }

    /// Whether the path is there.
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        self.entries.contains_key(path)
    }

    /// Copies the file at `source`, its symbolic links followed, to `path`.
    ///
    /// # Errors
    /// If it is no file or cannot be read.
    pub fn copy_file(&mut self, source: &Path, path: &str) -> Result<&mut Self> {
        let metadata =
            std::fs::metadata(source).with_context(|| format!("read {}", source.display()))?;
        if !metadata.is_file() {
            bail!("{} is no file", source.display());
        }
        let content =
            std::fs::read(source).with_context(|| format!("read {}", source.display()))?;
        Ok(self.file(path, content, metadata.permissions().mode() & 0o7777))
    }

    /// Copies what is in `source` (files, directories, symbolic links; owners and permissions too) to below `path`.
    ///
    /// # Errors
    /// If anything there cannot be read.
    pub fn copy_directory(&mut self, source: &Path, path: &str) -> Result<&mut Self> {
        for entry in
            std::fs::read_dir(source).with_context(|| format!("list {}", source.display()))?
        {
            let entry = entry.with_context(|| format!("list {}", source.display()))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let below = if path.is_empty() { name } else { format!("{path}/{name}") };
            let metadata =
                entry.metadata().with_context(|| format!("read {}", entry.path().display()))?;
            let mode = metadata.permissions().mode() & 0o7777;
            let kind = if metadata.is_dir() {
                Kind::Directory
            } else if metadata.is_symlink() {
                Kind::Symlink(std::fs::read_link(entry.path())?.to_string_lossy().into_owned())
            } else {
                Kind::File(std::fs::read(entry.path())?)
            };
            let directory = kind == Kind::Directory;
            let owner = (u64::from(metadata.uid()), u64::from(metadata.gid()));
            self.put(Entry { uid: owner.0, gid: owner.1, ..Entry::new(&below, kind, mode) });
            if directory {
                self.copy_directory(&entry.path(), &below)?;
            }
        }
        Ok(self)
    }

    /// The layer, sorted by path; hard links come last, so that each finds its target.
    #[must_use]
    pub fn layer(&self) -> Layer {
        let mut layer = Layer::new();
        let link = |entry: &&Entry| matches!(entry.kind, Kind::HardLink(_));
        let (links, others): (Vec<&Entry>, Vec<&Entry>) = self.entries.values().partition(link);
        for entry in others.into_iter().chain(links) {
            let mut entry = entry.clone();
            if entry.kind == Kind::Directory {
                entry.path.push('/');
            }
            layer.entry(entry);
        }
        layer
    }
}
