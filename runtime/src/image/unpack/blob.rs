//! A blob as it comes from the download: counted, hashed, and never longer than promised.

use super::Chunk;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use std::io::{BufRead, Read};
use tokio::sync::mpsc;

/// How a blob is compressed, by its first bytes: media types are often wrong, and the diff id finds out if these are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Magic {
    None,
    Gzip,
    Zstd,
}

/// Why a blob's bytes have ended too soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    TooLong,
    Abandoned,
}

/// The blob as it comes: counted and hashed.
#[derive(Debug)]
pub(super) struct Blob {
    chunks: mpsc::Receiver<Chunk>,
    current: Bytes,
    pub(super) hash: Sha256,
    pub(super) received: u64,
    size: u64,
    ended: bool,
    pub(super) fault: Option<Fault>,
}

impl Blob {
    pub(super) fn new(chunks: mpsc::Receiver<Chunk>, size: u64) -> Self {
        Self {
            chunks,
            current: Bytes::new(),
            hash: Sha256::new(),
            received: 0,
            size,
            ended: false,
            fault: None,
        }
    }

    /// The next chunk, behind what is left of this one; `false` at the end.
    fn advance(&mut self) -> std::io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        let fault = match self.chunks.blocking_recv() {
            Some(Chunk::Data(bytes)) => {
                self.received += bytes.len() as u64;
                if self.received <= self.size {
                    self.hash.update(&bytes);
                    self.current = if self.current.is_empty() {
                        bytes
                    } else {
                        // Only at the very start, when the first chunk was too short to tell what it is.
                        [self.current.as_ref(), bytes.as_ref()].concat().into()
                    };
                    return Ok(true);
                }
                Fault::TooLong
            }
            Some(Chunk::End) => {
                self.ended = true;
                return Ok(false);
            }
            None => Fault::Abandoned,
        };
        self.fault = Some(fault);
        self.ended = true;
        Err(std::io::Error::other("blob ended early"))
    }

    /// An error once nobody wants it: the download keeps the channel open for as long as somebody does.
    pub(super) fn check_wanted(&self) -> std::io::Result<()> {
        if self.chunks.is_closed() {
            return Err(std::io::Error::other("nobody waits for it"));
        }
        Ok(())
    }

    pub(super) fn magic(&mut self) -> std::io::Result<Magic> {
        while self.current.len() < 4 && self.advance()? {}
        Ok(match self.current.as_ref() {
            [0x1f, 0x8b, ..] => Magic::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Magic::Zstd,
            // A skippable frame may come first.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Magic::Zstd,
            _ => Magic::None,
        })
    }

    pub(super) fn drain(&mut self) -> std::io::Result<()> {
        self.current.clear();
        while self.advance()? {
            self.current.clear();
        }
        Ok(())
    }
}

impl Read for Blob {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let mut available = self.fill_buf()?;
        let length = available.read(into)?;
        self.consume(length);
        Ok(length)
    }
}

impl BufRead for Blob {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        while self.current.is_empty() && self.advance()? {}
        Ok(&self.current)
    }

    fn consume(&mut self, length: usize) {
        let _used = self.current.split_to(length.min(self.current.len()));
    }
}
