//! Which namespaces a container has to itself, shares with its pod, or with the host.

use super::PodPaths;
use crate::cgroup::Version;
use crate::container::ContainerPid;
use crate::sandbox::{NetworkMode, SandboxSpec};
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};
use std::path::Path;

/// A namespace that should be there already.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the pod's {kind} namespace is not known, though the container needs it")]
pub struct NamespaceError {
    /// Which kind.
    pub kind: &'static str,
}

/// What the choice of a cgroup namespace depends on.
pub(super) struct CgroupView {
    pub(super) version: Version,
    pub(super) privileged: bool,
}

pub(super) fn build(
    pid: &ContainerPid,
    sandbox: &SandboxSpec,
    pod: &PodPaths,
    cgroup: &CgroupView,
) -> Result<Vec<LinuxNamespace>, NamespaceError> {
    let mut list = vec![own(LinuxNamespaceType::Mount)];
    match pid {
        ContainerPid::Container => list.push(own(LinuxNamespaceType::Pid)),
        ContainerPid::Pod | ContainerPid::Target(_) => {
            list.push(joined(LinuxNamespaceType::Pid, "PID", pod.pidns.as_deref())?);
        }
        ContainerPid::Host => {}
    }
    // The host name belongs to the network: with the host's, it is the host's too.
    match sandbox.network {
        NetworkMode::Pod => {
            list.push(joined(LinuxNamespaceType::Network, "network", pod.netns.as_deref())?);
            list.push(joined(LinuxNamespaceType::Uts, "UTS", pod.utsns.as_deref())?);
        }
        NetworkMode::Host => {}
    }
    if sandbox.userns.is_some() {
        list.push(joined(LinuxNamespaceType::User, "user", pod.userns.as_deref())?);
    }
    if !sandbox.host_ipc {
        list.push(joined(LinuxNamespaceType::Ipc, "IPC", pod.ipcns.as_deref())?);
    }
    // On v1 the mounts show the container's own place without it; a privileged container means to see the host's tree, which it can't be shown in a
    // user namespace: cgroups are mounted only by who is root of the cgroup namespace.
    let sees_host = cgroup.privileged && sandbox.userns.is_none();
    if cgroup.version == Version::V2 && !sees_host {
        list.push(own(LinuxNamespaceType::Cgroup));
    }
    Ok(list)
}

fn own(kind: LinuxNamespaceType) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(kind);
    namespace
}

fn joined(
    kind: LinuxNamespaceType,
    name: &'static str,
    path: Option<&Path>,
) -> Result<LinuxNamespace, NamespaceError> {
    let path = path.ok_or(NamespaceError { kind: name })?;
    let mut namespace = own(kind);
    namespace.set_path(Some(path.to_owned()));
    Ok(namespace)
}
