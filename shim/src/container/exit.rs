//! The end of a container: what is done between the reaping of its init and the telling of it.
//!
//! ```text
//! reaped → the rest of it killed (unless the kernel did) → OOM counter read → output drained, for so long → exit.json
//!        → phase Exited, event published → clients let go → OCI runtime's delete, while nobody waits
//! ```
//!
//! The order is the promise: whoever hears of the end finds the log complete, the record on disk, and the OOM verdict in both.

use super::{Container, Death, Init, Phase, PidNamespace, Verdict};
use crate::files;
use crate::pod::Pod;
use crate::reaper::Ended;
use davit_proto::disk::{EXIT_RECORD, ExitRecord, VERSION};
use davit_proto::shim::{Event, event};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// How long the telling waits for output after the end. A process that outlives the init may hold the pipe for ever;
/// reading goes on, the telling does not wait for it.
const DRAIN: Duration = Duration::from_millis(100);

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
        if let Err(error) = super::delete::ensure_deleted(&pod, &container).await {
            // Delete tries again.
            crate::say(&error);
        }
    });
}

async fn finish(
    pod: &Pod,
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
    let oom_killed = init.cgroup.as_ref().is_some_and(|cgroup| cgroup.oom_kills() > 0);
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
    if let Err(error) = record(container, verdict) {
        crate::say(&error);
    }
    publish(pod, container, init, verdict);
    container.tee.close();
}

fn record(container: &Container, verdict: Verdict) -> std::io::Result<()> {
    let Verdict { ended: Ended { code, signal, at: finished_at }, oom_killed } = verdict;
    let record = ExitRecord { version: VERSION, code, signal, finished_at, oom_killed };
    files::replace(&container.bundle.join(EXIT_RECORD), &serde_json::to_vec(&record)?)
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
