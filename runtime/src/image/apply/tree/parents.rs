//! Where an entry's parent is, and what is known of the layer's directories.

use super::{BENEATH, DIRECTORY, EPOCH, Note, Origin, Tree};
use crate::image::apply::ApplyError;
use crate::image::apply::entry::EntryPath;
use crate::image::apply::whiteout::is_whiteout;
use crate::image::apply::write::wrote;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Gid, Mode, OFlags, Timespec, Uid};
use rustix::io::Errno;
use std::rc::Rc;

impl Tree<'_> {
    /// The directory `parent` below the root, made if it is not there.
    pub(super) fn parent(
        &mut self,
        parent: &[u8],
        path: &EntryPath,
    ) -> Result<Rc<OwnedFd>, ApplyError> {
        if parent.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        if let Some((known, fd)) = &self.parent
            && known == parent
        {
            return Ok(Rc::clone(fd));
        }
        let fd = match self.open(parent) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR) => self.make_parents(parent, path)?,
            Err(errno) => return Err(resolve_error(errno, path)),
        };
        self.parent = Some((parent.to_vec(), Rc::clone(&fd)));
        Ok(fd)
    }

    fn make_parents(&mut self, parent: &[u8], path: &EntryPath) -> Result<Rc<OwnedFd>, ApplyError> {
        let mut at = Rc::clone(&self.root);
        let mut end = 0;
        for part in parent.split(|byte| *byte == b'/') {
            let name = part;
            end += part.len() + usize::from(end > 0);
            let prefix = parent.get(..end).unwrap_or(parent);
            at = match self.open(prefix) {
                Ok(fd) => fd,
                Err(Errno::NOENT | Errno::NOTDIR) => {
                    let there = self.stat(&at, name, path)?;
                    if there.as_ref().is_some_and(|stat| !is_whiteout(stat)) {
                        return Err(ApplyError::NotDirectory { path: path.name() });
                    }
                    let prefix = EntryPath::parse(prefix, self.limits.path_bytes)?;
                    self.make_directory(&at, name, &prefix, there.as_ref())?;
                    self.imply(&at, name, &prefix)?
                }
                Err(errno) => return Err(resolve_error(errno, path)),
            };
        }
        Ok(at)
    }

    /// What is made without an entry is root's and open to all, until the layers below say otherwise.
    fn imply(
        &mut self,
        parent: &Rc<OwnedFd>,
        name: &[u8],
        path: &EntryPath,
    ) -> Result<Rc<OwnedFd>, ApplyError> {
        let opened =
            rustix::fs::openat(parent.as_fd(), name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty());
        let fd = wrote(opened, "open", path)?;
        wrote(rustix::fs::fchown(&fd, Some(Uid::ROOT), Some(Gid::ROOT)), "set owner of", path)?;
        wrote(rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o755)), "set mode of", path)?;
        self.note(path, EPOCH, Origin::Implied)?;
        Ok(Rc::new(fd))
    }

    pub(super) fn note(
        &mut self,
        path: &EntryPath,
        mtime: Timespec,
        origin: Origin,
    ) -> Result<(), ApplyError> {
        if self.directories.insert(path.clone(), Note { mtime, origin }).is_none() {
            self.name_bytes += path.bytes().len();
        }
        if self.name_bytes > self.limits.directory_name_bytes {
            let limit = self.limits.directory_name_bytes as u64;
            return Err(ApplyError::Limit {
                what: "size of all directories' names",
                limit,
                path: path.name(),
            });
        }
        Ok(())
    }

    pub(super) fn open(&self, path: &[u8]) -> Result<Rc<OwnedFd>, Errno> {
        if path.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        // The kernel asks for another try when it saw a rename on the way; nobody else works here, so it cannot go on for long.
        for _ in 0..64 {
            match rustix::fs::openat2(&self.root, path, DIRECTORY, Mode::empty(), BENEATH) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return result.map(Rc::new),
            }
        }
        Err(Errno::AGAIN)
    }

    pub(super) fn forget(&mut self, path: &EntryPath) {
        self.directories.remove(path);
        let first = path.below();
        while let Some(key) = self.directories.range(&first..).next().map(|(key, _)| key.clone())
            && key.bytes().starts_with(first.bytes())
        {
            self.directories.remove(&key);
        }
    }
}

pub(super) fn resolve_error(errno: Errno, path: &EntryPath) -> ApplyError {
    match errno {
        Errno::XDEV | Errno::LOOP => ApplyError::SymlinkEscape { path: path.name() },
        errno => ApplyError::Write {
            operation: "open the parent of",
            path: path.name(),
            source: errno.into(),
        },
    }
}
