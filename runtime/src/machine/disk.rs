//! A directory's file system: what it is, how large, how much of it is free.

use super::Finding;
use crate::oci::mountinfo;
use rustix::fs::statvfs;
use std::io;
use std::path::{Path, PathBuf};

/// Less than this of it is little.
const LOW_SHARE: u64 = 20;
/// Less than this is none: an image of ordinary size does not fit.
const NONE: u64 = 64 << 20;
/// More than this is never little, however large the disk.
const PLENTY: u64 = 10 << 30;

/// A file system, in bytes and in inodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// What was asked about.
    pub path: PathBuf,
    /// Its type, such as `ext4`; empty if the mount table does not tell.
    pub filesystem: String,
    /// All of it.
    pub size: u64,
    /// What davit can still write.
    pub free: u64,
    /// How many files there can be; 0 if there is no such limit.
    pub inodes: u64,
    /// How many more.
    pub inodes_free: u64,
}

impl Disk {
    /// The one that `path` is on; of what is not there yet, the one that it will be on.
    ///
    /// # Errors
    /// The kernel's.
    pub fn of(path: &Path) -> io::Result<Self> {
        let there = nearest(path);
        let told = statvfs(&there)?;
        let table = std::fs::read("/proc/self/mountinfo")?;
        let mounts = mountinfo::parse(&table);
        let place = std::fs::canonicalize(&there)?;
        let mount = mountinfo::holding(&mounts, &place);
        Ok(Self {
            path: path.to_owned(),
            filesystem: mount.map(|mount| mount.fs_type.clone()).unwrap_or_default(),
            size: told.f_blocks.saturating_mul(told.f_frsize),
            free: told.f_bavail.saturating_mul(told.f_frsize),
            inodes: told.f_files,
            inodes_free: told.f_favail,
        })
    }
}

/// The path itself, or the nearest above it that is there.
pub(crate) fn nearest(path: &Path) -> PathBuf {
    let there = path.ancestors().find(|above| above.is_dir());
    there.unwrap_or(Path::new("/")).to_owned()
}

pub(super) fn finding(subject: &str, path: &Path) -> Finding {
    match Disk::of(path) {
        Ok(disk) => judge(subject, &disk),
        Err(error) => Finding::problem(
            subject,
            format!("{} can't be looked at: {error}", path.display()),
            "make it a directory that root can use",
        ),
    }
}

fn judge(subject: &str, disk: &Disk) -> Finding {
    let Disk { path, filesystem, size, free, inodes, inodes_free } = disk;
    let told =
        format!("{} of {} free on {} ({filesystem})", amount(*free), amount(*size), path.display());
    let low = |free: u64, all: u64| free < all / LOW_SHARE;
    if *free < NONE {
        return Finding::problem(
            subject,
            format!("{told}: nothing can be pulled or written"),
            "make room",
        );
    }
    if *inodes > 0 && *inodes_free < 1000 {
        return Finding::problem(
            subject,
            format!(
                "{inodes_free} inodes of {inodes} are free on {}: no layer can be unpacked",
                path.display()
            ),
            "remove files, or make it anew with more inodes",
        );
    }
    if low(*free, *size) && *free < PLENTY {
        return Finding::warning(subject, format!("{told}: it will be full soon"), "make room");
    }
    if *inodes > 0 && low(*inodes_free, *inodes) {
        return Finding::warning(
            subject,
            format!(
                "{inodes_free} inodes of {inodes} are free on {}: it will be full soon",
                path.display()
            ),
            "remove files",
        );
    }
    Finding::ok(subject, told)
}

/// For people.
fn amount(bytes: u64) -> String {
    for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20)] {
        let tenths = bytes.saturating_mul(10) >> shift;
        if tenths >= 10 {
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{} KiB", bytes >> 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Verdict;

    fn disk(size: u64, free: u64, inodes: u64, inodes_free: u64) -> Disk {
        Disk { path: "/x".into(), filesystem: "ext4".to_owned(), size, free, inodes, inodes_free }
    }

    #[test]
    fn a_disk_is_judged_by_what_is_left() {
        let gib = 1_u64 << 30;
        for (disk, verdict) in [
            (disk(100 * gib, 50 * gib, 1_000_000, 500_000), Verdict::Ok),
            (disk(100 * gib, 4 * gib, 1_000_000, 500_000), Verdict::Warning),
            (disk(4000 * gib, 40 * gib, 1_000_000, 500_000), Verdict::Ok),
            (disk(100 * gib, 1 << 20, 1_000_000, 500_000), Verdict::Problem),
            (disk(100 * gib, 50 * gib, 1_000_000, 20_000), Verdict::Warning),
            (disk(100 * gib, 50 * gib, 1_000_000, 5), Verdict::Problem),
            // btrfs has no such number.
            (disk(100 * gib, 50 * gib, 0, 0), Verdict::Ok),
        ] {
            assert_eq!(judge("disk", &disk).verdict, verdict, "{disk:?}");
        }
    }

    #[test]
    fn what_is_not_there_yet_is_where_it_will_be() {
        let dir = tempfile::tempdir().unwrap();
        let there = Disk::of(dir.path()).unwrap();
        let later = Disk::of(&dir.path().join("a/b")).unwrap();
        assert_eq!((there.size, &there.filesystem), (later.size, &later.filesystem));
        assert!(there.size > 0 && !there.filesystem.is_empty());
        assert_eq!(amount(3 << 29), "1.5 GiB");
        assert_eq!(amount(5000), "4 KiB");
    }
}
