//! What a container has changed in its root: the writable layer, as an archive and a list of what is gone.

use super::CheckpointError;
use crate::image::is_whiteout;
use rustix::fs::{AtFlags, CWD};
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

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
            archive.append_path_with_name(&whole, &inside).map_err(failed("archive", &whole))?;
            if kind == rustix::fs::FileType::Directory {
                left.push(inside);
            }
        }
    }
    archive.into_inner().map_err(failed("write", &files.changed))?;
    deleted.sort();
    let text = serde_json::to_vec(&deleted)?;
    create(&files.deleted)?.write_all(&text).map_err(failed("write", &files.deleted))
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
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            found.insert(path.trim_end_matches('/').to_owned(), link.unwrap_or(text));
        }
        let found: Vec<_> =
            found.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        assert_eq!(
            found,
            [("etc", ""), ("etc/deep", ""), ("etc/deep/file", "text"), ("link", "/etc/shadow")]
        );
    }
}
