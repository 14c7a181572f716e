//! The archive: its entries, and how it comes to its place.

use super::CheckpointError;
use super::diff::{Files, create, failed};
use crate::container::ContainerView;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// What goes into it.
#[derive(Debug)]
pub(super) struct Parts {
    /// CRIU's images.
    pub(super) images: PathBuf,
    pub(super) diff: Files,
    /// The OCI spec.
    pub(super) spec: PathBuf,
    /// CRIU's log.
    pub(super) dump_log: PathBuf,
    /// `config.dump`.
    pub(super) config: Vec<u8>,
    /// `davit.dump`.
    pub(super) davit: Vec<u8>,
}

/// Who the container is, in the words that tools for checkpoints read.
pub(super) fn config(view: &ContainerView) -> Result<Vec<u8>, CheckpointError> {
    let at = jiff::Timestamp::now();
    let created = jiff::Timestamp::from_nanosecond(i128::from(view.facts.created_at));
    Ok(serde_json::to_vec(&serde_json::json!({
        "id": view.id,
        "name": view.spec.name,
        "rootfsImage": view.facts.image_id,
        "rootfsImageRef": view.facts.image_ref,
        "rootfsImageName": view.facts.image_name,
        "createdTime": created.map(|time| time.to_string()).unwrap_or_default(),
        "checkpointedTime": at.to_string(),
        "restored": false,
    }))?)
}

/// Writes the archive beside `location`, brings it to the disk and renames it. Blocks.
pub(super) fn write(parts: &Parts, location: &Path) -> Result<(), CheckpointError> {
    let mut name = OsString::from(".");
    name.push(location.file_name().unwrap_or_default());
    name.push(".davit-tmp");
    let temporary = location.with_file_name(name);
    match std::fs::remove_file(&temporary) {
        // Left by a daemon that was killed meanwhile.
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove", &temporary)(error));
        }
        Ok(()) | Err(_) => {}
    }
    let written = pack(parts, &temporary)
        .and_then(|()| std::fs::rename(&temporary, location).map_err(failed("make", location)));
    if written.is_err() {
        // The first error is the one that matters.
        drop(std::fs::remove_file(&temporary));
    }
    written
}

fn pack(parts: &Parts, temporary: &Path) -> Result<(), CheckpointError> {
    let Parts { images, diff, spec, dump_log, config, davit } = parts;
    let mut archive = tar::Builder::new(create(temporary)?);
    archive.follow_symlinks(false);
    archive.append_dir_all("checkpoint", images).map_err(failed("archive", images))?;
    let mut file = |name: &str, path: &Path| {
        archive.append_path_with_name(path, name).map_err(failed("archive", path))
    };
    file("rootfs-diff.tar", &diff.changed)?;
    file("deleted.files", &diff.deleted)?;
    file("spec.dump", spec)?;
    // CRIU writes it; an OCI runtime may put it elsewhere.
    if dump_log.exists() {
        file("dump.log", dump_log)?;
    }
    for (name, bytes) in [("config.dump", config), (super::dump::NAME, davit)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        archive
            .append_data(&mut header, name, bytes.as_slice())
            .map_err(failed("archive", temporary))?;
    }
    let file = archive.into_inner().map_err(failed("write", temporary))?;
    file.sync_all().map_err(failed("write", temporary))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;

    fn parts(directory: &Path) -> Parts {
        let write = |name: &str| {
            let path = directory.join(name);
            create(&path).unwrap().write_all(name.as_bytes()).unwrap();
            path
        };
        let images = directory.join("images");
        std::fs::create_dir(&images).unwrap();
        create(&images.join("pages-1.img")).unwrap();
        let diff = Files { changed: write("changed"), deleted: write("deleted") };
        let (spec, dump_log) = (write("config.json"), write("dump"));
        let davit = b"{}".to_vec();
        Parts { images, diff, spec, dump_log, config: b"{}".to_vec(), davit }
    }

    #[test]
    fn an_archive_is_whole_readable_by_root_only_and_replaces_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let out = tempfile::tempdir().unwrap();
        let location = out.path().join("checkpoint.tar");
        for path in [location.clone(), out.path().join(".checkpoint.tar.davit-tmp")] {
            create(&path).unwrap().write_all(b"an older one").unwrap();
        }
        write(&parts(directory.path()), &location).unwrap();
        let mode = std::fs::metadata(&location).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        let mut archive = tar::Archive::new(std::fs::File::open(&location).unwrap());
        let names: BTreeSet<String> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().to_string_lossy().into_owned())
            .map(|path| path.trim_end_matches('/').to_owned())
            .collect();
        let expected = [
            "checkpoint",
            "checkpoint/pages-1.img",
            "config.dump",
            "davit.dump",
            "deleted.files",
            "dump.log",
            "rootfs-diff.tar",
            "spec.dump",
        ];
        assert_eq!(names, expected.map(str::to_owned).into());
        assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 1);
    }

    #[test]
    fn nothing_is_left_of_an_archive_that_fails() {
        let directory = tempfile::tempdir().unwrap();
        let out = tempfile::tempdir().unwrap();
        let mut parts = parts(directory.path());
        parts.spec = directory.path().join("none");
        let error = write(&parts, &out.path().join("checkpoint.tar")).unwrap_err();
        assert!(error.to_string().starts_with("archive "), "{error}");
        assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);
    }
}
