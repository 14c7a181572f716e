//! Splits a stream of output into records of the CRI log.
//!
//! Pure: bytes in, records out, whatever the sizes of the reads. A line ends with `\n`; a `\r` in front of that goes too. A line whose
//! content is longer than the limit is cut into records of exactly the limit, tagged partial, and a last one tagged full. What has no
//! line's end when the stream ends is partial. This is what containerd does, record for record.
//!
//! ```text
//!            complete line                     more than the limit
//! pending ─────────────────► full      pending ────────────────────► partial, pending keeps the rest
//!         ─── end of stream ──► partial
//! ```
//!
//! At most limit + 1 bytes are pending: the one is a `\r` of which it is not yet known whether a `\n` follows.

/// Whether a record ends a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tag {
    /// `P`
    Partial,
    /// `F`
    Full,
}

/// One stream's splitter.
#[derive(Debug)]
pub(crate) struct Lines {
    limit: usize,
    pending: Vec<u8>,
}

impl Lines {
    /// A splitter of lines whose content is at most `limit` bytes in one record; at least one byte.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), pending: Vec::new() }
    }

    /// Takes what was read. `record` gets each record's content in two pieces, which belong together.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], mut record: impl FnMut(&[u8], &[u8], Tag)) {
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            let (line, rest) = bytes.split_at(end);
            bytes = rest.get(1..).unwrap_or_default();
            let pending = std::mem::take(&mut self.pending);
            let (head, tail) = match line {
                [] => (pending.strip_suffix(b"\r").unwrap_or(&pending), line),
                _ => (pending.as_slice(), line.strip_suffix(b"\r").unwrap_or(line)),
            };
            let (head, tail) = cut(head, tail, self.limit, 0, &mut record);
            record(head, tail, Tag::Full);
        }
        if !bytes.is_empty() {
            self.keep(bytes, record);
        }
    }

    /// The stream has ended.
    pub(crate) fn end(&mut self, mut record: impl FnMut(&[u8], &[u8], Tag)) {
        let pending = std::mem::take(&mut self.pending);
        let (head, tail) = cut(&pending, &[], self.limit, 0, &mut record);
        if !(head.is_empty() && tail.is_empty()) {
            record(head, tail, Tag::Partial);
        }
    }

    fn keep(&mut self, bytes: &[u8], mut record: impl FnMut(&[u8], &[u8], Tag)) {
        let undecided = usize::from(bytes.ends_with(b"\r"));
        if self.pending.len() + bytes.len() <= self.limit + undecided {
            self.pending.extend_from_slice(bytes);
            return;
        }
        let pending = std::mem::take(&mut self.pending);
        let (head, tail) = cut(&pending, bytes, self.limit, undecided, &mut record);
        self.pending = [head, tail].concat();
    }
}

/// Hands out records of exactly `limit` bytes while more than that is there, not counting the last `undecided` ones. Answers what is left.
fn cut<'a>(
    mut head: &'a [u8],
    mut tail: &'a [u8],
    limit: usize,
    undecided: usize,
    record: &mut impl FnMut(&[u8], &[u8], Tag),
) -> (&'a [u8], &'a [u8]) {
    while head.len() + tail.len() > limit + undecided {
        let (first, head_rest) = head.split_at(head.len().min(limit));
        let (second, tail_rest) = tail.split_at(limit - first.len());
        record(first, second, Tag::Partial);
        (head, tail) = (head_rest, tail_rest);
    }
    (head, tail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn records(limit: usize, reads: &[&[u8]]) -> Vec<(String, char)> {
        let mut lines = Lines::new(limit);
        let mut all = Vec::new();
        let mut take = |head: &[u8], tail: &[u8], tag: Tag| {
            let letter = if tag == Tag::Full { 'F' } else { 'P' };
            all.push((String::from_utf8_lossy(&[head, tail].concat()).into_owned(), letter));
        };
        reads.iter().for_each(|read| lines.feed(read, &mut take));
        lines.end(&mut take);
        all
    }

    fn expect(limit: usize, reads: &[&str], expected: &[(&str, char)]) {
        let bytes: Vec<&[u8]> = reads.iter().map(|r| r.as_bytes()).collect();
        let expected: Vec<_> = expected.iter().map(|(s, c)| ((*s).to_owned(), *c)).collect();
        assert_eq!(records(limit, &bytes), expected, "{reads:?}");
    }

    #[test]
    fn lines_are_full_and_what_is_unfinished_at_the_end_is_partial() {
        expect(9, &["a\nb\n\nc"], &[("a", 'F'), ("b", 'F'), ("", 'F'), ("c", 'P')]);
        expect(9, &["a", "b", "c\n"], &[("abc", 'F')]);
        expect(9, &[], &[]);
    }

    #[test]
    fn a_line_is_cut_only_when_it_is_longer_than_the_limit() {
        expect(3, &["abc\n"], &[("abc", 'F')]);
        expect(3, &["abc", "\n"], &[("abc", 'F')]);
        expect(3, &["abcd\n"], &[("abc", 'P'), ("d", 'F')]);
        expect(3, &["abcdefg"], &[("abc", 'P'), ("def", 'P'), ("g", 'P')]);
        expect(3, &["abcdef\n"], &[("abc", 'P'), ("def", 'F')]);
        expect(3, &["abc"], &[("abc", 'P')]);
    }

    #[test]
    fn one_carriage_return_goes_with_the_line_s_end_wherever_the_reads_were_cut() {
        expect(3, &["abc\r\n"], &[("abc", 'F')]);
        expect(3, &["abc", "\r", "\n"], &[("abc", 'F')]);
        expect(3, &["a\r\r\n"], &[("a\r", 'F')]);
        expect(3, &["a\rb\n"], &[("a\rb", 'F')]);
        expect(3, &["abc\r", "d\n"], &[("abc", 'P'), ("\rd", 'F')]);
        expect(3, &["abc\r"], &[("abc", 'P'), ("\r", 'P')]);
    }

    /// The rule, on the whole output at once.
    fn oracle(limit: usize, output: &[u8]) -> Vec<(String, char)> {
        let mut all = Vec::new();
        let mut lines: Vec<&[u8]> = output.split(|b| *b == b'\n').collect();
        let unfinished = lines.pop().unwrap_or_default();
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        let mut push = |line: &[u8], last: char| {
            let pieces: Vec<&[u8]> = line.chunks(limit).collect();
            for (at, piece) in pieces.iter().enumerate() {
                all.push((text(piece), if at + 1 == pieces.len() { last } else { 'P' }));
            }
            if pieces.is_empty() && last == 'F' {
                all.push((String::new(), 'F'));
            }
        };
        lines.iter().for_each(|line| push(line.strip_suffix(b"\r").unwrap_or(line), 'F'));
        push(unfinished, 'P');
        all
    }

    proptest! {
        #[test]
        fn however_it_is_read_the_records_are_the_same(
            limit in 1_usize..6,
            reads in proptest::collection::vec(proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b'a'), Just(b'b')], 0..9), 0..9),
        ) {
            let slices: Vec<&[u8]> = reads.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(records(limit, &slices), oracle(limit, &reads.concat()));
        }

        #[test]
        fn no_more_than_the_limit_and_one_byte_is_ever_pending(
            limit in 1_usize..6,
            reads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..9),
        ) {
            let mut lines = Lines::new(limit);
            for read in &reads {
                lines.feed(read, |head, tail, _| assert!(head.len() + tail.len() <= limit));
                prop_assert!(lines.pending.len() <= limit + 1);
            }
        }
    }
}
