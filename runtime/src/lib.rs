//! davit's pods, containers, images and networks, without the wire they are asked for on.
//!
//! Owns every state machine and every durable record. Owns no gRPC server and no CRI type: `davit` (in `cri/`) converts and
//! serves; `davit-shim` is driven through its own small service. Calls go down, from [`Runtime`] to the parts; events come up.

mod ahead;
pub mod cdi;
pub mod cgroup;
pub mod checkpoint;
mod clock;
pub mod config;
pub mod container;
pub mod counters;
pub mod doctor;
pub mod error;
pub mod events;
mod exec;
mod freezer;
pub mod id;
pub mod image;
mod join;
pub mod journal;
mod laps;
mod looks;
pub mod machine;
pub mod metrics;
mod mounts;
pub mod network;
pub mod oci;
mod places;
mod proc;
mod program;
mod recover;
mod rest;
mod runtime;
pub mod sandbox;
mod shared;
pub mod shim;
mod shortage;
pub mod stats;
pub mod store;
pub mod stream;
pub mod sweep;
mod undo;

pub use clock::now;
pub use davit_sys::memory::{Heap, heap, share_heaps};
pub use exec::ExecOutput;
pub use places::{Queue, Queues};
pub use recover::OpenError;
pub use runtime::Runtime;
