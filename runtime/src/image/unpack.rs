//! A blob's way from the network into a layer's directory.
//!
//! ```text
//! download task ─chunks, bounded─► Blob: count, sha256 ─► decompress ─► Plain: count, sha256 ─► apply
//!                                  (blob's digest)                      (diff id)
//! ```
//!
//! Owns the thread that does all but the download, and the verification: of size, digest and diff id, in this order, since the
//! first that fails explains the others. A plain layer is hashed once, for it is its own diff id.

mod blob;

use super::apply::{Applied, ApplyError, apply};
use super::{Digest, Limits};
use blob::{Blob, Fault, Magic};
use bytes::Bytes;
use rustix::fd::OwnedFd;
use sha2::{Digest as _, Sha256};
use std::io::{BufRead, Read};
use std::path::PathBuf;
use tokio::sync::mpsc;

/// Chunks between the download and the thread; a chunk is at most half a megabyte.
pub(crate) const CHUNKS: usize = 8;
/// What is decompressed at a time: stays in the cache between decompression, hash and write.
const BUFFER: usize = 128 << 10;

/// What a blob must turn out to be.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    pub(crate) blob: Digest,
    pub(crate) size: u64,
    pub(crate) diff_id: Digest,
}

/// Why a blob is no layer.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// More or fewer bytes than its descriptor says.
    #[error("blob {blob} has {received} bytes, its descriptor says {expected}")]
    Size {
        /// The blob.
        blob: Digest,
        /// What came; at least, when it was too much.
        received: u64,
        /// What was promised.
        expected: u64,
    },
    /// Other bytes than its digest says.
    #[error("blob {blob} has digest {actual}")]
    Digest {
        /// As its descriptor says.
        blob: Digest,
        /// As it is.
        actual: Digest,
    },
    /// Other contents than the image's config says.
    #[error("blob {blob} unpacks to diff id {actual}, the config says {expected}")]
    DiffId {
        /// The blob.
        blob: Digest,
        /// As the config says.
        expected: Digest,
        /// As it is.
        actual: Digest,
    },
    /// It is compressed in a way that is not supported, or not well.
    #[error("decompress blob {blob}")]
    Decompress {
        /// The blob.
        blob: Digest,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Its archive is no layer.
    #[error("apply blob {blob}")]
    Apply {
        /// The blob.
        blob: Digest,
        /// Why.
        #[source]
        source: ApplyError,
    },
    /// The download ended before the blob did; it has its own error.
    #[error("download of blob {blob} was given up")]
    Abandoned {
        /// The blob.
        blob: Digest,
    },
}

/// What the download says.
#[derive(Debug)]
pub(crate) enum Chunk {
    Data(Bytes),
    /// All of it has been said. A channel that closes before it was unpacked, too, was abandoned.
    End,
}

/// Unpacks what comes through `chunks` into `root`. Blocks: for a thread that may.
pub(crate) fn unpack(
    chunks: mpsc::Receiver<Chunk>,
    expected: &Expected,
    root: OwnedFd,
    junk: PathBuf,
    limits: &Limits,
) -> Result<Applied, UnpackError> {
    let mut blob = Blob::new(chunks, expected.size);
    let decoder = match blob.magic() {
        Ok(Magic::Gzip) => Decoder::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(blob))),
        Ok(Magic::Zstd) => {
            let made = zstd::stream::read::Decoder::with_buffer(blob).and_then(|mut decoder| {
                decoder.window_log_max(limits.zstd_window_log)?;
                Ok(decoder)
            });
            let failed = |source| UnpackError::Decompress { blob: expected.blob.clone(), source };
            Decoder::Zstd(Box::new(made.map_err(failed)?))
        }
        Ok(Magic::None) => {
            let result = apply(Metered { inner: &mut blob, limits, plain: 0 }, root, junk, limits);
            return finish(result, blob, None, expected);
        }
        Err(_error) => return Err(broken(&mut blob, expected)),
    };
    let mut plain = Plain::new(decoder, limits);
    let result = apply(&mut plain, root, junk, limits);
    let Plain { decoder, hash, .. } = plain;
    let actual = Digest::from_sha256(hash.finalize().into());
    finish(result, decoder.into_blob(), Some(actual), expected)
}

/// Judges: the blob's own faults come before those that follow from them.
fn finish(
    result: Result<Applied, ApplyError>,
    mut blob: Blob,
    diff_id: Option<Digest>,
    expected: &Expected,
) -> Result<Applied, UnpackError> {
    let id = || expected.blob.clone();
    let applied = match result {
        Ok(applied) => applied,
        Err(error) if error.is_local() => {
            return Err(UnpackError::Apply { blob: id(), source: error });
        }
        Err(error) => {
            // Hostile, or damaged on its way: the digest knows, and to ask it costs what is left of the download.
            if blob.drain().is_err() || blob.fault.is_some() {
                return Err(broken(&mut blob, expected));
            }
            verify_blob(blob, expected)?;
            return Err(if let ApplyError::Read(source) = error {
                UnpackError::Decompress { blob: id(), source }
            } else {
                UnpackError::Apply { blob: id(), source: error }
            });
        }
    };
    if blob.drain().is_err() {
        return Err(broken(&mut blob, expected));
    }
    let digest = verify_blob(blob, expected)?;
    let actual = diff_id.unwrap_or(digest);
    if actual != expected.diff_id {
        return Err(UnpackError::DiffId { blob: id(), expected: expected.diff_id.clone(), actual });
    }
    Ok(applied)
}

fn broken(blob: &mut Blob, expected: &Expected) -> UnpackError {
    match blob.fault {
        Some(Fault::TooLong) => UnpackError::Size {
            blob: expected.blob.clone(),
            received: blob.received,
            expected: expected.size,
        },
        Some(Fault::Abandoned) | None => UnpackError::Abandoned { blob: expected.blob.clone() },
    }
}

fn verify_blob(blob: Blob, expected: &Expected) -> Result<Digest, UnpackError> {
    if blob.received != expected.size {
        let (blob, received) = (expected.blob.clone(), blob.received);
        return Err(UnpackError::Size { blob, received, expected: expected.size });
    }
    let actual = Digest::from_sha256(blob.hash.finalize().into());
    if actual != expected.blob {
        return Err(UnpackError::Digest { blob: expected.blob.clone(), actual });
    }
    Ok(actual)
}

enum Decoder {
    Gzip(Box<flate2::bufread::MultiGzDecoder<Blob>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Blob>>),
}

impl Decoder {
    fn blob(&self) -> &Blob {
        match self {
            Self::Gzip(decoder) => decoder.get_ref(),
            Self::Zstd(decoder) => decoder.get_ref(),
        }
    }

    fn into_blob(self) -> Blob {
        match self {
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Zstd(decoder) => decoder.finish(),
        }
    }
}

impl Read for Decoder {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Gzip(decoder) => decoder.read(into),
            Self::Zstd(decoder) => decoder.read(into),
        }
    }
}

/// The archive that comes out of a decoder: counted, hashed, and stopped when it grows beyond what is believed.
struct Plain<'a> {
    decoder: Decoder,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    hash: Sha256,
    length: u64,
    limits: &'a Limits,
}

impl<'a> Plain<'a> {
    fn new(decoder: Decoder, limits: &'a Limits) -> Self {
        let buffer = vec![0; BUFFER].into_boxed_slice();
        Self { decoder, buffer, start: 0, end: 0, hash: Sha256::new(), length: 0, limits }
    }
}

impl Read for Plain<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let mut available = self.fill_buf()?;
        let length = available.read(into)?;
        self.consume(length);
        Ok(length)
    }
}

impl BufRead for Plain<'_> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            // Filled to the brim: the decoder gives little at a time, and each piece would be a system call.
            while let Some(rest) = self.buffer.get_mut(self.end..).filter(|rest| !rest.is_empty()) {
                match self.decoder.read(rest)? {
                    0 => break,
                    length => self.end += length,
                }
            }
            let fresh = self.buffer.get(..self.end).unwrap_or_default();
            self.hash.update(fresh);
            self.length += fresh.len() as u64;
            self.decoder.blob().check_wanted()?;
            check_size(self.length, self.decoder.blob().received, self.limits)?;
        }
        Ok(self.buffer.get(self.start..self.end).unwrap_or_default())
    }

    fn consume(&mut self, length: usize) {
        self.start = (self.start + length).min(self.end);
    }
}

/// A layer that is not compressed: only its size can be too much.
struct Metered<'a> {
    inner: &'a mut Blob,
    limits: &'a Limits,
    plain: u64,
}

impl Read for Metered<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let length = self.inner.read(into)?;
        self.plain += length as u64;
        Ok(length)
    }
}

impl BufRead for Metered<'_> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        self.inner.check_wanted()?;
        check_size(self.plain, self.plain, self.limits)?;
        self.inner.fill_buf()
    }

    fn consume(&mut self, length: usize) {
        self.plain += length as u64;
        self.inner.consume(length);
    }
}

fn check_size(plain: u64, compressed: u64, limits: &Limits) -> std::io::Result<()> {
    if plain > limits.layer_bytes {
        return Err(std::io::Error::other(format!(
            "layer unpacks to more than {} bytes (images.layer_bytes)",
            limits.layer_bytes
        )));
    }
    if plain > limits.ratio_free_bytes && plain / limits.ratio.max(1) > compressed {
        return Err(std::io::Error::other(format!(
            "layer unpacks to more than {} times its size (images.layer_ratio)",
            limits.ratio
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::testing::{Layer, Tar, digest};

    #[test]
    fn what_nobody_wants_any_more_is_not_unpacked_though_all_of_it_is_here() {
        let tar = Tar::default().file("a", b"1").file("b", &[7; 1000]).end();
        for layer in [Layer::plain(&tar), Layer::gzip(&tar), Layer::zstd(&tar)] {
            let directory = tempfile::tempdir().unwrap();
            let root = std::fs::File::open(directory.path()).unwrap();
            let (blob, size) = (digest(&layer.blob), layer.blob.len() as u64);
            let expected = Expected { blob, size, diff_id: layer.diff_id };
            let unpack = |wanted: bool| {
                let (sender, receiver) = mpsc::channel(CHUNKS);
                sender.try_send(Chunk::Data(layer.blob.clone().into())).unwrap();
                sender.try_send(Chunk::End).unwrap();
                let _kept = wanted.then_some(sender);
                let (root, junk) =
                    (root.try_clone().unwrap().into(), directory.path().join("junk"));
                unpack(receiver, &expected, root, junk, &Limits::default())
            };
            unpack(false).unwrap_err();
            assert!(!directory.path().join("a").exists());
            unpack(true).unwrap();
            assert!(directory.path().join("b").exists());
        }
    }
}
