//! `--cidfile`: reserved before anything is made, so that a file that exists stops `davit run` in time; gone again if it fails.

use crate::client::error::ClientError;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A file that is removed when dropped, unless it is kept.
#[derive(Debug)]
pub(crate) struct CidFile {
    path: PathBuf,
    file: File,
    kept: bool,
}

impl CidFile {
    /// Makes it.
    ///
    /// # Errors
    /// [`ClientError::CidFile`], also if it exists.
    pub(crate) fn reserve(path: &Path) -> Result<Self, ClientError> {
        let file = File::create_new(path)
            .map_err(|source| ClientError::CidFile { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), file, kept: false })
    }

    /// Writes the id, without a line end, as scripts that read it expect.
    ///
    /// # Errors
    /// [`ClientError::CidFile`].
    pub(crate) fn write(&mut self, id: &str) -> Result<(), ClientError> {
        self.file
            .write_all(id.as_bytes())
            .map_err(|source| ClientError::CidFile { path: self.path.clone(), source })
    }

    /// It stays.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for CidFile {
    fn drop(&mut self) {
        if !self.kept {
            // It is empty or names a container that is being removed: what could be told about it is not worth a second line.
            drop(std::fs::remove_file(&self.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cidfile_must_be_new_and_stays_only_if_it_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cid");
        drop(CidFile::reserve(&path).unwrap());
        assert!(!path.exists());
        let mut file = CidFile::reserve(&path).unwrap();
        file.write("abc").unwrap();
        file.keep();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "abc");
        let error = CidFile::reserve(&path).unwrap_err().to_string();
        assert!(error.contains("cid"), "{error}");
        assert!(path.exists(), "somebody else's file stays");
    }
}
