//! The other half of a session, as plain as can be: it writes the frames that a test names, and reads what comes.

use crate::streaming::spdy::dictionary::DICTIONARY;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What a server sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// With how many headers.
    Reply(u32, u32),
    Data(u32, Vec<u8>),
    Fin(u32),
    Reset(u32, u32),
    Ping(u32),
    /// The last stream, and why.
    GoAway(u32, u32),
    NoSettings,
}

/// A client's half of a connection.
#[derive(Debug)]
pub(crate) struct Client<IO> {
    pub(crate) io: IO,
    deflate: Compress,
    inflate: Decompress,
    /// A fin that came with data, which is told on its own.
    later: Option<Seen>,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Client<IO> {
    pub(crate) fn new(io: IO) -> Self {
        let mut deflate = Compress::new(Compression::best(), true);
        deflate.set_dictionary(&DICTIONARY).unwrap();
        let inflate = Decompress::new(true);
        let later = None;
        Self { io, deflate, inflate, later }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
    }

    pub(crate) async fn open(&mut self, id: u32, headers: &[(&str, &str)]) {
        let frame = self.opening(id, 0, headers);
        self.send(&frame).await;
    }

    /// Opens a stream and waits until it is taken.
    pub(crate) async fn opened(&mut self, id: u32, headers: &[(&str, &str)]) {
        self.open(id, headers).await;
        assert_eq!(self.seen().await, Some(Seen::Reply(id, 0)));
    }

    pub(crate) async fn data(&mut self, id: u32, bytes: &[u8]) {
        self.send(&data(id, 0, bytes)).await;
    }

    pub(crate) async fn fin(&mut self, id: u32) {
        self.send(&data(id, 1, b"")).await;
    }

    pub(crate) async fn reset(&mut self, id: u32) {
        let payload = [id.to_be_bytes(), 5_u32.to_be_bytes()].concat();
        self.send(&control(3, 0, &payload)).await;
    }

    /// A SYN_STREAM.
    pub(crate) fn opening(&mut self, id: u32, flags: u8, headers: &[(&str, &str)]) -> Vec<u8> {
        let block = self.deflated(&block(headers));
        let mut payload = id.to_be_bytes().to_vec();
        payload.extend([0; 6]);
        payload.extend(block);
        control(1, flags, &payload)
    }

    /// Bytes as the next of the connection's compressed ones.
    pub(crate) fn deflated(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len() + 1024);
        self.deflate.compress_vec(bytes, &mut out, FlushCompress::Sync).unwrap();
        out
    }

    /// The next frame; `None` at the connection's end.
    pub(crate) async fn seen(&mut self) -> Option<Seen> {
        tokio::time::timeout(Duration::from_secs(5), self.frame())
            .await
            .expect("the server says something")
    }

    /// All that a stream says until its fin.
    pub(crate) async fn read_all(&mut self, id: u32) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match self.seen().await.expect("a fin") {
                Seen::Data(from, bytes) if from == id => all.extend(bytes),
                Seen::Fin(from) if from == id => return all,
                other @ (Seen::Reply(..)
                | Seen::Data(..)
                | Seen::Fin(_)
                | Seen::Reset(..)
                | Seen::Ping(_)
                | Seen::GoAway(..)
                | Seen::NoSettings) => panic!("{other:?}"),
            }
        }
    }

    async fn frame(&mut self) -> Option<Seen> {
        if let Some(later) = self.later.take() {
            return Some(later);
        }
        let mut head = [0; 8];
        self.io.read_exact(&mut head).await.ok()?;
        let [a, b, c, d, flags, length @ ..] = head;
        let [e, f, g] = length;
        let mut payload = vec![0; u32::from_be_bytes([0, e, f, g]) as usize];
        self.io.read_exact(&mut payload).await.ok()?;
        let word = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        if a & 0x80 == 0 {
            let id = u32::from_be_bytes([a, b, c, d]);
            if flags & 1 == 1 && payload.is_empty() {
                return Some(Seen::Fin(id));
            }
            self.later = (flags & 1 == 1).then_some(Seen::Fin(id));
            return Some(Seen::Data(id, payload));
        }
        assert_eq!([a & 0x7f, b], [0, 3], "the version");
        Some(match u16::from_be_bytes([c, d]) {
            2 => Seen::Reply(word(0), self.count(&payload[4..])),
            3 => Seen::Reset(word(0), word(4)),
            4 => {
                assert_eq!(payload, [0; 4]);
                Seen::NoSettings
            }
            6 => Seen::Ping(word(0)),
            7 => Seen::GoAway(word(0), word(4)),
            other => panic!("a frame of type {other}"),
        })
    }

    /// The count at the start of a header block.
    fn count(&mut self, mut input: &[u8]) -> u32 {
        let mut out = Vec::with_capacity(1024);
        loop {
            let before = self.inflate.total_in();
            let result = self.inflate.decompress_vec(input, &mut out, FlushDecompress::Sync);
            let eaten = usize::try_from(self.inflate.total_in() - before).unwrap();
            input = &input[eaten..];
            match result {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(&DICTIONARY).unwrap();
                }
                other => {
                    other.unwrap();
                    assert!(input.is_empty());
                    return u32::from_be_bytes(out.try_into().unwrap());
                }
            }
        }
    }
}

/// An uncompressed header block.
pub(crate) fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = u32::try_from(headers.len()).unwrap().to_be_bytes().to_vec();
    for text in headers.iter().flat_map(|(name, value)| [name, value]) {
        block.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        block.extend(text.as_bytes());
    }
    block
}

pub(crate) fn data(id: u32, flags: u8, bytes: &[u8]) -> Vec<u8> {
    let mut frame = id.to_be_bytes().to_vec();
    frame.extend(flagged(flags, bytes.len()));
    frame.extend(bytes);
    frame
}

pub(crate) fn control(kind: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = [0x80, 3].to_vec();
    frame.extend(kind.to_be_bytes());
    frame.extend(flagged(flags, payload.len()));
    frame.extend(payload);
    frame
}

/// Flags and length.
pub(crate) fn flagged(flags: u8, length: usize) -> [u8; 4] {
    let [_, a, b, c] = u32::try_from(length).unwrap().to_be_bytes();
    [flags, a, b, c]
}
