//! Header blocks: lists of names and values, in a zlib stream that lasts as long as the connection.
//!
//! Owns both directions of it. Every block must go through the stream in the order it came, also one that nobody will look at, or all
//! later ones are noise.
//!
//! What is read is foreign: a block is bounded before it is inflated (the frame's length) and while it is (nothing is allocated by a
//! number that the block names). What is written here never repays compression (a reply has no headers at all), so it is stored:
//! that is zlib as well, and saves each connection a quarter of a megabyte of compressor.

use super::dictionary::{CHECKSUM, DICTIONARY};
use super::frame::Violation;
use flate2::{Decompress, FlushDecompress, Status};
use std::collections::BTreeMap;

/// Headers in one block; Kubernetes' clients send three.
const COUNT: u32 = 64;

/// A stream's headers: names in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Headers(BTreeMap<String, String>);

impl Headers {
    /// The first value of a header. `name` is in lower case.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        // The protocol puts the values of a header that was given twice into one, with NUL between them.
        self.0.get(name).map(|value| value.split('\0').next().unwrap_or(value))
    }

    /// What an inflated block says: a count, then so many pairs of a name and a value, each with its length before it.
    fn parse(mut block: &[u8]) -> Result<Self, Violation> {
        let count = number(&mut block)?;
        if count > COUNT {
            return Err(Violation::HeaderCount(count));
        }
        let mut headers = BTreeMap::new();
        for _ in 0..count {
            let name = text(&mut block)?;
            let value = text(&mut block)?;
            if name.is_empty() || name.bytes().any(|byte| byte.is_ascii_uppercase()) {
                return Err(Violation::HeaderName(name));
            }
            if headers.contains_key(&name) {
                return Err(Violation::HeaderTwice(name));
            }
            headers.insert(name, value);
        }
        if !block.is_empty() {
            return Err(Violation::HeaderBlock("has more than it counts"));
        }
        Ok(Self(headers))
    }
}

#[cfg(test)]
impl<const N: usize> From<[(&str, &str); N]> for Headers {
    fn from(pairs: [(&str, &str); N]) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}

fn number(block: &mut &[u8]) -> Result<u32, Violation> {
    let (bytes, rest) =
        block.split_first_chunk().ok_or(Violation::HeaderBlock("ends within a number"))?;
    *block = rest;
    Ok(u32::from_be_bytes(*bytes))
}

fn text(block: &mut &[u8]) -> Result<String, Violation> {
    let length = number(block)?;
    let cut = usize::try_from(length).ok().and_then(|length| block.split_at_checked(length));
    let (bytes, rest) = cut.ok_or(Violation::HeaderLength(length))?;
    *block = rest;
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(Violation::HeaderBlock("is not UTF-8")),
    }
}

/// The peer's zlib stream.
#[derive(Debug)]
pub(super) struct Inflate {
    stream: Decompress,
    /// Where a block is inflated to; as large as a block may be, and one byte more.
    block: Vec<u8>,
}

impl Inflate {
    /// `limit`: bytes that a block may have when inflated.
    pub(super) fn new(limit: usize) -> Self {
        Self { stream: Decompress::new(true), block: Vec::with_capacity(limit.saturating_add(1)) }
    }

    /// The next block of the stream, whole.
    pub(super) fn headers(&mut self, input: &[u8]) -> Result<Headers, Violation> {
        self.block.clear();
        self.inflate(input)?;
        Headers::parse(&self.block)
    }

    fn inflate(&mut self, mut input: &[u8]) -> Result<(), Violation> {
        loop {
            let before = (self.stream.total_in(), self.block.len());
            let result = self.stream.decompress_vec(input, &mut self.block, FlushDecompress::Sync);
            let eaten = usize::try_from(self.stream.total_in().saturating_sub(before.0));
            input = eaten.ok().and_then(|eaten| input.get(eaten..)).unwrap_or_default();
            match result {
                Err(error) if error.needs_dictionary() == Some(CHECKSUM) => {
                    if self.stream.set_dictionary(&DICTIONARY).is_err() {
                        return Err(Violation::HeaderBlock("names another dictionary"));
                    }
                    continue;
                }
                Err(_) => return Err(Violation::HeaderBlock("is not zlib's")),
                Ok(Status::StreamEnd) => return Err(Violation::HeaderBlock("ends the stream")),
                Ok(Status::Ok | Status::BufError) => {}
            }
            // A full buffer is one byte too much: it has room for that byte and no more.
            if self.block.len() == self.block.capacity() {
                return Err(Violation::HeaderSize);
            }
            if input.is_empty() {
                return Ok(());
            }
            if before == (self.stream.total_in(), self.block.len()) {
                return Err(Violation::HeaderBlock("has bytes that zlib does not take"));
            }
        }
    }
}

/// Our zlib stream: what has been said of it.
#[derive(Debug, Default)]
pub(super) enum Deflate {
    /// Nothing yet, not even its header.
    #[default]
    Fresh,
    /// Its header has gone out.
    Begun,
}

impl Deflate {
    /// The block that has no headers, as the stream's next bytes.
    pub(super) fn empty(&mut self) -> Vec<u8> {
        // Deflate with a window of 32 KiB; then the flag "a dictionary was used", which happens to make the two divisible by 31.
        const BEGIN: [u8; 2] = [0x78, 0x20];
        // "Stored, not the last; 4 bytes; the complement of that", and the number 0 in them.
        const COUNT: [u8; 9] = [0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0];
        // Nothing, stored: what a reader knows the end of the block by (zlib's own sync flush writes it too).
        const FLUSH: [u8; 5] = [0, 0, 0, 0xff, 0xff];
        let mut bytes = Vec::with_capacity(24);
        if matches!(self, Self::Fresh) {
            bytes.extend_from_slice(&BEGIN);
            bytes.extend_from_slice(&CHECKSUM.to_be_bytes());
            *self = Self::Begun;
        }
        bytes.extend_from_slice(&COUNT);
        bytes.extend_from_slice(&FLUSH);
        bytes
    }
}
