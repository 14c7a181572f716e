//! Reading a container's log back, and following it.
//!
//! Owns the reader of the CRI log format (`TIME STREAM TAG CONTENT`, one entry a line) and the way over a rotation. Writes nothing: logs are the shim's.
//! A follower looks for more a few times a second rather than hold an inotify instance, of which a host has few.

use davit_proto::admin::LogEntry;
use std::io::{self, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

/// How often a follower that has read all looks for more.
const PAUSE: Duration = Duration::from_millis(20);
/// The longest line that is taken: a line of the shim's is at most its limit, which nobody sets this high, and its prefix.
const LONGEST: usize = 4 << 20;

/// A log that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// The file refuses.
    #[error("read {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It holds no log.
    #[error("{} has a line of more than {LONGEST} bytes: it is no container's log", path.display())]
    TooLong {
        /// Which.
        path: PathBuf,
    },
}

/// How much is read back at once in search of a log's last lines.
const BACK: u64 = 64 << 10;

/// Which part of a log is wanted. Times are nanoseconds since the epoch; 0 is no limit.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Window {
    /// So many of the last lines of the file, and what comes.
    pub(crate) tail: Option<u64>,
    /// Nothing that is older.
    pub(crate) since: i64,
    /// Nothing that is newer.
    pub(crate) until: i64,
}

/// A log being read.
#[derive(Debug)]
pub(crate) struct Reader {
    path: PathBuf,
    file: File,
    inode: u64,
    pending: Vec<u8>,
    window: Window,
    past_the_end: bool,
}

impl Reader {
    /// Opens the log where the window begins. One that isn't there yet is waited for by nobody: it is made with its container.
    pub(crate) async fn open(path: &Path, window: Window) -> Result<Self, LogError> {
        let (mut file, inode) = open(path).await?;
        if let Some(tail) = window.tail {
            let sought = seek_back(&mut file, tail).await;
            sought.map_err(|source| LogError::Io { path: path.to_owned(), source })?;
        }
        let path = path.to_owned();
        Ok(Self { path, file, inode, pending: Vec::new(), window, past_the_end: false })
    }

    /// Whether something was read that is newer than all that is wanted.
    pub(crate) fn is_past_the_end(&self) -> bool {
        self.past_the_end
    }

    fn wanted(&mut self, entry: LogEntry) -> Option<LogEntry> {
        let Window { tail: _, since, until } = self.window;
        if until != 0 && entry.time > until {
            self.past_the_end = true;
            return None;
        }
        (entry.time >= since && !self.past_the_end).then_some(entry)
    }

    /// The entries that have come since; none if there are none.
    pub(crate) async fn more(&mut self) -> Result<Vec<LogEntry>, LogError> {
        let mut chunk = vec![0; 64 << 10];
        let read = self.file.read(&mut chunk).await;
        let read = read.map_err(|source| LogError::Io { path: self.path.clone(), source })?;
        if read == 0 {
            self.follow_rotation().await?;
            return Ok(Vec::new());
        }
        chunk.truncate(read);
        self.pending.extend_from_slice(&chunk);
        let whole = self.pending.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        if whole == 0 && self.pending.len() > LONGEST {
            return Err(LogError::TooLong { path: self.path.clone() });
        }
        let lines: Vec<u8> = self.pending.drain(..whole).collect();
        let entries = lines.split(|byte| *byte == b'\n').filter_map(parse);
        Ok(entries.filter_map(|entry| self.wanted(entry)).collect())
    }

    /// Waits a little; more may have come then.
    pub(crate) async fn pause() {
        tokio::time::sleep(PAUSE).await;
    }

    /// All of this file has been read: if another has its name now, that one is next.
    async fn follow_rotation(&mut self) -> Result<(), LogError> {
        match tokio::fs::metadata(&self.path).await {
            Ok(metadata) if metadata.ino() != self.inode => {
                (self.file, self.inode) = open(&self.path).await?;
                Ok(())
            }
            // Renamed and not made anew yet, or gone with its pod: what there was has been read.
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// Puts the file where its last `lines` lines begin. Its last line may lack its end: then that is one, too.
async fn seek_back(file: &mut File, lines: u64) -> io::Result<()> {
    let length = file.metadata().await?.len();
    let (mut end, mut found) = (length, 0);
    while end > 0 {
        let start = end.saturating_sub(BACK);
        let mut chunk = vec![0; usize::try_from(end - start).unwrap_or_default()];
        file.seek(SeekFrom::Start(start)).await?;
        file.read_exact(&mut chunk).await?;
        for (at, _) in chunk.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let after = start + u64::try_from(at).unwrap_or_default() + 1;
            if after == length {
                // The end of the last line: the others' ends are their successors' beginnings.
                if lines == 0 {
                    file.seek(SeekFrom::Start(length)).await?;
                    return Ok(());
                }
                continue;
            }
            found += 1;
            if found == lines {
                file.seek(SeekFrom::Start(after)).await?;
                return Ok(());
            }
        }
        end = start;
    }
    let start = if lines == 0 { length } else { 0 };
    file.seek(SeekFrom::Start(start)).await.map(drop)
}

async fn open(path: &Path) -> Result<(File, u64), LogError> {
    let opened = async {
        let file = File::open(path).await?;
        let inode = file.metadata().await?.ino();
        Ok((file, inode))
    };
    opened.await.map_err(|source| LogError::Io { path: path.to_owned(), source })
}

/// One line of the log; `None` for what is none, such as the empty rest after the last line's end.
fn parse(line: &[u8]) -> Option<LogEntry> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time: jiff::Timestamp = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    let stream = match parts.next()? {
        b"stdout" => 1,
        b"stderr" => 2,
        _ => return None,
    };
    let is_whole = parts.next()?.split(|byte| *byte == b':').next()? == b"F";
    let mut content = parts.next().unwrap_or_default().to_vec();
    if is_whole {
        content.push(b'\n');
    }
    Some(LogEntry { stream, content, time: i64::try_from(time.as_nanosecond()).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_line_is_read_as_the_container_wrote_it() {
        for (line, entry) in [
            ("2026-01-02T03:04:05.000000006Z stdout F hello  world", Some((1, "hello  world\n"))),
            ("2026-01-02T03:04:05.000000006Z stderr P half", Some((2, "half"))),
            ("2026-01-02T03:04:05.000000006Z stdout F ", Some((1, "\n"))),
            ("2026-01-02T03:04:05.000000006+01:00 stdout F:x y", Some((1, "y\n"))),
            ("", None),
            ("yesterday stdout F x", None),
            ("2026-01-02T03:04:05Z stdin F x", None),
            ("2026-01-02T03:04:05Z stdout", None),
        ] {
            let read = parse(line.as_bytes())
                .map(|entry| (entry.stream, String::from_utf8(entry.content).unwrap()));
            assert_eq!(
                read,
                entry.map(|(stream, content)| (stream, content.to_owned())),
                "{line:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_follower_goes_over_a_rotation_and_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        let entry = |text: &str| format!("2026-01-02T03:04:05Z stdout F {text}\n");
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(entry("one").as_bytes()).unwrap();
        let mut reader = Reader::open(&path, Window::default()).await.unwrap();
        assert_eq!(reader.more().await.unwrap().len(), 1);
        file.write_all(&entry("two").as_bytes()[..10]).unwrap();
        assert!(reader.more().await.unwrap().is_empty());
        file.write_all(&entry("two").as_bytes()[10..]).unwrap();
        std::fs::rename(&path, folder.path().join("1.log")).unwrap();
        std::fs::File::create(&path).unwrap().write_all(entry("three").as_bytes()).unwrap();
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.extend(
                reader
                    .more()
                    .await
                    .unwrap()
                    .into_iter()
                    .map(|entry| String::from_utf8(entry.content).unwrap()),
            );
        }
        assert_eq!(seen, ["two\n", "three\n"]);
    }

    #[tokio::test]
    async fn the_last_lines_are_found_from_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        let mut file = std::fs::File::create(&path).unwrap();
        let long = "x".repeat(1000);
        for number in 0..200 {
            writeln!(
                file,
                "2026-01-02T03:{:02}:{:02}Z stdout F {number} {long}",
                number / 60,
                number % 60
            )
            .unwrap();
        }
        let first = async |window| {
            let mut reader = Reader::open(&path, window).await.unwrap();
            let (mut count, mut first) = (0, None);
            loop {
                let more = reader.more().await.unwrap();
                if more.is_empty() {
                    return (count, first);
                }
                count += more.len();
                let text = String::from_utf8(more[0].content.clone()).unwrap();
                first.get_or_insert(text.split(' ').next().unwrap().to_owned());
            }
        };
        let tail = |tail| Window { tail: Some(tail), ..Window::default() };
        for (lines, count, begins) in
            [(0, 0, None), (1, 1, Some("199")), (150, 150, Some("50")), (1000, 200, Some("0"))]
        {
            assert_eq!(first(tail(lines)).await, (count, begins.map(str::to_owned)), "{lines}");
        }
        let at = |text: &str| {
            i64::try_from(text.parse::<jiff::Timestamp>().unwrap().as_nanosecond()).unwrap()
        };
        let window = Window {
            tail: None,
            since: at("2026-01-02T03:01:00Z"),
            until: at("2026-01-02T03:01:09Z"),
        };
        assert_eq!(first(window).await, (10, Some("60".to_owned())));
    }
}
