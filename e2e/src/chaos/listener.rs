//! A subscriber of events, over all restarts: what is told of a pod or container goes forward, and each thing is told once.

use super::tally::{Did, Loss};
use super::world::World;
use crate::host::pause;
use k8s_cri::v1::GetEventsRequest;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a silent stream is listened to before it is asked whether the run is over.
const PATIENCE: Duration = Duration::from_millis(100);

pub(super) fn listen(world: &World<'_>) {
    // CREATED, STARTED, STOPPED, DELETED are 0 to 3.
    let mut last: BTreeMap<String, i32> = BTreeMap::new();
    while !world.deaf.load(Ordering::SeqCst) {
        let cri = world.cri();
        let Ok(mut stream) = cri.wait(cri.runtime().get_container_events(GetEventsRequest {}))
        else {
            pause(Duration::from_millis(5));
            continue;
        };
        while !world.deaf.load(Ordering::SeqCst) {
            let next =
                cri.block_on(async { tokio::time::timeout(PATIENCE, stream.message()).await });
            let event = match next {
                Err(_silent) => continue,
                Ok(Ok(Some(event))) => event,
                Ok(Ok(None) | Err(_)) => break,
            };
            world.tally.did(Did::Event);
            let (id, kind) = (event.container_id, event.container_event_type);
            if let Some(before) = last.insert(id.clone(), kind).filter(|before| *before >= kind) {
                world.tally.lose(Loss::Event, format!("{id}: {kind} after {before}"));
            }
        }
    }
}
