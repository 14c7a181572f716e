//! Whose namespaces pods and containers have.

use super::error::{InvalidField, refuse, variant};
use super::userns;
use davit_proto::cri::{NamespaceMode, NamespaceOption};
use davit_runtime::container::ContainerPid;
use davit_runtime::sandbox::{IdMappings, NetworkMode, PidMode, SandboxSpec};

/// A pod's namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodNamespaces {
    pub(crate) network: NetworkMode,
    pub(crate) pid: PidMode,
    pub(crate) host_ipc: bool,
    pub(crate) userns: Option<IdMappings>,
}

/// A pod's; without options, the interface's defaults, which is `POD` for each.
pub(crate) fn of_pod(
    field: &str,
    options: Option<NamespaceOption>,
) -> Result<PodNamespaces, InvalidField> {
    let NamespaceOption { network, pid, ipc, target_id, userns_options } =
        options.unwrap_or_default();
    if !target_id.is_empty() {
        return Err(refuse(format!("{field}.target_id"), &target_id, "makes no sense for a pod"));
    }
    let user_field = format!("{field}.userns_options");
    let userns = userns_options
        .map(|options| userns::user_namespace(&user_field, options))
        .transpose()?
        .flatten();
    // Both would have to be mounted anew inside (/proc, /dev/mqueue), and the host's can't be by another root.
    let with_userns = "does not go together with a user namespace (userns_options.mode POD)";
    let pid_field = format!("{field}.pid");
    let pid = match variant(&pid_field, pid)? {
        NamespaceMode::Pod => PidMode::Pod,
        NamespaceMode::Container => PidMode::Container,
        mode @ NamespaceMode::Node if userns.is_some() => {
            return Err(refuse(pid_field, &mode, with_userns));
        }
        NamespaceMode::Node => PidMode::Host,
        mode @ NamespaceMode::Target => {
            return Err(refuse(pid_field, &mode, "makes no sense for a pod"));
        }
    };
    let network = if host_or_pod(&format!("{field}.network"), network)? {
        NetworkMode::Host
    } else {
        NetworkMode::Pod
    };
    let ipc_field = format!("{field}.ipc");
    let host_ipc = host_or_pod(&ipc_field, ipc)?;
    if host_ipc && userns.is_some() {
        return Err(refuse(ipc_field, &NamespaceMode::Node, with_userns));
    }
    Ok(PodNamespaces { network, pid, host_ipc, userns })
}

/// Whether a network or IPC namespace is the host's.
fn host_or_pod(field: &str, mode: i32) -> Result<bool, InvalidField> {
    match variant(field, mode)? {
        NamespaceMode::Node => Ok(true),
        NamespaceMode::Pod => Ok(false),
        mode @ (NamespaceMode::Container | NamespaceMode::Target) => {
            Err(refuse(field, &mode, "is neither POD nor NODE"))
        }
    }
}

/// A container's PID namespace, its other ones being its pod's. `POD` means the pod's own, whichever that is; without options a
/// container has what its pod says.
pub(crate) fn of_container(
    field: &str,
    options: Option<NamespaceOption>,
    pod: &SandboxSpec,
) -> Result<ContainerPid, InvalidField> {
    let Some(NamespaceOption { network, pid, ipc, target_id, userns_options }) = options else {
        return Ok(pods_pid(pod));
    };
    if let Some(options) = userns_options {
        let field = format!("{field}.userns_options");
        if userns::user_namespace(&field, options.clone())? != pod.userns {
            return Err(refuse(field, &options, "is not what the pod has"));
        }
    }
    let not_pods = "asks for the host's, which the pod does not have";
    let network_field = format!("{field}.network");
    if host_or_pod(&network_field, network)? && pod.network != NetworkMode::Host {
        return Err(refuse(network_field, &NamespaceMode::Node, not_pods));
    }
    let ipc_field = format!("{field}.ipc");
    if host_or_pod(&ipc_field, ipc)? && !pod.host_ipc {
        return Err(refuse(ipc_field, &NamespaceMode::Node, not_pods));
    }
    let pid_field = format!("{field}.pid");
    let mode = variant(&pid_field, pid)?;
    if mode != NamespaceMode::Target && !target_id.is_empty() {
        let problem = "is given without the mode TARGET";
        return Err(refuse(format!("{field}.target_id"), &target_id, problem));
    }
    match mode {
        NamespaceMode::Container => Ok(ContainerPid::Container),
        NamespaceMode::Node if pod.pid == PidMode::Host => Ok(ContainerPid::Host),
        NamespaceMode::Node => Err(refuse(pid_field, &mode, not_pods)),
        // The pod has no PID namespace then: there is no process that could hold one.
        NamespaceMode::Pod if pod.pid == PidMode::Container => Err(refuse(
            pid_field,
            &mode,
            "asks for the pod's, and this pod's containers have their own",
        )),
        NamespaceMode::Pod => Ok(pods_pid(pod)),
        NamespaceMode::Target if target_id.is_empty() => Err(refuse(
            format!("{field}.target_id"),
            &target_id,
            "is required with the mode TARGET",
        )),
        NamespaceMode::Target => Ok(ContainerPid::Target(target_id)),
    }
}

fn pods_pid(pod: &SandboxSpec) -> ContainerPid {
    match pod.pid {
        PidMode::Pod => ContainerPid::Pod,
        PidMode::Container => ContainerPid::Container,
        PidMode::Host => ContainerPid::Host,
    }
}

/// A pod's namespaces in CRI's words.
pub(crate) fn to_cri(spec: &SandboxSpec) -> NamespaceOption {
    let node_if = |host: bool| if host { NamespaceMode::Node } else { NamespaceMode::Pod };
    let pid = match spec.pid {
        PidMode::Pod => NamespaceMode::Pod,
        PidMode::Container => NamespaceMode::Container,
        PidMode::Host => NamespaceMode::Node,
    };
    NamespaceOption {
        network: node_if(spec.network == NetworkMode::Host).into(),
        pid: pid.into(),
        ipc: node_if(spec.host_ipc).into(),
        target_id: String::new(),
        userns_options: spec.userns.as_ref().map(userns::to_cri),
    }
}
