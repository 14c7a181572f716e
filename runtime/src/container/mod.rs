//! Containers: what one is asked to be, its states, and how it is seen.
//!
//! Owns no process and no task: the pod that a container is in does ([`crate::sandbox`]).

mod spec;
mod state;
mod view;

pub use spec::{
    AppArmor, Capabilities, ContainerPid, ContainerSecurity, ContainerSpec, DeviceSpec,
    GroupsPolicy, HugepageLimit, ImageRequest, MountSource, MountSpec, Propagation, ReadOnly,
    Resources, RunAs, Seccomp, Signal, UnknownSignal,
};
pub use state::{ContainerEvent, ContainerState, Denied, Exit, ExitReason};
pub use view::{ContainerFacts, ContainerView, User};
