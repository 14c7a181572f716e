//! Calls into the kernel that safe libraries do not offer: all unsafe code of the workspace.
//!
//! Owns small, safe wrappers, one module per subject. Owns no policy and keeps no state: what to fork, signal or unshare is
//! for the callers to decide. Each unsafe block holds one operation and says which invariant makes it sound.

#![expect(unsafe_code, reason = "the one crate that may: see above")]

pub mod clock;
pub mod failpoint;
pub mod fifo;
pub mod kin;
pub mod memory;
pub mod mount;
pub mod mounts;
pub mod namespace;
pub mod passing;
pub mod pin;
pub mod process;
pub mod readiness;
pub mod session;
pub mod shortage;
pub mod signal;
pub mod terminal;
