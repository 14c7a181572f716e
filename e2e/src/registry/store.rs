//! The registry's directory.
//!
//! Owns its layout: `blobs/sha256/HEX` holds every blob and manifest, `repositories/NAME/_tags/TAG` the digest that a tag stands
//! for, `repositories/NAME/_manifests/HEX` (empty) says that a repository has this manifest. A store may lie on top of
//! another one that is only read: a test adds its own images to the shared ones without touching them.

use anyhow::{Context, Result, bail};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// `sha256:` and 64 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(String);

impl Digest {
    /// The digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(format!("sha256:{}", hex::encode(Sha256::digest(bytes))))
    }

    /// A digest from its text.
    ///
    /// # Errors
    /// If it is not `sha256:` and 64 lower-case hex digits.
    pub fn parse(text: &str) -> Result<Self> {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        match text.strip_prefix("sha256:") {
            Some(digits) if digits.len() == 64 && digits.bytes().all(hex) => {
                Ok(Self(text.to_owned()))
            }
            Some(_) | None => bail!("{text:?} is no sha256 digest"),
        }
    }

    /// The whole, `sha256:` included.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 64 hex digits.
    #[must_use]
    pub fn hex(&self) -> &str {
        self.0.strip_prefix("sha256:").unwrap_or(&self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A directory of repositories.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
    base: Option<PathBuf>,
}

impl Store {
    /// The store in `dir`, which is made if it is missing.
    ///
    /// # Errors
    /// If the directories cannot be made.
    pub fn open(dir: &Path) -> Result<Self> {
        for part in ["blobs/sha256", "repositories"] {
            let path = dir.join(part);
            std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        }
        Ok(Self { dir: dir.to_owned(), base: None })
    }

    /// The store in `dir`, on top of the one in `base`, which is not written to.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_above(dir: &Path, base: &Path) -> Result<Self> {
        Ok(Self { base: Some(base.to_owned()), ..Self::open(dir)? })
    }

    /// Puts a blob in and tells its digest.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        let path = self.dir.join("blobs/sha256").join(digest.hex());
        if !path.exists() {
            write_whole(&path, bytes)?;
        }
        Ok(digest)
    }

    /// Puts a manifest (or an index) into a repository and tells its digest.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn put_manifest(&self, repository: &str, bytes: &[u8]) -> Result<Digest> {
        let digest = self.put_blob(bytes)?;
        let dir = self.repository(repository).join("_manifests");
        std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        write_whole(&dir.join(digest.hex()), b"")?;
        Ok(digest)
    }

    /// Makes a tag stand for a manifest of the repository.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn tag(&self, repository: &str, tag: &str, digest: &Digest) -> Result<()> {
        let dir = self.repository(repository).join("_tags");
        std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        write_whole(&dir.join(tag), digest.as_str().as_bytes())
    }

    /// The digest that a tag stands for, or the one that `reference` is, if the repository has such a manifest.
    #[must_use]
    pub fn resolve(&self, repository: &str, reference: &str) -> Option<Digest> {
        let below = Path::new("repositories").join(repository);
        if let Ok(digest) = Digest::parse(reference) {
            self.find(&below.join("_manifests").join(digest.hex()))?;
            return Some(digest);
        }
        let path = self.find(&below.join("_tags").join(reference))?;
        Digest::parse(std::fs::read_to_string(path).ok()?.trim()).ok()
    }

    /// The bytes with this digest.
    ///
    /// # Errors
    /// If there are none.
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.blob(digest).with_context(|| format!("find blob {digest}"))?;
        std::fs::read(&path).with_context(|| format!("read {}", path.display()))
    }

    /// Opens the blob with this digest.
    #[must_use]
    pub fn open_blob(&self, digest: &Digest) -> Option<File> {
        File::open(self.blob(digest)?).ok()
    }

    /// All names in the store: repositories with their tags.
    ///
    /// # Errors
    /// If a directory cannot be read.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for dir in [Some(&self.dir), self.base.as_ref()].into_iter().flatten() {
            collect_names(&dir.join("repositories"), "", &mut names)?;
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    fn blob(&self, digest: &Digest) -> Option<PathBuf> {
        self.find(&Path::new("blobs/sha256").join(digest.hex()))
    }

    /// Where a file of the layout is, in this store or else in the one below.
    fn find(&self, below: &Path) -> Option<PathBuf> {
        let dirs = [Some(&self.dir), self.base.as_ref()];
        dirs.into_iter().flatten().map(|dir| dir.join(below)).find(|path| path.is_file())
    }

    fn repository(&self, name: &str) -> PathBuf {
        self.dir.join("repositories").join(name)
    }
}

fn collect_names(dir: &Path, name: &str, names: &mut Vec<String>) -> Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("list {}", dir.display())),
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("list {}", dir.display()))?;
        let file = entry.file_name().to_string_lossy().into_owned();
        match file.as_str() {
            "_tags" => {
                for tag in std::fs::read_dir(entry.path()).context("list tags")? {
                    names.push(format!("{name}:{}", tag?.file_name().to_string_lossy()));
                }
            }
            "_manifests" => {}
            part => {
                let below =
                    if name.is_empty() { part.to_owned() } else { format!("{name}/{part}") };
                collect_names(&entry.path(), &below, names)?;
            }
        }
    }
    Ok(())
}

/// Writes a file so that nobody sees half of it.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().with_context(|| format!("{} has no directory", path.display()))?;
    let mut file = tempfile::NamedTempFile::new_in(dir)
        .with_context(|| format!("make a temporary file in {}", dir.display()))?;
    file.write_all(bytes).with_context(|| format!("write {}", path.display()))?;
    file.persist(path).with_context(|| format!("write {}", path.display()))?;
    Ok(())
}
