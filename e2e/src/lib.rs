//! davit, run for real: the daemon's own binary, real OCI runtimes, images from a registry on loopback, crictl.
//!
//! Owns what such a test needs ([`registry`], [`images`], [`daemon`], the clients in [`cri`] and [`tools`]) and the rule that
//! nothing may be left behind ([`leaks`]); [`mod@test`] ties them together in few words, [`mod@bench`] measures with them, [`critest`]
//! runs the validation suite, [`chaos`] kills. Owns no test: those are in `tests/`. Sees of davit only what its users see: its command
//! line, its sockets and its files.

pub mod arguments;
pub mod bench;
pub mod boot;
pub mod chaos;
pub mod chroot;
pub mod cni;
pub mod collector;
pub mod cri;
pub mod critest;
pub mod daemon;
pub mod disk;
pub mod footprint;
pub mod host;
pub mod images;
pub mod kubelet;
pub mod leaks;
pub mod live;
mod newer;
pub mod old_shim;
pub mod profile;
pub mod prometheus;
pub mod pty;
pub mod registry;
pub mod scrape;
pub mod soak;
pub mod subnet;
pub mod test;
pub mod tools;

pub use test::prelude;
