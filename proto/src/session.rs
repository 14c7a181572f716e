//! The messages of a session as they lie on its connection: each behind its length.
//!
//! Pure: bytes in, messages out, whatever the sizes of the reads. Owns the bounds. Nothing is set aside for a length that was
//! merely claimed: bytes are kept as they come. Descriptors travel beside the bytes and are not seen here.

use prost::Message;

/// The longest message that opens a session, in bytes: a command and its environment. As much as a call of the shim's takes.
pub const OPENING_LIMIT: usize = 4 << 20;
/// The longest message of the daemon's afterwards, in bytes.
pub const REQUEST_LIMIT: usize = 4 << 10;
/// The longest message of the shim's, in bytes.
pub const ANSWER_LIMIT: usize = 64 << 10;
/// The most descriptors that come with one message.
pub const DESCRIPTORS: usize = 3;
/// The first byte of a session: of a length that is below 16 MiB.
pub const FIRST_BYTE: u8 = 0;

const HEAD: usize = 4;

/// Why bytes are no message. What follows them can't be read either.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It claims to be longer than such a message may be.
    #[error("a message of {length} bytes, and {limit} is the most that one may have")]
    TooLong {
        /// What it claims, in bytes.
        length: usize,
        /// The most, in bytes.
        limit: usize,
    },
    /// It is none.
    #[error("a message that is none")]
    Broken(#[from] prost::DecodeError),
}

/// A message behind its length.
#[must_use]
pub fn encode(message: &impl Message) -> Vec<u8> {
    let length = message.encoded_len();
    let mut bytes = Vec::with_capacity(HEAD + length);
    // Longer than 4 GiB it could not be sent; whoever reads it refuses it at a fraction of that.
    bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(&message.encode_to_vec());
    bytes
}

/// What has been read and is not yet a whole message.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
}

impl Frames {
    /// Takes what was read.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message, if it is there whole.
    ///
    /// # Errors
    /// [`FrameError`], as soon as it is known; there is no going on afterwards.
    pub fn next<M: Message + Default>(&mut self, limit: usize) -> Result<Option<M>, FrameError> {
        let Some((head, rest)) = self.bytes.split_first_chunk::<HEAD>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*head)).unwrap_or(usize::MAX);
        if length > limit {
            return Err(FrameError::TooLong { length, limit });
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let message = M::decode(body)?;
        self.bytes.drain(..HEAD + length);
        if self.bytes.is_empty() {
            // The opening message may have been long, and the session lasts.
            self.bytes = Vec::new();
        }
        Ok(Some(message))
    }

    /// Whether a message has begun and not ended.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        !self.bytes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim::{OpenExec, Resize, SessionRequest, session_request::Kind};
    use proptest::prelude::*;

    fn resize(width: u32) -> SessionRequest {
        SessionRequest { kind: Some(Kind::Resize(Resize { width, height: 7 })) }
    }

    #[test]
    fn a_length_that_lies_is_refused_before_anything_is_kept_for_it() {
        let mut frames = Frames::default();
        frames.feed(&[0, 0, 0x10, 1]);
        assert_eq!(
            frames.next::<SessionRequest>(REQUEST_LIMIT),
            Err(FrameError::TooLong { length: 4097, limit: 4096 })
        );
        let mut frames = Frames::default();
        frames.feed(&[0, 0x40, 0, 0]);
        assert_eq!(frames.next::<SessionRequest>(OPENING_LIMIT), Ok(None));
        assert!(frames.is_partial() && frames.bytes.capacity() < 64);
    }

    #[test]
    fn a_message_that_is_none_is_refused_and_an_unknown_kind_is_told_as_no_kind() {
        let mut frames = Frames::default();
        frames.feed(&[0, 0, 0, 2, 0xff, 0xff]);
        assert!(matches!(frames.next::<SessionRequest>(9), Err(FrameError::Broken(_))));
        let mut frames = Frames::default();
        // Field 100, an empty text.
        frames.feed(&[0, 0, 0, 3, 0xa2, 0x06, 0]);
        assert_eq!(frames.next(9), Ok(Some(SessionRequest { kind: None })));
    }

    #[test]
    fn every_opening_message_begins_with_the_byte_that_tells_a_session() {
        let process = vec![b'x'; OPENING_LIMIT - 16];
        let exec = OpenExec { process, ..OpenExec::default() };
        let bytes = encode(&SessionRequest { kind: Some(Kind::Exec(exec)) });
        assert_eq!(bytes[0], FIRST_BYTE);
        let mut frames = Frames::default();
        frames.feed(&bytes);
        assert!(frames.next::<SessionRequest>(OPENING_LIMIT).unwrap().is_some());
        assert_eq!(frames.bytes.capacity(), 0);
    }

    proptest! {
        #[test]
        fn however_they_are_cut_the_messages_are_the_same(
            widths in proptest::collection::vec(any::<u32>(), 0..9),
            cut in 1_usize..40,
        ) {
            let bytes: Vec<u8> = widths.iter().flat_map(|w| encode(&resize(*w))).collect();
            let mut frames = Frames::default();
            let mut found = Vec::new();
            for piece in bytes.chunks(cut) {
                frames.feed(piece);
                while let Some(message) = frames.next::<SessionRequest>(REQUEST_LIMIT).unwrap() {
                    found.push(message);
                }
            }
            prop_assert!(!frames.is_partial());
            prop_assert_eq!(found, widths.iter().map(|w| resize(*w)).collect::<Vec<_>>());
        }

        #[test]
        fn no_bytes_make_it_panic_or_keep_more_than_was_fed(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..20),
        ) {
            let mut frames = Frames::default();
            let mut fed = 0;
            'fed: for piece in pieces {
                frames.feed(&piece);
                fed += piece.len();
                loop {
                    match frames.next::<SessionRequest>(64) {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => break 'fed,
                    }
                }
                prop_assert!(frames.bytes.len() <= fed && frames.bytes.len() <= HEAD + 64);
            }
        }
    }
}
