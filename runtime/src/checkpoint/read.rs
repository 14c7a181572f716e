//! An archive that is to be restored: opened, walked over to its end, and found to be one, before anything is made of it.
//!
//! Owns which entries there must be and may be. The file stays open, so that what was looked at is what is unpacked; only root can write it, which
//! is demanded, since CRIU's images decide what the restored processes may do, and nobody can check those.

use super::ArchiveError;
use super::dump::{self, Dump};
use crate::image::{Limits, Shape, Survey, apply_archive, apply_diff, survey};
use crate::store::{StoreError, new_dir};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{BufReader, Seek as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Where CRIU's images are, and one that it always writes.
const IMAGES: &str = "checkpoint";
const INVENTORY: &str = "checkpoint/inventory.img";
const DIFF: &str = "rootfs-diff.tar";
const DELETED: &str = "deleted.files";
/// All else that davit puts in; none of it is needed to restore.
const KNOWN: [&str; 3] = ["spec.dump", "config.dump", "dump.log"];
/// Bytes of `davit.dump`: a call of the interface that could ask for such a container has no more.
const DUMP_MAX: u64 = 16 << 20;
/// Bytes of `deleted.files`.
const DELETED_MAX: u64 = 64 << 20;
/// CRIU writes some files for each process.
const ENTRIES_MAX: u64 = 200_000;
const BUFFER: usize = 128 << 10;

/// See the module.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    file: File,
    dump: Dump,
    deleted: Vec<String>,
}

/// An archive's parts, unpacked.
#[derive(Debug)]
pub(crate) struct Unpacked {
    /// CRIU's images.
    pub(crate) images: PathBuf,
    /// What the container had changed in its root.
    diff: PathBuf,
    /// An empty directory, for CRIU's log.
    pub(crate) work: PathBuf,
    junk: PathBuf,
}

impl Unpacked {
    fn below(directory: &Path) -> Self {
        let whole = directory.join("archive");
        let (images, diff) = (whole.join(IMAGES), whole.join(DIFF));
        Self { images, diff, work: directory.join("work"), junk: directory.join("junk") }
    }
}

impl Archive {
    /// Opens it and looks at all of it. Blocks.
    ///
    /// # Errors
    /// [`ArchiveError`] says what is wrong with it.
    pub fn open(path: &Path) -> Result<Self, ArchiveError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let read = |source| ArchiveError::Open { path: path.to_owned(), source };
        let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| read(e.into()))?;
        let file = File::from(file);
        let metadata = file.metadata().map_err(read)?;
        let refused = |problem| ArchiveError::File { path: path.to_owned(), problem };
        if !metadata.is_file() {
            return Err(refused("is no regular file"));
        }
        if metadata.uid() != 0 || metadata.mode() & 0o022 != 0 {
            return Err(refused("could be written by others than root"));
        }
        let limits = limits();
        let keep = [(dump::NAME, DUMP_MAX), (DELETED, DELETED_MAX)];
        let survey = survey(BufReader::with_capacity(BUFFER, &file), &limits, &keep)
            .map_err(|source| ArchiveError::Tar { path: path.to_owned(), source })?;
        check_entries(path, &survey)?;
        let missing = |entry| ArchiveError::Missing { path: path.to_owned(), entry };
        let kept = |entry| survey.kept.get(entry).ok_or_else(|| missing(entry));
        let dump = Dump::parse(path, kept(dump::NAME)?)?;
        let deleted: Vec<String> = serde_json::from_slice(kept(DELETED)?).map_err(|source| {
            ArchiveError::Json { path: path.to_owned(), entry: DELETED, source }
        })?;
        let deleted = deleted.into_iter().map(|name| below_root(path, &name));
        let deleted = deleted.collect::<Result<_, _>>()?;
        Ok(Self { path: path.to_owned(), file, dump, deleted })
    }

    /// What it says of the container.
    #[must_use]
    pub fn dump(&self) -> &Dump {
        &self.dump
    }

    /// Unpacks it into `directory`, which is empty. Blocks.
    pub(crate) fn unpack(&self, directory: &Path) -> Result<Unpacked, ArchiveError> {
        let unpacked = Unpacked::below(directory);
        let whole = directory.join("archive");
        for path in [&whole, &unpacked.work, &unpacked.junk] {
            new_dir(path, 0o700)?;
        }
        let mut file = &self.file;
        file.rewind().map_err(|source| ArchiveError::Open { path: self.path.clone(), source })?;
        let reader = BufReader::with_capacity(BUFFER, file);
        apply_archive(reader, open_dir(&whole)?, unpacked.junk.clone(), &limits())
            .map_err(|source| ArchiveError::Tar { path: self.path.clone(), source })?;
        Ok(unpacked)
    }

    /// Puts what the container had changed into `upper`, its new writable layer, which is empty. Blocks.
    pub(crate) fn apply_diff(&self, unpacked: &Unpacked, upper: &Path) -> Result<(), ArchiveError> {
        let failed = |source| ArchiveError::Diff { path: self.path.clone(), source };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(&unpacked.diff, flags, Mode::empty())
            .map_err(|errno| StoreError::io("open", &unpacked.diff)(errno.into()))?;
        let reader = BufReader::with_capacity(BUFFER, File::from(file));
        let junk = unpacked.junk.join("diff");
        new_dir(&junk, 0o700)?;
        apply_diff(reader, open_dir(upper)?, junk, &Limits::default(), &self.deleted)
            .map_err(failed)
            .map(drop)
    }
}

/// The outer archive's; those of the diff are a layer's.
fn limits() -> Limits {
    Limits { entries: ENTRIES_MAX, ..Limits::default() }
}

fn open_dir(path: &Path) -> Result<OwnedFd, StoreError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| StoreError::io("open", path)(errno.into()))
}

/// Every entry is one that davit writes, and those are there that are needed.
fn check_entries(path: &Path, survey: &Survey) -> Result<(), ArchiveError> {
    for (name, shape) in &survey.members {
        let text = String::from_utf8_lossy(name);
        let expected = match text.split_once('/') {
            _ if name == IMAGES.as_bytes() => Shape::Directory,
            Some((IMAGES, file)) if !file.contains('/') => Shape::File,
            None if is_known(&text) => Shape::File,
            Some(_) | None => {
                let entry = text.chars().take(200).collect();
                return Err(ArchiveError::Unknown { path: path.to_owned(), entry });
            }
        };
        if *shape != expected {
            let entry = text.chars().take(200).collect();
            return Err(ArchiveError::Kind { path: path.to_owned(), entry });
        }
    }
    let needed = [dump::NAME, DIFF, DELETED, INVENTORY];
    match needed.into_iter().find(|entry| !survey.members.contains_key(entry.as_bytes())) {
        Some(entry) => Err(ArchiveError::Missing { path: path.to_owned(), entry }),
        None => Ok(()),
    }
}

fn is_known(name: &str) -> bool {
    [dump::NAME, DIFF, DELETED].contains(&name) || KNOWN.contains(&name)
}

/// A deleted file's name as one below the root: the list has absolute ones.
fn below_root(path: &Path, name: &str) -> Result<String, ArchiveError> {
    let climbs = || name.split('/').any(|part| part == "..");
    match name.strip_prefix('/').filter(|rest| !rest.is_empty() && !climbs()) {
        Some(rest) => Ok(rest.to_owned()),
        None => Err(ArchiveError::Deleted {
            path: path.to_owned(),
            name: name.chars().take(200).collect(),
        }),
    }
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
