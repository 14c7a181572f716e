//! A container's log file: `<RFC 3339 with nanoseconds> stdout|stderr P|F <content>`, as CRI has it.
//!
//! Each read becomes one write of whole records, appended. Reopening swaps the file under the same lock that writing takes, so that nothing goes to the
//! old file afterwards. What the file does not take is dropped and counted ([`sink`]): output never waits, and neither does the container. Below the pod's
//! log directory no symlink is followed: the directory is the kubelet's, but its content may be others'.

mod sink;

pub(crate) use sink::Loss;

use super::lines::{Lines, Tag};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use sink::{LogFile, Sink};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where lines are cut if the request does not say.
const DEFAULT_LIMIT: usize = 16 * 1024;
/// The longest line that may be asked for: so much may be pending per stream.
const MAX_LIMIT: usize = 1024 * 1024;
/// How much is put together before it is written.
const BATCH: usize = 32 * 1024;

/// Which of a container's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Stdout,
    Stderr,
}

impl Source {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Whoever is to know when a log begins to lose records. Called with the log locked: it must neither wait nor look at the log.
pub(crate) type Listener = Box<dyn Fn() + Send + Sync>;

/// A container's log. Without a path it takes output and drops it.
pub(crate) struct Log {
    path: Option<LogPath>,
    made: bool,
    state: Mutex<State>,
    listener: Listener,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Where a log is.
#[derive(Debug, Clone)]
pub(crate) struct LogPath {
    /// The file.
    pub(crate) file: PathBuf,
    /// A directory above it: from there on no symlink is followed. `None` if nobody said which.
    pub(crate) directory: Option<PathBuf>,
}

#[derive(Debug)]
struct State {
    file: Option<Sink<File>>,
    stdout: Lines,
    stderr: Lines,
}

/// A log that could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("open log {}", path.display())]
pub(crate) struct LogError {
    path: PathBuf,
    source: io::Error,
}

impl Log {
    /// Opens the log; `limit` is the longest content of a record, 0 the default of 16 KiB.
    pub(crate) fn open(
        path: Option<LogPath>,
        limit: u32,
        listener: Listener,
    ) -> Result<Self, LogError> {
        let limit = match usize::try_from(limit).unwrap_or(MAX_LIMIT) {
            0 => DEFAULT_LIMIT,
            limit => limit.min(MAX_LIMIT),
        };
        let made = path.as_ref().is_some_and(|path| !path.file.exists());
        let file = path.as_ref().map(open).transpose()?.map(Sink::new);
        let state =
            Mutex::new(State { file, stdout: Lines::new(limit), stderr: Lines::new(limit) });
        Ok(Self { path, made, state, listener })
    }

    /// Takes what was read from a stream.
    pub(crate) fn write(&self, source: Source, bytes: &[u8]) {
        self.with(source, |lines, batch| {
            lines.feed(bytes, |head, tail, tag| batch.record(head, tail, tag))
        });
    }

    /// A stream has ended.
    pub(crate) fn end(&self, source: Source) {
        self.with(source, |lines, batch| {
            lines.end(|head, tail, tag| batch.record(head, tail, tag))
        });
    }

    /// Opens the path anew. If that fails, the old file stays in use.
    pub(crate) fn reopen(&self) -> Result<(), LogError> {
        let Some(path) = &self.path else { return Ok(()) };
        let file = open(path)?;
        let mut state = self.state();
        if let Some(sink) = &mut state.file {
            sink.swap(file);
        }
        Ok(())
    }

    /// Tries whether a log that has lost something can be written again, and says so in it; answers whether nothing is left to say.
    pub(crate) fn settle(&self) -> bool {
        let mut state = self.state();
        state.file.as_mut().is_none_or(Sink::settle)
    }

    /// What was dropped so far, if anything was.
    pub(crate) fn loss(&self) -> Option<Loss> {
        self.state().file.as_ref().and_then(Sink::loss)
    }

    /// Removes the file, if opening made it: the container came to nothing.
    pub(crate) fn discard(&self) {
        if let (true, Some(path)) = (self.made, &self.path) {
            let _ = remove(path);
        }
    }

    fn with(&self, source: Source, work: impl FnOnce(&mut Lines, &mut Batch<'_, File>)) {
        let mut guard = self.state();
        let State { file, stdout, stderr } = &mut *guard;
        let Some(sink) = file else { return };
        let lines = match source {
            Source::Stdout => stdout,
            Source::Stderr => stderr,
        };
        let mut batch = Batch { prefix: prefix(source), bytes: Vec::new(), sink };
        work(lines, &mut batch);
        batch.flush();
        if sink.take_begun() {
            (self.listener)();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(path: &LogPath) -> Result<File, LogError> {
    let LogPath { file, directory } = path;
    let below = directory.as_ref().and_then(|above| Some((above, file.strip_prefix(above).ok()?)));
    let opened = match below {
        Some((directory, name)) => open_below(directory, name),
        None => OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o640)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(file),
    };
    opened.map_err(|source| LogError { path: file.clone(), source })
}

/// Removes the file, in the directory that it was opened in or would be.
fn remove(path: &LogPath) -> io::Result<()> {
    let LogPath { file, directory } = path;
    let below = directory.as_ref().and_then(|above| Some((above, file.strip_prefix(above).ok()?)));
    let Some((directory, name)) = below else { return crate::files::remove_if_there(file) };
    let (Some(parent), Some(name)) = (name.parent(), name.file_name()) else { return Ok(()) };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = openat_below(directory, parent, flags)?;
    Ok(rustix::fs::unlinkat(parent, name, AtFlags::empty())?)
}

fn open_below(directory: &Path, name: &Path) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
    openat_below(directory, name, flags).map(File::from)
}

/// The directory itself may be reached through symlinks: `/var/log` is one on some hosts.
fn openat_below(directory: &Path, name: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let above = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, above, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let made = flags.contains(OFlags::CREATE);
    let mode = if made { Mode::from_raw_mode(0o640) } else { Mode::empty() };
    Ok(rustix::fs::openat2(&directory, name, flags, mode, resolve)?)
}

fn prefix(source: Source) -> String {
    format!("{:.9} {} ", jiff::Timestamp::now(), source.name())
}

/// The records of one read.
struct Batch<'a, W> {
    prefix: String,
    bytes: Vec<u8>,
    sink: &'a mut Sink<W>,
}

impl<W: LogFile> Batch<'_, W> {
    fn record(&mut self, head: &[u8], tail: &[u8], tag: Tag) {
        let letter: &[u8] = match tag {
            Tag::Partial => b"P ",
            Tag::Full => b"F ",
        };
        for piece in [self.prefix.as_bytes(), letter, head, tail, b"\n"] {
            self.bytes.extend_from_slice(piece);
        }
        if self.bytes.len() >= BATCH {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.sink.write(&self.bytes);
        self.bytes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: LogPath, limit: u32) -> Result<Log, LogError> {
        Log::open(Some(path), limit, Box::new(|| ()))
    }

    fn at(file: &Path) -> LogPath {
        LogPath { file: file.to_owned(), directory: None }
    }

    #[test]
    fn below_the_log_directory_no_symlink_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let log = |above: &str, file: &str| {
            let directory = Some(path(above));
            open(LogPath { file: path(above).join(file), directory }, 0)
        };
        std::fs::create_dir_all(path("logs/main")).unwrap();
        std::fs::create_dir(path("outside")).unwrap();
        std::os::unix::fs::symlink(path("outside"), path("logs/aside")).unwrap();
        std::os::unix::fs::symlink(path("outside/file"), path("logs/link")).unwrap();
        std::os::unix::fs::symlink(path("logs"), path("linked")).unwrap();
        for name in ["aside/0.log", "link", "../outside/0.log", "missing/0.log"] {
            assert!(log("logs", name).is_err(), "{name}");
        }
        assert_eq!(std::fs::read_dir(path("outside")).unwrap().count(), 0);
        let own = log("logs", "main/0.log").unwrap();
        own.write(Source::Stdout, b"one\n");
        own.reopen().unwrap();
        own.write(Source::Stdout, b"two\n");
        assert_eq!(std::fs::read_to_string(path("logs/main/0.log")).unwrap().lines().count(), 2);
        log("linked", "main/1.log").unwrap();
    }

    #[test]
    fn records_have_the_form_that_cri_demands() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let log = open(at(&path), 4).unwrap();
        log.write(Source::Stdout, b"a\n\nlonger");
        log.write(Source::Stderr, b"e");
        log.end(Source::Stderr);
        log.end(Source::Stdout);
        let text = std::fs::read_to_string(&path).unwrap();
        let mut contents = Vec::new();
        for line in text.lines() {
            let mut fields = line.splitn(2, ' ');
            let time = fields.next().unwrap();
            assert_eq!((time.len(), time.ends_with('Z')), (30, true), "{line}");
            time.parse::<jiff::Timestamp>().unwrap();
            contents.push(fields.next().unwrap());
        }
        assert_eq!(
            contents,
            ["stdout F a", "stdout F ", "stdout P long", "stderr P e", "stdout P er"]
        );
        use std::os::unix::fs::MetadataExt;
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
    }

    #[test]
    fn after_a_reopen_nothing_goes_to_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("0.log"), dir.path().join("0.log.1"));
        let log = open(at(&path), 0).unwrap();
        log.write(Source::Stdout, b"one\nbegun");
        std::fs::rename(&path, &old).unwrap();
        log.reopen().unwrap();
        assert!(path.exists());
        log.write(Source::Stdout, b" and done\n");
        assert!(std::fs::read_to_string(&old).unwrap().ends_with("F one\n"));
        assert!(std::fs::read_to_string(&path).unwrap().ends_with("F begun and done\n"));
    }

    #[test]
    fn a_symlink_is_not_followed_and_only_a_file_that_was_made_is_discarded() {
        let dir = tempfile::tempdir().unwrap();
        let (link, real, new) = (dir.path().join("l"), dir.path().join("r"), dir.path().join("n"));
        crate::files::write_new(&real, b"mine").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert!(open(at(&link), 0).is_err());
        open(at(&real), 0).unwrap().discard();
        open(at(&new), 0).unwrap().discard();
        assert_eq!((real.exists(), new.exists()), (true, false));
    }
}
