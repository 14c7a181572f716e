//! The events on disk.
//!
//! Owns the files below `<root>/events`, one line of JSON for each event, oldest first, to be read with `jq`:
//!
//! ```text
//! current.jsonl     where is written; when it has as many events as are kept it becomes
//! previous.jsonl    the one before, which is replaced then
//! next              the number of the next event, so that none is given twice whatever becomes of the others
//! broken.jsonl      a file that made no sense, put aside
//! ```
//!
//! So there are at most twice as many as are kept. Nothing is synced: a SIGKILL loses nothing that was written, a power cut may lose the last seconds. The last line
//! of a file may be torn then and is cut off. A full disk tears it, too, and that is cut off at once. `next` is as long from the start as it will ever
//! be and written in place, for which most file systems need no room.

use super::Entry;
use crate::shortage::is_shortage;
use crate::store::{StoreError, ensure_dir};
use rustix::fs::{Mode, OFlags};
use serde::Deserialize;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const CURRENT: &str = "current.jsonl";
const PREVIOUS: &str = "previous.jsonl";
const BROKEN: &str = "broken.jsonl";
const TEMPORARY: &str = "current.tmp";
const NEXT: &str = "next";

/// Longer than any line is.
const LINE: u64 = 128 << 10;
/// More than is read of a file.
const FILE: u64 = 256 << 20;
/// What JSON's readers can tell apart. A higher number is a mistake, and must not be the last that there can be.
const HIGHEST: u64 = 1 << 53;

/// What there was.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) log: Log,
    /// The last that are kept, oldest first.
    pub(super) entries: Vec<Arc<Entry>>,
    /// The number of the next event.
    pub(super) next: u64,
}

/// The files.
#[derive(Debug)]
pub(super) struct Log {
    directory: PathBuf,
    retain: usize,
    current: Option<File>,
    /// Events in `current`.
    lines: usize,
    /// Bytes in `current` up to the end of its last whole line.
    length: u64,
    next: Option<File>,
}

/// Not all could be written.
#[derive(Debug, thiserror::Error)]
#[error("write {unwritten} events")]
pub(super) struct AppendError {
    /// How many were not.
    pub(super) unwritten: u64,
    /// Why.
    pub(super) source: io::Error,
}

/// Reads what is in `directory`, of which the last `retain` are kept, and puts the files right.
pub(super) fn open(directory: &Path, retain: usize) -> Result<Found, StoreError> {
    ensure_dir(directory)?;
    let path = |name| directory.join(name);
    // Of a rewriting that was interrupted.
    drop(std::fs::remove_file(path(TEMPORARY)));
    let mut reading = Reading { retain, entries: VecDeque::new(), last: 0 };
    let before = reading.file(&path(PREVIOUS)).map_err(StoreError::io("read", &path(PREVIOUS)))?;
    let now = reading.file(&path(CURRENT)).map_err(StoreError::io("read", &path(CURRENT)))?;
    let mut log = Log {
        directory: directory.to_owned(),
        retain,
        current: None,
        lines: now.lines,
        length: now.length,
        next: None,
    };
    for (name, found) in [(PREVIOUS, &before), (CURRENT, &now)] {
        if found.shape == Shape::Broken {
            log.put_aside(name);
        }
    }
    let entries: Vec<Arc<Entry>> = reading.entries.into();
    let excess = before.lines > retain || now.lines > retain;
    if before.shape != Shape::Whole || now.shape == Shape::Broken || excess {
        log.rewrite(&entries);
    } else if now.shape == Shape::Torn {
        let cut = log.current().map(drop);
        tracing::info!(cut = cut.is_ok(), path = %path(CURRENT).display(), "the last event was cut off: it had not been written to its end");
    }
    let next = reading.last.saturating_add(1).max(log.noted()?);
    log.note(next);
    Ok(Found { log, entries, next })
}

/// What a file held.
#[derive(Debug, Default)]
struct FileFound {
    lines: usize,
    /// Up to the end of its last whole line.
    length: u64,
    shape: Shape,
}

/// What can be made of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Shape {
    /// All of it.
    #[default]
    Whole,
    /// Its last line has no end.
    Torn,
    /// Something in it makes no sense.
    Broken,
}

/// The last events of all files so far.
struct Reading {
    retain: usize,
    entries: VecDeque<Arc<Entry>>,
    /// The number of the last event.
    last: u64,
}

/// What is left of an event that this davit does not know.
#[derive(Deserialize)]
struct Foreign {
    number: u64,
    #[serde(rename = "type")]
    _what: String,
}

impl Reading {
    fn file(&mut self, path: &Path) -> io::Result<FileFound> {
        let mut found = FileFound::default();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT) => return Ok(found),
            Err(rustix::io::Errno::LOOP) => return Ok(FileFound { shape: Shape::Broken, ..found }),
            Err(errno) => return Err(errno.into()),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.len() > FILE {
            return Ok(FileFound { shape: Shape::Broken, ..found });
        }
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let count = (&mut reader).take(LINE).read_until(b'\n', &mut line)? as u64;
            if count == 0 {
                return Ok(found);
            }
            if line.last() != Some(&b'\n') && count < LINE {
                if found.shape == Shape::Whole {
                    found.shape = Shape::Torn;
                }
                return Ok(found);
            }
            found.length += count;
            found.lines += 1;
            if !self.line(&line) {
                found.shape = Shape::Broken;
            }
        }
    }

    /// Takes up a line, and answers whether it makes sense.
    fn line(&mut self, line: &[u8]) -> bool {
        let (number, entry) = match serde_json::from_slice::<Entry>(line) {
            Ok(entry) => (entry.number, Some(entry)),
            // Of a newer davit: passed over.
            Err(_) => match serde_json::from_slice::<Foreign>(line) {
                Ok(foreign) => (foreign.number, None),
                Err(_) => return false,
            },
        };
        if number <= self.last || number >= HIGHEST {
            return false;
        }
        self.last = number;
        self.entries.extend(entry.map(Arc::new));
        if self.entries.len() > self.retain {
            self.entries.pop_front();
        }
        true
    }
}

impl Log {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Writes events; `next` is the number of the one after them.
    ///
    /// # Errors
    /// How many could not be written. Nothing of them is left.
    pub(super) fn append(&mut self, entries: &[Arc<Entry>], next: u64) -> Result<(), AppendError> {
        let skipped = entries.len().saturating_sub(self.retain);
        let mut left = entries.get(skipped..).unwrap_or_default();
        let mut written = Ok(());
        while let (Ok(()), false) = (&written, left.is_empty()) {
            let fits = self.retain.saturating_sub(self.lines).min(left.len());
            let (now, later) = left.split_at(fits);
            written = if fits == 0 { self.rotate() } else { self.write(now) };
            if written.is_ok() {
                left = later;
            }
        }
        // Also where there is no room: a number that was shown must not be given again.
        self.note(next);
        let unwritten = u64::try_from(left.len()).unwrap_or(u64::MAX);
        written.map_err(|source| AppendError { unwritten, source })
    }

    fn write(&mut self, entries: &[Arc<Entry>]) -> io::Result<()> {
        let bytes = lines(entries)?;
        self.current()?;
        let (length, file) = (self.length, self.current()?);
        let written = file.write_all_at(&bytes, length);
        if written.is_err() {
            // What can't be cut off now is when the file is opened again.
            drop(file.set_len(length));
            self.current = None;
            return written;
        }
        self.length += bytes.len() as u64;
        self.lines += entries.len();
        Ok(())
    }

    fn current(&mut self) -> io::Result<&File> {
        let file = match self.current.take() {
            Some(file) => file,
            None => {
                let file = create(&self.path(CURRENT))?;
                // Not longer than it is: somebody may have taken it away.
                self.length = self.length.min(file.metadata()?.len());
                file.set_len(self.length)?;
                file
            }
        };
        Ok(self.current.insert(file))
    }

    fn rotate(&mut self) -> io::Result<()> {
        match std::fs::rename(self.path(CURRENT), self.path(PREVIOUS)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        (self.current, self.lines, self.length) = (None, 0, 0);
        Ok(())
    }

    /// Makes one file of what is kept.
    fn rewrite(&mut self, entries: &[Arc<Entry>]) {
        self.current = None;
        let written = (|| {
            let bytes = lines(entries)?;
            if entries.is_empty() {
                return remove(&self.path(CURRENT)).map(|()| 0);
            }
            let mut file = create(&self.path(TEMPORARY))?;
            file.write_all(&bytes)?;
            std::fs::rename(self.path(TEMPORARY), self.path(CURRENT))?;
            Ok(bytes.len() as u64)
        })();
        let written = written.and_then(|length: u64| {
            (self.lines, self.length) = (entries.len(), length);
            remove(&self.path(PREVIOUS))
        });
        if let Err(error) = written {
            drop(std::fs::remove_file(self.path(TEMPORARY)));
            tracing::warn!(directory = %self.directory.display(), %error, "stored events can't be put right");
        }
    }

    /// What is put aside later takes the place of what was before.
    fn put_aside(&mut self, name: &str) {
        let (from, to) = (self.path(name), self.path(BROKEN));
        let moved = std::fs::rename(&from, &to);
        tracing::warn!(path = %from.display(), to = %to.display(), moved = moved.is_ok(), "stored events make no sense: put aside, and those that do are kept");
        if name == CURRENT {
            (self.lines, self.length) = (0, 0);
        }
    }

    /// The number that was noted as the next; 0 if none was.
    fn noted(&self) -> Result<u64, StoreError> {
        let path = self.path(NEXT);
        let read = match crate::store::read_plain(&path) {
            Err(error) if is_shortage(&error) => return Err(StoreError::io("read", &path)(error)),
            read => read.unwrap_or_default(),
        };
        let number = std::str::from_utf8(&read).ok().and_then(|text| text.trim().parse().ok());
        Ok(number.filter(|number| *number < HIGHEST).unwrap_or(0))
    }

    /// Best effort: where it fails, the last event on disk has the number before the next.
    fn note(&mut self, next: u64) {
        let file = self.next.take().or_else(|| create(&self.path(NEXT)).ok());
        let text = format!("{next:020}\n");
        self.next = file.filter(|file| file.write_all_at(text.as_bytes(), 0).is_ok());
    }
}

fn lines(entries: &[Arc<Entry>]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for entry in entries {
        serde_json::to_writer(&mut bytes, entry.as_ref())?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}

fn create(path: &Path) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // A named pipe that nobody reads would hold up the writer.
    let file = rustix::fs::open(path, flags | OFlags::NONBLOCK, Mode::RUSR | Mode::WUSR)?;
    Ok(file.into())
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
