//! Containers: what one is asked to be, its states, and how it is seen.
//!
//! Owns no process and no task: the pod that a container is in does ([`crate::sandbox`]).

mod create;
mod error;
mod hidden;
mod pause;
mod remove;
mod restore;
mod rootfs;
mod spec;
mod start;
mod state;
mod stop;
mod target;
mod update;
mod view;
mod volume;

pub use crate::looks::Hung;
pub(crate) use create::{Creation, MadeContainer, create};
pub use error::{
    CreateContainerError, ExecError, KillContainerError, PauseContainerError, RemoveContainerError,
    ReopenLogError, StartContainerError, StopContainerError, UpdateContainerError,
};
pub use pause::Motion;
pub(crate) use remove::{Removal, remove, remove_files, undo};

pub(crate) use restore::{Restoration, restore};
pub use spec::{
    AppArmor, Capabilities, ContainerPid, ContainerSecurity, ContainerSpec, DeviceSpec,
    GroupsPolicy, HugepageLimit, ImageRequest, MountSource, MountSpec, Propagation, ReadOnly,
    Resources, RunAs, Seccomp, SelinuxOptions, Signal, UnknownSignal,
};
pub(crate) use start::start;
pub use state::{ContainerEvent, ContainerState, Denied, Exit, ExitReason, LostEnd};
pub(crate) use stop::{Stop, exited, stop};
pub(crate) use target::Target;
pub(crate) use update::{Update, Updated, update, write_spec};
pub use view::{ContainerFacts, ContainerView, User};
pub use volume::VolumeError;
