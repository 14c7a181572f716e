//! Names for namespaces: a network namespace lives for as long as it is mounted somewhere.
//!
//! Owns the mount, and that a directory of such mounts is one itself. Taking them away is their users' business.

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::MountPropagationFlags;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long another process may hold the lock of the directory of pins.
const LOCK_LIMIT: Duration = Duration::from_secs(5);

/// What could not be done.
#[derive(Debug, thiserror::Error)]
#[error("{step} {}", path.display())]
pub struct PinError {
    /// Which step.
    pub step: &'static str,
    /// With what.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: std::io::Error,
}

fn at<'a, E: Into<std::io::Error>>(
    step: &'static str,
    path: &'a Path,
) -> impl FnOnce(E) -> PinError + use<'a, E> {
    move |e| PinError { step, path: path.to_owned(), source: e.into() }
}

/// Pins the network namespace that was made, or could not be, at `path`, which there must not be yet.
///
/// # Errors
/// The kernel's; nothing of it stays.
pub fn new_network(made: std::io::Result<OwnedFd>, path: &Path) -> Result<(), PinError> {
    let made = made.map_err(at("make a network namespace for", path))?;
    let file = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&made));
    pin(Path::new(&file), path)
}

/// Binds the network namespace that `namespace` is the file of to a new file at `path`.
pub fn pin(namespace: &Path, path: &Path) -> Result<(), PinError> {
    // davit has seen to it when it started; whoever took it away since then finds it again.
    if let Some(parent) = path.parent().filter(|parent| !is_mount(parent).unwrap_or(false)) {
        share(parent)?;
    }
    std::fs::File::create_new(path).map_err(at("make", path))?;
    rustix::mount::mount_bind(namespace, path)
        .map_err(at("pin the network namespace at", path))
        .inspect_err(|_| {
            let _ = std::fs::remove_file(path);
        })
}

/// Makes `directory`, if it is none yet, a mount of its own that passes on what is mounted below it: to whoever mounts it so himself, as an agent in a
/// container with the mount propagation `HostToContainer`. As `ip netns` has it (ip-netns(8)).
///
/// # Errors
/// The kernel's.
pub fn share(directory: &Path) -> Result<(), PinError> {
    own_mount(directory)?;
    rustix::mount::mount_change(directory, MountPropagationFlags::SHARED)
        .map_err(at("share the mounts of", directory))
}

/// Makes `directory`, if it is none yet, a mount of its own, which passes nothing on of what is mounted below it when it is made.
/// Shims do this at the same time: the lock keeps two from mounting over each other.
///
/// # Errors
/// The kernel's.
pub fn own_mount(directory: &Path) -> Result<(), PinError> {
    std::fs::create_dir_all(directory).map_err(at("make", directory))?;
    let _locked = lock(directory)?;
    if is_mount(directory)? {
        return Ok(());
    }
    rustix::mount::mount_bind(directory, directory).map_err(at("mount on itself", directory))?;
    // Apart from the mount that it lies in, whose peers would else have each pin twice.
    rustix::mount::mount_change(directory, MountPropagationFlags::PRIVATE)
        .map_err(at("make private", directory))
}

fn lock(directory: &Path) -> Result<OwnedFd, PinError> {
    let fd = rustix::fs::open(
        directory,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(at("open", directory))?;
    let deadline = Instant::now() + LOCK_LIMIT;
    loop {
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(fd),
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                let pause = rustix::thread::Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
                let _ = rustix::thread::nanosleep(&pause);
            }
            Err(e) => return Err(at("lock", directory)(e)),
        }
    }
}

/// Whether the files at `directory` are the same without what is mounted there: nothing is, or the directory itself. `false` where that can't be said.
#[must_use]
pub fn shows_itself(directory: &Path) -> bool {
    let shows = || -> std::io::Result<bool> {
        let directory = directory.canonicalize()?;
        let own = std::fs::metadata(&directory)?;
        let (Some(above), Some(name)) = (directory.parent(), directory.file_name()) else {
            return Ok(false);
        };
        // A directory's entries are told as they are below what is mounted on them.
        let mut below = std::fs::read_dir(above)?.flatten().filter(|one| one.file_name() == name);
        let same = below.next().is_some_and(|one| one.ino() == own.ino());
        Ok(same && std::fs::metadata(above)?.dev() == own.dev())
    };
    shows().unwrap_or(false)
}

/// Whether something is mounted at `path` itself.
pub fn is_mount(path: &Path) -> Result<bool, PinError> {
    let stat = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE)
        .map_err(at("stat", path))?;
    Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}
