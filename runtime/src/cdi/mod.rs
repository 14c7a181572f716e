//! Devices that vendors describe: the Container Device Interface, versions 0.3 to 1.1
//! (<https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md>).
//!
//! Owns the specification files of some directories, and what each device in them changes in a container's OCI spec. Read whenever a container
//! asks for a device, so that what a vendor's installer writes counts at once; there is no state but what was last said of
//! broken files. Only the request's own `CDI_devices` grants a device: neither an image nor an annotation does.
//!
//! Own code, since the crate for it validates with a JSON schema engine and so brings half a hundred others, among them a second TLS
//! library's cryptography.
//!
//! Invariants: the file in the later directory wins; of two in one directory that have the same device neither does, and the device can't be had.
//! A broken file hinders nobody else.

mod edits;
mod spec;
#[cfg(test)]
mod tests;
mod version;

use crate::oci::Built;
use crate::oci::handlers::Handler;
pub use edits::EditError;
pub use spec::is_qualified;
use spec::{Edits, File};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// A vendor's file for a machine full of devices has some ten thousand lines.
const FILE_LIMIT: u64 = 4 << 20;
/// In one directory.
const FILES_LIMIT: usize = 1024;

/// Why a container can't have a device.
#[derive(Debug, thiserror::Error)]
pub enum CdiError {
    /// No file has it.
    #[error(
        "config.CDI_devices[{index}] {name:?} is in no CDI specification in {}{}",
        listed(directories),
        told_broken(broken)
    )]
    Unknown {
        /// Which.
        index: usize,
        /// As it was asked for.
        name: String,
        /// Where it was looked for.
        directories: Vec<PathBuf>,
        /// Files that could not be read: it may be in one of them.
        broken: Vec<BrokenFile>,
    },
    /// Two files of the same precedence have it.
    #[error("config.CDI_devices[{index}] {name:?} is in both {} and {}", files.0.display(), files.1.display())]
    Conflict {
        /// Which.
        index: usize,
        /// As it was asked for.
        name: String,
        /// Where.
        files: (PathBuf, PathBuf),
    },
    /// What it asks for can't be done.
    #[error("config.CDI_devices[{index}] {name:?} of {}", file.display())]
    Edit {
        /// Which.
        index: usize,
        /// As it was asked for.
        name: String,
        /// Where it is.
        file: PathBuf,
        /// Why not.
        #[source]
        source: EditError,
    },
}

/// A file, or directory, that is passed over.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BrokenFile {
    /// Where.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

fn listed(paths: &[PathBuf]) -> String {
    let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    paths.join(", ")
}

fn told_broken(broken: &[BrokenFile]) -> String {
    let told = broken.iter().map(|file| format!("; {} {}", file.path.display(), file.problem));
    told.collect()
}

/// The specifications of some directories.
#[derive(Debug, Default)]
pub struct Cdi {
    directories: Vec<PathBuf>,
    /// What the log was told of.
    told: Mutex<BTreeSet<BrokenFile>>,
}

/// What the files say at one moment.
#[derive(Debug, Default)]
struct Found {
    devices: BTreeMap<String, Entry>,
    files: Vec<(PathBuf, File)>,
    broken: Vec<BrokenFile>,
}

/// Where a device is.
#[derive(Debug)]
enum Entry {
    /// In this file of [`Found::files`], as this device of it.
    One { directory: usize, file: usize, device: usize },
    /// In both of these files.
    Two { directory: usize, files: (PathBuf, PathBuf) },
}

impl Cdi {
    /// Of these directories, the later before the earlier.
    #[must_use]
    pub fn new(directories: Vec<PathBuf>) -> Self {
        Self { directories, told: Mutex::default() }
    }

    /// Gives a container these devices. Blocks.
    ///
    /// # Errors
    /// [`CdiError`]; the spec may be half changed then.
    pub(crate) fn inject(
        &self,
        names: &[String],
        built: &mut Built,
        handler: &Handler,
    ) -> Result<(), CdiError> {
        if names.is_empty() {
            return Ok(());
        }
        let found = self.read();
        let mut whole_files = BTreeSet::new();
        let mut seen = BTreeSet::new();
        for (index, name) in names.iter().enumerate().filter(|(_, name)| seen.insert(*name)) {
            let (at, path, file, device) = self.find(&found, index, name)?;
            // What the file says for all of its devices counts once, however many of them there are.
            let general = whole_files.insert(at).then_some(&file.container_edits);
            for edits in general.into_iter().chain([device]) {
                edits::apply(edits, built, handler).map_err(|source| CdiError::Edit {
                    index,
                    name: name.clone(),
                    file: path.to_owned(),
                    source,
                })?;
            }
        }
        Ok(())
    }

    fn find<'a>(
        &self,
        found: &'a Found,
        index: usize,
        name: &str,
    ) -> Result<(usize, &'a Path, &'a File, &'a Edits), CdiError> {
        let unknown = || CdiError::Unknown {
            index,
            name: name.to_owned(),
            directories: self.directories.clone(),
            broken: found.broken.clone(),
        };
        match found.devices.get(name) {
            None => Err(unknown()),
            Some(Entry::Two { files, .. }) => {
                Err(CdiError::Conflict { index, name: name.to_owned(), files: files.clone() })
            }
            Some(Entry::One { file: at, device, .. }) => {
                let (path, file) = found.files.get(*at).ok_or_else(unknown)?;
                let device = file.devices.get(*device).ok_or_else(unknown)?;
                Ok((*at, path, file, &device.container_edits))
            }
        }
    }

    /// The files that are passed over, as they are now. Blocks.
    #[must_use]
    pub fn broken(&self) -> Vec<BrokenFile> {
        self.read().broken
    }

    fn read(&self) -> Found {
        let mut found = Found::default();
        for (precedence, directory) in self.directories.iter().enumerate() {
            match files_in(directory) {
                Ok(paths) => paths.into_iter().for_each(|path| found.add(precedence, path)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => found.broken.push(BrokenFile {
                    path: directory.clone(),
                    problem: format!("can't be listed: {error}"),
                }),
            }
        }
        self.tell(&found.broken);
        found
    }

    /// Once, until it changes.
    fn tell(&self, broken: &[BrokenFile]) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now: BTreeSet<BrokenFile> = broken.iter().cloned().collect();
        for file in now.difference(&told) {
            tracing::warn!(path = %file.path.display(), problem = file.problem, "a CDI specification is passed over");
        }
        *told = now;
    }
}

impl Found {
    fn add(&mut self, directory: usize, path: PathBuf) {
        let file = match read(&path) {
            Ok(file) => file,
            Err(problem) => return self.broken.push(BrokenFile { path, problem }),
        };
        for (device, item) in file.devices.iter().enumerate() {
            let name = format!("{}={}", file.kind, item.name);
            let before = match self.devices.get(&name) {
                Some(Entry::One { directory: other, file, .. }) if *other == directory => {
                    self.files.get(*file).map(|(path, _)| path.clone())
                }
                Some(Entry::Two { directory: other, files }) if *other == directory => {
                    Some(files.0.clone())
                }
                Some(Entry::One { .. } | Entry::Two { .. }) | None => None,
            };
            let entry = match before {
                Some(before) => Entry::Two { directory, files: (before, path.clone()) },
                None => Entry::One { directory, file: self.files.len(), device },
            };
            self.devices.insert(name, entry);
        }
        self.files.push((path, file));
    }
}

/// Specifications in this directory, but in none below it.
fn files_in(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|kind| kind == "json" || kind == "yaml") {
            paths.push(path);
        }
        if paths.len() > FILES_LIMIT {
            return Err(io::Error::other(format!("more than {FILES_LIMIT} files are in it")));
        }
    }
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<File, String> {
    let unread = |error: io::Error| format!("can't be read: {error}");
    let mut text = String::new();
    // A FIFO would wait for its writer.
    if !std::fs::metadata(path).map_err(unread)?.is_file() {
        return Err("is no file".to_owned());
    }
    let file = std::fs::File::open(path).map_err(unread)?;
    file.take(FILE_LIMIT + 1).read_to_string(&mut text).map_err(unread)?;
    if text.len() as u64 > FILE_LIMIT {
        return Err(format!("is larger than {FILE_LIMIT} bytes"));
    }
    let json = path.extension().is_some_and(|kind| kind == "json");
    spec::parse(&text, if json { spec::Format::Json } else { spec::Format::Yaml })
}
