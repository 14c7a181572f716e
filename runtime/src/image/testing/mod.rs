//! What the tests of this folder share: archives of every kind, and a registry that does as it is told.

mod archive;
mod server;

pub(crate) use archive::{Tar, pax_records};
pub(crate) use server::{Answer, CONFIG, INDEX, Layer, MANIFEST, TestRegistry};

use super::Digest;
use sha2::{Digest as _, Sha256};
use std::io::Write;

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 1).unwrap()
}
