//! Directories that a layer has no entry for, though it has something below them.
//!
//! With overlayfs the topmost layer that has a directory says what it looks like. A layer that has `tmp/x` and no `tmp` would so
//! take the sticky bit from the base's `/tmp`. Such a directory is to look as in the nearest layer below that has an entry for it.
//!
//! Layers are shared by diff id, also between images with different bases, and between people who must not get at each other: no layer
//! is changed for an image. What differs in one *stack* of layers is in a tree of directories of its own, which is mounted above them:
//!
//! ```text
//! layers/stack-<digest of the diff ids>/fs     nothing but those directories, and those that they are in
//!                                      /stack  the diff ids, bottom first, a line each
//! ```
//!
//! Few stacks need one: most such directories look like the default. One goes with the first of its layers; or with the next start, if one
//! of them could not be read at this one: containers may have it mounted ([`super::aside`]). A davit of old changed the layers themselves; where that fits no stack, the tree above says what is right.

use super::Layers;
use crate::image::Digest;
use crate::image::apply::{OPAQUE, is_whiteout};
use crate::image::files::{
    make_directory, read_bounded, remove_tree, suffix, sync_directory, write_new,
};
use rustix::fd::OwnedFd;
use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const INSIDE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);
/// How the names of stacks' directories begin.
pub(in crate::image) const STACK: &str = "stack-";
const NAMES: &str = "stack";
/// Of as many layers as overlayfs takes.
const NAMES_BYTES: u64 = 64 << 10;
/// What a directory looks like that no layer has an entry for.
const DEFAULT_MODE: u32 = 0o755;

/// So many are brought to the disk one by one; more of them, with all else that is on its way there.
const FEW: usize = 64;

/// What a directory is to look like.
enum Looks {
    As(OwnedFd),
    Default,
}

/// The directory that one sees through the stack, and what it is to look like.
struct Seen {
    shown: OwnedFd,
    looks: Looks,
}

impl Layers {
    /// Where a stack's own directories are, if it has any.
    pub(super) fn stack_of(&self, diff_ids: &[Digest]) -> Option<PathBuf> {
        let name = stack_name(diff_ids);
        let known = self.stacks().contains_key(&name);
        // One that somebody has removed would keep the image from being mounted; its next pull makes it anew.
        known.then(|| self.directory.join(name).join("fs")).filter(|tree| tree.is_dir())
    }

    /// Makes the directories of one image's stack look as they are to, `diff_ids` bottom first, which the caller holds. Blocks.
    pub(crate) fn settle(&self, diff_ids: &[Digest]) -> io::Result<()> {
        let name = stack_name(diff_ids);
        let is_plain = diff_ids.len() < 2 && !self.was_settled(diff_ids);
        if is_plain || self.stack_of(diff_ids).is_some() {
            return Ok(());
        }
        let trees: Vec<_> = diff_ids.iter().map(|diff_id| self.tree(diff_id)).collect();
        let implied: Vec<BTreeSet<String>> =
            diff_ids.iter().map(|diff_id| self.implied(diff_id)).collect();
        let stack = View { trees, implied };
        let wanted = stack.wanted()?;
        if wanted.is_empty() {
            return Ok(());
        }
        let temporary = self.directory.join(format!("{name}.tmp-{}", suffix()?));
        let place = self.directory.join(&name);
        let made = stack
            .write(&wanted, &temporary.join("fs"))
            .and_then(|()| write_new(&temporary.join(NAMES), names(diff_ids).as_bytes()))
            .and_then(|file| file.sync_all())
            .and_then(|()| sync_directory(&temporary))
            .and_then(|()| remove_tree(&place))
            .and_then(|()| std::fs::rename(&temporary, &place))
            .and_then(|()| sync_directory(&self.directory));
        if let Err(error) = made {
            remove_tree(&temporary)?;
            return Err(error);
        }
        self.stacks().insert(name, diff_ids.to_vec());
        Ok(())
    }

    /// A layer has gone, and with it what is of it.
    pub(super) fn drop_stacks_of(&self, diff_id: &Digest) {
        let mut stacks = self.stacks();
        let of_it = stacks.iter().filter(|(_, layers)| layers.contains(diff_id));
        let gone: Vec<String> = of_it.map(|(name, _)| name.clone()).collect();
        for name in gone {
            stacks.remove(&name);
            if let Err(error) = self.discard(self.directory.join(&name)) {
                tracing::warn!(name, %error, "cannot remove a stack's directories");
            }
        }
    }

    fn implied(&self, diff_id: &Digest) -> BTreeSet<String> {
        let table = self.table();
        let implied = table.get(diff_id).map(|slot| slot.record.implied.as_slice());
        implied.unwrap_or_default().iter().map(|directory| directory.path.clone()).collect()
    }

    fn was_settled(&self, diff_ids: &[Digest]) -> bool {
        let table = self.table();
        let mut records = diff_ids.iter().filter_map(|diff_id| table.get(diff_id));
        records.any(|slot| slot.record.implied.iter().any(|directory| directory.settled))
    }

    /// What is there of one when davit starts, and all layers are known: half of one goes, and one whose layers are not all there.
    pub(super) fn find_stack(&self, name: &str, path: PathBuf) -> io::Result<()> {
        let told = match read_bounded(&path.join(NAMES), NAMES_BYTES) {
            Err(error) if crate::shortage::is_shortage(&error) => return Err(error),
            told => told.ok().and_then(|bytes| String::from_utf8(bytes).ok()),
        };
        let diff_ids: Option<Vec<Digest>> =
            told.and_then(|text| text.lines().map(|line| line.parse().ok()).collect());
        let Some(diff_ids) = diff_ids.filter(|diff_ids| stack_name(diff_ids) == name) else {
            return self.discard(path);
        };
        let (there, others): (Vec<Digest>, Vec<Digest>) =
            diff_ids.into_iter().partition(|diff_id| self.contains(diff_id));
        if !others.iter().all(|diff_id| self.is_aside(diff_id)) {
            return self.discard(path);
        }
        // Of what was put aside: for this davit's time it is nobody's to remove.
        let layers = if others.is_empty() { there } else { Vec::new() };
        self.stacks().insert(name.to_owned(), layers);
        Ok(())
    }
}

/// The trees of a stack, bottom first, and what each has no entry for.
struct View {
    trees: Vec<PathBuf>,
    implied: Vec<BTreeSet<String>>,
}

impl View {
    /// The directories that don't look as they are to, and those that they are in.
    fn wanted(&self) -> io::Result<BTreeSet<String>> {
        let mut wanted = BTreeSet::new();
        let all: BTreeSet<&String> = self.implied.iter().flatten().collect();
        for path in all {
            if let Some(seen) = self.look(path)?
                && !is_right(&seen)?
            {
                wanted.insert(path.clone());
            }
        }
        let within: Vec<String> = wanted.iter().flat_map(|path| parents(path)).collect();
        wanted.extend(within);
        Ok(wanted)
    }

    /// `None`: no directory is seen there.
    fn look(&self, path: &str) -> io::Result<Option<Seen>> {
        let mut shown = None;
        for (tree, implied) in self.trees.iter().zip(&self.implied).rev() {
            let (found, hides) = match find(tree, path)? {
                Found::Directory(found, hides) => (found, hides),
                Found::Hidden => break,
                Found::Nothing => continue,
            };
            if !implied.contains(path) {
                let model = found.try_clone()?;
                let shown = shown.unwrap_or(found);
                return Ok(Some(Seen { shown, looks: Looks::As(model) }));
            }
            shown.get_or_insert(found);
            if hides {
                break;
            }
        }
        Ok(shown.map(|shown| Seen { shown, looks: Looks::Default }))
    }

    /// Parents come before what is in them; what they look like is said the other way round, as each new entry changes their time.
    fn write(&self, wanted: &BTreeSet<String>, top: &Path) -> io::Result<()> {
        make_directory(top)?;
        for path in wanted.iter().filter(|path| !path.is_empty()) {
            make_directory(&top.join(path))?;
        }
        for path in wanted.iter().rev() {
            let own = rustix::fs::openat(CWD, top.join(path), DIRECTORY, Mode::empty())?;
            // Who has something below it is a directory, and seen.
            match self.look(path)?.map(|seen| seen.looks) {
                Some(Looks::As(model)) => copy_looks(&model, &own)?,
                Some(Looks::Default) | None => {
                    rustix::fs::fchmod(&own, Mode::from_raw_mode(DEFAULT_MODE))?;
                }
            }
            if wanted.len() <= FEW {
                rustix::fs::fsync(&own)?;
            }
        }
        if wanted.len() > FEW {
            rustix::fs::syncfs(rustix::fs::openat(CWD, top, DIRECTORY, Mode::empty())?)?;
        }
        Ok(())
    }
}

fn stack_name(diff_ids: &[Digest]) -> String {
    let digest = Sha256::digest(names(diff_ids));
    format!("{STACK}{}", hex::encode(digest))
}

fn names(diff_ids: &[Digest]) -> String {
    diff_ids.iter().map(|diff_id| format!("{}\n", diff_id.as_str())).collect()
}

/// The root among them.
fn parents(path: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut rest = path;
    while let Some((parent, _)) = rest.rsplit_once('/') {
        all.push(parent.to_owned());
        rest = parent;
    }
    all.push(String::new());
    all
}

/// Times don't count.
fn is_right(seen: &Seen) -> io::Result<bool> {
    let shown = rustix::fs::fstat(&seen.shown)?;
    let plain = |stat: &Stat| (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777);
    let attributes = attributes(&seen.shown)?;
    Ok(match &seen.looks {
        Looks::Default => plain(&shown) == (0, 0, DEFAULT_MODE) && attributes.is_empty(),
        Looks::As(model) => {
            plain(&shown) == plain(&rustix::fs::fstat(model)?)
                && attributes == self::attributes(model)?
        }
    })
}

enum Found {
    /// And whether it, or one that it is in, hides what is below.
    Directory(OwnedFd, bool),
    /// Something else, or a whiteout, or a parent that hides what is below: nothing further down counts.
    Hidden,
    Nothing,
}

fn find(tree: &Path, path: &str) -> io::Result<Found> {
    let mut at = rustix::fs::openat(CWD, tree, DIRECTORY, Mode::empty())?;
    let mut hides = is_opaque(&at);
    for part in path.split('/').filter(|part| !part.is_empty()) {
        match rustix::fs::openat2(&at, part, DIRECTORY, Mode::empty(), INSIDE) {
            Ok(next) => {
                hides |= is_opaque(&next);
                at = next;
            }
            Err(Errno::NOENT) if hides => return Ok(Found::Hidden),
            Err(Errno::NOENT) => return Ok(Found::Nothing),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let stat = rustix::fs::statat(&at, part, AtFlags::SYMLINK_NOFOLLOW)?;
                tracing::trace!(part, whiteout = is_whiteout(&stat), "directory is hidden");
                return Ok(Found::Hidden);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(Found::Directory(at, hides))
}

fn is_opaque(directory: &OwnedFd) -> bool {
    let mut value = [0_u8; 1];
    matches!(rustix::fs::fgetxattr(directory, OPAQUE, &mut value), Ok(1)) && value == *b"y"
}

fn copy_looks(model: &OwnedFd, own: &OwnedFd) -> io::Result<()> {
    let stat = rustix::fs::fstat(model)?;
    rustix::fs::fchown(own, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    rustix::fs::fchmod(own, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    for (name, value) in attributes(model)? {
        rustix::fs::fsetxattr(own, name.as_slice(), &value, XattrFlags::empty())?;
    }
    let mtime = Timespec {
        tv_sec: stat.st_mtime,
        tv_nsec: i64::try_from(stat.st_mtime_nsec).map_err(io::Error::other)?,
    };
    rustix::fs::futimens(own, &Timestamps { last_access: mtime, last_modification: mtime })?;
    Ok(())
}

/// All but overlayfs's own marks: those say what *that* layer hides.
fn attributes(directory: &OwnedFd) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    // The kernel's own limit for either is 64 KiB.
    let mut names = vec![0_u8; 64 << 10];
    let length = match rustix::fs::flistxattr(directory, &mut names) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => 0,
        Err(errno) => return Err(errno.into()),
    };
    let mut value = vec![0_u8; 64 << 10];
    let mut all = BTreeMap::new();
    for name in names.get(..length).unwrap_or_default().split(|byte| *byte == 0) {
        if name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_") {
            let length = rustix::fs::fgetxattr(directory, name, &mut value)?;
            all.insert(name.to_vec(), value.get(..length).unwrap_or_default().to_vec());
        }
    }
    Ok(all)
}
