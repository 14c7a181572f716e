//! Files of an image, read without mounting it.
//!
//! Owns the merge that overlayfs would do: whiteouts, opaque directories, and links that are followed inside the merged tree and
//! nowhere else. For `/etc/passwd` and its like, before a container exists. Never blocks on what an image may put there: only regular
//! files are opened, and only so much of them is read as was asked for.

use super::apply::{OPAQUE, is_whiteout};
use rustix::fd::OwnedFd;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// As the kernel has it.
const LINKS_MAX: usize = 40;
/// Parts of a path, those of links included.
const PARTS_MAX: usize = 4096;

const INSIDE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);
const PLACE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The merged tree of some layers.
#[derive(Debug, Clone)]
pub struct LayerView {
    lower: Vec<PathBuf>,
}

/// A directory of the merged tree: its parts, top first.
#[derive(Debug)]
struct Merged(Vec<OwnedFd>);

/// What a name in a merged directory is.
enum Found {
    Nothing,
    Directory(Merged),
    Link(Vec<u8>),
    File(OwnedFd),
    Other,
}

impl LayerView {
    /// Of the layers at `lower`, top first, as [`super::LayerHold::lower`] gives them.
    #[must_use]
    pub fn new(lower: &[PathBuf]) -> Self {
        Self { lower: lower.to_vec() }
    }

    /// The file at `path`, whole; `None` if there is none.
    ///
    /// # Errors
    /// What is there is no regular file, is larger than `limit` bytes, or lies behind more than 40 links.
    pub fn read(&self, path: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        match self.find(path)? {
            Found::File(file) => read(path, &file, limit).map(Some),
            Found::Nothing => Ok(None),
            Found::Directory(_) => Err(refused(path, "is a directory")),
            Found::Link(_) | Found::Other => Err(refused(path, "is no regular file")),
        }
    }

    /// Whether there is a directory at `path`; `None` if there is nothing at all.
    ///
    /// # Errors
    /// It lies behind more than 40 links, or the disk refuses.
    pub fn is_directory(&self, path: &str) -> io::Result<Option<bool>> {
        Ok(match self.find(path)? {
            Found::Nothing => None,
            Found::Directory(_) => Some(true),
            Found::File(_) | Found::Link(_) | Found::Other => Some(false),
        })
    }

    /// What is at `path`, its links followed.
    fn find(&self, path: &str) -> io::Result<Found> {
        let mut left: VecDeque<Vec<u8>> = parts(path.as_bytes()).collect();
        let mut above = vec![self.root()?];
        let mut links = 0;
        while let Some(part) = left.pop_front() {
            if part == b".." {
                // Above the root is the root.
                if above.len() > 1 {
                    above.pop();
                }
                continue;
            }
            let Some(directory) = above.last() else { return Ok(Found::Nothing) };
            match directory.find(&part)? {
                Found::Nothing => return Ok(Found::Nothing),
                Found::Directory(next) => above.push(next),
                Found::Link(target) => {
                    links += 1;
                    if links > LINKS_MAX || left.len() > PARTS_MAX {
                        return Err(refused(path, "is behind too many links"));
                    }
                    if target.starts_with(b"/") {
                        above.truncate(1);
                    }
                    for part in parts(&target).collect::<Vec<_>>().into_iter().rev() {
                        left.push_front(part);
                    }
                }
                Found::File(_) if !left.is_empty() => return Ok(Found::Nothing),
                found @ (Found::File(_) | Found::Other) => return Ok(found),
            }
        }
        Ok(above.pop().map_or(Found::Nothing, Found::Directory))
    }

    fn root(&self) -> io::Result<Merged> {
        let open = |lower: &PathBuf| {
            rustix::fs::openat(CWD, lower, PLACE | OFlags::DIRECTORY, Mode::empty())
        };
        let mut roots = Vec::with_capacity(self.lower.len());
        for lower in &self.lower {
            let root = open(lower)?;
            let last = is_opaque(&root);
            roots.push(root);
            if last {
                break;
            }
        }
        Ok(Merged(roots))
    }
}

impl Merged {
    fn find(&self, name: &[u8]) -> io::Result<Found> {
        let mut merged = Vec::new();
        for layer in &self.0 {
            let place = match rustix::fs::openat2(layer, name, PLACE, Mode::empty(), INSIDE) {
                Ok(place) => place,
                Err(Errno::NOENT | Errno::NAMETOOLONG) => continue,
                // With `O_PATH` and `O_NOFOLLOW` a link can be opened, but not where no links are allowed at all.
                Err(Errno::LOOP) => rustix::fs::openat(layer, name, PLACE, Mode::empty())?,
                Err(errno) => return Err(errno.into()),
            };
            let stat = rustix::fs::fstat(&place)?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind == FileType::Directory {
                let last = is_opaque(&place);
                merged.push(place);
                if last {
                    break;
                }
                continue;
            }
            // Anything else ends the merge: below a directory it is hidden, without one it is the answer.
            if !merged.is_empty() || is_whiteout(&stat) {
                break;
            }
            return Ok(match kind {
                FileType::RegularFile => Found::File(place),
                FileType::Symlink => {
                    Found::Link(rustix::fs::readlinkat(&place, "", Vec::new())?.into_bytes())
                }
                FileType::Directory
                | FileType::Fifo
                | FileType::Socket
                | FileType::CharacterDevice
                | FileType::BlockDevice
                | FileType::Unknown => Found::Other,
            });
        }
        Ok(if merged.is_empty() { Found::Nothing } else { Found::Directory(Self(merged)) })
    }
}

fn parts(path: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    path.split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(<[u8]>::to_vec)
}

/// Attributes cannot be read through an `O_PATH` descriptor, but through its name in `/proc`.
fn is_opaque(directory: &OwnedFd) -> bool {
    let mut value = [0_u8; 1];
    matches!(rustix::fs::getxattr(proc_path(directory), OPAQUE, &mut value), Ok(1))
        && value == *b"y"
}

fn proc_path(fd: &OwnedFd) -> PathBuf {
    use std::os::fd::AsRawFd;
    Path::new("/proc/self/fd").join(fd.as_raw_fd().to_string())
}

fn read(path: &str, place: &OwnedFd, limit: u64) -> io::Result<Vec<u8>> {
    let size = u64::try_from(rustix::fs::fstat(place)?.st_size).map_err(io::Error::other)?;
    if size > limit {
        return Err(refused(path, "is too large"));
    }
    // The descriptor is of a regular file, so that this opens nothing else, whatever has its name by now.
    let file = std::fs::File::open(proc_path(place))?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit { Err(refused(path, "is too large")) } else { Ok(bytes) }
}

fn refused(path: &str, reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("file {path:?} of the image {reason}"))
}

#[cfg(test)]
mod tests;
