//! The system calls that make one file what its entry says.

use super::ApplyError;
use super::archive::Archive;
use super::entry::{Content, EntryPath, Metadata};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::io::BufRead;

pub(super) fn wrote<T>(
    result: Result<T, Errno>,
    operation: &'static str,
    path: &EntryPath,
) -> Result<T, ApplyError> {
    result.map_err(|errno| ApplyError::Write { operation, path: path.name(), source: errno.into() })
}

/// A new file in `parent`, never one that is there or that a link names.
pub(super) fn create(
    parent: BorrowedFd<'_>,
    name: &[u8],
    path: &EntryPath,
) -> Result<OwnedFd, ApplyError> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    wrote(rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR), "create", path)
}

/// Fills `file` from the archive; returns how many bytes were written, holes not counted.
pub(super) fn fill<R: BufRead>(
    file: &OwnedFd,
    content: &Content,
    archive: &mut Archive<'_, R>,
    path: &EntryPath,
) -> Result<u64, ApplyError> {
    match content {
        Content::Whole(length) => {
            copy(file, 0, *length, archive, path)?;
            Ok(*length)
        }
        Content::Sparse { regions, length } => {
            let mut written = 0;
            for region in regions {
                copy(file, region.offset, region.length, archive, path)?;
                written += region.length;
            }
            match rustix::fs::ftruncate(file, *length) {
                // A length that this filesystem cannot have is the archive's fault, not the disk's.
                Err(Errno::FBIG | Errno::INVAL) => Err(ApplyError::Field {
                    path: path.name(),
                    field: "size",
                    value: length.to_string(),
                }),
                result => wrote(result, "size", path).map(|()| written),
            }
        }
    }
}

fn copy<R: BufRead>(
    file: &OwnedFd,
    mut offset: u64,
    mut left: u64,
    archive: &mut Archive<'_, R>,
    path: &EntryPath,
) -> Result<(), ApplyError> {
    while left > 0 {
        let bytes = archive.data(left)?;
        let result = match rustix::io::pwrite(file, bytes, offset) {
            Ok(0) => Err(Errno::IO),
            Err(Errno::INTR) => Ok(0),
            result => result,
        };
        let length = match result {
            Err(Errno::FBIG | Errno::INVAL) => {
                return Err(ApplyError::Field {
                    path: path.name(),
                    field: "size",
                    value: offset.to_string(),
                });
            }
            result => wrote(result, "write", path)?,
        };
        archive.consume(length);
        offset += length as u64;
        left -= length as u64;
    }
    Ok(())
}

/// A name and its value.
type Attribute<'a> = (&'a [u8], &'a [u8]);

fn owner(metadata: &Metadata) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(metadata.uid)), Some(Gid::from_raw(metadata.gid)))
}

pub(super) fn times(mtime: rustix::fs::Timespec) -> Timestamps {
    Timestamps { last_access: mtime, last_modification: mtime }
}

/// Owner, mode and attributes of an open file or directory; in this order, since a change of owner takes set-id bits and
/// capabilities away.
pub(super) fn describe(
    file: &OwnedFd,
    metadata: &Metadata,
    path: &EntryPath,
) -> Result<(), ApplyError> {
    let (uid, gid) = owner(metadata);
    wrote(rustix::fs::fchown(file, uid, gid), "set owner of", path)?;
    wrote(rustix::fs::fchmod(file, Mode::from_raw_mode(metadata.mode)), "set mode of", path)?;
    for (name, value) in kept(metadata, path)? {
        let result = rustix::fs::fsetxattr(file, name, value, XattrFlags::empty());
        keep_xattr(result, name, path)?;
    }
    Ok(())
}

/// The same for what cannot be opened without side effects: links, pipes and devices. `chmod` is left out for links, which
/// have no mode.
pub(super) fn describe_at(
    parent: BorrowedFd<'_>,
    name: &[u8],
    metadata: &Metadata,
    path: &EntryPath,
) -> Result<(), ApplyError> {
    let (uid, gid) = owner(metadata);
    wrote(
        rustix::fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW),
        "set owner of",
        path,
    )?;
    let mut place = format!("/proc/self/fd/{}/", parent.as_fd().as_raw_fd()).into_bytes();
    place.extend_from_slice(name);
    for (xattr, value) in kept(metadata, path)? {
        let result = rustix::fs::lsetxattr(place.as_slice(), xattr, value, XattrFlags::empty());
        keep_xattr(result, xattr, path)?;
    }
    let times = times(metadata.mtime);
    wrote(
        rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW),
        "set times of",
        path,
    )
}

/// The attributes that are the file's own; see the module's head for those that are not.
fn kept<'a>(metadata: &'a Metadata, path: &EntryPath) -> Result<Vec<Attribute<'a>>, ApplyError> {
    let mut kept = Vec::new();
    for (name, value) in &metadata.xattrs {
        let user =
            name.starts_with(b"user.") && !name.starts_with(b"user.overlay.") && name.len() > 5;
        let known: [&[u8]; 3] =
            [b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default"];
        if !user && !known.contains(&name.as_slice()) {
            continue;
        }
        if name.len() > 255 || name.contains(&0) {
            return Err(refused(name, path));
        }
        kept.push((name.as_slice(), value.as_slice()));
    }
    Ok(kept)
}

fn keep_xattr(result: Result<(), Errno>, name: &[u8], path: &EntryPath) -> Result<(), ApplyError> {
    match result {
        // A filesystem without such attributes, and `user.*` on what is neither file nor directory: as all runtimes do.
        Err(Errno::NOTSUP) => Ok(()),
        Err(Errno::PERM) if name.starts_with(b"user.") => Ok(()),
        Err(Errno::INVAL | Errno::TOOBIG | Errno::RANGE | Errno::NOSPC) => Err(refused(name, path)),
        result => wrote(result, "set an attribute of", path),
    }
}

fn refused(name: &[u8], path: &EntryPath) -> ApplyError {
    ApplyError::Field {
        path: path.name(),
        field: "attribute",
        value: super::Name::new(name).to_string(),
    }
}
