//! Start: the container's own command takes over its init.

use super::{Container, Phase};
use crate::error::Refusal;
use crate::oci::{Call, CallStdio, OciError, Verb};
use crate::pod::Pod;
use std::convert::Infallible;
use std::sync::Arc;

/// Why a container was not started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Oci(#[from] OciError),
}

/// Starts a container and answers when, in nanoseconds since the epoch. To be run in a task of its own.
pub(crate) async fn start(pod: &Pod, id: &str) -> Result<i64, StartError> {
    let container = pod.container(id)?;
    claim(&container)?;
    let log = container.bundle.join("start.log");
    let call = Call { verb: Verb::Start, id, log, stdio: CallStdio::Quiet };
    let result = container.oci.run(&pod.reaper, call, || Ok::<(), Infallible>(())).await;
    let now = crate::process::now();
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
    // It may have ended meanwhile, and did not end before it started.
    Ok(container.death().map_or(now, |death| death.verdict.ended.at.min(now)))
}

/// One start at a time, and one that succeeds.
fn claim(container: &Container) -> Result<(), Refusal> {
    let mut claimed = Ok(());
    container.advance(|phase| match phase {
        Phase::Created(init) => Some(Phase::Starting(Arc::clone(init))),
        Phase::Creating => refuse(&mut claimed, Refusal::Creating(container.id.clone())),
        Phase::Starting(_) | Phase::Running(_) => {
            refuse(&mut claimed, Refusal::Started(container.id.clone()))
        }
        Phase::Exited(_) => refuse(&mut claimed, Refusal::Exited(container.id.clone())),
        Phase::Gone => refuse(&mut claimed, Refusal::NoContainer(container.id.clone())),
    });
    claimed
}

fn refuse(claimed: &mut Result<(), Refusal>, why: Refusal) -> Option<Phase> {
    *claimed = Err(why);
    None
}
