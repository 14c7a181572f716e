//! `/proc/<pid>/mountinfo`, as far as cgroups and mount propagation need it (proc_pid_mountinfo(5)).
//!
//! Owns the parsing only. Paths are bytes: the kernel promises no encoding, and escapes space, tab, newline and backslash in octal.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Where it is mounted, as this mount namespace sees it.
    pub(crate) point: PathBuf,
    /// The mount's own flags, comma-separated.
    pub(crate) options: String,
    /// The peer group that it is in: what is mounted below it appears in its peers.
    pub(crate) group: Option<u64>,
    /// It receives what is mounted in another peer group.
    pub(crate) slave: bool,
    /// The file system's type.
    pub(crate) fs_type: String,
    /// The file system's options, comma-separated.
    pub(crate) super_options: String,
}

/// Every line that makes sense, in the kernel's order: a later mount on the same point hides the earlier one.
pub(crate) fn parse(bytes: &[u8]) -> Vec<Mount> {
    bytes.split(|byte| *byte == b'\n').filter_map(line).collect()
}

fn line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let point = fields.nth(4).map(unescape)?;
    let options = text(fields.next()?);
    let (mut group, mut slave) = (None, false);
    for tag in fields.by_ref().take_while(|field| *field != b"-") {
        if let Some(number) = tag.strip_prefix(b"shared:") {
            group = Some(text(number).parse().ok()?);
        }
        slave |= tag.starts_with(b"master:");
    }
    let fs_type = text(fields.next()?);
    let super_options = text(fields.nth(1)?);
    Some(Mount { point, options, group, slave, fs_type, super_options })
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field).into_owned()
}

fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        match (first, octal(tail)) {
            (b'\\', Some(byte)) => {
                out.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            (other, _) => {
                out.push(*other);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

/// The byte that three octal digits stand for.
fn octal(digits: &[u8]) -> Option<u8> {
    let mut value: u32 = 0;
    for digit in digits.get(..3)? {
        value = value * 8 + char::from(*digit).to_digit(8)?;
    }
    u8::try_from(value).ok()
}

/// The mount that `path` (absolute, without symlinks) is on.
pub(crate) fn holding<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    // max_by_key takes the last of equals: the mount on top.
    mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.components().count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TABLE: &[u8] = b"22 1 0:21 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard\n\
        23 22 0:22 / /mnt/a\\040b ro master:2 propagate_from:3 - tmpfs none rw\n\
        24 22 0:23 /x /mnt/a\\040b rw - tmpfs none rw,size=4k\n\
        25 22 0:23 /x /mnt/back\\134slash rw shared:4 master:5 - tmpfs none rw\n\
        garbage\n\
        26 22 0:23 / /no-separator rw shared:7\n";

    #[test]
    fn a_table_is_read_with_its_escapes_and_broken_lines_are_left_out() {
        let mounts = parse(TABLE);
        let points: Vec<_> = mounts.iter().map(|mount| mount.point.to_str().unwrap()).collect();
        assert_eq!(points, ["/", "/mnt/a b", "/mnt/a b", "/mnt/back\\slash"]);
        assert!(mounts[0].group == Some(1) && !mounts[0].slave);
        assert!(mounts[1].group.is_none() && mounts[1].slave);
        assert!(mounts[3].group == Some(4) && mounts[3].slave);
        assert_eq!(
            (mounts[0].fs_type.as_str(), mounts[0].super_options.as_str()),
            ("ext4", "rw,discard")
        );
    }

    #[test]
    fn a_path_is_on_the_deepest_mount_and_of_stacked_ones_on_the_last() {
        let mounts = parse(TABLE);
        let on = |path: &str| holding(&mounts, Path::new(path)).unwrap().super_options.clone();
        assert_eq!(on("/mnt/a b/c"), "rw,size=4k");
        assert_eq!(on("/mnt/a"), "rw,discard");
        assert_eq!(on("/"), "rw,discard");
        assert!(holding(&[], Path::new("/")).is_none());
    }

    #[test]
    fn the_real_table_has_a_root() {
        let mounts = parse(&std::fs::read("/proc/self/mountinfo").unwrap());
        assert!(holding(&mounts, Path::new("/")).is_some());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            parse(&bytes);
        }
    }
}
