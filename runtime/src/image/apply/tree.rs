//! The layer's directory, while it grows.
//!
//! Owns every path resolution. A parent is opened below the root by the kernel and kept until something is replaced; all else
//! is done with that descriptor and a single name that no link can stand for.

mod parents;

use super::ApplyError;
use super::archive::Archive;
use super::entry::{Content, Entry, EntryPath, Kind, Metadata};
use super::whiteout::{OPAQUE, OPAQUE_YES, Whiteout, is_whiteout};
use super::write::{create, describe, describe_at, fill, times, wrote};
use crate::image::Limits;
use parents::resolve_error;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, Dev, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, XattrFlags,
};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::PathBuf;
use std::rc::Rc;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_XDEV);
/// What every disk filesystem of Linux rounds a file up to, by default.
const DISK_BLOCK: u64 = 4096;
const EPOCH: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// What has come of an archive.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Applied {
    /// On disk, in whole blocks.
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
    /// Directories that the archive has no entry for and things below them: relative names, the empty one for the root.
    pub(crate) implied: Vec<Vec<u8>>,
}

/// What is left to do for a directory when nothing is written into it any more.
struct Note {
    mtime: Timespec,
    origin: Origin,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// It has an entry.
    Named,
    /// Only things below it have.
    Implied,
}

pub(super) struct Tree<'a> {
    root: Rc<OwnedFd>,
    junk: PathBuf,
    junked: u64,
    limits: &'a Limits,
    /// The parent that was opened last: most entries are their predecessor's sibling.
    parent: Option<(Vec<u8>, Rc<OwnedFd>)>,
    directories: BTreeMap<EntryPath, Note>,
    name_bytes: usize,
    applied: Applied,
}

impl<'a> Tree<'a> {
    pub(super) fn new(root: OwnedFd, junk: PathBuf, limits: &'a Limits) -> Self {
        Self {
            root: Rc::new(root),
            junk,
            junked: 0,
            limits,
            parent: None,
            directories: BTreeMap::new(),
            name_bytes: 0,
            applied: Applied { inodes: 1, bytes: DISK_BLOCK, implied: Vec::new() },
        }
    }

    pub(super) fn add<R: BufRead>(
        &mut self,
        entry: &Entry,
        archive: &mut Archive<'_, R>,
    ) -> Result<(), ApplyError> {
        let path = &entry.path;
        if path.is_root() {
            return match entry.kind {
                Kind::Directory => {
                    describe(&self.root, &entry.metadata, path)?;
                    self.note(path, entry.metadata.mtime, Origin::Named)
                }
                Kind::Regular(_)
                | Kind::HardLink(_)
                | Kind::Symlink(_)
                | Kind::Fifo
                | Kind::Character { .. }
                | Kind::Block { .. } => Err(ApplyError::BadName {
                    path: path.name(),
                    reason: "is the root's, and is no directory",
                }),
            };
        }
        let whiteout = Whiteout::of(path)?;
        let (parent_path, name) = path.split();
        let parent = self.parent(parent_path, path)?;
        match (whiteout, &entry.kind) {
            (Whiteout::None, _) => self.make((&parent, name), entry, archive),
            (Whiteout::Opaque, Kind::Regular(_) | Kind::HardLink(_)) => opaque(&parent, path),
            (Whiteout::Hides(hidden), Kind::Regular(_) | Kind::HardLink(_)) => {
                self.hide(&parent, hidden, path)
            }
            (Whiteout::Opaque | Whiteout::Hides(_), _) => {
                Err(ApplyError::Whiteout { path: path.name(), reason: "is no file" })
            }
        }
    }

    /// Hides what lower layers have under this name.
    pub(super) fn remove(&mut self, path: &EntryPath) -> Result<(), ApplyError> {
        if path.is_root() {
            let reason = "is the root's, which can't be gone";
            return Err(ApplyError::BadName { path: path.name(), reason });
        }
        let (parent_path, name) = path.split();
        let parent = self.parent(parent_path, path)?;
        self.hide(&parent, name, path)
    }

    fn make<R: BufRead>(
        &mut self,
        (parent, name): (&Rc<OwnedFd>, &[u8]),
        entry: &Entry,
        archive: &mut Archive<'_, R>,
    ) -> Result<(), ApplyError> {
        let (path, metadata) = (&entry.path, &entry.metadata);
        match &entry.kind {
            Kind::Directory => self.directory(parent, name, path, metadata),
            Kind::HardLink(target) => self.hard_link(parent, name, path, target),
            Kind::Regular(content) => self.file((parent, name), content, entry, archive),
            Kind::Symlink(target) => {
                self.displace(parent, name, path)?;
                wrote(
                    rustix::fs::symlinkat(target.as_slice(), parent.as_fd(), name),
                    "create",
                    path,
                )?;
                self.applied.inodes += 1;
                describe_at(parent.as_fd(), name, metadata, path)
            }
            Kind::Fifo => self.node((parent, name), FileType::Fifo, 0, entry),
            Kind::Character { major, minor } => self.node(
                (parent, name),
                FileType::CharacterDevice,
                rustix::fs::makedev(*major, *minor),
                entry,
            ),
            Kind::Block { major, minor } => self.node(
                (parent, name),
                FileType::BlockDevice,
                rustix::fs::makedev(*major, *minor),
                entry,
            ),
        }
    }

    fn file<R: BufRead>(
        &mut self,
        (parent, name): (&Rc<OwnedFd>, &[u8]),
        content: &Content,
        entry: &Entry,
        archive: &mut Archive<'_, R>,
    ) -> Result<(), ApplyError> {
        self.displace(parent, name, &entry.path)?;
        let file = create(parent.as_fd(), name, &entry.path)?;
        let written = fill(&file, content, archive, &entry.path)?;
        describe(&file, &entry.metadata, &entry.path)?;
        wrote(
            rustix::fs::futimens(&file, &times(entry.metadata.mtime)),
            "set times of",
            &entry.path,
        )?;
        self.applied.inodes += 1;
        self.applied.bytes += written.next_multiple_of(DISK_BLOCK);
        Ok(())
    }

    fn node(
        &mut self,
        (parent, name): (&Rc<OwnedFd>, &[u8]),
        kind: FileType,
        device: Dev,
        entry: &Entry,
    ) -> Result<(), ApplyError> {
        let path = &entry.path;
        self.displace(parent, name, path)?;
        let mode = Mode::from_raw_mode(entry.metadata.mode);
        wrote(rustix::fs::mknodat(parent.as_fd(), name, kind, Mode::RUSR, device), "create", path)?;
        self.applied.inodes += 1;
        describe_at(parent.as_fd(), name, &entry.metadata, path)?;
        // Follows links, but what has this name is the node that was just made, where nobody else can write.
        wrote(
            rustix::fs::chmodat(parent.as_fd(), name, mode, AtFlags::empty()),
            "set mode of",
            path,
        )?;
        let times = times(entry.metadata.mtime);
        wrote(
            rustix::fs::utimensat(parent.as_fd(), name, &times, AtFlags::SYMLINK_NOFOLLOW),
            "set times of",
            path,
        )
    }

    fn directory(
        &mut self,
        parent: &Rc<OwnedFd>,
        name: &[u8],
        path: &EntryPath,
        metadata: &Metadata,
    ) -> Result<(), ApplyError> {
        let there = self.stat(parent, name, path)?;
        if there.as_ref().is_none_or(|stat| !is_directory(stat)) {
            self.make_directory(parent, name, path, there.as_ref())?;
        }
        let opened =
            rustix::fs::openat(parent.as_fd(), name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty());
        describe(&wrote(opened, "open", path)?, metadata, path)?;
        self.note(path, metadata.mtime, Origin::Named)
    }

    /// A new directory. One that takes the place of this layer's whiteout hides, as the whiteout did, what lower layers have.
    fn make_directory(
        &mut self,
        parent: &Rc<OwnedFd>,
        name: &[u8],
        path: &EntryPath,
        there: Option<&Stat>,
    ) -> Result<(), ApplyError> {
        self.displace_known(parent, name, path, there)?;
        wrote(rustix::fs::mkdirat(parent.as_fd(), name, Mode::RWXU), "create", path)?;
        self.applied.inodes += 1;
        self.applied.bytes += DISK_BLOCK;
        if there.is_some_and(is_whiteout) {
            let opened = rustix::fs::openat(
                parent.as_fd(),
                name,
                DIRECTORY | OFlags::NOFOLLOW,
                Mode::empty(),
            );
            opaque(&wrote(opened, "open", path)?, path)?;
        }
        Ok(())
    }

    fn hard_link(
        &mut self,
        parent: &Rc<OwnedFd>,
        name: &[u8],
        path: &EntryPath,
        target: &EntryPath,
    ) -> Result<(), ApplyError> {
        let wrong =
            |reason| ApplyError::HardLink { path: path.name(), target: target.name(), reason };
        let (target_parent, target_name) = target.split();
        if target.is_root() {
            return Err(wrong("is a directory"));
        }
        let from = match self.open(target_parent) {
            Ok(from) => from,
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(wrong("is not in this layer")),
            Err(errno) => return Err(resolve_error(errno, path)),
        };
        let stat =
            self.stat(&from, target_name, path)?.ok_or_else(|| wrong("is not in this layer"))?;
        if is_directory(&stat) {
            return Err(wrong("is a directory"));
        }
        if is_whiteout(&stat) {
            return Err(wrong("is a whiteout"));
        }
        let there = self.stat(parent, name, path)?;
        if there.as_ref().is_some_and(|there| there.st_ino == stat.st_ino) {
            return Ok(());
        }
        self.displace_known(parent, name, path, there.as_ref())?;
        match rustix::fs::linkat(from.as_fd(), target_name, parent.as_fd(), name, AtFlags::empty())
        {
            // It was below the directory that had to give way.
            Err(Errno::NOENT) => Err(wrong("is not in this layer")),
            result => wrote(result, "link", path),
        }
    }

    fn hide(
        &mut self,
        parent: &Rc<OwnedFd>,
        name: &[u8],
        path: &EntryPath,
    ) -> Result<(), ApplyError> {
        match self.stat(parent, name, path)? {
            // The layer has its own: that stays, and a directory no longer shows what is below it.
            Some(stat) if is_directory(&stat) => {
                let opened = rustix::fs::openat(
                    parent.as_fd(),
                    name,
                    DIRECTORY | OFlags::NOFOLLOW,
                    Mode::empty(),
                );
                opaque(&wrote(opened, "open", path)?, path)
            }
            Some(_) => Ok(()),
            None => {
                self.applied.inodes += 1;
                let mode = Mode::empty();
                let made =
                    rustix::fs::mknodat(parent.as_fd(), name, FileType::CharacterDevice, mode, 0);
                wrote(made, "create whiteout", path)
            }
        }
    }

    fn stat(
        &self,
        parent: &OwnedFd,
        name: &[u8],
        path: &EntryPath,
    ) -> Result<Option<Stat>, ApplyError> {
        match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => wrote(Err(errno), "look at", path),
        }
    }

    fn displace(
        &mut self,
        parent: &Rc<OwnedFd>,
        name: &[u8],
        path: &EntryPath,
    ) -> Result<(), ApplyError> {
        let there = self.stat(parent, name, path)?;
        self.displace_known(parent, name, path, there.as_ref())
    }

    /// Makes room for a later entry of the same name.
    fn displace_known(
        &mut self,
        parent: &Rc<OwnedFd>,
        name: &[u8],
        path: &EntryPath,
        there: Option<&Stat>,
    ) -> Result<(), ApplyError> {
        let Some(there) = there else { return Ok(()) };
        if !is_directory(there) {
            self.parent = None;
            return wrote(
                rustix::fs::unlinkat(parent.as_fd(), name, AtFlags::empty()),
                "replace",
                path,
            );
        }
        // Moved away, not emptied: deleting takes as long as the archive likes, a rename does not.
        let place = self.junk.join(self.junked.to_string());
        self.junked += 1;
        self.parent = None;
        self.forget(path);
        wrote(rustix::fs::renameat(parent.as_fd(), name, CWD, &place), "replace", path)
    }

    pub(super) fn finish(mut self) -> Result<Applied, ApplyError> {
        let root = EntryPath::parse(b"/", self.limits.path_bytes)?;
        let unnamed = Note { mtime: EPOCH, origin: Origin::Implied };
        self.directories.entry(root).or_insert(unnamed);
        for (path, note) in self.directories.iter().rev() {
            let opened = if path.is_root() {
                Ok(Rc::clone(&self.root))
            } else {
                rustix::fs::openat2(
                    &self.root,
                    path.bytes(),
                    DIRECTORY | OFlags::NOFOLLOW,
                    Mode::empty(),
                    BENEATH,
                )
                .map(Rc::new)
            };
            match opened {
                Ok(fd) => {
                    wrote(rustix::fs::futimens(&*fd, &times(note.mtime)), "set times of", path)?
                }
                // Something else has taken its place since.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => {}
                Err(errno) => wrote(Err(errno), "open", path)?,
            }
        }
        let implied = self.directories.iter().filter(|(_, note)| note.origin == Origin::Implied);
        self.applied.implied = implied.map(|(path, _)| path.bytes().to_vec()).collect();
        Ok(self.applied)
    }
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn opaque(directory: &OwnedFd, path: &EntryPath) -> Result<(), ApplyError> {
    wrote(
        rustix::fs::fsetxattr(directory, OPAQUE, OPAQUE_YES, XattrFlags::empty()),
        "mark as opaque",
        path,
    )
}
