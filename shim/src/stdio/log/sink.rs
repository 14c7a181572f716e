//! A log's file that may refuse, and what it owes to its readers.
//!
//! What can't be written (a full disk, one that fails) is dropped and counted. Once the file takes more, one line of it says how much is missing. Invariant:
//! the file holds whole records only. One that a full disk has cut short is cut off again at once; where even that fails, its line is ended first.
//!
//! ```text
//!           refused                    refused again: counted
//! writing ──────────► losing ◄──────────────┘
//!    ▲    ◄──────────    │   a line says what was lost
//!    └── the file takes ─┘
//! ```

use super::{Source, prefix};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write};

/// A file of records.
pub(super) trait LogFile: Write {
    /// Takes the last bytes away again.
    fn cut(&mut self, bytes: u64) -> io::Result<()>;
    /// Whether there is room for more than a line.
    fn has_room(&self) -> bool;
}

/// Less is no room: somebody else will have it before the next line comes.
const ROOM: u64 = 64 * 1024;

impl LogFile for File {
    fn cut(&mut self, bytes: u64) -> io::Result<()> {
        // Shorter if somebody has emptied it meanwhile, to make room: then they are gone already.
        match self.metadata()?.len().checked_sub(bytes) {
            Some(length) => self.set_len(length),
            None => Ok(()),
        }
    }

    fn has_room(&self) -> bool {
        rustix::fs::fstatvfs(self)
            .is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) >= ROOM)
    }
}

/// What a log has lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loss {
    /// In all, in bytes of the log.
    pub(crate) dropped: u64,
    /// Why; `None` if it is written again.
    pub(crate) error: Option<String>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Sink<W> {
    file: W,
    lost: Option<Lost>,
    end: End,
    dropped: u64,
    /// A loss has begun since that was last asked for.
    begun: bool,
}

/// How the file ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// With a record.
    Whole,
    /// In the middle of one.
    Torn,
}

/// What becomes of the whole records in front of one that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    Kept,
    Cut,
}

/// What was lost since the file was last written.
#[derive(Debug)]
struct Lost {
    bytes: u64,
    error: String,
}

impl<W: LogFile> Sink<W> {
    pub(super) fn new(file: W) -> Self {
        Self { file, lost: None, end: End::Whole, dropped: 0, begun: false }
    }

    /// From now on records go to another file.
    pub(super) fn swap(&mut self, file: W) {
        self.file = file;
        self.end = End::Whole;
        // The reader of the new file is to know, and may be the only one left.
        self.settle();
    }

    /// Writes whole records, or drops and counts them. After a loss they come with its notice or not at all: a notice alone would find its place in the last
    /// corner of a full disk, again and again.
    pub(super) fn write(&mut self, records: &[u8]) {
        if records.is_empty() {
            return;
        }
        match self.notice() {
            None => {
                if let Err((left, error)) = self.append(records, Rest::Kept) {
                    self.lose(left, Some(error));
                }
            }
            Some(notice) => match self.append(&[&notice, records].concat(), Rest::Cut) {
                Ok(()) => self.lost = None,
                Err(_) => self.lose(records.len(), None),
            },
        }
    }

    /// Says what was lost, if something was; answers whether nothing is left to say.
    pub(super) fn settle(&mut self) -> bool {
        let Some(notice) = self.notice() else { return true };
        let settled = self.file.has_room() && self.append(&notice, Rest::Cut).is_ok();
        if settled {
            self.lost = None;
        }
        settled
    }

    /// The line that says what was lost.
    fn notice(&self) -> Option<Vec<u8>> {
        let Lost { bytes, error } = self.lost.as_ref()?;
        let mut notice = String::from(match self.end {
            End::Torn => "\n",
            End::Whole => "",
        });
        let prefix = prefix(Source::Stderr);
        let _ = writeln!(notice, "{prefix}F davit: {bytes} bytes of the log lost: {error}");
        Some(notice.into_bytes())
    }

    /// What was lost so far, if anything was.
    pub(super) fn loss(&self) -> Option<Loss> {
        let error = self.lost.as_ref().map(|lost| lost.error.clone());
        (self.dropped > 0).then_some(Loss { dropped: self.dropped, error })
    }

    /// Whether a loss has begun since this was last asked.
    pub(super) fn take_begun(&mut self) -> bool {
        std::mem::take(&mut self.begun)
    }

    /// If not all of it could be written: how many bytes of records are lost, and why.
    fn append(&mut self, bytes: &[u8], rest: Rest) -> Result<(), (usize, io::Error)> {
        let mut done = 0;
        let error = loop {
            let left = bytes.get(done..).unwrap_or_default();
            if left.is_empty() {
                self.end = End::Whole;
                return Ok(());
            }
            match self.file.write(left) {
                Ok(0) => break io::ErrorKind::WriteZero.into(),
                Ok(written) => done += written.min(left.len()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => break e,
            }
        };
        let written = bytes.get(..done).unwrap_or_default();
        let whole = match rest {
            Rest::Kept => written.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1),
            Rest::Cut => 0,
        };
        if whole < done {
            let cut = self.file.cut((done - whole) as u64);
            match (cut, rest) {
                (Err(_), _) => self.end = End::Torn,
                (Ok(()), Rest::Kept) if whole > 0 => self.end = End::Whole,
                // As it was before.
                (Ok(()), Rest::Kept | Rest::Cut) => {}
            }
        } else if whole > 0 {
            self.end = End::Whole;
        }
        Err((bytes.len() - whole, error))
    }

    fn lose(&mut self, bytes: usize, error: Option<io::Error>) {
        let bytes = bytes as u64;
        self.dropped += bytes;
        match &mut self.lost {
            Some(lost) => lost.bytes += bytes,
            None => {
                if let Some(error) = error {
                    self.lost = Some(Lost { bytes, error: error.to_string() });
                    self.begun = true;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A disk with so much space.
    #[derive(Debug, Default)]
    struct Disk {
        space: usize,
        written: Vec<u8>,
        /// It cannot even take away.
        broken: bool,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let n = bytes.len().min(self.space);
            if n == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.space -= n;
            self.written.extend_from_slice(&bytes[..n]);
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl LogFile for Disk {
        fn cut(&mut self, bytes: u64) -> io::Result<()> {
            if self.broken {
                return Err(io::Error::from_raw_os_error(5));
            }
            let bytes = usize::try_from(bytes).unwrap();
            self.space += bytes;
            self.written.truncate(self.written.len() - bytes);
            Ok(())
        }

        fn has_room(&self) -> bool {
            self.space > 200
        }
    }

    fn text(sink: &Sink<Disk>) -> Vec<String> {
        String::from_utf8(sink.file.written.clone()).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn what_a_full_disk_lost_is_said_once_and_no_record_is_torn() {
        let mut sink = Sink::new(Disk { space: 6, ..Disk::default() });
        for record in [&b"one\n"[..], b"two\n", b"three\n"] {
            sink.write(record);
        }
        sink.file.space = 1000;
        sink.write(b"four\n");
        sink.write(b"five\n");
        let lines = text(&sink);
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert_eq!(lines[0], "one");
        assert!(
            lines[1].ends_with(" stderr F davit: 10 bytes of the log lost: no storage space"),
            "{lines:?}"
        );
        assert_eq!(lines[2..], ["four", "five"]);
        assert_eq!(sink.loss(), Some(Loss { dropped: 10, error: None }));
    }

    #[test]
    fn a_record_that_cannot_be_cut_off_gets_its_lines_end_first() {
        let mut sink = Sink::new(Disk { space: 6, broken: true, ..Disk::default() });
        sink.write(b"one\n");
        sink.write(b"two\n");
        sink.file.space = 1000;
        assert!(sink.settle());
        sink.write(b"three\n");
        let lines = text(&sink);
        assert_eq!((lines[0].as_str(), lines[1].as_str(), lines.len()), ("one", "tw", 4));
        assert!(lines[2].contains(" stderr F davit: 4 bytes of the log lost"), "{lines:?}");
        assert_eq!(lines[3], "three");
    }

    #[test]
    fn that_a_loss_begins_is_told_once_each_time() {
        let mut sink = Sink::new(Disk::default());
        assert!(!sink.take_begun());
        sink.write(b"one\n");
        assert_eq!((sink.take_begun(), sink.take_begun()), (true, false));
        sink.write(b"two\n");
        assert!(!sink.settle() && !sink.take_begun());
        assert!(sink.loss().is_some_and(|loss| loss.dropped == 8 && loss.error.is_some()));
        sink.file.space = 1000;
        assert!(sink.settle() && !sink.take_begun());
        sink.file.space = 0;
        sink.write(b"three\n");
        assert!(sink.take_begun());
    }

    proptest! {
        /// Whatever room comes when: every byte is in the file or counted, and the file holds whole records.
        #[test]
        fn nothing_is_lost_uncounted(rooms in prop::collection::vec(0_usize..200, 1..40)) {
            let mut sink = Sink::new(Disk::default());
            let mut said = 0;
            for (number, room) in rooms.into_iter().enumerate() {
                sink.file.space = room;
                let records = format!("record {number}\nits second {number}\n");
                said += records.len() as u64;
                sink.write(records.as_bytes());
            }
            sink.file.space = 1000;
            prop_assert!(sink.settle());
            let (mut kept, mut lost) = (0, 0);
            for line in text(&sink) {
                match line.split_once(" stderr F davit: ") {
                    Some((_, notice)) => lost += notice.split(' ').next().unwrap().parse::<u64>().unwrap(),
                    None => {
                        prop_assert!(line.starts_with("record ") || line.starts_with("its second "), "{line}");
                        kept += line.len() as u64 + 1;
                    }
                }
            }
            prop_assert_eq!(kept + lost, said);
            prop_assert_eq!(sink.loss().map_or(0, |loss| loss.dropped), lost);
        }
    }
}
