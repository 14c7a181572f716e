//! davit's interfaces: what crosses a socket, and what daemon and shim leave for each other on disk.
//!
//! Owns the `.proto` files beside it, the Rust code generated from them (checked in, so that building needs no protoc;
//! `tests/generated.rs` regenerates and compares), their `Debug` where a field is secret, [`disk`], how messages lie on a
//! [`session`]'s connection, their [`codec`], and how a [`sealed`] OCI runtime is told. Owns no other behaviour: conversions from and to these types live with those who speak them.

pub mod codec;
pub mod disk;
pub mod ready;
mod redact;
pub mod sealed;
pub mod session;

/// The Kubernetes whose CRI this is.
pub const KUBERNETES: &str = "1.36";

/// CRI v1 as Kubernetes 1.36 has it: `RuntimeService` and `ImageService`, served to the kubelet and to crictl.
#[path = "gen/runtime.v1.rs"]
#[expect(missing_docs, clippy::all, clippy::pedantic, clippy::restriction, reason = "generated")]
#[rustfmt::skip]
pub mod cri;

/// The shim's service, spoken between the daemon and one pod's shim.
#[path = "gen/davit.shim.v1.rs"]
#[expect(missing_docs, clippy::all, clippy::pedantic, clippy::restriction, reason = "generated")]
#[rustfmt::skip]
pub mod shim;

/// davit's admin service, spoken between the daemon and its command line.
#[path = "gen/davit.v1.rs"]
#[expect(missing_docs, clippy::all, clippy::pedantic, clippy::restriction, reason = "generated")]
#[rustfmt::skip]
pub mod admin;
