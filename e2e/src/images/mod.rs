//! Images without a network: made from Debian's packages, or byte by byte.
//!
//! Owns the making: [`Layer`] writes an archive, whatever its paths, [`ImageBuilder`] makes an image of layers (and can
//! lie about each), [`debian`] fetches packages, [`catalog`] makes the images that tests, the demo and critest pull. They
//! go into a [`crate::registry::Store`]; serving them is the registry's.
//!
//! Invariant: the same packages give the same digests, so nothing here reads a clock or the order of a directory.

mod builder;
pub mod catalog;
pub mod debian;
mod layer;
mod tree;

pub use builder::{Built, Compression, ImageBuilder, push_index};
pub use layer::{Entry, Kind, Layer};
pub use tree::Tree;

#[cfg(test)]
mod tests;
