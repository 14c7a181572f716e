//! Statistics: which pods and containers are meant, what they use, and that in CRI's words.

use super::status::plain_status;
use crate::convert;
use davit_proto::cri::{
    ContainerStats, ContainerStatsFilter, PodSandboxMetrics, PodSandboxStats, PodSandboxStatsFilter,
};
use davit_runtime::Runtime;
use davit_runtime::container::ContainerView;
use davit_runtime::sandbox::{SandboxState, SandboxView};
use davit_runtime::stats::runs;
use std::path::PathBuf;
use std::sync::Arc;
use tonic::Status;

/// One container, whether it runs or not.
pub(super) async fn container(runtime: &Runtime, id: &str) -> Result<ContainerStats, Status> {
    let found = runtime.container(id).map_err(|error| plain_status(&error))?;
    let mut all = containers(runtime, vec![found]).await;
    all.pop().ok_or_else(|| Status::internal(format!("container {id} could not be measured")))
}

/// The containers that run and fit.
pub(super) async fn running(
    runtime: &Runtime,
    filter: Option<ContainerStatsFilter>,
) -> Vec<ContainerStats> {
    let filter = filter.unwrap_or_default();
    let fits = |view: &ContainerView| runs(view) && convert::container_stats_fits(view, &filter);
    let mut wanted = Vec::new();
    for pod in runtime.sandboxes() {
        let fitting = pod.containers.values().filter(|view| fits(view));
        wanted.extend(fitting.map(|view| (Arc::clone(&pod), Arc::clone(view))));
    }
    containers(runtime, wanted).await
}

async fn containers(
    runtime: &Runtime,
    wanted: Vec<(Arc<SandboxView>, Arc<ContainerView>)>,
) -> Vec<ContainerStats> {
    let layers = layers(runtime);
    let used = runtime.container_use(wanted).await;
    used.iter().map(|used| convert::container_stats(used, &layers)).collect()
}

/// One pod.
pub(super) async fn sandbox(runtime: &Runtime, id: &str) -> Result<PodSandboxStats, Status> {
    let found = runtime.sandbox(id).map_err(|error| plain_status(&error))?;
    if found.state != SandboxState::Ready {
        return Err(Status::failed_precondition(format!(
            "pod_sandbox_id: pod sandbox {} is not ready: it uses nothing",
            found.id
        )));
    }
    let mut all = sandboxes(runtime, vec![found]).await;
    all.pop().ok_or_else(|| Status::internal(format!("pod sandbox {id} could not be measured")))
}

/// The pods that are ready and fit.
pub(super) async fn ready(
    runtime: &Runtime,
    filter: Option<PodSandboxStatsFilter>,
) -> Vec<PodSandboxStats> {
    let filter = filter.unwrap_or_default();
    let mut wanted = runtime.sandboxes();
    wanted.retain(|view| {
        view.state == SandboxState::Ready && convert::sandbox_stats_fits(view, &filter)
    });
    sandboxes(runtime, wanted).await
}

/// The metrics of the pods that are ready.
pub(super) async fn metrics(runtime: &Runtime) -> Vec<PodSandboxMetrics> {
    let mut wanted = runtime.sandboxes();
    wanted.retain(|view| view.state == SandboxState::Ready);
    let details = runtime.sandbox_details(wanted).await;
    details.iter().map(convert::pod_metrics).collect()
}

async fn sandboxes(runtime: &Runtime, wanted: Vec<Arc<SandboxView>>) -> Vec<PodSandboxStats> {
    let layers = layers(runtime);
    let used = runtime.sandbox_use(wanted).await;
    used.iter().map(|used| convert::sandbox_stats(used, &layers)).collect()
}

/// A path on the file system of the writable layers, whose free space the kubelet asks the kernel for.
fn layers(runtime: &Runtime) -> PathBuf {
    runtime.config().root.join("containers")
}
