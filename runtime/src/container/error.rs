//! What can go wrong with a container, by operation.

use super::{Motion, VolumeError};
use crate::cdi::CdiError;
use crate::checkpoint::ArchiveError;
use crate::id::{ContainerId, NoRandomness, SandboxId};
use crate::image::{FindError, HoldError};
use crate::looks::Hung;
use crate::oci::handlers::HandlerError;
use crate::oci::{ProcessError, ResourceError, SpecError};
use crate::sandbox::LookupError;
use crate::shim::ShimError;
use crate::store::StoreError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a container could not be created. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum CreateContainerError {
    /// The pod is unknown, or the id is ambiguous.
    #[error("pod_sandbox_id")]
    Sandbox(#[source] LookupError),
    /// The pod is stopped, or being stopped.
    #[error("pod_sandbox_id: pod sandbox {id} is not ready")]
    SandboxNotReady {
        /// Which.
        id: SandboxId,
    },
    /// Another container of the pod has this name and attempt.
    #[error(
        "config.metadata: the name {name:?}, attempt {attempt}, is taken by container {holder}, which was created differently"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// The attempt.
        attempt: u32,
        /// Who has it.
        holder: ContainerId,
    },
    /// Another container of the pod has this name and attempt, and none is restored twice.
    #[error("the name {name:?}, attempt {attempt}, is taken by container {holder}")]
    NameHeld {
        /// The name.
        name: String,
        /// The attempt.
        attempt: u32,
        /// Who has it.
        holder: ContainerId,
    },
    /// Another container of this name and attempt is being made.
    #[error("the name {name:?}, attempt {attempt}, is taken by a container that is being made")]
    NameBusy {
        /// The name.
        name: String,
        /// The attempt.
        attempt: u32,
    },
    /// The pod is one whose containers can't be restored.
    #[error("pod_sandbox_id: pod sandbox {id} {problem}")]
    Unfit {
        /// Which.
        id: SandboxId,
        /// Why.
        problem: &'static str,
    },
    /// The checkpoint that it is to be restored from is none.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// Its processes could not be restored.
    #[error("restore the container{}{said}", if said.is_empty() { "" } else { ": criu: " })]
    Restore {
        /// CRIU's words, if it said anything.
        said: String,
        /// The OCI runtime's.
        #[source]
        source: ShimError,
    },
    /// The image isn't here.
    #[error("config.image.image: no image {image:?} is here; pull it first")]
    ImageUnknown {
        /// As it was asked for.
        image: String,
    },
    /// The image holds a checkpoint: whoever made it would decide what the container may do.
    #[error(
        "config.image.image: the image {image:?} is a checkpoint; a container is restored from one by `davit checkpoint restore` only"
    )]
    Checkpoint {
        /// As it was asked for.
        image: String,
    },
    /// The image's name makes no sense, or is ambiguous.
    #[error("config.image.image")]
    Image(#[from] FindError),
    /// A layer of the image is missing.
    #[error("use the image {image:?}")]
    Layers {
        /// As it was asked for.
        image: String,
        /// Which.
        #[source]
        source: HoldError,
    },
    /// An image can't be a volume.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// The image's user files could not be read.
    #[error("read {path} of the image")]
    UserFiles {
        /// Inside the image.
        path: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The container whose processes it is to see is not in this pod or does not run.
    #[error(
        "config.linux.security_context.namespace_options.target_id: container {target:?} {problem}"
    )]
    Target {
        /// As it was asked for.
        target: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The PID namespace that it is to see the processes of can't be held.
    #[error("open the PID namespace of container {target:?}")]
    TargetNamespace {
        /// Whose.
        target: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file of the host does not answer, as on a share whose server is gone.
    #[error(transparent)]
    Hung(#[from] Hung),
    /// A volume could not be given the container's SELinux label.
    #[error("give {} the container's SELinux label", path.display())]
    Label {
        /// Its source.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Something in the configuration can't be honoured.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A device that a vendor describes can't be given.
    #[error(transparent)]
    Cdi(#[from] CdiError),
    /// The pod's handler is gone from the configuration.
    #[error("the pod's runtime handler")]
    Handler(#[from] HandlerError),
    /// No id could be drawn.
    #[error(transparent)]
    Id(#[from] NoRandomness),
    /// Its directories or record could not be written.
    #[error("keep the container's record")]
    Store(#[from] StoreError),
    /// The shim or the OCI runtime could not make it.
    #[error("create the container")]
    Shim(#[source] ShimError),
}

/// Why a container could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartContainerError {
    /// There is none, or more than one.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// It was started before, or is being removed.
    #[error("container {id} is {state}: only one that is created can be started")]
    State {
        /// Which.
        id: ContainerId,
        /// Its state.
        state: &'static str,
    },
    /// Its pod is stopped, or being stopped.
    #[error("the pod sandbox {sandbox} of container {id} is not ready")]
    SandboxNotReady {
        /// Which container.
        id: ContainerId,
        /// Which pod.
        sandbox: SandboxId,
    },
    /// The OCI runtime refused.
    #[error("start container {id}")]
    Shim {
        /// Which.
        id: ContainerId,
        /// Why.
        #[source]
        source: ShimError,
    },
    /// The change could not be written down.
    #[error("keep the record of container {id}")]
    Store {
        /// Which.
        id: ContainerId,
        /// Why.
        #[source]
        source: StoreError,
    },
}

/// Why a container could not be stopped.
#[derive(Debug, thiserror::Error)]
pub enum StopContainerError {
    /// More than one begins with the id. (One that isn't there is stopped.)
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// The shim would not signal it.
    #[error("signal container {id}")]
    Shim {
        /// Which.
        id: ContainerId,
        /// Why.
        #[source]
        source: ShimError,
    },
    /// It got SIGKILL and did not end: it hangs in the kernel.
    #[error("container {id} has not ended {} s after SIGKILL", after.as_secs())]
    Alive {
        /// Which.
        id: ContainerId,
        /// How long it was waited for.
        after: Duration,
    },
}

/// Why a container could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveContainerError {
    /// More than one begins with the id. (One that isn't there is removed.)
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// It could not be stopped.
    #[error(transparent)]
    Stop(#[from] StopContainerError),
    /// The shim or the OCI runtime would not let go of it.
    #[error("delete container {id}")]
    Shim {
        /// Which.
        id: ContainerId,
        /// Why.
        #[source]
        source: ShimError,
    },
    /// Its files would not go.
    #[error("remove the files of container {id}")]
    Files {
        /// Which.
        id: ContainerId,
        /// Why.
        #[source]
        source: StoreError,
    },
}

/// Why a command could not be run in a container, or a client not be attached to it.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// There is none, or more than one.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// It doesn't run.
    #[error("container {id} is {state}: only one that is running can be entered or attached to")]
    NotRunning {
        /// Which.
        id: ContainerId,
        /// Its state.
        state: &'static str,
    },
    /// The command makes no sense.
    #[error("cmd")]
    Process(#[from] ProcessError),
    /// The container's users could not be read.
    #[error("read {path} in container {id}")]
    UserFiles {
        /// Which.
        id: ContainerId,
        /// The file.
        path: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The container's own spec could not be read.
    #[error("read the spec of container {id}")]
    Store {
        /// Which.
        id: ContainerId,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// No id could be drawn for it.
    #[error(transparent)]
    Id(#[from] NoRandomness),
    /// It took longer than it was given; it was killed.
    #[error("timeout {}s exceeded: the command was killed", after.as_secs())]
    Timeout {
        /// How long it was given.
        after: Duration,
    },
    /// The pod's shim was started by a davit that had no streams.
    #[error("the shim of container {id} is older than streams: they work in pods made from now on")]
    OldShim {
        /// Which.
        id: ContainerId,
    },
    /// The pipes could not be made.
    #[error("make pipes to container {id}")]
    Pipes {
        /// Which.
        id: ContainerId,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The shim could not attach to it.
    #[error("attach to container {id}")]
    Attach {
        /// Which.
        id: ContainerId,
        /// Why.
        #[source]
        source: ShimError,
    },
    /// The shim or the OCI runtime could not run it.
    #[error("run a command in container {id}")]
    Shim {
        /// Which.
        id: ContainerId,
        /// Why.
        #[source]
        source: ShimError,
    },
}

/// Why a container's log could not be reopened.
#[derive(Debug, thiserror::Error)]
pub enum ReopenLogError {
    /// There is none, or more than one.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// It doesn't run.
    #[error("container {id} is {state}: only the log of one that is running is reopened")]
    NotRunning {
        /// Which.
        id: ContainerId,
        /// Its state.
        state: &'static str,
    },
    /// The shim could not.
    #[error("reopen the log of container {id}")]
    Shim {
        /// Which.
        id: ContainerId,
        /// Why.
        #[source]
        source: ShimError,
    },
}

/// Why a container's limits could not be changed. They are as they were, but for [`UpdateContainerError::Store`].
#[derive(Debug, thiserror::Error)]
pub enum UpdateContainerError {
    /// There is none, or more than one.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// It has ended, or is being removed.
    #[error(
        "container {id} is {state}: only the limits of one that is created or running can be changed"
    )]
    State {
        /// Which.
        id: ContainerId,
        /// Its state.
        state: &'static str,
    },
    /// They make no sense together with those that stay.
    #[error("linux")]
    Resource(#[from] ResourceError),
    /// It uses more memory than it would be given.
    #[error(
        "linux.memory_limit_in_bytes: {asked} is less than the {used} bytes that container {id} uses"
    )]
    InUse {
        /// Which.
        id: ContainerId,
        /// The new limit, in bytes.
        asked: u64,
        /// Its working set, in bytes.
        used: u64,
    },
    /// The pod's handler is gone from the configuration.
    #[error("the pod's runtime handler")]
    Handler(#[from] HandlerError),
    /// They could not be put into words.
    #[error("write the limits as JSON")]
    Encode(#[source] serde_json::Error),
    /// The OCI runtime refused.
    #[error("change the limits of container {id}")]
    Shim {
        /// Which.
        id: ContainerId,
        /// Why.
        #[source]
        source: ShimError,
    },
    /// They are in force, but could not be written down: a restart of davit would tell the old ones.
    #[error("keep the limits of container {id}")]
    Store {
        /// Which.
        id: ContainerId,
        /// Why.
        #[source]
        source: StoreError,
    },
}

/// Why a container could not be paused or resumed. It is as it was.
#[derive(Debug, thiserror::Error)]
pub enum PauseContainerError {
    /// There is none, or more than one.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// It doesn't run, or is being stopped or removed.
    #[error("container {id} is {state}: only one that is running can be paused or resumed")]
    State {
        /// Which.
        id: ContainerId,
        /// Its state.
        state: &'static str,
    },
    /// The OCI runtime refused, or the shim.
    #[error("{} container {id}", motion.verb())]
    Shim {
        /// What was asked.
        motion: Motion,
        /// Which.
        id: ContainerId,
        /// Why.
        #[source]
        source: ShimError,
    },
}

/// Why a signal was not sent.
#[derive(Debug, thiserror::Error)]
pub enum KillContainerError {
    /// There is none, or more than one.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// It has no process.
    #[error("container {id} is {state}: only one that is running can be sent a signal")]
    State {
        /// Which.
        id: ContainerId,
        /// Its state.
        state: &'static str,
    },
    /// The shim could not.
    #[error("send a signal to container {id}")]
    Shim {
        /// Which.
        id: ContainerId,
        /// Why.
        #[source]
        source: ShimError,
    },
}
