//! The bridge's part of a pod's network that is made before the pod.
//!
//! Owns no more than the making, and the look whether what was made is still what it was.

use super::setup::{find, quiet_ipv6};
use super::{Bridge, BridgeError, link, lock, reaper, setup};
use crate::id::SandboxId;
use crate::network::netlink::{Netlink, NetlinkError, inside};
use crate::network::{Kind, NetworkAhead, new_namespace};
use std::fs::File;
use std::path::Path;

/// What errors call a namespace that has no name yet.
const UNNAMED: &str = "(of a pod to come)";

impl Bridge {
    /// Makes a namespace for the pod that is going to have this id. With its links, if they are to be the bridge's and that is up: the first pod makes it.
    pub(in crate::network) fn make_ahead(
        &self,
        kind: Kind,
        id: &SandboxId,
    ) -> Result<NetworkAhead, BridgeError> {
        let path = Path::new(UNNAMED);
        let failed = |source| BridgeError::Namespace { path: path.to_owned(), source };
        let netns = File::from(new_namespace().map_err(failed)?);
        let mut ahead = match kind {
            Kind::Bridge => furnish(path, netns)?,
            Kind::Plugins => {
                let netlink = inside(path, &netns, Netlink::open)?;
                NetworkAhead { netns, netlink, kind, pod_link: None }
            }
        };
        setup::configure_pod(&mut ahead.netlink, path, &[], &[])?;
        if kind == Kind::Bridge && lock(&self.up).is_some() {
            self.make_pair(id, &ahead.netns, None)?;
            ahead.pod_link = Some(find(&mut ahead.netlink, path, link::POD_LINK)?);
        }
        Ok(ahead)
    }

    /// Whether the pod's link is there, and a port of the bridge. One that is not, since somebody has removed that meanwhile, goes.
    pub(super) fn enable(&self, id: &SandboxId) -> bool {
        let mut netlink = lock(&self.netlink);
        let enabled = netlink.apply(vec![link::enable(&link::host_link(id))]).is_ok();
        if !enabled {
            // What can't be removed now is in the way of the one that is made instead, and told then.
            drop(reaper::delete_one(&mut netlink, id));
        }
        enabled
    }
}

/// Opens the way to the kernel in a namespace, and keeps its IPv6 quiet.
pub(super) fn furnish(path: &Path, netns: File) -> Result<NetworkAhead, BridgeError> {
    let netlink = inside(path, &netns, || {
        quiet_ipv6().map(|()| Netlink::open()).map_err(|(path, source)| NetlinkError::Refused {
            what: format!("set {path}"),
            source,
        })?
    })?;
    Ok(NetworkAhead { netns, netlink, kind: Kind::Bridge, pod_link: None })
}

/// Takes the link away again: the namespace is for plugins, which make their own.
pub(in crate::network) fn without_link(mut ahead: NetworkAhead) -> Result<(), BridgeError> {
    if ahead.pod_link.is_some() {
        ahead.netlink.apply(vec![link::delete(link::POD_LINK)])?;
    }
    Ok(())
}
