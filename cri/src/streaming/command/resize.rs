//! The sizes that a client's terminal has, one JSON object after the other, however they are cut into pieces.
//!
//! Owns their parser. Of the sizes in one piece only the last counts, so a flood costs its client's own bytes and little more.

use crate::streaming::backend::Size;
use serde::Deserialize;

/// What an object may have, in bytes. One of them has 27.
const OBJECT: usize = 1024;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Told {
    #[serde(rename = "Width", alias = "width")]
    width: u16,
    #[serde(rename = "Height", alias = "height")]
    height: u16,
}

/// The parser.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    /// The beginning of an object whose end has not come.
    rest: Vec<u8>,
    /// Something came that is no size: nothing after it makes sense.
    broken: bool,
}

impl Sizes {
    /// The last size that ends in these bytes.
    pub(crate) fn last(&mut self, bytes: &[u8]) -> Option<Size> {
        let mut last = None;
        // In pieces, so that what is kept is short however much comes at once.
        for piece in bytes.chunks(OBJECT) {
            if self.broken {
                return last;
            }
            self.rest.extend_from_slice(piece);
            last = self.parse().or(last);
        }
        last
    }

    fn parse(&mut self) -> Option<Size> {
        let mut last = None;
        let mut objects = serde_json::Deserializer::from_slice(&self.rest).into_iter::<Told>();
        loop {
            match objects.next() {
                Some(Ok(Told { width, height })) => last = Some(Size { width, height }),
                Some(Err(error)) => {
                    self.broken = !error.is_eof();
                    break;
                }
                None => break,
            }
        }
        let done = objects.byte_offset();
        self.rest.drain(..done.min(self.rest.len()));
        self.broken |= self.rest.len() > OBJECT;
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn size(width: u16, height: u16) -> Option<Size> {
        Some(Size { width, height })
    }

    #[test]
    fn the_last_size_counts_wherever_the_pieces_are_cut() {
        let bytes = b"{\"Width\":80,\"Height\":24}\n{\"Width\":100,\"Height\":30}\n";
        assert_eq!(Sizes::default().last(bytes), size(100, 30));
        for cut in 0..bytes.len() {
            let mut sizes = Sizes::default();
            let (first, second) = (sizes.last(&bytes[..cut]), sizes.last(&bytes[cut..]));
            assert_eq!(second.or(first), size(100, 30), "cut at {cut}");
        }
    }

    #[test]
    fn what_is_no_size_ends_the_sizes() {
        for wrong in
            ["x", "[\"1\"]", "{\"Width\":-1}", "{\"Width\":70000}", "{\"Width\":\"80\"}", "\u{0}"]
        {
            let mut sizes = Sizes::default();
            assert_eq!(sizes.last(wrong.as_bytes()), None, "{wrong}");
            assert_eq!(sizes.last(b"{\"Width\":1,\"Height\":1}"), None, "{wrong}");
        }
        let mut endless = Sizes::default();
        assert_eq!(endless.last(format!("{{\"{}", "a".repeat(1 << 20)).as_bytes()), None);
        assert!(endless.rest.len() <= 2 * OBJECT && endless.broken);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic_or_grow(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..4096), 0..8)) {
            let mut sizes = Sizes::default();
            for piece in pieces {
                sizes.last(&piece);
                prop_assert!(sizes.rest.len() <= 2 * OBJECT);
            }
        }

        #[test]
        fn every_flood_ends_with_its_last_size(widths in proptest::collection::vec(1..u16::MAX, 1..200), cut in 1_usize..64) {
            let text: String = widths.iter().map(|width| format!("{{\"Width\":{width},\"Height\":1}}\n")).collect();
            let mut sizes = Sizes::default();
            let last = text.as_bytes().chunks(cut).filter_map(|piece| sizes.last(piece)).last();
            prop_assert_eq!(last, size(widths[widths.len() - 1], 1));
        }
    }
}
