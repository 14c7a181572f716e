//! A network namespace that is furnished before there is a pod for it.
//!
//! Owns what can be done of a pod's network without the pod: the namespace, its parameters, its loopback, and with the built-in bridge, once that is there, the pair of
//! links. Addresses, routes and ports are the pod's. The namespace is held by its descriptor and named nowhere, and a pair of links goes with
//! the namespace of either end: what nobody takes leaves nothing.

use super::bridge::BridgeError;
use super::netlink::Netlink;
use super::{Inner, Network};
use crate::id::SandboxId;
use std::fs::File;
use std::os::fd::OwnedFd;

/// See the module.
#[derive(Debug)]
pub(crate) struct NetworkAhead {
    pub(super) netns: File,
    /// Talks to the kernel in there.
    pub(super) netlink: Netlink,
    pub(super) kind: Kind,
    /// The number of the pod's end of its links, if they are there. The host's end is named after the pod.
    pub(super) pod_link: Option<u32>,
}

/// Whose the pod's network is going to be: what is set in a namespace for the one is not what the other wants to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The built-in bridge's.
    Bridge,
    /// Plugins': as the kernel made it, but for its loopback and what all pods have.
    Plugins,
}

impl NetworkAhead {
    /// Another descriptor of the namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn descriptor(&self) -> std::io::Result<OwnedFd> {
        Ok(self.netns.try_clone()?.into())
    }
}

impl Network {
    /// Makes one for the pod that is going to have this id.
    ///
    /// # Errors
    /// The kernel's; nothing is left of it.
    pub(crate) async fn make_ahead(&self, id: &SandboxId) -> Result<NetworkAhead, BridgeError> {
        let id = id.clone();
        let made = self.inner.blocking(move |inner| inner.bridge.make_ahead(inner.kind(), &id));
        made.await.unwrap_or(Err(BridgeError::Interrupted))
    }

    /// Whether it is still of the kind that a pod would get now.
    pub(crate) fn fits(&self, ahead: &NetworkAhead) -> bool {
        ahead.kind == self.inner.kind()
    }
}

impl Inner {
    /// Whose a pod's network would be now.
    fn kind(&self) -> Kind {
        if self.is_bridged(&self.cni.current()) { Kind::Bridge } else { Kind::Plugins }
    }
}
