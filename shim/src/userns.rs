//! The pod's user namespace: made, held open, entered.
//!
//! Nobody can make a namespace that another user namespace owns but from inside of that one, and nobody comes back from there. So a child does it,
//! the [`Holder`], and stands in the namespaces until the shim holds them. Only what is done there can be done by the pod's root later: a network
//! that it may configure, a `/proc` that it may mount.
//!
//! ```text
//! shim                                   holder
//!   fork ────────────────────────────────► a user namespace
//!   its maps ◄──────────── "made" ───────┘
//!     └──────────────────── "mapped" ────► root of it ─► the other namespaces, and what is to be done in them
//!   opens and pins them ◄── "ready" ─────┘
//!   kills it, reaps it
//! ```

use crate::files;
use davit_proto::disk::{IdMapping, IdMappings};
use davit_sys::namespace::{Namespace, unshare};
use davit_sys::process::{SpawnError, Spawned, fork};
use rustix::fs::{FileType, Gid, Uid};
use rustix::process::{Pid, Signal, WaitOptions, set_parent_process_death_signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Why there is no user namespace.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsernsError {
    #[error("make a user namespace")]
    Spawn(#[from] SpawnError),
    #[error("make a user namespace: {0}")]
    Inside(String),
    #[error("make a user namespace: {step}")]
    Step { step: &'static str, source: std::io::Error },
    #[error("map {text:?} into a user namespace by its {file}")]
    Map { file: &'static str, text: String, source: std::io::Error },
}

fn step<E: Into<std::io::Error>>(step: &'static str) -> impl FnOnce(E) -> UsernsError {
    move |e| UsernsError::Step { step, source: e.into() }
}

/// A pod's user namespace.
#[derive(Debug)]
pub(crate) struct Userns {
    namespace: OwnedFd,
    pub(crate) mappings: IdMappings,
    /// Where the roots of its containers are mounted.
    pub(crate) rootfs: Option<PathBuf>,
}

impl Userns {
    pub(crate) fn new(namespace: OwnedFd, mappings: IdMappings, rootfs: Option<PathBuf>) -> Self {
        Self { namespace, mappings, rootfs }
    }

    /// A path by which an OCI runtime can join it, for as long as this lives.
    pub(crate) fn path(&self) -> String {
        let pid = rustix::process::getpid().as_raw_nonzero();
        format!("/proc/{pid}/fd/{}", self.namespace.as_raw_fd())
    }

    /// Becomes root of it, with all capabilities in it and none outside. There is no way back.
    pub(crate) fn enter(&self) -> Result<(), UsernsError> {
        move_into_link_name_space(self.namespace.as_fd(), Some(LinkNameSpaceType::User))
            .map_err(step("enter it"))?;
        become_root()
    }

    /// A process's stream as one in the namespace may have it. A pipe becomes the namespace's root's, who may hand it on: else nobody in there could open it
    /// anew (`/dev/stdout`). Some OCI runtimes do the same to whatever they are given, and the host's `/dev/null` is not theirs to give: instead of it
    /// goes one that nobody else has.
    pub(crate) fn give(&self, stream: OwnedFd) -> std::io::Result<OwnedFd> {
        let Some((uid, gid)) = self.mappings.host_root() else { return Ok(stream) };
        match FileType::from_raw_mode(rustix::fs::fstat(&stream)?.st_mode) {
            FileType::Fifo => {
                rustix::fs::fchown(&stream, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
                Ok(stream)
            }
            FileType::CharacterDevice => own_null(),
            FileType::RegularFile
            | FileType::Directory
            | FileType::Symlink
            | FileType::Socket
            | FileType::BlockDevice
            | FileType::Unknown => Ok(stream),
        }
    }
}

/// A null device of its own, in a file system that nobody else sees and that goes with it.
pub(crate) fn own_null() -> std::io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
    let made = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&made)?;
    let flags = MountAttrFlags::empty();
    let root = rustix::mount::fsmount(&made, FsMountFlags::FSMOUNT_CLOEXEC, flags)?;
    let mode = Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(&root, "null", FileType::CharacterDevice, mode, rustix::fs::makedev(1, 3))?;
    rustix::fs::chmodat(&root, "null", mode, rustix::fs::AtFlags::empty())?;
    Ok(rustix::fs::openat(&root, "null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}

impl AsFd for Userns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }
}

/// A process that stands in a new user namespace, and ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Holder {
    pid: Pid,
}

impl Holder {
    /// Starts it; it has done `inside`, as root of the namespace, when this answers.
    pub(crate) fn start(
        mappings: &IdMappings,
        inside: impl FnOnce() -> Result<(), String>,
    ) -> Result<Self, UsernsError> {
        let (mut ours, theirs) = UnixStream::pair().map_err(step("make a pair of sockets"))?;
        let Spawned { pid, failure } = fork(move || hold(theirs, inside))?;
        let holder = Self { pid };
        let hear = |ours: &mut UnixStream| {
            let Err(_) = ours.read_exact(&mut [0]) else { return Ok(()) };
            // It is gone, and has told why.
            let told = failure.try_clone().map(std::fs::File::from);
            let text = told.and_then(std::io::read_to_string).map_err(step("hear from the child"));
            Err(UsernsError::Inside(text?))
        };
        hear(&mut ours)?;
        for (file, ranges) in [("uid_map", &mappings.uids), ("gid_map", &mappings.gids)] {
            let text = table(ranges);
            let path = format!("/proc/{}/{file}", pid.as_raw_nonzero());
            files::write_kernel(Path::new(&path), &text).map_err(|source| UsernsError::Map {
                file,
                text,
                source,
            })?;
        }
        ours.write_all(&[0]).map_err(step("tell the child"))?;
        hear(&mut ours)?;
        Ok(holder)
    }

    /// The file of one of its namespaces.
    pub(crate) fn namespace(&self, kind: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/{kind}", self.pid.as_raw_nonzero()))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Not reaped yet, so the number is still its own.
        let _ = rustix::process::kill_process(self.pid, Signal::KILL);
        let _ = rustix::process::waitpid(Some(self.pid), WaitOptions::empty());
    }
}

/// The child's part.
fn hold(
    mut channel: UnixStream,
    inside: impl FnOnce() -> Result<(), String>,
) -> Result<(), String> {
    let text = |e: UsernsError| crate::error::chain(&e);
    unshare(Namespace::User).map_err(|e| std::io::Error::from(e).to_string())?;
    let mut talk = || -> std::io::Result<()> {
        channel.write_all(&[0])?;
        channel.read_exact(&mut [0])
    };
    talk().map_err(step("talk to the shim")).map_err(text)?;
    become_root().map_err(text)?;
    // After the change of user, which undoes it.
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(step("die with the shim"))
        .map_err(text)?;
    inside()?;
    // Nothing comes: it is killed here.
    talk().map_err(step("talk to the shim")).map_err(text)
}

fn become_root() -> Result<(), UsernsError> {
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    rustix::thread::set_thread_groups(&[]).map_err(step("drop groups"))?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(step("set the group"))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(step("set the user"))
}

/// As user_namespaces(7) has it.
fn table(ranges: &[IdMapping]) -> String {
    ranges
        .iter()
        .map(|IdMapping { inside, host, length }| format!("{inside} {host} {length}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_one_line_for_each_range() {
        let range = |inside, host, length| IdMapping { inside, host, length };
        assert_eq!(table(&[range(0, 1000, 10), range(10, 5, 1)]), "0 1000 10\n10 5 1\n");
    }

    #[test]
    fn pipes_are_given_away_and_the_hosts_null_device_is_not() {
        let range = IdMapping { inside: 0, host: 100_000, length: 10 };
        let mappings = IdMappings { uids: vec![range], gids: vec![range] };
        let userns = Userns::new(crate::process::null().unwrap(), mappings, None);
        let (pipe, _other) = rustix::pipe::pipe().unwrap();
        let pipe = userns.give(pipe).unwrap();
        assert_eq!(rustix::fs::fstat(&pipe).unwrap().st_uid, 100_000);
        let null = userns.give(crate::process::null().unwrap()).unwrap();
        rustix::fs::fchown(&null, Some(Uid::from_raw(100_000)), None).unwrap();
        assert_eq!(rustix::io::write(&null, b"x").unwrap(), 1);
        assert_eq!(rustix::io::read(&null, &mut [0; 8]).unwrap(), 0);
        let (own, host) =
            (rustix::fs::fstat(&null).unwrap(), rustix::fs::stat("/dev/null").unwrap());
        assert_eq!(own.st_rdev, host.st_rdev);
        assert_ne!((own.st_dev, own.st_uid), (host.st_dev, host.st_uid));
    }
}
