//! Reading a container's log back, and following it.
//!
//! Owns the reader of the CRI log format (`TIME STREAM TAG CONTENT`, one entry a line) and the way over a rotation. Writes nothing: logs are the shim's.
//! A follower looks for more a few times a second rather than hold an inotify instance, of which a host has few.

use davit_proto::admin::LogEntry;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;

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

/// A log being read.
#[derive(Debug)]
pub(crate) struct Reader {
    path: PathBuf,
    file: File,
    inode: u64,
    pending: Vec<u8>,
}

impl Reader {
    /// Opens the log at its start. One that isn't there yet is waited for by nobody: it is made with its container.
    pub(crate) async fn open(path: &Path) -> Result<Self, LogError> {
        let (file, inode) = open(path).await?;
        Ok(Self { path: path.to_owned(), file, inode, pending: Vec::new() })
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
        Ok(lines.split(|byte| *byte == b'\n').filter_map(parse).collect())
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
        let mut reader = Reader::open(&path).await.unwrap();
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
}
