//! One digest for all that a layer's tree is, taken once it is on disk, so that it can be told later whether the disk still has it.
//!
//! The layer's diff id is no help there: the archive that it is the digest of can't be had back from the tree. Covered are the names, kinds, modes,
//! owners, times, sizes, device numbers, link targets, attributes, which names are one file, and every byte of content. Left out are the looks of
//! implied directories, which a davit of old made look as an image was to (see [`super::stacks`]), and SELinux labels, which belong to the host.

use crate::image::Digest;
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeSet, HashMap};
use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const OPEN: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// What is in place of a directory could be a pipe: opening it must not wait.
const FILE: OFlags = OPEN.union(OFlags::NONBLOCK);
const INSIDE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);
const CHUNK: usize = 256 << 10;
/// The kernel's limit for the names of a file's attributes, and for one's value.
const XATTR_BYTES: usize = 64 << 10;
const HOST_LABEL: &[u8] = b"security.selinux";

/// The digest of the tree at `tree`, in which nothing changes meanwhile. `implied` are directories whose looks don't count. Blocks, and reads it all.
pub(super) fn seal(tree: &Path, implied: &BTreeSet<&[u8]>) -> io::Result<Digest> {
    let root = rustix::fs::openat(CWD, tree, OPEN.union(OFlags::DIRECTORY), Mode::empty())?;
    let mut sealing = Sealing {
        hash: Sha256::new(),
        implied,
        buffer: vec![0; CHUNK],
        linked: HashMap::new(),
        files: 0,
    };
    // The last is the next: depth first, each directory's entries in the order of their bytes.
    let mut waiting = vec![Vec::new()];
    while let Some(directory) = waiting.pop() {
        sealing.directory(&root, &directory, &mut waiting)?;
    }
    Ok(Digest::from_sha256(sealing.hash.finalize().into()))
}

struct Sealing<'a> {
    hash: Sha256,
    implied: &'a BTreeSet<&'a [u8]>,
    buffer: Vec<u8>,
    /// Which file it is that has several names, in the order of the walk.
    linked: HashMap<(u64, u64), u64>,
    files: u64,
}

impl Sealing<'_> {
    fn directory(
        &mut self,
        root: &OwnedFd,
        path: &[u8],
        waiting: &mut Vec<Vec<u8>>,
    ) -> io::Result<()> {
        let own = if path.is_empty() { b".".as_slice() } else { path };
        let flags = OPEN.union(OFlags::DIRECTORY);
        let directory = rustix::fs::openat2(root, own, flags, Mode::empty(), INSIDE)?;
        if path.is_empty() {
            self.looks(path, &rustix::fs::fstat(&directory)?, &directory, c".")?;
        }
        let names = names(&directory)?;
        self.number(names.len() as u64);
        let mut below = Vec::new();
        for name in names {
            let stat = rustix::fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            let mut place = path.to_vec();
            if !place.is_empty() {
                place.push(b'/');
            }
            place.extend_from_slice(name.as_bytes());
            self.entry(&directory, &name, &place, &stat)?;
            if FileType::from_raw_mode(stat.st_mode).is_dir() {
                below.push(place);
            }
        }
        waiting.extend(below.into_iter().rev());
        Ok(())
    }

    fn entry(
        &mut self,
        directory: &OwnedFd,
        name: &CString,
        place: &[u8],
        stat: &Stat,
    ) -> io::Result<()> {
        self.looks(place, stat, directory, name)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind.is_symlink() {
            let target = rustix::fs::readlinkat(directory, name, Vec::new())?;
            self.bytes(target.as_bytes());
        } else if kind.is_char_device() || kind.is_block_device() {
            self.number(stat.st_rdev);
        } else if kind.is_file() {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.linked.get(&key).copied() {
                self.number(first);
            } else {
                self.files += 1;
                self.number(self.files);
                self.content(directory, name)?;
                if stat.st_nlink > 1 {
                    self.linked.insert(key, self.files);
                }
            }
        }
        Ok(())
    }

    fn looks(
        &mut self,
        place: &[u8],
        stat: &Stat,
        directory: &OwnedFd,
        name: &std::ffi::CStr,
    ) -> io::Result<()> {
        self.bytes(place);
        if self.implied.contains(place) {
            return Ok(());
        }
        for number in [stat.st_mode, stat.st_uid, stat.st_gid] {
            self.number(u64::from(number));
        }
        self.hash.update(stat.st_mtime.to_le_bytes());
        self.hash.update(stat.st_mtime_nsec.to_le_bytes());
        self.attributes(directory, name)
    }

    fn attributes(&mut self, directory: &OwnedFd, name: &std::ffi::CStr) -> io::Result<()> {
        // There is no call that takes a directory and a name before Linux 6.13.
        let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
        path.extend_from_slice(name.to_bytes());
        let path = OsStr::from_bytes(&path);
        let mut list = vec![0; XATTR_BYTES];
        let length = match rustix::fs::llistxattr(path, &mut list) {
            Ok(length) => length,
            Err(Errno::NOTSUP) => 0,
            Err(errno) => return Err(errno.into()),
        };
        list.truncate(length);
        let own = |name: &&[u8]| !name.is_empty() && *name != HOST_LABEL;
        let names: BTreeSet<&[u8]> = list.split(|byte| *byte == 0).filter(own).collect();
        self.number(names.len() as u64);
        for name in names {
            let mut value = vec![0; XATTR_BYTES];
            let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value)?;
            self.bytes(name);
            self.bytes(value.get(..length).unwrap_or_default());
        }
        Ok(())
    }

    fn content(&mut self, directory: &OwnedFd, name: &CString) -> io::Result<()> {
        let file = rustix::fs::openat2(directory, name, FILE, Mode::empty(), INSIDE)?;
        let mut all = 0;
        loop {
            match rustix::io::read(&file, &mut self.buffer) {
                Ok(0) => break,
                Ok(read) => {
                    self.hash.update(self.buffer.get(..read).unwrap_or_default());
                    all += read as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        // After it, so that a file that ends early is not taken for one that goes on with what follows.
        self.number(all);
        Ok(())
    }

    fn number(&mut self, number: u64) {
        self.hash.update(number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.hash.update(bytes);
    }
}

/// A directory's entries, in the order of their bytes.
fn names(directory: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory.as_fd())? {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn put(path: impl AsRef<Path>, text: &str) {
        fs::File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn tree() -> tempfile::TempDir {
        let tree = tempfile::tempdir().unwrap();
        let at = |name: &str| tree.path().join(name);
        fs::create_dir_all(at("etc/conf.d")).unwrap();
        put(at("etc/passwd"), "root");
        fs::hard_link(at("etc/passwd"), at("etc/twin")).unwrap();
        put(at("etc/other"), "root");
        symlink("passwd", at("etc/link")).unwrap();
        rustix::fs::mknodat(
            CWD,
            at("gone"),
            FileType::CharacterDevice,
            Mode::empty(),
            rustix::fs::makedev(0, 0),
        )
        .unwrap();
        tree
    }

    fn sealed(tree: &tempfile::TempDir) -> Digest {
        seal(tree.path(), &BTreeSet::new()).unwrap()
    }

    type Damage = fn(&Path);

    #[test]
    fn every_change_of_the_tree_breaks_the_seal() {
        let damages: [(&str, Damage); 9] = [
            ("a byte", |t| same_times(&t.join("etc/passwd"), |p| put(p, "rooT"))),
            ("a size", |t| same_times(&t.join("etc/other"), |p| put(p, ""))),
            ("a mode", |t| {
                fs::set_permissions(t.join("etc/other"), fs::Permissions::from_mode(0o4755))
                    .unwrap();
            }),
            ("an owner", |t| std::os::unix::fs::chown(t.join("etc"), Some(7), None).unwrap()),
            ("a missing file", |t| fs::remove_file(t.join("etc/other")).unwrap()),
            ("a new file", |t| put(t.join("etc/conf.d/x"), "")),
            ("a target", |t| {
                fs::remove_file(t.join("etc/link")).unwrap();
                symlink("shadow", t.join("etc/link")).unwrap();
            }),
            ("a whiteout", |t| fs::remove_file(t.join("gone")).unwrap()),
            ("an attribute", |t| {
                let path = t.join("etc/conf.d");
                let flags = rustix::fs::XattrFlags::empty();
                rustix::fs::setxattr(&path, "trusted.overlay.opaque", b"y", flags).unwrap();
            }),
        ];
        for (what, damage) in damages {
            let tree = tree();
            let before = sealed(&tree);
            assert_eq!(before, sealed(&tree), "{what}");
            damage(tree.path());
            assert_ne!(before, sealed(&tree), "{what}");
        }
    }

    /// Changes a file as a failing disk does: nothing tells but the content.
    fn same_times(path: &Path, change: impl FnOnce(&Path)) {
        let times = fs::metadata(path).unwrap().modified().unwrap();
        change(path);
        fs::File::options().write(true).open(path).unwrap().set_modified(times).unwrap();
    }

    #[test]
    fn a_file_of_two_names_is_told_from_two_files() {
        let tree = tree();
        let before = sealed(&tree);
        let twin = tree.path().join("etc/twin");
        let times = fs::metadata(tree.path().join("etc")).unwrap().modified().unwrap();
        same_times(&tree.path().join("etc/passwd"), |path| {
            fs::remove_file(&twin).unwrap();
            fs::copy(path, &twin).unwrap();
        });
        let modified = fs::metadata(tree.path().join("etc/passwd")).unwrap().modified().unwrap();
        fs::File::options().write(true).open(&twin).unwrap().set_modified(modified).unwrap();
        fs::File::open(tree.path().join("etc")).unwrap().set_modified(times).unwrap();
        assert_ne!(before, sealed(&tree));
    }

    #[test]
    fn the_looks_of_an_implied_directory_do_not_count_and_its_content_does() {
        let tree = tree();
        let implied = BTreeSet::from([b"etc/conf.d".as_slice()]);
        let before = seal(tree.path(), &implied).unwrap();
        let place = tree.path().join("etc/conf.d");
        fs::set_permissions(&place, fs::Permissions::from_mode(0o1777)).unwrap();
        assert_eq!(before, seal(tree.path(), &implied).unwrap());
        put(place.join("x"), "");
        assert_ne!(before, seal(tree.path(), &implied).unwrap());
    }
}
