//! davit's pods, containers, images and networks, without the wire they are asked for on.
//!
//! Owns every state machine and every durable record. Owns no gRPC server and no CRI type: `davit` (in `cri/`) converts and
//! serves; `davit-shim` is driven through its own small service. Calls go down, from [`Runtime`] to the parts; events come up.

pub mod cgroup;
pub mod container;
pub mod id;
pub mod image;
pub mod network;
pub mod oci;
pub mod sandbox;
