//! Start: the container's own command takes over its init.

use super::{Container, Phase};
use crate::error::Refusal;
use crate::oci::{Call, CallStdio, OciError, Verb};
use crate::pod::Pod;
use davit_proto::shim::StartRequest;
use davit_sys::fifo;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// Why a container was not started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Oci(#[from] OciError),
}

/// What a start finds to do.
enum Claim {
    /// The start itself.
    Ours,
    /// To wait for the one that is under way.
    Theirs,
    /// Nothing: it was started then.
    Done(i64),
}

/// Starts a container and answers when, in nanoseconds since the epoch. To be run in a task of its own. Whoever lost the answer asks again:
/// a start that is under way is joined, and one that has succeeded answers as it did.
pub(crate) async fn start(pod: &Pod, request: StartRequest) -> Result<i64, StartError> {
    let StartRequest { id, timeout_ms } = request;
    let container = pod.container(&id)?;
    let limit = (timeout_ms > 0).then(|| Duration::from_millis(timeout_ms));
    loop {
        match claim(&container)? {
            Claim::Ours => return run(pod, &container, limit).await,
            Claim::Done(at) => return Ok(at),
            Claim::Theirs => {
                container.wait_until(|phase| !matches!(phase, Phase::Starting(_))).await;
            }
        }
    }
}

/// Without a `limit` the container's own counts.
async fn run(pod: &Pod, container: &Container, limit: Option<Duration>) -> Result<i64, StartError> {
    let before = crate::process::now();
    let waits = container.oci.start_fifo(&container.id);
    let result = match waits.is_some_and(|fifo| fifo::release(&fifo)) {
        true => Ok(()),
        false => call(pod, container, limit).await,
    };
    let now = crate::process::now();
    // It may have ended meanwhile, which may not be known here yet, and did not end before it started.
    let at = if container.living().is_ok_and(|init| init.lives()) { now } else { before };
    if result.is_ok() {
        container.held().started_at = Some(at);
    }
    container.advance(|phase| match (phase, result.is_ok()) {
        (Phase::Starting(init), true) => Some(Phase::Running(Arc::clone(init))),
        (Phase::Starting(init), false) => Some(Phase::Created(Arc::clone(init))),
        (
            Phase::Creating
            | Phase::Created(_)
            | Phase::Running(_)
            | Phase::Exited(_)
            | Phase::Gone,
            _,
        ) => None,
    });
    result?;
    Ok(at)
}

/// Has the OCI runtime do it.
async fn call(pod: &Pod, container: &Container, limit: Option<Duration>) -> Result<(), OciError> {
    let log = container.bundle.join("start.log");
    let call = Call { verb: Verb::Start, id: &container.id, log, stdio: CallStdio::Quiet };
    let oci = match limit {
        Some(_) => &container.oci.within(limit),
        None => &container.oci,
    };
    oci.run(&pod.reaper, call, || Ok::<(), Infallible>(())).await
}

/// One start at a time, and one that succeeds.
fn claim(container: &Container) -> Result<Claim, Refusal> {
    let mut claimed = Ok(Claim::Ours);
    container.advance(|phase| {
        claimed = match phase {
            Phase::Created(init) => return Some(Phase::Starting(Arc::clone(init))),
            Phase::Starting(_) => Ok(Claim::Theirs),
            Phase::Creating => Err(Refusal::Creating(container.id.clone())),
            Phase::Running(_) | Phase::Exited(_) => match container.held().started_at {
                Some(at) => Ok(Claim::Done(at)),
                None => Err(Refusal::Exited(container.id.clone())),
            },
            Phase::Gone => Err(Refusal::NoContainer(container.id.clone())),
        };
        None
    });
    claimed
}
