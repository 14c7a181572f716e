//! Events → what listeners are told.

use super::status;
use davit_proto::cri;
use davit_runtime::events::{Change, Event};

/// One event, with the statuses of its moment.
pub(crate) fn event(event: &Event) -> cri::ContainerEventResponse {
    let Event { id, change, at, sandbox } = event;
    let containers = sandbox.containers.values();
    cri::ContainerEventResponse {
        container_id: id.clone(),
        container_event_type: kind(*change).into(),
        created_at: *at,
        pod_sandbox_status: Some(status::sandbox_status(sandbox)),
        containers_statuses: containers.map(|view| status::container_status(view)).collect(),
    }
}

fn kind(change: Change) -> cri::ContainerEventType {
    match change {
        Change::Created => cri::ContainerEventType::ContainerCreatedEvent,
        Change::Started => cri::ContainerEventType::ContainerStartedEvent,
        Change::Stopped => cri::ContainerEventType::ContainerStoppedEvent,
        Change::Deleted => cri::ContainerEventType::ContainerDeletedEvent,
    }
}
