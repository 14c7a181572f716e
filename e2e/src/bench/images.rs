//! The images that are pulled.
//!
//! Owns their content: one of large files, one of many small ones, of bytes that gzip makes half as big.

use super::figures::Metric;
use crate::images::{ImageBuilder, Layer};
use crate::registry::{Digest, Store};
use anyhow::Result;

/// An image in the registry.
#[derive(Debug)]
pub(super) struct Pulled {
    /// `repository:tag`.
    pub(super) name: String,
    /// Its layers' blobs.
    pub(super) layers: Vec<Digest>,
    /// What its pull is counted as.
    pub(super) metric: Metric,
}

/// Makes all of them.
pub(super) fn push(store: &Store) -> Result<Vec<Pulled>> {
    Ok(vec![push_big(store)?, push_small(store)?])
}

/// 256 MiB in 8 layers.
fn push_big(store: &Store) -> Result<Pulled> {
    const LAYERS: u64 = 8;
    const FILES: u64 = 32;
    let mut image = ImageBuilder::new();
    for layer in 0..LAYERS {
        let mut content = Layer::new();
        content.directory("big");
        for file in 0..FILES {
            content.file(&format!("big/{layer}-{file}"), noise(layer * FILES + file, 1 << 20));
        }
        image = image.with(&content)?;
    }
    let layers = image.push(store, "davit-test/big", &["latest"])?.layers;
    Ok(Pulled { name: "davit-test/big:latest".to_owned(), layers, metric: Metric::Pull })
}

/// 20 000 files of 512 bytes to 8 KiB in 400 directories and 4 layers: what a runtime of a scripting language with its libraries looks like.
fn push_small(store: &Store) -> Result<Pulled> {
    const LAYERS: u64 = 4;
    const DIRECTORIES: u64 = 100;
    const FILES: u64 = 50;
    let mut image = ImageBuilder::new();
    for layer in 0..LAYERS {
        let mut content = Layer::new();
        for directory in 0..DIRECTORIES {
            let directory = layer * DIRECTORIES + directory;
            content.directory(&format!("small/{directory}"));
            for file in 0..FILES {
                let seed = directory * FILES + file;
                let size = usize::try_from(512_u64 << (seed % 5))?;
                content.file(&format!("small/{directory}/{file}"), noise(seed, size));
            }
        }
        image = image.with(&content)?;
    }
    let layers = image.push(store, "davit-test/small", &["latest"])?.layers;
    Ok(Pulled { name: "davit-test/small:latest".to_owned(), layers, metric: Metric::PullSmall })
}

/// So many bytes (a multiple of 16): words of 8, every other one new, every other one seen shortly before.
fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size);
    while bytes.len() < size {
        // Marsaglia's xorshift.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
        bytes.extend((state % 64).wrapping_mul(0x0101_0101_0101_0101).to_le_bytes());
    }
    bytes
}
