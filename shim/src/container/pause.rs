//! Pause and resume: a container frozen until somebody lets it go on.
//!
//! Whether it is frozen is asked of the kernel, never remembered: an OCI runtime run by hand does the same. So both are idempotent, and a daemon that
//! was away learns the truth. The phase doesn't change: its processes are there, and end when they are killed.

use super::Container;
use crate::error::Refusal;
use crate::oci::{Call, CallStdio, Oci, OciError, Verb};
use crate::pod::Pod;
use std::convert::Infallible;

/// Why a container was not paused or resumed. It is as it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PauseError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Oci(#[from] OciError),
}

/// Freezes a container. To be run in a task of its own.
pub(crate) async fn pause(pod: &Pod, id: &str) -> Result<(), PauseError> {
    let container = pod.container(id)?;
    let init = container.running()?;
    container.begin_pausing()?;
    let paused = if init.is_frozen() {
        Ok(())
    } else {
        call(pod, &container, &container.oci, Verb::Pause).await
    };
    if paused.is_err() {
        // It may have been done halfway.
        drop(call(pod, &container, &container.oci.for_undo(), Verb::Resume).await);
    }
    container.end_pausing();
    Ok(paused?)
}

/// Lets a container go on. To be run in a task of its own.
pub(crate) async fn resume(pod: &Pod, id: &str) -> Result<(), PauseError> {
    let container = pod.container(id)?;
    let init = container.running()?;
    container.begin_pausing()?;
    // Where the kernel can't be asked, the OCI runtime is.
    let resumed = match init.cgroup.as_ref().and_then(crate::cgroup::Cgroup::is_frozen) {
        Some(false) => Ok(()),
        Some(true) | None => call(pod, &container, &container.oci, Verb::Resume).await,
    };
    container.end_pausing();
    Ok(resumed?)
}

async fn call(pod: &Pod, container: &Container, oci: &Oci, verb: Verb<'_>) -> Result<(), OciError> {
    let log = container.bundle.join("pause.log");
    let call = Call { verb, id: &container.id, log, stdio: CallStdio::Quiet };
    oci.run(&pod.reaper, call, || Ok::<(), Infallible>(())).await
}
