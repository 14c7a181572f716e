//! `davit rm`: containers and pods, found by id, by the beginning of one, or by the name that `davit run` gave them.
//!
//! A container of `davit run` goes with its pod, and the pod with its logs. Every id is tried; what could not be removed is told line by
//! line, and makes the program exit with 1.

use super::connect::Daemon;
use super::error::{ClientError, doing};
use super::find::{Found, find, list_containers, list_pods};
use super::run::logs;
use crate::output;
use davit_proto::cri;
use std::process::ExitCode;

/// What to do about containers that run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Running {
    /// Refuse.
    Keep,
    /// Stop them.
    Stop,
}

/// Removes each of these.
pub(crate) async fn remove(
    mut daemon: Daemon,
    ids: &[String],
    running: Running,
) -> Result<ExitCode, ClientError> {
    let mut code = ExitCode::SUCCESS;
    for id in ids {
        match remove_one(&mut daemon, id, running).await {
            Ok(()) => output::print(&format!("{id}\n"))?,
            Err(error) => {
                output::complain(&format!(
                    "davit: {}",
                    output::one_line(&anyhow::Error::new(error))
                ));
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

async fn remove_one(daemon: &mut Daemon, id: &str, running: Running) -> Result<(), ClientError> {
    match find(daemon, id).await? {
        Found::Container(container) => {
            refuse_running(&[(*container).clone()], running)?;
            remove_container(daemon, &container.id).await?;
            let ours = own_pod(daemon, &container.pod_sandbox_id).await?;
            let others = in_pod(daemon, &container.pod_sandbox_id).await?;
            match ours {
                Some(pod) if others.is_empty() => remove_pod(daemon, &pod).await,
                Some(_) | None => Ok(()),
            }
        }
        Found::Pod(pod) => {
            refuse_running(&in_pod(daemon, &pod.id).await?, running)?;
            remove_pod(daemon, &pod).await
        }
    }
}

fn refuse_running(containers: &[cri::Container], running: Running) -> Result<(), ClientError> {
    let runs = |container: &&cri::Container| {
        container.state() == cri::ContainerState::ContainerRunning && running == Running::Keep
    };
    match containers.iter().find(runs) {
        Some(container) => Err(ClientError::Running(container.id.clone())),
        None => Ok(()),
    }
}

/// The pod, if `davit run` made it.
async fn own_pod(daemon: &mut Daemon, id: &str) -> Result<Option<cri::PodSandbox>, ClientError> {
    let by_id = cri::PodSandboxFilter { id: id.to_owned(), ..cri::PodSandboxFilter::default() };
    let pods = list_pods(daemon, by_id).await?;
    Ok(pods.into_iter().find(logs::is_ours))
}

async fn in_pod(daemon: &mut Daemon, pod: &str) -> Result<Vec<cri::Container>, ClientError> {
    let filter =
        cri::ContainerFilter { pod_sandbox_id: pod.to_owned(), ..cri::ContainerFilter::default() };
    list_containers(daemon, filter).await
}

async fn remove_container(daemon: &mut Daemon, id: &str) -> Result<(), ClientError> {
    let request = cri::RemoveContainerRequest { container_id: id.to_owned() };
    let answer = daemon.runtime.remove_container(request).await;
    answer.map(drop).map_err(doing(format!("remove container {id}")))
}

/// The pod with what is in it, and its logs if they are ours to remove.
async fn remove_pod(daemon: &mut Daemon, pod: &cri::PodSandbox) -> Result<(), ClientError> {
    let id = pod.id.clone();
    let stop = cri::StopPodSandboxRequest { pod_sandbox_id: id.clone() };
    daemon.runtime.stop_pod_sandbox(stop).await.map_err(doing(format!("stop pod {id}")))?;
    let remove = cri::RemovePodSandboxRequest { pod_sandbox_id: id.clone() };
    daemon.runtime.remove_pod_sandbox(remove).await.map_err(doing(format!("remove pod {id}")))?;
    if logs::is_ours(pod) {
        let info = super::info::ask_info(daemon).await?;
        let uid = pod.metadata.as_ref().map(|metadata| metadata.uid.as_str()).unwrap_or_default();
        logs::remove(&info.root, uid)?;
    }
    Ok(())
}
