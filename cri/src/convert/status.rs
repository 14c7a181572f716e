//! Views → what lists and statuses tell. CRI's states are functions of davit's and stored nowhere.

use super::image::image_spec;
use super::{mount, namespace, resources, signal};
use davit_proto::cri;
use davit_runtime::container::{ContainerState, ContainerView, Exit, User};
use davit_runtime::sandbox::{SandboxKey, SandboxState, SandboxView};
use std::net::IpAddr;

/// CRI's word for a pod's state.
pub(crate) fn sandbox_state(state: SandboxState) -> cri::PodSandboxState {
    match state {
        SandboxState::Ready => cri::PodSandboxState::SandboxReady,
        SandboxState::NotReady => cri::PodSandboxState::SandboxNotready,
    }
}

/// CRI's word for a container's state. One that is being created is shown to nobody; were it, it would not run yet.
pub(crate) fn container_state(state: &ContainerState) -> cri::ContainerState {
    match state {
        ContainerState::Creating | ContainerState::Created { .. } => {
            cri::ContainerState::ContainerCreated
        }
        ContainerState::Running { .. } => cri::ContainerState::ContainerRunning,
        ContainerState::Exited(_) => cri::ContainerState::ContainerExited,
    }
}

pub(super) fn sandbox_metadata(key: &SandboxKey) -> cri::PodSandboxMetadata {
    let SandboxKey { namespace, name, uid, attempt } = key.clone();
    cri::PodSandboxMetadata { name, uid, namespace, attempt }
}

/// A pod in a list.
pub(crate) fn sandbox(view: &SandboxView) -> cri::PodSandbox {
    cri::PodSandbox {
        id: view.id.to_string(),
        metadata: Some(sandbox_metadata(&view.spec.key)),
        state: sandbox_state(view.state).into(),
        created_at: view.created_at,
        labels: view.spec.labels.clone(),
        annotations: view.spec.annotations.clone(),
        runtime_handler: view.handler.clone(),
    }
}

/// A pod's status.
pub(crate) fn sandbox_status(view: &SandboxView) -> cri::PodSandboxStatus {
    let options = Some(namespace::to_cri(&view.spec));
    cri::PodSandboxStatus {
        id: view.id.to_string(),
        metadata: Some(sandbox_metadata(&view.spec.key)),
        state: sandbox_state(view.state).into(),
        created_at: view.created_at,
        network: Some(network(&view.ips)),
        linux: Some(cri::LinuxPodSandboxStatus { namespaces: Some(cri::Namespace { options }) }),
        labels: view.spec.labels.clone(),
        annotations: view.spec.annotations.clone(),
        runtime_handler: view.handler.clone(),
    }
}

/// The primary address by itself; none with the host's network, where the kubelet knows the node's.
fn network(ips: &[IpAddr]) -> cri::PodSandboxNetworkStatus {
    let mut ips = ips.iter().map(IpAddr::to_string);
    cri::PodSandboxNetworkStatus {
        ip: ips.next().unwrap_or_default(),
        additional_ips: ips.map(|ip| cri::PodIp { ip }).collect(),
    }
}

/// A container in a list.
pub(crate) fn container(view: &ContainerView) -> cri::Container {
    let (spec, facts) = (&view.spec, &view.facts);
    cri::Container {
        id: view.id.to_string(),
        pod_sandbox_id: view.sandbox.to_string(),
        metadata: Some(cri::ContainerMetadata { name: spec.name.clone(), attempt: spec.attempt }),
        image: Some(image_spec(&spec.image, &facts.image_name)),
        image_ref: facts.image_ref.clone(),
        state: container_state(&view.state).into(),
        created_at: facts.created_at,
        labels: spec.labels.clone(),
        annotations: spec.annotations.clone(),
        image_id: facts.image_id.to_string(),
    }
}

/// A container's status.
pub(crate) fn container_status(view: &ContainerView) -> cri::ContainerStatus {
    let (spec, facts) = (&view.spec, &view.facts);
    let Ended { finished_at, exit_code, reason, message } = ended(&view.state);
    let limits = resources::resources_to_cri(&spec.resources);
    cri::ContainerStatus {
        id: view.id.to_string(),
        metadata: Some(cri::ContainerMetadata { name: spec.name.clone(), attempt: spec.attempt }),
        state: container_state(&view.state).into(),
        created_at: facts.created_at,
        started_at: view.state.started_at().unwrap_or(0),
        finished_at,
        exit_code,
        image: Some(image_spec(&spec.image, &facts.image_name)),
        image_ref: facts.image_ref.clone(),
        reason,
        message,
        labels: spec.labels.clone(),
        annotations: spec.annotations.clone(),
        mounts: spec.mounts.iter().map(mount::mount_to_cri).collect(),
        log_path: facts.log_path.as_deref().map(mount::path_text).unwrap_or_default(),
        resources: Some(cri::ContainerResources { linux: Some(limits), windows: None }),
        image_id: facts.image_id.to_string(),
        user: Some(user(&facts.user)),
        stop_signal: signal::signal_to_cri(facts.stop_signal).into(),
    }
}

/// What is told of an end.
#[derive(Default)]
struct Ended {
    finished_at: i64,
    exit_code: i32,
    reason: String,
    message: String,
}

fn ended(state: &ContainerState) -> Ended {
    match state {
        ContainerState::Exited(Exit { started_at: _, finished_at, code, reason, message }) => {
            Ended {
                finished_at: *finished_at,
                exit_code: *code,
                reason: reason.as_str().to_owned(),
                message: message.clone(),
            }
        }
        ContainerState::Creating
        | ContainerState::Created { .. }
        | ContainerState::Running { .. } => Ended::default(),
    }
}

fn user(user: &User) -> cri::ContainerUser {
    let User { uid, gid, groups } = user;
    let linux = cri::LinuxContainerUser {
        uid: i64::from(*uid),
        gid: i64::from(*gid),
        supplemental_groups: groups.iter().copied().map(i64::from).collect(),
    };
    cri::ContainerUser { linux: Some(linux) }
}
