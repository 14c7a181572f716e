//! Delete: the end of all that the shim holds for a container. Kills what lives, once; idempotent.

use super::{Container, Phase};
use crate::cgroup::CgroupError;
use crate::files;
use crate::oci::{Call, CallStdio, OciError, Verb};
use crate::pod::Pod;
use crate::shortage::patiently;
use davit_proto::disk::INIT_PID;
use rustix::process::{Signal, pidfd_send_signal};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// How long killed processes may take to be reaped. Longer only if the kernel holds them.
const KILLED_LIMIT: Duration = Duration::from_secs(10);
/// How long the output of a container that is gone may still be read. Nobody is left to write; but a process of another
/// container may have been given its pipe.
const DRAIN: Duration = Duration::from_millis(100);

/// Why a container was not deleted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeleteError {
    #[error(transparent)]
    Oci(#[from] OciError),
    #[error("delete container {id}: its init lives on {} ms after it was killed", KILLED_LIMIT.as_millis())]
    StillAlive { id: String },
    #[error("delete container {id}")]
    Cgroup { id: String, source: CgroupError },
    #[error("delete container {id}: remove {INIT_PID}")]
    File { id: String, source: std::io::Error },
}

/// Deletes a container; an unknown one is success. To be run in a task of its own.
pub(crate) async fn delete(pod: &Pod, id: &str) -> Result<(), DeleteError> {
    let Ok(container) = pod.container(id) else { return Ok(()) };
    container.wait_until(|phase| !matches!(phase, Phase::Creating)).await;
    end(&container).await?;
    ensure_deleted(pod, &container).await?;
    let logging = std::mem::take(&mut container.held().logging);
    for mut reading in logging {
        if tokio::time::timeout(DRAIN, &mut reading).await.is_err() {
            reading.abort();
        }
    }
    pod.remove(id);
    container.advance(|_| Some(Phase::Gone));
    container.tee.close();
    Ok(())
}

/// Kills its processes and waits until they are gone and their end was told.
async fn end(container: &Container) -> Result<(), DeleteError> {
    if let Ok(init) = container.living() {
        let _ = pidfd_send_signal(&init.pidfd, Signal::KILL);
        // Who is frozen by version 1 has to be thawed besides.
        if let Some(cgroup) = &init.cgroup {
            let _ = patiently(|| cgroup.signal(Signal::KILL.as_raw())).await;
        }
    }
    let dead = container.wait_until(|phase| matches!(phase, Phase::Exited(_) | Phase::Gone));
    if tokio::time::timeout(KILLED_LIMIT, dead).await.is_err() {
        return Err(DeleteError::StillAlive { id: container.id.clone() });
    }
    let Some(death) = container.death() else { return Ok(()) };
    match &death.cgroup {
        Some(cgroup) => cgroup
            .kill()
            .await
            .map_err(|source| DeleteError::Cgroup { id: container.id.clone(), source }),
        None => Ok(()),
    }
}

/// Has the OCI runtime delete it: once, whoever comes first; again only after a failure.
pub(crate) async fn ensure_deleted(
    pod: &Pod,
    container: &Arc<Container>,
) -> Result<(), DeleteError> {
    let delete = async || {
        call_runtime(pod, container).await?;
        // The number may be another process's from now on.
        files::remove_if_there(&container.bundle.join(INIT_PID))
            .map_err(|source| DeleteError::File { id: container.id.clone(), source })
    };
    container.deleted.get_or_try_init(delete).await.map(|&()| ())
}

/// The OCI runtime's `delete --force`.
pub(crate) async fn call_runtime(pod: &Pod, container: &Container) -> Result<(), OciError> {
    let log = container.bundle.join("delete.log");
    let call = Call { verb: Verb::Delete, id: &container.id, log, stdio: CallStdio::Quiet };
    container.oci.for_undo().run(&pod.reaper, call, || Ok::<(), Infallible>(())).await
}
