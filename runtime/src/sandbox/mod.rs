//! Pod sandboxes: what one is asked to be, how it is seen, and its one owner task.

mod spec;
mod view;

pub use spec::{
    CgroupParent, DnsConfig, InvalidCgroupParent, NetworkMode, PidMode, PortMapping, Protocol,
    SandboxKey, SandboxSecurity, SandboxSpec,
};
pub use view::{SandboxState, SandboxView};
