//! The mounts of the caller's namespace, one by one and by number: listmount(2) and statmount(2), of Linux 6.8.
//!
//! A look at mountinfo(5) has every mount in it, so it costs the more the more there are. Numbers are never given twice, so that whoever has looked at a mount need not do
//! so again while its number is listed.

use nix::libc;
use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::io::Errno;
use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// The same on all architectures that have a number of the common table.
const STATMOUNT: libc::c_long = 457;
const LISTMOUNT: libc::c_long = 458;

/// `STATX_MNT_ID_UNIQUE`.
const UNIQUE: u32 = 0x4000;
/// Instead of a mount: all that the caller can reach.
const ALL: u64 = u64::MAX;
/// What is told of a mount: how it propagates, where it is, and of which file system.
const BASICS: u64 = 0x2;
const POINT: u64 = 0x10;
const FILE_SYSTEM: u64 = 0x20;
const TOLD: u64 = BASICS | POINT | FILE_SYSTEM;

/// `struct mnt_id_req`, in its first version.
#[repr(C)]
struct Request {
    size: u32,
    spare: u32,
    mount: u64,
    parameter: u64,
}

impl Request {
    fn new(mount: u64, parameter: u64) -> Self {
        // 24, which the kernel takes for the version.
        let size = u32::try_from(size_of::<Self>()).unwrap_or(u32::MAX);
        Self { size, spare: 0, mount, parameter }
    }
}

/// A mount, as it was when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is, as the caller calls that.
    pub point: PathBuf,
    /// The type of its file system, as in filesystems(5).
    pub file_system: String,
    /// It can be copied by itself, or with what it is mounted in: it is not unbindable (`mount_namespaces(7)`).
    pub bindable: bool,
}

/// The numbers of all mounts below the root of the caller's namespace, itself included, in the order in which they were made.
///
/// # Errors
/// The kernel's: `NOSYS` before Linux 6.8.
pub fn list() -> Result<Vec<u64>, Errno> {
    const AT_ONCE: usize = 1024;
    let mut all: Vec<u64> = Vec::new();
    loop {
        let request = Request::new(ALL, all.last().copied().unwrap_or(0));
        let mut some = [0_u64; AT_ONCE];
        // SAFETY: the kernel reads as much of `request` as its size says, which is all of it, and writes no more than `AT_ONCE` numbers to `some`; both live until
        // it returns.
        let result = unsafe {
            libc::syscall(LISTMOUNT, &raw const request, some.as_mut_ptr(), AT_ONCE, 0_u64)
        };
        let told = answered(result)?;
        all.extend(some.iter().take(told));
        if told < AT_ONCE {
            return Ok(all);
        }
    }
}

/// What the mount of this number is.
///
/// # Errors
/// The kernel's: `NOENT` if it is gone, or can't be reached from the caller's root.
pub fn look(number: u64) -> Result<Mount, Errno> {
    // Room for the longest path, and the head.
    const WORDS: usize = 1024;
    let request = Request::new(number, TOLD);
    let mut buffer = [0_u64; WORDS];
    // SAFETY: the kernel reads as much of `request` as its size says, which is all of it, and writes no more than so many bytes to `buffer`, which is aligned as its head
    // has to be; both live until it returns.
    let result = unsafe {
        libc::syscall(
            STATMOUNT,
            &raw const request,
            buffer.as_mut_ptr(),
            size_of::<[u64; WORDS]>(),
            0_u64,
        )
    };
    answered(result)?;
    // How much of it is told stands first, in half a word.
    let told = buffer.first().map_or(0, |word| *word & u64::from(u32::MAX));
    let words = usize::try_from(told).unwrap_or(usize::MAX).div_ceil(size_of::<u64>());
    let bytes: Vec<u8> = buffer.iter().take(words).flat_map(|word| word.to_ne_bytes()).collect();
    parse(&bytes).ok_or(Errno::BADMSG)
}

/// The number of the mount on which that is, or of the one that is mounted there. Asks no server, unless the way there does.
///
/// # Errors
/// The kernel's; `NOSYS` if it knows no such numbers.
pub fn number_at(path: &Path) -> Result<u64, Errno> {
    let asked = StatxFlags::from_bits_retain(UNIQUE);
    let stat = rustix::fs::statx(CWD, path, AtFlags::STATX_DONT_SYNC, asked)?;
    if stat.stx_mask & UNIQUE == 0 { Err(Errno::NOSYS) } else { Ok(stat.stx_mnt_id) }
}

/// What stands in a `struct statmount`.
fn parse(bytes: &[u8]) -> Option<Mount> {
    const TOLD_AT: usize = 8;
    const PROPAGATION_AT: usize = 72;
    const FILE_SYSTEM_AT: usize = 36;
    const POINT_AT: usize = 108;
    const TEXTS: usize = 512;
    let number =
        |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?));
    if number(TOLD_AT)? & TOLD != TOLD {
        return None;
    }
    let text = |at: usize| {
        let offset = u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?);
        let rest = bytes.get(TEXTS.checked_add(usize::try_from(offset).ok()?)?..)?;
        CStr::from_bytes_until_nul(rest).ok()
    };
    Some(Mount {
        point: OsStr::from_bytes(text(POINT_AT)?.to_bytes()).into(),
        file_system: text(FILE_SYSTEM_AT)?.to_string_lossy().into_owned(),
        bindable: number(PROPAGATION_AT)? & libc::MS_UNBINDABLE == 0,
    })
}

fn answered(result: libc::c_long) -> Result<usize, Errno> {
    let result = nix::errno::Errno::result(result)
        .map_err(|error| Errno::from_raw_os_error(error as i32))?;
    Ok(usize::try_from(result).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::{Namespace, unshare};
    use rustix::mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
    };

    #[test]
    fn what_is_listed_is_what_mountinfo_has_and_numbers_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let point = dir.path().canonicalize().unwrap().join("a b\\c");
        std::fs::create_dir(&point).unwrap();
        let work = || {
            unshare(Namespace::Mount).unwrap();
            let all = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount_change("/", all).unwrap();
            let before = list().unwrap();
            assert!(before.is_sorted());
            mount("x", &point, "tmpfs", MountFlags::empty(), None).unwrap();
            let after = list().unwrap();
            let new: Vec<_> = after.iter().filter(|one| !before.contains(one)).collect();
            assert_eq!(after.len(), before.len() + 1);
            let one = look(*new[0]).unwrap();
            let file_system = "tmpfs".to_owned();
            assert_eq!(one, Mount { point: point.clone(), file_system, bindable: true });
            assert_eq!(number_at(&point), Ok(*new[0]));
            mount_change(&point, MountPropagationFlags::UNBINDABLE).unwrap();
            assert!(!look(*new[0]).unwrap().bindable);
            let mut points: Vec<_> = after.iter().map(|one| look(*one).unwrap().point).collect();
            let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            let written = table.lines().filter_map(|line| line.split(' ').nth(4));
            let mut written: Vec<PathBuf> = written
                .map(|path| path.replace("\\040", " ").replace("\\134", "\\").into())
                .collect();
            points.sort();
            written.sort();
            assert_eq!(points, written);
            unmount(&point, UnmountFlags::empty()).unwrap();
            assert_eq!(look(*new[0]), Err(Errno::NOENT));
            assert_eq!(list().unwrap(), before);
        };
        std::thread::scope(|scope| scope.spawn(work).join().unwrap());
    }

    #[test]
    fn what_is_cut_off_or_was_not_told_is_nothing() {
        assert_eq!(parse(&[]), None);
        let mut bytes = vec![0; 600];
        assert_eq!(parse(&bytes), None);
        bytes[8..16].copy_from_slice(&TOLD.to_ne_bytes());
        assert!(parse(&bytes).is_some());
        bytes[108..112].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(parse(&bytes), None);
        bytes[108..112].copy_from_slice(&80_u32.to_ne_bytes());
        bytes[592..].fill(1);
        assert_eq!(parse(&bytes), None);
    }
}
