//! What a container has changed in its root: the writable layer, as an archive and a list of what is gone.

use super::CheckpointError;
use crate::image::{OPAQUE, is_whiteout};
use rustix::fs::{AtFlags, CWD};
use std::fs::File;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// The kernel's own limits for the list of a file's extended attributes, and for the value of one.
const NAMES_MAX: usize = 64 << 10;
const VALUE_MAX: usize = 64 << 10;
/// Kept besides those in `user.`.
const KEPT: [&str; 3] =
    ["security.capability", "system.posix_acl_access", "system.posix_acl_default"];

/// Where they go.
#[derive(Debug, Clone)]
pub(super) struct Files {
    /// What was added or changed.
    pub(super) changed: PathBuf,
    /// Paths that are gone, as JSON.
    pub(super) deleted: PathBuf,
}

impl Files {
    pub(super) fn below(directory: &Path) -> Self {
        Self {
            changed: directory.join("rootfs-diff.tar"),
            deleted: directory.join("deleted.files"),
        }
    }
}

/// A new file that nobody but root reads.
pub(super) fn create(path: &Path) -> Result<File, CheckpointError> {
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    file.map_err(failed("make", path))
}

pub(super) fn failed<'a>(
    step: &'static str,
    path: &'a Path,
) -> impl FnOnce(std::io::Error) -> CheckpointError + use<'a> {
    move |source| CheckpointError::Io { step, path: path.to_owned(), source }
}

/// Reads the writable layer at `upper`. Sockets are left out: no archive holds them, and a restored process makes its own. Blocks.
pub(super) fn read(upper: &Path, files: &Files) -> Result<(), CheckpointError> {
    let mut archive = tar::Builder::new(create(&files.changed)?);
    archive.follow_symlinks(false);
    archive.append_dir(".", upper).map_err(failed("archive", upper))?;
    let mut deleted = Vec::new();
    let mut left = vec![PathBuf::new()];
    while let Some(directory) = left.pop() {
        let path = upper.join(&directory);
        for entry in std::fs::read_dir(&path).map_err(failed("list", &path))? {
            let name = entry.map_err(failed("list", &path))?.file_name();
            let (inside, whole) = (directory.join(&name), path.join(&name));
            let stat = rustix::fs::statat(CWD, &whole, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|errno| failed("look at", &whole)(errno.into()))?;
            if is_whiteout(&stat) {
                deleted.push(format!("/{}", inside.to_string_lossy()));
                continue;
            }
            let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
            if kind == rustix::fs::FileType::Socket {
                continue;
            }
            if kind == rustix::fs::FileType::RegularFile || kind == rustix::fs::FileType::Directory
            {
                attributes(&mut archive, &whole).map_err(failed("archive", &whole))?;
            }
            archive.append_path_with_name(&whole, &inside).map_err(failed("archive", &whole))?;
            if kind == rustix::fs::FileType::Directory {
                if is_opaque(&whole) {
                    hide(&mut archive, &inside).map_err(failed("archive", &whole))?;
                }
                left.push(inside);
            }
        }
    }
    archive.into_inner().map_err(failed("write", &files.changed))?;
    deleted.sort();
    let text = serde_json::to_vec(&deleted)?;
    create(&files.deleted)?.write_all(&text).map_err(failed("write", &files.deleted))
}

/// Whether a directory hides what the layers below have in it.
fn is_opaque(directory: &Path) -> bool {
    let mut value = [0; 1];
    rustix::fs::lgetxattr(directory, OPAQUE, &mut value).is_ok_and(|_| value == *b"y")
}

/// Says so as layers' archives do.
fn hide(archive: &mut tar::Builder<File>, directory: &Path) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_mode(0o600);
    archive.append_data(&mut header, directory.join(".wh..wh..opq"), io::empty())
}

/// Writes those extended attributes of a file, in front of it, that the applier of layers keeps: without its capabilities a program would not be what it was.
fn attributes(archive: &mut tar::Builder<File>, path: &Path) -> io::Result<()> {
    let mut names = vec![0; NAMES_MAX];
    let length = match rustix::fs::llistxattr(path, &mut names) {
        Ok(length) => length,
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    let mut kept: Vec<(String, Vec<u8>)> = Vec::new();
    for name in names.get(..length).unwrap_or_default().split(|byte| *byte == 0) {
        let Ok(name) = std::str::from_utf8(name) else { continue };
        let wanted = name.starts_with("user.") || KEPT.contains(&name);
        if wanted && !name.starts_with("user.overlay.") {
            let mut value = vec![0; VALUE_MAX];
            let length = rustix::fs::lgetxattr(path, name, &mut value)?;
            value.truncate(length);
            kept.push((format!("SCHILY.xattr.{name}"), value));
        }
    }
    if kept.is_empty() {
        return Ok(());
    }
    archive
        .append_pax_extensions(kept.iter().map(|(name, value)| (name.as_str(), value.as_slice())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{FileType, Mode};
    use std::io::Read as _;

    #[test]
    fn what_was_changed_is_archived_and_what_is_gone_is_listed() {
        let directory = tempfile::tempdir().unwrap();
        let upper = directory.path().join("fs");
        std::fs::create_dir_all(upper.join("etc/deep")).unwrap();
        File::create(upper.join("etc/deep/file")).unwrap().write_all(b"text").unwrap();
        std::os::unix::fs::symlink("/etc/shadow", upper.join("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(upper.join("socket")).unwrap();
        for gone in ["etc/gone", "also"] {
            let path = upper.join(gone);
            rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        }
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(upper.join("etc/deep"), OPAQUE, b"y", flags).unwrap();
        rustix::fs::setxattr(upper.join("etc/deep/file"), "user.kept", b"12", flags).unwrap();
        let files = Files::below(directory.path());
        read(&upper, &files).unwrap();
        let deleted: Vec<String> =
            serde_json::from_slice(&std::fs::read(&files.deleted).unwrap()).unwrap();
        assert_eq!(deleted, ["/also", "/etc/gone"]);
        let mut archive = tar::Archive::new(File::open(&files.changed).unwrap());
        let mut found = std::collections::BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_string_lossy().into_owned();
            let link = entry.link_name().unwrap().map(|to| to.to_string_lossy().into_owned());
            if path == "etc/deep/file" {
                let extensions = entry.pax_extensions().unwrap().unwrap();
                let told: Vec<_> =
                    extensions.map(|one| one.unwrap().key_bytes().to_vec()).collect();
                assert_eq!(told, [b"SCHILY.xattr.user.kept".to_vec()]);
            }
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            found.insert(path.trim_end_matches('/').to_owned(), link.unwrap_or(text));
        }
        let found: Vec<_> =
            found.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        assert_eq!(
            found,
            [
                (".", ""),
                ("etc", ""),
                ("etc/deep", ""),
                ("etc/deep/.wh..wh..opq", ""),
                ("etc/deep/file", "text"),
                ("link", "/etc/shadow")
            ]
        );
    }
}
