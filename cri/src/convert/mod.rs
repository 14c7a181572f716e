//! CRI's words ↔ davit's.
//!
//! Owns what every field of a request means. Each message is taken apart whole, without `..`, so that a field which a new version of the
//! interface adds does not compile until somebody has decided about it: it is honoured, or refused with its name and value
//! ([`error::InvalidField`]). Nothing is dropped in silence but what the interface itself calls informative, and that is said where it
//! happens. Owns no state and does no I/O; what only the runtime can know (is there such a pod?) is asked there.

mod about;
mod archived;
mod container;
mod error;
mod event;
#[cfg(test)]
mod fields;
mod filter;
mod image;
mod info;
mod metrics;
mod mount;
mod namespace;
mod profile;
mod resources;
mod sandbox;
mod security;
mod signal;
mod stats;
mod status;
mod stream;
#[cfg(test)]
mod tests;
mod text;
mod userns;

pub(crate) use about::{info as about_json, total as all_containers};
pub(crate) use archived::archived_spec;
pub(crate) use container::{archive_path, checkpoint, container_spec};
pub(crate) use event::event;
pub(crate) use filter::{container_fits, container_stats_fits, sandbox_fits, sandbox_stats_fits};
pub(crate) use image::{ImageParts, image};
pub(crate) use info::{container_info, sandbox_info};
pub(crate) use metrics::{descriptors, pod_metrics};
pub(crate) use resources::{update_of_container, update_of_sandbox};
pub(crate) use sandbox::sandbox_spec;
pub(crate) use stats::{container_stats, sandbox_stats};
pub(crate) use status::{container, container_status, sandbox, sandbox_status};
pub(crate) use stream::{attach, exec, exec_as, port_forward};
