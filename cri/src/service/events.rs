//! GetContainerEvents: the runtime's events in CRI's words, for as long as the caller reads.

use super::Streamed;
use crate::convert;
use davit_proto::cri::ContainerEventResponse;
use davit_runtime::events::{EventStream, Lagged};
use tonic::Status;

/// The stream of a listener. It ends with an error for one that does not keep up: what it has missed only a new list can tell.
pub(super) fn stream(events: EventStream) -> Streamed<ContainerEventResponse> {
    Box::pin(futures_util::stream::unfold(Some(events), |events| async move {
        let mut events = events?;
        loop {
            match events.next().await? {
                Ok(event) => {
                    if let Some(told) = convert::event(&event) {
                        return Some((Ok(told), Some(events)));
                    }
                }
                Err(lagged) => return Some((Err(too_slow(&lagged)), None)),
            }
        }
    }))
}

fn too_slow(lagged: &Lagged) -> Status {
    Status::resource_exhausted(lagged.to_string())
}
