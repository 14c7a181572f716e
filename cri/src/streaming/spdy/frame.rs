//! Frames: bytes ↔ what they say.
//!
//! Owns the form of SPDY/3.1's frames and nothing of their meaning. Control frames are taken whole and are small; data frames, which
//! may be 16 MiB, are handed on in the pieces they arrive in, so that nothing is ever allocated by a length that a frame names.
//!
//! ```text
//! control: 1 | version:15 | type:16 | flags:8 | length:24 | payload        data: 0 | stream:31 | flags:8 | length:24 | bytes
//! ```

use super::headers::{Headers, Inflate};
use bytes::{Buf, Bytes, BytesMut};

const VERSION: u16 = 3;
/// A frame's fixed part.
pub(super) const HEAD: usize = 8;
/// The flag by which a side ends its half of a stream.
const FIN: u8 = 1;
/// SYN_STREAM's flag for a stream that only its sender writes to.
const ONE_WAY: u8 = 2;
const CONTROL: u8 = 0x80;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// Data in pieces smaller than this are copied out of the buffer they were read into. A larger one keeps that whole buffer alive for
/// as long as nobody reads it, and is charged to its stream as it is: so what a peer can pin is a small multiple of what it is charged.
pub(super) const COPIED: usize = 16 * 1024;

/// Why a session is ended: what its peer did.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Violation {
    #[error("a frame of SPDY version {0}")]
    Version(u16),
    #[error("a control frame of type {0} with {1} bytes")]
    Length(u16, usize),
    #[error("a SYN_REPLY, where no stream was opened")]
    Reply,
    #[error("stream {0}, which its sender can't open")]
    StreamId(u32),
    #[error("data for stream {0}, which was never opened")]
    Unopened(u32),
    #[error("a block with {0} headers")]
    HeaderCount(u32),
    #[error("a header of {0} bytes, where fewer follow")]
    HeaderLength(u32),
    #[error("a header named {0:?}")]
    HeaderName(String),
    #[error("the header {0:?} twice")]
    HeaderTwice(String),
    #[error("a header block that {0}")]
    HeaderBlock(&'static str),
    #[error("a header block that is too large when inflated")]
    HeaderSize,
}

/// A stream's direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    Open,
    Finished,
}

impl Half {
    fn after(flags: u8) -> Self {
        if flags & FIN == 0 { Self::Open } else { Self::Finished }
    }
}

/// What a peer said. `then` is what it makes of the peer's half of the stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// A stream is opened; finished: by one that will write nothing to it.
    Open { id: u32, headers: Headers, then: Half },
    /// A stream is opened that only the peer may write to. No client of ours has a use for one.
    OpenOneWay { id: u32 },
    /// A piece of a stream's data; finished: its last.
    Data { id: u32, bytes: Bytes, then: Half },
    /// More headers for a stream. Nobody's protocol has any; only what follows counts.
    Headers { id: u32, then: Half },
    /// A stream is given up.
    Reset { id: u32 },
    /// To be sent back as it is, if the number is one of the peer's.
    Ping { id: u32 },
    /// Understood, and nothing follows from it: SETTINGS, WINDOW_UPDATE, GOAWAY, and what a later draft may have.
    Nothing,
}

/// A data frame of which not all has come.
#[derive(Debug)]
struct Body {
    id: u32,
    left: usize,
    then: Half,
}

/// Takes frames off the front of what was read.
#[derive(Debug)]
pub(super) struct Decoder {
    inflate: Inflate,
    body: Option<Body>,
    limit: usize,
}

impl Decoder {
    /// `limit`: bytes of a control frame, and of its headers when inflated.
    pub(super) fn new(limit: usize) -> Self {
        Self { inflate: Inflate::new(limit), body: None, limit }
    }

    /// The next frame or piece of one; `None` when more must be read first. Never asks for more than `limit` and a head in `input`.
    pub(super) fn next(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, Violation> {
        if self.body.is_some() {
            return Ok(self.piece(input));
        }
        let Some(head) = input.first_chunk::<HEAD>().copied() else {
            return Ok(None);
        };
        let [a, b, c, d, flags, e, f, g] = head;
        let length = u32::from_be_bytes([0, e, f, g]);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if a & CONTROL == 0 {
            let id = u32::from_be_bytes([a, b, c, d]);
            if id == 0 {
                return Err(Violation::Unopened(id));
            }
            input.advance(HEAD);
            let then = Half::after(flags);
            self.body = Some(Body { id, left: length, then });
            return Ok(self.piece(input));
        }
        let version = u16::from_be_bytes([a & !CONTROL, b]);
        if version != VERSION {
            return Err(Violation::Version(version));
        }
        let kind = u16::from_be_bytes([c, d]);
        if length > self.limit {
            return Err(Violation::Length(kind, length));
        }
        if input.len() < HEAD.saturating_add(length) {
            return Ok(None);
        }
        input.advance(HEAD);
        let payload = input.split_to(length);
        self.control(kind, flags, &payload).map(Some)
    }

    /// What there is of the data frame that has begun.
    fn piece(&mut self, input: &mut BytesMut) -> Option<Frame> {
        let mut body = self.body.take()?;
        let here = body.left.min(input.len());
        if here == 0 && body.left > 0 {
            self.body = Some(body);
            return None;
        }
        let bytes = if here < COPIED {
            let bytes = input.get(..here).map(Bytes::copy_from_slice);
            input.advance(here);
            bytes.unwrap_or_default()
        } else {
            input.split_to(here).freeze()
        };
        body.left = body.left.saturating_sub(here);
        let id = body.id;
        let mut then = body.then;
        if body.left > 0 {
            then = Half::Open;
            self.body = Some(body);
        }
        Some(Frame::Data { id, bytes, then })
    }

    fn control(&mut self, kind: u16, flags: u8, payload: &[u8]) -> Result<Frame, Violation> {
        let wrong = || Violation::Length(kind, payload.len());
        let then = Half::after(flags);
        match (kind, payload) {
            (SYN_STREAM, [a, b, c, d, _, _, _, _, _priority, _slot, block @ ..]) => {
                let id = stream_id([*a, *b, *c, *d]);
                let headers = self.inflate.headers(block)?;
                if flags & ONE_WAY != 0 {
                    return Ok(Frame::OpenOneWay { id });
                }
                Ok(Frame::Open { id, headers, then })
            }
            (HEADERS, [a, b, c, d, block @ ..]) => {
                let id = stream_id([*a, *b, *c, *d]);
                self.inflate.headers(block)?;
                Ok(Frame::Headers { id, then })
            }
            (RST_STREAM, [a, b, c, d, _, _, _, _]) => {
                Ok(Frame::Reset { id: stream_id([*a, *b, *c, *d]) })
            }
            (PING, [a, b, c, d]) => Ok(Frame::Ping { id: u32::from_be_bytes([*a, *b, *c, *d]) }),
            (SETTINGS, [a, b, c, d, rest @ ..]) => {
                let count = u32::from_be_bytes([*a, *b, *c, *d]);
                let settings = usize::try_from(count).unwrap_or(usize::MAX);
                (settings.checked_mul(8) == Some(rest.len()))
                    .then_some(Frame::Nothing)
                    .ok_or_else(wrong)
            }
            (WINDOW_UPDATE | GOAWAY, payload) if payload.len() == 8 => Ok(Frame::Nothing),
            (SYN_REPLY, _) => Err(Violation::Reply),
            (SYN_STREAM | HEADERS | RST_STREAM | PING | SETTINGS | WINDOW_UPDATE | GOAWAY, _) => {
                Err(wrong())
            }
            (0 | 5 | 10.., _) => Ok(Frame::Nothing),
        }
    }
}

/// A stream's number; the bit above it is reserved, and ignored as the draft demands.
fn stream_id([a, b, c, d]: [u8; 4]) -> u32 {
    u32::from_be_bytes([a & !CONTROL, b, c, d])
}

/// RST_STREAM's reasons, of those that this side has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    Refused = 3,
    Cancel = 5,
    FlowControl = 7,
    AlreadyClosed = 9,
}

/// GOAWAY's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parting {
    Ok = 0,
    ProtocolError = 1,
}

/// A data frame's head, with no bytes yet and a fin if it is to be nothing else.
pub(super) fn data_head(id: u32) -> [u8; HEAD] {
    let [a, b, c, d] = id.to_be_bytes();
    [a, b, c, d, 0, 0, 0, 0]
}

/// Sets the length in the head at the front of `frame` to what follows it.
pub(super) fn set_length(frame: &mut [u8]) {
    let length = u32::try_from(frame.len().saturating_sub(HEAD)).unwrap_or(u32::MAX);
    let [_, bytes @ ..] = length.to_be_bytes();
    if let Some([_, _, _, _, _, at @ ..]) = frame.first_chunk_mut::<HEAD>() {
        *at = bytes;
    }
}

/// Makes the data frame `frame` its stream's last.
pub(super) fn set_fin(frame: &mut [u8]) {
    if let Some([_, _, _, _, flags, ..]) = frame.first_chunk_mut::<HEAD>() {
        *flags |= FIN;
    }
}

pub(super) fn reply(id: u32, block: &[u8]) -> Vec<u8> {
    control(SYN_REPLY, &[&id.to_be_bytes(), block])
}

pub(super) fn reset(id: u32, reason: Reason) -> Vec<u8> {
    let reason = reason as u32;
    control(RST_STREAM, &[&id.to_be_bytes(), &reason.to_be_bytes()])
}

pub(super) fn ping(id: u32) -> Vec<u8> {
    control(PING, &[&id.to_be_bytes()])
}

/// `last`: the last stream that was accepted.
pub(super) fn go_away(last: u32, parting: Parting) -> Vec<u8> {
    let parting = parting as u32;
    control(GOAWAY, &[&last.to_be_bytes(), &parting.to_be_bytes()])
}

/// A SETTINGS frame that sets nothing.
pub(super) fn no_settings() -> Vec<u8> {
    control(SETTINGS, &[&0_u32.to_be_bytes()])
}

fn control(kind: u16, parts: &[&[u8]]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(32);
    frame.extend_from_slice(&(0x8000 | VERSION).to_be_bytes());
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(&[0; 4]);
    for part in parts {
        frame.extend_from_slice(part);
    }
    set_length(&mut frame);
    frame
}
