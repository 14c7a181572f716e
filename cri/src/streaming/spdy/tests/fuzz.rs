//! Arbitrary bytes.
