//! `davit inspect`: all that is known of containers, pods and images.
//!
//! Owns the JSON's shape: CRI's status under `status` in CRI's own field names, and beside it `info`, which is davit's own word (what was asked for, the
//! process, the OCI spec). A program that reads it finds `type` and `id` in each.

use super::connect::Daemon;
use super::error::{ClientError, doing};
use super::format::{Template, print_json};
use super::{act, find, moment, pods, ps};
use crate::cli::InspectArgs;
use crate::output;
use clap::ValueEnum;
use davit_proto::cri;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::ExitCode;

/// Kinds of things.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum InspectKind {
    /// Containers.
    Container,
    /// Pods.
    Pod,
    /// Images.
    Image,
}

/// Tries each; those that are there are written, and the program exits with 1 if one is not.
///
/// # Errors
/// What keeps the outcome from being printed.
pub(crate) async fn inspect(
    mut daemon: Daemon,
    args: &InspectArgs,
) -> Result<ExitCode, ClientError> {
    let InspectArgs { kind, format, ids } = args;
    let template = format.as_deref().map(|text| Template::new(text, None)).transpose()?;
    let (mut found, mut code) = (Vec::new(), ExitCode::SUCCESS);
    for id in ids {
        match one(&mut daemon, id, *kind).await {
            Ok(value) => found.push(value),
            Err(error) => {
                act::complain(error);
                code = ExitCode::FAILURE;
            }
        }
    }
    match template {
        None => print_json(&found)?,
        Some(template) => {
            for value in &found {
                output::print(&template.render(value)?)?;
            }
        }
    }
    Ok(code)
}

async fn one(
    daemon: &mut Daemon,
    id: &str,
    kind: Option<InspectKind>,
) -> Result<Value, ClientError> {
    match kind {
        Some(InspectKind::Container) => container(daemon, id).await,
        Some(InspectKind::Pod) => pod(daemon, id).await,
        Some(InspectKind::Image) => image(daemon, id).await,
        None => any(daemon, id).await,
    }
}

/// The first kind that has it. One that is ambiguous is told of, not passed over.
async fn any(daemon: &mut Daemon, id: &str) -> Result<Value, ClientError> {
    let is_absent =
        |error: &ClientError| matches!(error, ClientError::NoContainer(_) | ClientError::NoSuch(_));
    match container(daemon, id).await {
        Err(error) if is_absent(&error) => {}
        answer => return answer,
    }
    match pod(daemon, id).await {
        Err(error) if is_absent(&error) => {}
        answer => return answer,
    }
    match image(daemon, id).await {
        Err(ClientError::NoImage(_)) => Err(ClientError::Nothing(id.to_owned())),
        answer => answer,
    }
}

async fn container(daemon: &mut Daemon, id: &str) -> Result<Value, ClientError> {
    let container_id = find::container(daemon, id).await?.id;
    let request = cri::ContainerStatusRequest { container_id, verbose: true };
    let answer = daemon.runtime.container_status(request).await;
    let answer = answer.map_err(doing(format!("inspect container {id}")))?.into_inner();
    let status = answer.status.unwrap_or_default();
    let info = parsed(&answer.info);
    let paused = info.get("paused").and_then(Value::as_bool) == Some(true);
    let state = if paused { "paused" } else { ps::state_name(status.state()) };
    let metadata = status.metadata.clone().unwrap_or_default();
    Ok(json!({
        "type": "container",
        "id": status.id,
        "name": metadata.name,
        "state": state,
        "status": container_status(&status, &metadata),
        "info": info,
    }))
}

fn container_status(status: &cri::ContainerStatus, metadata: &cri::ContainerMetadata) -> Value {
    let mounts: Vec<Value> = status.mounts.iter().map(mount).collect();
    let image = status.image.clone().unwrap_or_default().image;
    json!({
        "metadata": { "name": metadata.name, "attempt": metadata.attempt },
        "created_at": moment::moment(status.created_at),
        "started_at": moment::moment(status.started_at),
        "finished_at": moment::moment(status.finished_at),
        "exit_code": status.exit_code,
        "reason": status.reason,
        "message": status.message,
        "image": image,
        "image_ref": status.image_ref,
        "image_id": status.image_id,
        "labels": status.labels,
        "annotations": status.annotations,
        "mounts": mounts,
        "log_path": status.log_path,
    })
}

fn mount(mount: &cri::Mount) -> Value {
    json!({
        "container_path": mount.container_path,
        "host_path": mount.host_path,
        "readonly": mount.readonly,
    })
}

async fn pod(daemon: &mut Daemon, id: &str) -> Result<Value, ClientError> {
    let pod_sandbox_id = find::pod(daemon, id).await?.id;
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id, verbose: true };
    let answer = daemon.runtime.pod_sandbox_status(request).await;
    let answer = answer.map_err(doing(format!("inspect pod {id}")))?.into_inner();
    let status = answer.status.unwrap_or_default();
    let state = pods::state_name(status.state());
    let metadata = status.metadata.unwrap_or_default();
    let network = status.network.unwrap_or_default();
    let others: Vec<String> = network.additional_ips.into_iter().map(|ip| ip.ip).collect();
    Ok(json!({
        "type": "pod",
        "id": status.id,
        "name": metadata.name,
        "state": state,
        "status": {
            "metadata": {
                "name": metadata.name,
                "namespace": metadata.namespace,
                "uid": metadata.uid,
                "attempt": metadata.attempt,
            },
            "created_at": moment::moment(status.created_at),
            "network": { "ip": network.ip, "additional_ips": others },
            "labels": status.labels,
            "annotations": status.annotations,
            "runtime_handler": status.runtime_handler,
        },
        "info": parsed(&answer.info),
    }))
}

async fn image(daemon: &mut Daemon, id: &str) -> Result<Value, ClientError> {
    let spec = cri::ImageSpec { image: id.to_owned(), ..cri::ImageSpec::default() };
    let request = cri::ImageStatusRequest { image: Some(spec), verbose: true };
    let answer = daemon.image.image_status(request).await;
    let answer = answer.map_err(doing(format!("inspect image {id}")))?.into_inner();
    let image = answer.image.ok_or_else(|| ClientError::NoImage(id.to_owned()))?;
    Ok(json!({
        "type": "image",
        "id": image.id,
        "name": image.repo_tags.first(),
        "status": {
            "repo_tags": image.repo_tags,
            "repo_digests": image.repo_digests,
            "size": image.size,
            "uid": image.uid.map(|uid| uid.value),
            "username": image.username,
            "pinned": image.pinned,
        },
        "info": parsed(&answer.info),
    }))
}

/// What a verbose status holds under `info`.
fn parsed(info: &BTreeMap<String, String>) -> Value {
    info.get("info").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}
