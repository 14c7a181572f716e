//! Containers from checkpoints, for davit's own command line: the only way to one.
//!
//! Owns what is asked before anything is touched, in this order: is there such an archive, is it whole, does CRIU work here, is the image here. And
//! which parts of the container are the new pod's: its log and its image's name.

use super::checkpoints::{TIMEOUT_MAX, place};
use super::status::{plain_status, status};
use crate::convert;
use davit_proto::admin::{
    Archive as Wire, InspectCheckpointRequest, InspectCheckpointResponse, RestoreCheckpointRequest,
    RestoreCheckpointResponse,
};
use davit_runtime::Runtime;
use davit_runtime::checkpoint::{Archive, Dump, DumpedImage, DumpedPod};
use davit_runtime::container::{ContainerSpec, ImageRequest};
use davit_runtime::sandbox::SandboxSpec;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use tonic::Status;

pub(super) async fn inspect(
    runtime: &Runtime,
    request: InspectCheckpointRequest,
) -> Result<InspectCheckpointResponse, Status> {
    let InspectCheckpointRequest { archive } = request;
    let archive = open(runtime, archive).await?;
    let Dump { image, pod, container, checkpointed_at, .. } = archive.dump();
    let DumpedPod { handler, host_network, privileged, user_namespace: _ } = pod;
    check(runtime, archive.dump(), handler).await?;
    Ok(InspectCheckpointResponse {
        container_name: container.name.clone(),
        image_id: image.id.clone(),
        image_name: image.name.clone(),
        handler: handler.clone(),
        privileged: *privileged,
        host_network: *host_network,
        checkpointed_at: *checkpointed_at,
    })
}

pub(super) async fn restore(
    runtime: &Runtime,
    request: RestoreCheckpointRequest,
) -> Result<RestoreCheckpointResponse, Status> {
    let RestoreCheckpointRequest { archive, pod_sandbox_id, container_name, timeout_s, labels } =
        request;
    if timeout_s > TIMEOUT_MAX {
        let problem = format!("timeout_s: {timeout_s} is more than {TIMEOUT_MAX}");
        return Err(Status::invalid_argument(problem));
    }
    let pod = runtime.sandbox(&pod_sandbox_id).map_err(|error| plain_status(&error))?;
    let archive = open(runtime, archive).await?;
    check(runtime, archive.dump(), &pod.handler).await?;
    let spec = spec(archive.dump(), &pod.spec, container_name, labels)?;
    let limit = (timeout_s > 0).then(|| Duration::from_secs(timeout_s.into()));
    let id = runtime.restore_container(pod.id.as_str(), archive, spec, limit).await;
    Ok(RestoreCheckpointResponse { container_id: id.map_err(|error| status(&error))?.to_string() })
}

async fn open(runtime: &Runtime, archive: Option<Wire>) -> Result<Archive, Status> {
    let Wire { name, path } = archive.unwrap_or_default();
    let path = match (name.is_empty(), path.is_empty()) {
        (false, true) => {
            let place = place(runtime, &name)?;
            if !place.exists() {
                let problem = format!("archive.name: there is no checkpoint {name:?}");
                return Err(Status::not_found(problem));
            }
            place
        }
        (true, false) => convert::archive_path(path)?,
        (true, true) | (false, false) => {
            return Err(Status::invalid_argument("archive: one of name and path is to be given"));
        }
    };
    // All of it is read, and it may be as large as a container's memory.
    let opened = tokio::task::spawn_blocking(move || Archive::open(&path)).await;
    let opened = opened.map_err(|error| Status::internal(error.to_string()))?;
    opened.map_err(|error| plain_status(&error))
}

/// Whether it can be restored here, by what is neither the archive's nor the pod's.
async fn check(runtime: &Runtime, dump: &Dump, handler: &str) -> Result<(), Status> {
    runtime.check_criu(handler).await.map_err(|error| plain_status(&error))?;
    let DumpedImage { id, name, reference } = &dump.image;
    if runtime.has_image(&dump.image) {
        return Ok(());
    }
    // Never pulled by itself: an archive would say which registry the daemon asks.
    let [id, name, reference] = [id, name, reference].map(|text| short(text));
    Err(Status::failed_precondition(format!(
        "the checkpoint's image {name:?} ({id}) is not here; pull it first: {reference}"
    )))
}

/// What an archive says is told in a message.
fn short(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(300).collect()
}

fn spec(
    dump: &Dump,
    pod: &SandboxSpec,
    name: String,
    labels: BTreeMap<String, String>,
) -> Result<ContainerSpec, Status> {
    let mut spec = dump.container.clone();
    if !name.is_empty() {
        (spec.name, spec.attempt) = (name, 0);
    }
    // The kubelet would take it for its own, in a pod that it knows nothing of.
    spec.labels.retain(|key, _| !key.starts_with("io.kubernetes."));
    spec.labels.extend(labels);
    spec.image = ImageRequest { image: dump.image.id.clone(), ..spec.image };
    let log = PathBuf::from(format!("{}_{}.log", spec.name, spec.attempt));
    spec.log_path = pod.log_directory.as_ref().map(|_directory| log);
    Ok(convert::archived_spec(spec, pod)?)
}
