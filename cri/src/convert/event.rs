//! Events → what listeners are told.

use super::status;
use davit_proto::cri;
use davit_runtime::events::{Change, Event};

/// One event, with the statuses of its moment; none for what CRI has no word for.
pub(crate) fn event(event: &Event) -> Option<cri::ContainerEventResponse> {
    let Event { id, change, at, sandbox, container: _ } = event;
    let containers = sandbox.containers.values();
    Some(cri::ContainerEventResponse {
        container_id: id.clone(),
        container_event_type: kind(*change)?.into(),
        created_at: *at,
        pod_sandbox_status: Some(status::sandbox_status(sandbox)),
        containers_statuses: containers.map(|view| status::container_status(view)).collect(),
    })
}

fn kind(change: Change) -> Option<cri::ContainerEventType> {
    match change {
        Change::Created => Some(cri::ContainerEventType::ContainerCreatedEvent),
        Change::Started => Some(cri::ContainerEventType::ContainerStartedEvent),
        Change::Paused
        | Change::Resumed
        | Change::ReadyAgain
        | Change::Updated
        | Change::OomKilled => None,
        Change::Stopped => Some(cri::ContainerEventType::ContainerStoppedEvent),
        Change::Deleted => Some(cri::ContainerEventType::ContainerDeletedEvent),
    }
}
