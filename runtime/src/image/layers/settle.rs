//! Directories that a layer has no entry for, though it has something below them.
//!
//! With overlayfs the topmost layer that has a directory says what it looks like. A layer that has `tmp/x` and no `tmp` would so
//! take the sticky bit from the base's `/tmp`. Therefore, when an image is committed, such a directory takes owner, mode, times and
//! attributes from the nearest layer below that has it.
//!
//! Layers are shared by diff id, so one directory may be asked to look like two different bases. The first image whose lower
//! layers have the directory settles it, and one whose base has none leaves it open. Images that then disagree, which takes
//! one unusual layer on two bases that differ in one directory's metadata, share what the first said; the rejected
//! way out, a copy of the layer for each stack, would cost the disk of every honest image for that.

use super::{Layers, Slot};
use crate::image::Digest;
use crate::image::apply::{OPAQUE, is_whiteout};
use rustix::fd::OwnedFd;
use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use std::io;
use std::path::Path;
use std::sync::PoisonError;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const INSIDE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

impl Layers {
    /// Settles the layers of one image, `diff_ids` bottom first, which the caller holds. Blocks.
    pub(crate) fn settle(&self, diff_ids: &[Digest]) -> io::Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        for (at, diff_id) in diff_ids.iter().enumerate() {
            let Some(below) = diff_ids.get(..at).filter(|below| !below.is_empty()) else {
                continue;
            };
            let known = |slot: &Slot| (slot.birth, slot.record.clone());
            let Some((birth, record)) = self.table().get(diff_id).map(known) else { continue };
            let durable = record.boot.is_none();
            let mut settled = record.implied.clone();
            for directory in settled.iter_mut().filter(|directory| !directory.settled) {
                if let Some(own) = self.settle_one(diff_id, below, &directory.path)? {
                    // The record, which is on the disk at once, must not say more than what else is there.
                    if durable {
                        rustix::fs::fsync(own)?;
                    }
                    directory.settled = true;
                }
            }
            if settled != record.implied {
                self.rewrite(diff_id, birth, |record| record.implied = settled)?;
            }
        }
        Ok(())
    }

    /// The directory, if a layer below has it, too, whose looks it now has.
    fn settle_one(
        &self,
        diff_id: &Digest,
        below: &[Digest],
        path: &str,
    ) -> io::Result<Option<OwnedFd>> {
        for lower in below.iter().rev() {
            let tree = self.place(lower).join("fs");
            match find(&tree, path)? {
                Found::Directory(model) => {
                    let Found::Directory(own) = find(&self.place(diff_id).join("fs"), path)? else {
                        return Ok(None);
                    };
                    copy_looks(&model, &own)?;
                    return Ok(Some(own));
                }
                Found::Hidden => return Ok(None),
                Found::Nothing => {}
            }
        }
        Ok(None)
    }
}

enum Found {
    Directory(OwnedFd),
    /// Something else, or a whiteout, or a parent that hides what is below: nothing further down counts.
    Hidden,
    Nothing,
}

fn find(tree: &Path, path: &str) -> io::Result<Found> {
    let mut at = rustix::fs::openat(CWD, tree, DIRECTORY, Mode::empty())?;
    for part in path.split('/').filter(|part| !part.is_empty()) {
        match rustix::fs::openat2(&at, part, DIRECTORY, Mode::empty(), INSIDE) {
            Ok(next) => at = next,
            Err(Errno::NOENT) => {
                return Ok(if is_opaque(&at) { Found::Hidden } else { Found::Nothing });
            }
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let stat = rustix::fs::statat(&at, part, AtFlags::SYMLINK_NOFOLLOW)?;
                tracing::trace!(part, whiteout = is_whiteout(&stat), "directory is hidden");
                return Ok(Found::Hidden);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(Found::Directory(at))
}

fn is_opaque(directory: &OwnedFd) -> bool {
    let mut value = [0_u8; 1];
    matches!(rustix::fs::fgetxattr(directory, OPAQUE, &mut value), Ok(1)) && value == *b"y"
}

fn copy_looks(model: &OwnedFd, own: &OwnedFd) -> io::Result<()> {
    let stat = rustix::fs::fstat(model)?;
    rustix::fs::fchown(own, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    rustix::fs::fchmod(own, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    copy_xattrs(model, own)?;
    let mtime = Timespec {
        tv_sec: stat.st_mtime,
        tv_nsec: i64::try_from(stat.st_mtime_nsec).map_err(io::Error::other)?,
    };
    rustix::fs::futimens(own, &Timestamps { last_access: mtime, last_modification: mtime })?;
    Ok(())
}

/// All but overlayfs's own marks: those say what *that* layer hides.
fn copy_xattrs(model: &OwnedFd, own: &OwnedFd) -> io::Result<()> {
    // The kernel's own limit for either is 64 KiB.
    let mut names = vec![0_u8; 64 << 10];
    let length = match rustix::fs::flistxattr(model, &mut names) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    let mut value = vec![0_u8; 64 << 10];
    for name in names
        .get(..length)
        .unwrap_or_default()
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        if name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_") {
            let length = rustix::fs::fgetxattr(model, name, &mut value)?;
            rustix::fs::fsetxattr(
                own,
                name,
                value.get(..length).unwrap_or_default(),
                XattrFlags::empty(),
            )?;
        }
    }
    Ok(())
}
