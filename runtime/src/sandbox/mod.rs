//! Pod sandboxes: what one is asked to be, how it is seen, and its one owner task.

mod containers;
mod create;
mod ending;
mod error;
pub(crate) mod files;
pub(crate) mod handle;
mod helpers;
mod index;
mod job;
mod pause;
mod restore;
mod shim;
mod slot;
mod spec;
mod task;
mod teardown;
mod trouble;
mod undoing;
mod unwritten;
mod update;
mod view;
mod watch_shim;

pub(crate) use create::can_wait;
pub use error::{RemoveSandboxError, RunSandboxError, StopSandboxError, UpdateSandboxError};
pub use index::LookupError;
pub(crate) use index::{Index, container_in, unknown};
pub(crate) use shim::Shim;
pub(crate) use slot::Slot;
pub(crate) use task::{spawn_new, spawn_recovered, spawn_undoing};
pub(crate) use teardown::{release, unborn_shim as end_shim};

pub use spec::{
    CgroupParent, DnsConfig, IdMapping, IdMappings, InvalidCgroupParent, NetworkMode, PidMode,
    PortMapping, Protocol, SandboxKey, SandboxLimits, SandboxSecurity, SandboxSpec,
};
pub use trouble::Trouble;
pub use view::{SandboxState, SandboxView};
