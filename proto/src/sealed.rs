//! A copy of an OCI runtime that nobody can write to, passed from daemon to shim.
//!
//! Owns how the shim is told: a standard stream and a variable of its environment, which a shim that knows nothing of it passes over. The copy
//! is the daemon's to make and the shim's to use, for as long as the file that it is of looks as it did.

use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The variable: how the file looks, a space, its path. Where it is set, the copy is the shim's standard output.
pub const ENV: &str = "DAVIT_SEALED_RUNTIME";

/// Which file a copy is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Original {
    path: PathBuf,
    looks: String,
}

impl Original {
    /// The file as it is now; a symbolic link is followed.
    ///
    /// # Errors
    /// stat(2)'s.
    pub fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), looks: looks(&std::fs::metadata(path)?) })
    }

    /// Whether this is that path, and the file there still the one that was copied.
    #[must_use]
    pub fn is(&self, path: &Path) -> bool {
        self.path == path && std::fs::metadata(path).is_ok_and(|now| looks(&now) == self.looks)
    }

    /// The variable's value.
    #[must_use]
    pub fn to_env(&self) -> OsString {
        let mut value = self.looks.clone().into_bytes();
        value.push(b' ');
        value.extend_from_slice(self.path.as_os_str().as_bytes());
        OsString::from_vec(value)
    }

    /// What [`Self::to_env`] gave; `None` if it never did.
    #[must_use]
    pub fn from_env(value: &OsStr) -> Option<Self> {
        let bytes = value.as_bytes();
        let at = bytes.iter().position(|byte| *byte == b' ')?;
        let (looks, path) = (bytes.get(..at)?, bytes.get(at.checked_add(1)?..)?);
        let path = PathBuf::from(OsStr::from_bytes(path));
        let looks = String::from_utf8(looks.to_vec()).ok()?;
        (path.is_absolute() && !looks.is_empty()).then_some(Self { path, looks })
    }
}

/// What changes when a file is replaced or written to.
fn looks(file: &Metadata) -> String {
    let (dev, ino, size) = (file.dev(), file.ino(), file.len());
    let times = (file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec());
    format!("{dev}:{ino}:{size}:{}.{}:{}.{}", times.0, times.1, times.2, times.3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn an_original_is_known_until_it_is_written_to_or_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a runtime");
        std::fs::File::create(&path).unwrap().write_all(b"one").unwrap();
        let original = Original::of(&path).unwrap();
        assert!(original.is(&path) && !original.is(dir.path()));
        let told = Original::from_env(&original.to_env()).unwrap();
        assert_eq!(told, original);
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"!").unwrap();
        assert!(!told.is(&path));
        let again = Original::of(&path).unwrap();
        let other = dir.path().join("other");
        std::fs::File::create(&other).unwrap().write_all(b"one!").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert!(!again.is(&path));
        std::fs::remove_file(&path).unwrap();
        assert!(!again.is(&path));
    }

    #[test]
    fn what_is_no_such_value_is_none() {
        for value in ["", " ", "1:2", "1:2 relative", " /path", "1:2 "] {
            assert_eq!(Original::from_env(OsStr::new(value)), None, "{value:?}");
        }
    }
}
