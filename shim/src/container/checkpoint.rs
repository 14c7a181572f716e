//! Checkpoint: a container's processes written to files while they go on.
//!
//! ```text
//! Running ──pause──► frozen ──the OCI runtime's checkpoint──► frozen ──Thaw, or the time is up──► Running
//!                       └───────────── failed ────────────────────────────────────────────────────▲
//! ```
//!
//! It stays frozen when this answers, so that the caller can read what belongs together: memory and files. Who froze it may die
//! before it thaws it, so the shim does that by itself after a time. The phase doesn't change: to everybody else it runs.

use super::Container;
use crate::error::{Invalid, Refusal, checked_path};
use crate::oci::{Call, CallStdio, Oci, OciError, Verb};
use crate::pod::Pod;
use davit_proto::shim::CheckpointRequest;
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// The longest that a caller may keep a container frozen after its checkpoint.
const HOLD_LIMIT: Duration = Duration::from_secs(600);

/// Why no checkpoint was made. The container runs on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckpointError {
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Oci(#[from] OciError),
}

/// Freezes a container and writes it into `directory`. To be run in a task of its own: it must not be dropped halfway.
pub(crate) async fn checkpoint(
    pod: &Arc<Pod>,
    request: CheckpointRequest,
) -> Result<(), CheckpointError> {
    let CheckpointRequest { id, images, work, timeout_ms, hold_ms } = request;
    checked_path("images", &images)?;
    checked_path("work", &work)?;
    let container = pod.container(&id)?;
    if container.running()?.is_frozen() && !container.is_frozen() {
        // Its end would let it go on.
        return Err(Refusal::Paused(id).into());
    }
    let (thaw, thawed) = oneshot::channel();
    container.freeze(thaw)?;
    let limit = (timeout_ms > 0).then(|| Duration::from_millis(timeout_ms));
    let verb = Verb::Checkpoint { images: Path::new(&images), work: Path::new(&work) };
    let dumped = match call(pod, &container, &container.oci, Verb::Pause).await {
        Ok(()) => call(pod, &container, &container.oci.within(limit), verb).await,
        Err(error) => Err(error),
    };
    match dumped {
        Ok(()) => {
            let hold = Duration::from_millis(hold_ms).min(HOLD_LIMIT);
            spawn_guard(Arc::clone(pod), container, thawed, hold);
            Ok(())
        }
        Err(error) => {
            // Also after a pause that failed: it may have done so halfway.
            resume(pod, &container).await;
            Err(error.into())
        }
    }
}

/// Lets a container go on that a checkpoint has frozen. One that isn't is as it should be.
pub(crate) async fn thaw(pod: &Pod, id: &str) -> Result<(), Refusal> {
    let container = pod.container(id)?;
    if container.is_frozen() {
        resume(pod, &container).await;
    }
    Ok(())
}

fn spawn_guard(
    pod: Arc<Pod>,
    container: Arc<Container>,
    thawed: oneshot::Receiver<()>,
    hold: Duration,
) {
    tokio::spawn(async move {
        // An error is the sender's end: somebody has resumed it.
        if tokio::time::timeout(hold, thawed).await.is_err() && container.is_frozen() {
            resume(&pod, &container).await;
        }
    });
}

async fn resume(pod: &Pod, container: &Container) {
    let oci = container.oci.for_undo();
    // One that has ended meanwhile has nothing to resume.
    if let Err(error) = call(pod, container, &oci, Verb::Resume).await
        && container.may_live()
    {
        crate::say(&error);
    }
    container.thawed();
}

async fn call(pod: &Pod, container: &Container, oci: &Oci, verb: Verb<'_>) -> Result<(), OciError> {
    let log = container.bundle.join("checkpoint.log");
    let call = Call { verb, id: &container.id, log, stdio: CallStdio::Quiet };
    oci.run(&pod.reaper, call, || Ok::<(), Infallible>(())).await
}
