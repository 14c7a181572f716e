//! Why the network could not do as asked, one enum per operation.

use super::bridge::BridgeError;
use super::cni::{ArgsError, PluginError};
use super::config::InvalidConfig;
use crate::error::chain;
use crate::id::SandboxId;
use ipnet::IpNet;
use std::io;
use std::path::PathBuf;

/// Why the network could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// An option.
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    /// The folder of records and leases.
    #[error("open network state in {dir}", dir = dir.display())]
    State {
        /// The folder.
        dir: PathBuf,
        /// The system call's word.
        #[source]
        source: io::Error,
    },
    /// The built-in bridge.
    #[error("open built-in bridge")]
    Bridge(#[source] BridgeError),
    /// The kernel has no randomness.
    #[error("draw a number for a link group")]
    NoRandomness(#[source] getrandom::Error),
    /// It panicked.
    #[error("open network: the task ended early")]
    Interrupted,
}

/// Why a pod was not attached. Nothing of the attempt is left, unless `undo` says so; then its record is left too, and
/// [`super::Network::detach`] tries again.
#[derive(Debug, thiserror::Error)]
#[error("attach pod {id}{}", undo_note(undo))]
pub struct AttachError {
    /// The sandbox.
    pub id: SandboxId,
    /// What went wrong.
    #[source]
    pub cause: AttachCause,
    /// What went wrong while undoing.
    pub undo: Option<DetachError>,
}

fn undo_note(undo: &Option<DetachError>) -> String {
    undo.as_ref().map_or_else(String::new, |error| format!(" (undo failed too: {})", chain(error)))
}

/// The step at which an attach failed.
#[derive(Debug, thiserror::Error)]
pub enum AttachCause {
    /// No network to attach to: CNI's files are all invalid, or there are none and the built-in bridge is off.
    #[error("no network is configured: {0}")]
    NotReady(String),
    /// A value of the pod.
    #[error(transparent)]
    Args(#[from] ArgsError),
    /// A plugin.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// The built-in bridge.
    #[error("built-in bridge")]
    Bridge(#[from] BridgeError),
    /// lo inside the pod.
    #[error("bring up lo")]
    Loopback(#[source] BridgeError),
    /// The record.
    #[error("keep record")]
    Record(#[source] io::Error),
    /// An earlier attachment of the same sandbox had to be undone first.
    #[error("undo an earlier attachment")]
    Earlier(#[source] Box<DetachError>),
    /// It is attached, in another namespace.
    #[error("it is attached already, in {attached}", attached = attached.display())]
    Elsewhere {
        /// Where.
        attached: PathBuf,
    },
    /// It panicked; the record is left.
    #[error("the task ended early")]
    Interrupted,
}

impl AttachCause {
    /// Whether a program did not come to its end in time, and was killed.
    #[must_use]
    pub fn is_deadline(&self) -> bool {
        match self {
            Self::Plugin(error) => error.is_deadline(),
            Self::NotReady(_)
            | Self::Args(_)
            | Self::Bridge(_)
            | Self::Loopback(_)
            | Self::Record(_)
            | Self::Earlier(_)
            | Self::Elsewhere { .. }
            | Self::Interrupted => false,
        }
    }
}

/// Why a pod's network is not (wholly) gone. Its record is left: detach again.
#[derive(Debug, thiserror::Error)]
#[error("detach pod {id}")]
pub struct DetachError {
    /// The sandbox.
    pub id: SandboxId,
    /// What went wrong.
    #[source]
    pub cause: DetachCause,
}

/// The step at which a detach failed.
#[derive(Debug, thiserror::Error)]
pub enum DetachCause {
    /// Some plugins; the others have done their part.
    #[error("{}", .0.iter().map(|error| chain(error)).collect::<Vec<_>>().join("; "))]
    Plugins(Vec<PluginError>),
    /// The built-in bridge.
    #[error("built-in bridge")]
    Bridge(#[from] BridgeError),
    /// The record.
    #[error("keep record")]
    Record(#[from] io::Error),
    /// It panicked.
    #[error("the task ended early")]
    Interrupted,
}

impl DetachCause {
    /// Whether nothing failed but that plugins are not there any more.
    #[must_use]
    pub fn is_for_want_of_plugins(&self) -> bool {
        match self {
            Self::Plugins(errors) => errors.iter().all(PluginError::is_missing),
            Self::Bridge(_) | Self::Record(_) | Self::Interrupted => false,
        }
    }

    /// Whether a program did not come to its end in time, and was killed.
    #[must_use]
    pub fn is_deadline(&self) -> bool {
        match self {
            Self::Plugins(errors) => errors.iter().any(PluginError::is_deadline),
            Self::Bridge(_) | Self::Record(_) | Self::Interrupted => false,
        }
    }
}

/// Why a pod CIDR is none.
#[derive(Debug, thiserror::Error)]
pub enum PodCidrError {
    /// Not what the kubelet sends: one IPv4 subnet, or one of each family with a comma between.
    #[error("pod CIDR {value:?} {problem}")]
    Invalid {
        /// As it came.
        value: String,
        /// What is wrong.
        problem: String,
    },
    /// It could not be put into effect.
    #[error("change the bridge's subnet to {value}")]
    Bridge {
        /// As it came.
        value: String,
        /// What went wrong.
        #[source]
        source: BridgeError,
    },
    /// It would have addresses in common with a subnet of which pods have some.
    #[error("pod CIDR {value} overlaps {subnet}, of which pods have {addresses} addresses")]
    InTheWay {
        /// As it came.
        value: String,
        /// The other one.
        subnet: IpNet,
        /// How many of its addresses pods have.
        addresses: usize,
    },
    /// It could not be written down.
    #[error("keep pod CIDR {value}")]
    Keep {
        /// As it came.
        value: String,
        /// The system call's word.
        #[source]
        source: io::Error,
    },
    /// It panicked.
    #[error("change the bridge's subnet: the task ended early")]
    Interrupted,
}
