//! Files and directories that must be whole or not there: atomic writes, and deletion that stays where it is told.
//!
//! Deletion neither follows a link nor crosses a mount: the tree is flattened by renames, which the kernel refuses at a mount
//! point, so that it needs two descriptors however deep the tree is.

use super::layers::stacks::STACK;
use crate::shortage::is_shortage;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::ffi::CString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How the names of layers begin that can't be used and may be mounted.
pub(super) const ASIDE: &str = "aside-";

/// A file name's random part.
pub(crate) fn suffix() -> io::Result<String> {
    let mut bytes = [0_u8; 8];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(hex::encode(bytes))
}

/// Makes `path` and what is missing above it, closed to all but us.
pub(crate) fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a new file; flushing it is the caller's.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    Ok(file)
}

/// Replaces the file at `path` by one that is on disk before it has the name.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".tmp-{}", suffix()?));
    let temporary = Path::new(&name);
    let result = write_new(temporary, bytes)
        .and_then(|file| file.sync_all())
        .and_then(|()| std::fs::rename(temporary, path));
    if result.is_err() {
        let _gone = std::fs::remove_file(temporary);
    }
    result.and_then(|()| path.parent().map_or(Ok(()), sync_directory))
}

pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// A small file, whole; an error if it is larger than `limit`.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit { Err(io::Error::other("file is too large")) } else { Ok(bytes) }
}

/// Why something that is kept can't be used.
#[derive(Debug)]
pub(super) enum Unusable {
    /// It could not be looked at, for want of descriptors or memory: that says nothing of it.
    Unseen(io::Error),
    /// It is not what it was.
    Broken(String),
}

impl Unusable {
    /// What failed, and how.
    pub(super) fn of(what: &str) -> impl FnOnce(io::Error) -> Self {
        move |error| {
            if is_shortage(&error) {
                Self::Unseen(error)
            } else {
                Self::Broken(format!("{what}: {error}"))
            }
        }
    }
}

impl From<String> for Unusable {
    fn from(reason: String) -> Self {
        Self::Broken(reason)
    }
}

/// Whether a name in a directory of davit's is that of something that was being made: `<hex>.tmp-<suffix>`, `stack-<hex>.tmp-<suffix>`.
pub(crate) fn is_half_made(name: &str) -> bool {
    let hex = name.split_once(".tmp-").map(|(hex, _)| hex);
    let hex = hex.map(|hex| hex.strip_prefix(STACK).unwrap_or(hex));
    hex.is_some_and(|hex| format!("sha256:{hex}").parse::<super::Digest>().is_ok())
}

/// Whether a name is one that davit gives to what it keeps by digest, whatever has become of it.
fn is_own(name: &str) -> bool {
    let prefixes = ["trash-", "broken-", ASIDE, STACK];
    format!("sha256:{name}").parse::<super::Digest>().is_ok()
        || is_half_made(name)
        || prefixes.iter().any(|prefix| name.starts_with(prefix))
        // The file system's, at its root.
        || name == "lost+found"
}

/// What is in a directory of davit's without having a name that davit gives.
pub(crate) fn foreign(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let foreign = entries.filter(|entry| !entry.file_name().to_str().is_some_and(is_own));
    foreign.map(|entry| entry.path()).collect()
}

/// Deletes a file or a whole tree, up to what is mounted in it or is itself a mount: that is an error. What is not there is deleted.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    let top = match rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty()) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return std::fs::remove_file(path),
        Err(errno) => return Err(errno.into()),
    };
    // Inside, removing a mount's directory would fail; here its content would go first.
    if is_mounted(&top)? {
        return Err(Errno::BUSY.into());
    }
    let mut moved = 0_u64;
    loop {
        let names = list(&top)?;
        if names.is_empty() {
            return match rustix::fs::rmdir(path) {
                Err(errno) if errno != Errno::NOENT => Err(errno.into()),
                Ok(()) | Err(_) => Ok(()),
            };
        }
        for name in names {
            if let Some(child) = remove_entry(&top, &name)? {
                flatten(&child, &top, &mut moved)?;
                rustix::fs::unlinkat(&top, name.as_c_str(), AtFlags::REMOVEDIR)?;
            }
        }
    }
}

/// Whether it is the root of a mount.
fn is_mounted(directory: &OwnedFd) -> io::Result<bool> {
    use rustix::fs::{StatxAttributes, StatxFlags, statx};
    let seen = statx(directory, c"", AtFlags::EMPTY_PATH, StatxFlags::empty())?;
    Ok(seen.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Deletes one entry; a directory that has things in it is opened instead.
fn remove_entry(parent: &OwnedFd, name: &CString) -> io::Result<Option<OwnedFd>> {
    match rustix::fs::unlinkat(parent, name.as_c_str(), AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(None),
        Err(Errno::ISDIR) => {}
        Err(errno) => return Err(errno.into()),
    }
    match rustix::fs::unlinkat(parent, name.as_c_str(), AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(None),
        // A mount point would have been EBUSY: this directory is of our own filesystem.
        Err(Errno::NOTEMPTY | Errno::EXIST) => {
            Ok(Some(rustix::fs::openat(parent, name.as_c_str(), DIRECTORY, Mode::empty())?))
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Empties `child`: its full directories become entries of `top`.
fn flatten(child: &OwnedFd, top: &OwnedFd, moved: &mut u64) -> io::Result<()> {
    loop {
        let names = list(child)?;
        if names.is_empty() {
            return Ok(());
        }
        for name in names {
            if remove_entry(child, &name)?.is_none() {
                continue;
            }
            loop {
                let place = format!("moved-{moved}");
                *moved += 1;
                match rustix::fs::renameat_with(
                    child,
                    name.as_c_str(),
                    top,
                    &place,
                    RenameFlags::NOREPLACE,
                ) {
                    Ok(()) => break,
                    Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
    }
}

/// Some of a directory's entries; all of them, if there are not many.
fn list(directory: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory.as_fd())? {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            names.push(entry.file_name().to_owned());
        }
        if names.len() == 4096 {
            break;
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_deep_and_wide_tree_goes_and_what_its_links_point_at_stays() {
        let top = tempfile::tempdir().unwrap();
        let (tree, other) = (top.path().join("tree"), top.path().join("other"));
        make_directory(&other.join("kept")).unwrap();
        make_directory(&tree.join("wide")).unwrap();
        for number in 0..5000 {
            write_new(&tree.join(format!("wide/{number}")), b"").unwrap();
        }
        symlink(&other, tree.join("link")).unwrap();
        // Deeper than a path can be written, and than descriptors would last.
        let mut at = rustix::fs::openat(CWD, &tree, DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "moved-0", Mode::RWXU).unwrap();
            symlink("x", format!("/proc/self/fd/{}/file", std::os::fd::AsRawFd::as_raw_fd(&at)))
                .unwrap();
            at = rustix::fs::openat(&at, "moved-0", DIRECTORY, Mode::empty()).unwrap();
        }
        remove_tree(&tree).unwrap();
        assert!(!tree.exists() && other.join("kept").exists());
        remove_tree(&tree).unwrap();
        symlink(&other, &tree).unwrap();
        remove_tree(&tree).unwrap();
        assert!(std::fs::symlink_metadata(&tree).is_err() && other.join("kept").exists());
    }

    #[test]
    fn a_mount_inside_the_tree_is_left_alone() {
        let top = tempfile::tempdir().unwrap();
        let (tree, other) = (top.path().join("tree"), top.path().join("other"));
        make_directory(&tree.join("a/b/mount")).unwrap();
        make_directory(&other).unwrap();
        write_new(&other.join("precious"), b"x").unwrap();
        let mount = tree.join("a/b/mount");
        rustix::mount::mount_bind(&other, &mount).unwrap();
        let refused = remove_tree(&tree);
        // Wherever the flattening has left the directories that lead to it.
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let place = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .find(|at| Path::new(at).starts_with(&tree));
        rustix::mount::unmount(place.unwrap(), rustix::mount::UnmountFlags::DETACH).unwrap();
        assert!(refused.is_err() && other.join("precious").exists());
        remove_tree(&tree).unwrap();
        assert!(!tree.exists() && other.join("precious").exists());
    }
}
