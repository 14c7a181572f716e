//! How large a container's writable layer is.
//!
//! What lies in there is the container's, and it changes while it is walked: no link is followed, each directory is opened below the one before, and there is a
//! bound to how many entries and how deep. Beyond the bound the count is what was found so far.

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, open, openat, statat};
use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Entries that are looked at.
const MOST_ENTRIES: u64 = 2_000_000;
/// Directories below one another; each holds a descriptor while what is below it is walked.
const DEEPEST: usize = 128;
/// The kernel's unit of `st_blocks`, whatever the file system's.
const BLOCK: u64 = 512;

/// The size of a writable layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerUse {
    /// When it was walked, in nanoseconds since the epoch.
    pub at: i64,
    /// What it takes on the disk.
    pub bytes: u64,
    /// Files, directories and all else.
    pub inodes: u64,
}

/// Walks the layer at `path`; `None` if it is not there.
pub(super) fn walk(path: &Path, at: i64) -> Option<LayerUse> {
    let root = open(path, flags(), Mode::empty()).ok()?;
    let mut count = Count { found: LayerUse { at, bytes: 0, inodes: 0 }, linked: HashSet::new() };
    count.add(&rustix::fs::fstat(&root).ok()?);
    let mut above = vec![Dir::new(root).ok()?];
    while let Some(directory) = above.last_mut() {
        if count.found.inodes >= MOST_ENTRIES {
            break;
        }
        let Some(Ok(entry)) = directory.read() else {
            above.pop();
            continue;
        };
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let Ok(here) = directory.fd() else { continue };
        let Ok(stat) = statat(here, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        count.add(&stat);
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_directory && above.len() < DEEPEST {
            let below: Option<OwnedFd> = above
                .last()
                .and_then(|directory| directory.fd().ok())
                .and_then(|here| openat(here, name, flags(), Mode::empty()).ok());
            above.extend(below.and_then(|below| Dir::new(below).ok()));
        }
    }
    Some(count.found)
}

fn flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOATIME
}

/// The sum, with a file that has several names counted once.
struct Count {
    found: LayerUse,
    linked: HashSet<(u64, u64)>,
}

impl Count {
    fn add(&mut self, stat: &Stat) {
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if stat.st_nlink > 1 && !is_directory && !self.linked.insert((stat.st_dev, stat.st_ino)) {
            return;
        }
        let blocks = u64::try_from(stat.st_blocks).unwrap_or_default();
        self.found.bytes = self.found.bytes.saturating_add(blocks.saturating_mul(BLOCK));
        self.found.inodes += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write as _;
    use std::os::unix::fs::symlink;

    #[test]
    fn files_are_counted_once_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("fs");
        fs::create_dir_all(root.join("a/b")).unwrap();
        let empty = walk(&root, 1).unwrap();
        assert_eq!(empty.inodes, 3);
        let mut file = fs::File::create(root.join("a/file")).unwrap();
        file.write_all(&[7; 100_000]).unwrap();
        file.sync_all().unwrap();
        fs::hard_link(root.join("a/file"), root.join("a/b/again")).unwrap();
        symlink("/usr", root.join("usr")).unwrap();
        let found = walk(&root, 2).unwrap();
        assert_eq!((found.inodes, found.at), (5, 2));
        let more = found.bytes - empty.bytes;
        assert!((100_000..150_000).contains(&more), "{more}");
    }

    #[test]
    fn a_layer_that_is_a_link_or_not_there_has_no_size() {
        let dir = tempfile::tempdir().unwrap();
        symlink("/usr", dir.path().join("fs")).unwrap();
        assert_eq!(walk(&dir.path().join("fs"), 1), None);
        assert_eq!(walk(&dir.path().join("none"), 1), None);
    }

    #[test]
    fn a_tree_deeper_than_the_bound_is_counted_to_the_bound() {
        let dir = tempfile::tempdir().unwrap();
        let mut path = dir.path().join("fs");
        for _ in 0..=DEEPEST {
            path.push("d");
        }
        fs::create_dir_all(&path).unwrap();
        let found = walk(&dir.path().join("fs"), 1).unwrap();
        assert_eq!(found.inodes, u64::try_from(DEEPEST).unwrap() + 1);
    }
}
