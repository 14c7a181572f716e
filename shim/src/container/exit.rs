//! The end of a container: what is done between the reaping of its init and the telling of it.
//!
//! ```text
//! reaped → the rest of it killed (unless the kernel did) → OOM counter read → output drained, for so long → exit.json
//!        → phase Exited, event published → clients let go → OCI runtime's delete, while nobody waits
//! ```
//!
//! The order is the promise: whoever hears of the end finds the log complete, the record on disk, and the OOM verdict in both. A disk that is full holds the
//! telling up no more than it holds up the end: the record follows when there is room.

use super::{Container, Death, Init, Phase, PidNamespace, Verdict};
use crate::files;
use crate::pod::Pod;
use crate::reaper::Ended;
use crate::shortage::patiently;
use davit_proto::disk::{EXIT_RECORD, ExitRecord, VERSION};
use davit_proto::shim::{Event, event};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// How long the telling waits for output after the end. A process that outlives the init may hold the pipe for ever;
/// reading goes on, the telling does not wait for it.
const DRAIN: Duration = Duration::from_millis(100);

/// How long the OCI runtime's delete waits so that the end is told first: making a process stops this one for longer than the telling takes. Who asks
/// for the delete does not wait.
const TELLING: Duration = Duration::from_millis(10);

/// Between two tries to write an exit record.
const PAUSE: Duration = Duration::from_secs(1);

/// An end that could not be written down.
#[derive(Debug, thiserror::Error)]
#[error("write {}; it is tried again", path.display())]
struct RecordError {
    path: PathBuf,
    source: std::io::Error,
}

/// Starts the task that sees a container to its end.
pub(crate) fn spawn_watch(
    pod: Arc<Pod>,
    container: Arc<Container>,
    init: Arc<Init>,
    ended: oneshot::Receiver<Ended>,
    logging: Vec<JoinHandle<()>>,
) {
    tokio::spawn(async move {
        // The reaper keeps the sender until it sends.
        let Ok(ended) = ended.await else { return };
        finish(&pod, &container, &init, ended, logging).await;
        pod.worked();
        tokio::time::sleep(TELLING).await;
        if let Err(error) = super::delete::ensure_deleted(&pod, &container).await {
            // Delete tries again.
            crate::say(&error);
        }
    });
}

async fn finish(
    pod: &Arc<Pod>,
    container: &Container,
    init: &Init,
    ended: Ended,
    mut logging: Vec<JoinHandle<()>>,
) {
    if let (PidNamespace::Joined, Some(cgroup)) = (container.pids, &init.cgroup)
        && let Err(error) = cgroup.kill().await
    {
        crate::say(&error);
    }
    let oom_killed = match &init.cgroup {
        Some(cgroup) => patiently(|| cgroup.oom_kills()).await.is_ok_and(|kills| kills > 0),
        None => false,
    };
    // Nobody waits for a client from here on, so that the log is complete soon.
    container.tee.hurry();
    let drained = async {
        for reading in &mut logging {
            let _ = reading.await;
        }
    };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        container.held().logging =
            logging.into_iter().filter(|reading| !reading.is_finished()).collect();
    }
    {
        let mut held = container.held();
        (held.stdin, held.terminal) = (None, None);
    }
    let verdict = Verdict { ended, oom_killed };
    let recorded = record(container, verdict);
    publish(pod, container, init, verdict);
    container.tee.close();
    if let Err(error) = recorded {
        crate::say(&error);
        spawn_recording(Arc::downgrade(pod), container.id.clone(), verdict);
    }
}

/// Writes the record as soon as there is room. Until then this process is the only one that knows, and tells every daemon that asks.
fn spawn_recording(pod: Weak<Pod>, id: String, verdict: Verdict) {
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(PAUSE).await;
            let Some(container) = pod.upgrade().and_then(|pod| pod.container(&id).ok()) else {
                return;
            };
            if record(&container, verdict).is_ok() {
                return;
            }
        }
    });
}

fn record(container: &Container, verdict: Verdict) -> Result<(), RecordError> {
    let path = container.bundle.join(EXIT_RECORD);
    let Verdict { ended: Ended { code, signal, at: finished_at }, oom_killed } = verdict;
    let record = ExitRecord { version: VERSION, code, signal, finished_at, oom_killed };
    let written = serde_json::to_vec(&record).map_err(Into::into);
    written
        .and_then(|bytes| files::replace(&path, &bytes))
        .map_err(|source| RecordError { path, source })
}

fn publish(pod: &Pod, container: &Container, init: &Init, verdict: Verdict) {
    container.advance(|phase| {
        let started = match phase {
            Phase::Starting(_) | Phase::Running(_) => true,
            Phase::Creating | Phase::Created(_) => false,
            Phase::Exited(_) | Phase::Gone => return None,
        };
        Some(Phase::Exited(Arc::new(Death { verdict, started, cgroup: init.cgroup.clone() })))
    });
    let kind = Some(event::Kind::Exited(verdict.to_proto()));
    pod.events.publish(&Event { id: container.id.clone(), kind });
}
