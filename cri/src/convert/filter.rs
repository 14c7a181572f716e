//! What lists leave out. A filter's fields are ANDed, an empty one fits everything, ids may be beginnings of ids.

use super::status;
use davit_proto::cri;
use davit_runtime::container::ContainerView;
use davit_runtime::sandbox::SandboxView;
use std::collections::BTreeMap;

fn begins(id: &str, wanted: &str) -> bool {
    id.starts_with(wanted)
}

fn has_labels(labels: &BTreeMap<String, String>, selector: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Whether ListPodSandbox lists this pod.
pub(crate) fn sandbox_fits(view: &SandboxView, filter: &cri::PodSandboxFilter) -> bool {
    let cri::PodSandboxFilter { id, state, label_selector } = filter;
    let is = i32::from(status::sandbox_state(view.state));
    begins(view.id.as_str(), id)
        && state.as_ref().is_none_or(|cri::PodSandboxStateValue { state }| *state == is)
        && has_labels(&view.spec.labels, label_selector)
}

/// Whether ListContainers lists this container.
pub(crate) fn container_fits(view: &ContainerView, filter: &cri::ContainerFilter) -> bool {
    let cri::ContainerFilter { id, state, pod_sandbox_id, label_selector } = filter;
    let is = i32::from(status::container_state(&view.state));
    begins(view.id.as_str(), id)
        && begins(view.sandbox.as_str(), pod_sandbox_id)
        && state.as_ref().is_none_or(|cri::ContainerStateValue { state }| *state == is)
        && has_labels(&view.spec.labels, label_selector)
}

/// Whether the containers' statistics tell of this one.
pub(crate) fn container_stats_fits(
    view: &ContainerView,
    filter: &cri::ContainerStatsFilter,
) -> bool {
    let cri::ContainerStatsFilter { id, pod_sandbox_id, label_selector } = filter;
    begins(view.id.as_str(), id)
        && begins(view.sandbox.as_str(), pod_sandbox_id)
        && has_labels(&view.spec.labels, label_selector)
}

/// Whether the pods' statistics tell of this one.
pub(crate) fn sandbox_stats_fits(view: &SandboxView, filter: &cri::PodSandboxStatsFilter) -> bool {
    let cri::PodSandboxStatsFilter { id, label_selector } = filter;
    begins(view.id.as_str(), id) && has_labels(&view.spec.labels, label_selector)
}
