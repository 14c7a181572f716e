//! Images: pulled, kept, named and removed.

mod digest;

pub use digest::{Digest, InvalidDigest};
