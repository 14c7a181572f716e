//! What can go wrong with a pod, by operation.

use super::SandboxKey;
use super::index::LookupError;
use crate::cgroup::{CgroupError, InvalidGroup};
use crate::id::{NoRandomness, SandboxId};
use crate::network::{AttachError, DetachError};
use crate::oci::handlers::HandlerError;
use crate::shim::{ShimError, SpawnError};
use crate::store::StoreError;
use std::io;
use std::path::PathBuf;

/// Why a pod could not be run. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum RunSandboxError {
    /// Another pod has this name, uid and attempt.
    #[error("metadata: the name {key} is taken by pod sandbox {holder}, which {difference}")]
    NameTaken {
        /// The name.
        key: SandboxKey,
        /// Who has it.
        holder: SandboxId,
        /// Why that is not the pod asked for.
        difference: &'static str,
    },
    /// `runtime_handler` names none, or one that does not work here.
    #[error("runtime_handler")]
    Handler(#[from] HandlerError),
    /// It asks for a user namespace, which this handler can't give it here.
    #[error(
        "linux.security_context.namespace_options.userns_options.mode: POD is not supported by handler {handler:?}: {why}"
    )]
    UserNamespaces {
        /// The handler.
        handler: String,
        /// Why not.
        why: String,
    },
    /// No id could be drawn.
    #[error(transparent)]
    Id(#[from] NoRandomness),
    /// Its directory or record could not be written.
    #[error("keep the pod's record")]
    Store(#[from] StoreError),
    /// Its cgroup parent is none that the driver can have.
    #[error("linux.cgroup_parent")]
    CgroupParent(#[from] InvalidGroup),
    /// Its cgroup could not be made.
    #[error("make the pod's cgroup")]
    Cgroup(#[from] CgroupError),
    /// Its resolv.conf could not be made.
    #[error("read the host's {}", path.display())]
    ResolvConf {
        /// The host's file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Its network namespace could not be made.
    #[error("make the pod's network namespace")]
    Netns(#[from] davit_sys::pin::PinError),
    /// Its shim could not be started.
    #[error("start the pod's shim")]
    Shim(#[from] SpawnError),
    /// Its network could not be set up.
    #[error("set up the pod's network")]
    Network(#[from] AttachError),
}

/// Why a pod could not be stopped whole. It is not ready; stopping it again goes on where this stopped.
#[derive(Debug, thiserror::Error)]
pub enum StopSandboxError {
    /// There is none, or more than one.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// The change could not be written down.
    #[error("keep the record of pod sandbox {id}")]
    Store {
        /// Which.
        id: SandboxId,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// A container would not end.
    #[error("end the containers of pod sandbox {id}: {} still alive", alive.join(", "))]
    Alive {
        /// Which pod.
        id: SandboxId,
        /// Which containers.
        alive: Vec<String>,
    },
    /// Its network could not be taken down.
    #[error("take down the network of pod sandbox {id}")]
    Network {
        /// Which.
        id: SandboxId,
        /// Why.
        #[source]
        source: DetachError,
    },
    /// Its shim would not end.
    #[error("end the shim of pod sandbox {id}")]
    Shim {
        /// Which.
        id: SandboxId,
        /// Why.
        #[source]
        source: ShimError,
    },
    /// What its shim had mounted would not go.
    #[error("release {} of pod sandbox {id}", path.display())]
    Release {
        /// Which.
        id: SandboxId,
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Why a pod could not be removed whole. It is there still; removing it again goes on where this stopped.
#[derive(Debug, thiserror::Error)]
pub enum RemoveSandboxError {
    /// More than one begins with the id.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// It could not be stopped.
    #[error(transparent)]
    Stop(#[from] StopSandboxError),
    /// Its files would not go.
    #[error("remove the files of pod sandbox {id}")]
    Files {
        /// Which.
        id: SandboxId,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// The cgroup that davit had made for it would not go.
    #[error("remove the cgroup of pod sandbox {id}")]
    Cgroup {
        /// Which.
        id: SandboxId,
        /// Why.
        #[source]
        source: CgroupError,
    },
}

/// Why the limits of a pod as a whole could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum UpdateSandboxError {
    /// There is none, or more than one.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// Its cgroup has a name that the driver can't have.
    #[error("find the cgroup of the pod sandbox")]
    Group(#[from] InvalidGroup),
    /// The kernel refused; the limits are as they were.
    #[error("limit pod sandbox {id}")]
    Cgroup {
        /// Which.
        id: SandboxId,
        /// Why.
        #[source]
        source: CgroupError,
    },
    /// The change could not be written down.
    #[error("keep the record of pod sandbox {id}")]
    Store {
        /// Which.
        id: SandboxId,
        /// Why.
        #[source]
        source: StoreError,
    },
}
