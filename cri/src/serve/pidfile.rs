//! The pidfile: there while the daemon runs, whole at any moment, and removed only while it is ours.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("write pidfile {}", path.display())]
pub(crate) struct PidfileError {
    path: PathBuf,
    source: io::Error,
}

/// Removes the file when dropped, if it still holds our pid.
#[derive(Debug)]
pub(crate) struct Pidfile(PathBuf);

/// Puts our pid in its place at once: a reader never sees half of it.
///
/// # Errors
/// [`PidfileError`] with the path.
pub(crate) fn write(path: &Path) -> Result<Pidfile, PidfileError> {
    let failed = |source| PidfileError { path: path.to_owned(), source };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let temporary = path.with_file_name(name);
    let result = place(&temporary, path);
    if result.is_err() {
        // Most often it was never made.
        drop(std::fs::remove_file(&temporary));
    }
    result.map_err(failed)?;
    Ok(Pidfile(path.to_owned()))
}

fn place(temporary: &Path, path: &Path) -> io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o644).open(temporary)?;
    writeln!(file, "{}", std::process::id())?;
    std::fs::rename(temporary, path)
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        let ours = std::fs::read_to_string(&self.0)
            .is_ok_and(|text| text.trim() == std::process::id().to_string());
        if ours && let Err(error) = std::fs::remove_file(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "remove pidfile");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pidfile_goes_with_its_daemon_and_a_successors_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("davit.pid");
        let pidfile = write(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        drop(pidfile);
        assert!(!path.exists());
        let pidfile = write(&path).unwrap();
        std::fs::File::create(&path).unwrap().write_all(b"1\n").unwrap();
        drop(pidfile);
        assert!(path.exists());
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let error = write(Path::new("/nonexistent/davit.pid")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/davit.pid"));
    }
}
