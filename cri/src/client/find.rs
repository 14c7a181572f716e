//! From what people type to an id.
//!
//! Owns the order: a container before a pod, an id or its beginning before a name that `davit run` gave, and that before any other name that only one
//! has. What fits several is refused, never guessed.

use super::connect::Daemon;
use super::error::{ClientError, doing};
use super::run;
use davit_proto::cri;

/// What an id stands for.
#[derive(Debug, Clone)]
pub(crate) enum Found {
    /// A container.
    Container(Box<cri::Container>),
    /// A pod.
    Pod(Box<cri::PodSandbox>),
}

/// A container or a pod.
///
/// # Errors
/// [`ClientError::NoSuch`] and [`ClientError::Ambiguous`].
pub(crate) async fn find(daemon: &mut Daemon, id: &str) -> Result<Found, ClientError> {
    let id = not_empty(id)?;
    let by_id = cri::ContainerFilter { id: id.to_owned(), ..cri::ContainerFilter::default() };
    if let Some(container) = only(list_containers(daemon, by_id).await?, id)? {
        return Ok(Found::Container(Box::new(container)));
    }
    let by_id = cri::PodSandboxFilter { id: id.to_owned(), ..cri::PodSandboxFilter::default() };
    if let Some(pod) = only(list_pods(daemon, by_id).await?, id)? {
        return Ok(Found::Pod(Box::new(pod)));
    }
    match run::named(daemon, id).await? {
        Some(container) => Ok(Found::Container(Box::new(container))),
        None => Err(ClientError::NoSuch(id.to_owned())),
    }
}

/// A container.
///
/// # Errors
/// The same.
pub(crate) async fn container(
    daemon: &mut Daemon,
    id: &str,
) -> Result<cri::Container, ClientError> {
    let id = not_empty(id)?;
    let by_id = cri::ContainerFilter { id: id.to_owned(), ..cri::ContainerFilter::default() };
    if let Some(container) = only(list_containers(daemon, by_id).await?, id)? {
        return Ok(container);
    }
    if let Some(container) = run::named(daemon, id).await? {
        return Ok(container);
    }
    let mut all = list_containers(daemon, cri::ContainerFilter::default()).await?;
    all.retain(|one| one.metadata.as_ref().is_some_and(|metadata| metadata.name == id));
    only(all, id)?.ok_or_else(|| ClientError::NoContainer(id.to_owned()))
}

/// A pod, by the beginning of its id or by a name that only one has.
///
/// # Errors
/// The same.
pub(crate) async fn pod(daemon: &mut Daemon, id: &str) -> Result<cri::PodSandbox, ClientError> {
    let id = not_empty(id)?;
    let by_id = cri::PodSandboxFilter { id: id.to_owned(), ..cri::PodSandboxFilter::default() };
    if let Some(pod) = only(list_pods(daemon, by_id).await?, id)? {
        return Ok(pod);
    }
    let mut all = list_pods(daemon, cri::PodSandboxFilter::default()).await?;
    all.retain(|one| one.metadata.as_ref().is_some_and(|metadata| metadata.name == id));
    only(all, id)?.ok_or_else(|| ClientError::NoSuch(id.to_owned()))
}

/// An empty beginning fits everything.
fn not_empty(id: &str) -> Result<&str, ClientError> {
    if id.is_empty() { Err(ClientError::NoSuch(String::new())) } else { Ok(id) }
}

/// The only one, or none.
fn only<T>(mut found: Vec<T>, id: &str) -> Result<Option<T>, ClientError> {
    match found.len() {
        0 | 1 => Ok(found.pop()),
        count => Err(ClientError::Ambiguous { id: id.to_owned(), count }),
    }
}

/// The containers that fit.
pub(crate) async fn list_containers(
    daemon: &mut Daemon,
    filter: cri::ContainerFilter,
) -> Result<Vec<cri::Container>, ClientError> {
    let request = cri::ListContainersRequest { filter: Some(filter) };
    let answer = daemon.runtime.list_containers(request).await.map_err(doing("list containers"))?;
    Ok(answer.into_inner().containers)
}

/// The pods that fit.
pub(crate) async fn list_pods(
    daemon: &mut Daemon,
    filter: cri::PodSandboxFilter,
) -> Result<Vec<cri::PodSandbox>, ClientError> {
    let request = cri::ListPodSandboxRequest { filter: Some(filter) };
    let answer = daemon.runtime.list_pod_sandbox(request).await.map_err(doing("list pods"))?;
    Ok(answer.into_inner().items)
}
