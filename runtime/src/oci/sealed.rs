//! OCI runtimes copied to where nobody can write to them.
//!
//! crun and runc guard their executable against the containers that they enter (CVE-2019-5736): each call of crun, and each create and exec of runc,
//! copies it into a sealed file in memory and starts anew from there. Started from such a file they find themselves guarded already. So one copy, made
//! once and handed to every shim, spares each call the copying and a second start: half of what crun's own part of a call takes, and the guard stays
//! the kernel's.
//!
//! Owns the copies: one for each executable, made at the first pod that wants it and anew when the file has changed. Shims check that, too, so an upgrade
//! of the OCI runtime counts from the next call on. Where no copy can be had, the file itself does.
//!
//! Not where SELinux is enabled: there it matters for a process's domain which file it was started from. And no other runtimes: they may look for
//! what lies beside them.

use super::handlers::{Handler, Kind};
use davit_proto::sealed::Original;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// More than any OCI runtime takes, in bytes.
const LARGEST: u64 = 64 << 20;
/// Exactly what the runtimes ask for.
const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);
/// What a program begins with that the kernel runs by itself; a script would need its file once more.
const ELF: [u8; 4] = *b"\x7fELF";

/// The copies that there are.
#[derive(Debug, Default)]
pub(crate) struct Sealed {
    /// By the files' paths.
    copies: Mutex<BTreeMap<PathBuf, Looked>>,
}

/// A file that was looked at, and its copy; `None`: it is to have none.
type Looked = (Original, Option<Arc<Copy>>);

/// One of them.
#[derive(Debug)]
pub struct Copy {
    /// Which file it is of.
    pub(crate) original: Original,
    fd: OwnedFd,
}

impl Copy {
    /// Another descriptor of it.
    pub(crate) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }
}

impl AsFd for Copy {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Sealed {
    /// The copy of a handler's executable, if it is one that is to have one. May read the whole file: not for a thread that others wait for.
    pub(crate) fn of(&self, handler: &Handler) -> Option<Arc<Copy>> {
        match handler.kind {
            Kind::Crun | Kind::Runc => {}
            Kind::Youki | Kind::Other => return None,
        }
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((original, known)) = copies.get(&handler.path)
            && original.is(&handler.path)
        {
            return known.clone();
        }
        match copy(&handler.path) {
            Ok((original, fd)) => {
                let copy = fd.map(|fd| Arc::new(Copy { original: original.clone(), fd }));
                copies.insert(handler.path.clone(), (original, copy.clone()));
                copy
            }
            Err(error) => {
                let path = handler.path.display();
                tracing::debug!(%path, %error, "no sealed copy: it makes its own at each call");
                None
            }
        }
    }
}

/// The file as it was before it was read, so that one that changes meanwhile is copied again; without a copy if it is no program by itself.
fn copy(path: &Path) -> io::Result<(Original, Option<OwnedFd>)> {
    let original = Original::of(path)?;
    let mut file = File::open(path)?;
    if !is_program(&mut file) || file.metadata()?.len() > LARGEST {
        return Ok((original, None));
    }
    file.rewind()?;
    let mut memory = File::from(in_memory()?);
    io::copy(&mut file.take(LARGEST), &mut memory)?;
    rustix::fs::fchmod(&memory, rustix::fs::Mode::from_raw_mode(0o555))?;
    // It can't be run while somebody may write to it.
    let fd = rustix::fs::open(
        format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&memory)),
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    fcntl_add_seals(&memory, SEALS)?;
    Ok((original, Some(fd)))
}

/// Whether it is a program by itself, and no script that calls one.
pub(super) fn is_program(file: &mut File) -> bool {
    let mut magic = [0; ELF.len()];
    file.read_exact(&mut magic).is_ok() && magic == ELF
}

/// An empty file in memory, which may be run where the kernel asks for that to be said.
fn in_memory() -> rustix::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create("oci-runtime", flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => memfd_create("oci-runtime", flags),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::testing;
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;

    fn handler(path: &Path, kind: Kind) -> Handler {
        Handler { path: path.to_owned(), kind, ..testing::handler() }
    }

    #[test]
    fn a_program_is_copied_once_and_anew_when_it_has_changed_and_nobody_can_write_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("crun");
        std::fs::copy("/bin/true", &path).unwrap();
        let sealed = Sealed::default();
        let copy = sealed.of(&handler(&path, Kind::Crun)).unwrap();
        assert!(Arc::ptr_eq(&copy, &sealed.of(&handler(&path, Kind::Crun)).unwrap()));
        let fd = copy.descriptor().unwrap();
        assert_eq!(rustix::fs::fcntl_get_seals(&fd).unwrap(), SEALS);
        let name = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
        assert!(std::process::Command::new(&name).status().unwrap().success());
        assert!(
            std::fs::OpenOptions::new().write(true).open(&name).is_err_and(|error| {
                // Root may open it; writing is what nobody can.
                error.kind() == io::ErrorKind::PermissionDenied
            }) || std::fs::OpenOptions::new()
                .write(true)
                .open(&name)
                .unwrap()
                .write_all(b"x")
                .is_err()
        );
        std::fs::remove_file(&path).unwrap();
        std::fs::copy("/bin/false", &path).unwrap();
        let other = sealed.of(&handler(&path, Kind::Crun)).unwrap();
        assert!(!Arc::ptr_eq(&copy, &other) && other.original.is(&path));
    }

    #[test]
    fn scripts_other_runtimes_and_files_that_are_not_there_have_none() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("runc");
        let mut file = File::create(&script).unwrap();
        file.write_all(b"#!/bin/sh\nexec runc\n").unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let sealed = Sealed::default();
        assert!(sealed.of(&handler(&script, Kind::Runc)).is_none());
        assert!(sealed.of(&handler(&dir.path().join("none"), Kind::Runc)).is_none());
        for kind in [Kind::Youki, Kind::Other] {
            assert!(sealed.of(&handler(Path::new("/bin/true"), kind)).is_none());
        }
    }
}
