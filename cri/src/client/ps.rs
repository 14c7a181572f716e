//! `davit ps`: the containers. CRI's list, and what it has no word for: who is paused, and how the others ended.

use super::connect::Daemon;
use super::error::{ClientError, doing};
use super::filter::{Listed, Sort, Values, asks_for, select};
use super::format::{Ids, Row, show};
use super::moment::moment;
use crate::cli::PsArgs;
use davit_proto::{admin, cri};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};

/// A container, as lists show it.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Container {
    id: String,
    name: String,
    attempt: u32,
    pod: String,
    pod_name: String,
    pod_namespace: String,
    image: String,
    image_id: String,
    state: String,
    pid: u32,
    exit_code: Option<i32>,
    reason: String,
    created_at: String,
    started_at: String,
    finished_at: String,
    labels: BTreeMap<String, String>,
    #[serde(skip)]
    created: i64,
}

/// `davit ps`.
pub(crate) async fn ps(mut daemon: Daemon, args: &PsArgs) -> Result<(), ClientError> {
    let PsArgs { all, newest, filters, sort, written } = args;
    let mut found = all_of(&mut daemon).await?;
    // Who asks for a state, or for the newest, means those.
    let running = !(*all || newest.count().is_some() || asks_for(filters, "state"));
    found.retain(|container| !running || matches!(&*container.state, "running" | "paused"));
    show(&select(found, filters, newest.count(), sort), written)
}

/// All of them, the newest first.
async fn all_of(daemon: &mut Daemon) -> Result<Vec<Container>, ClientError> {
    let list = cri::ListContainersRequest { filter: None };
    let list = daemon.runtime.list_containers(list).await.map_err(doing("list containers"))?;
    let pods = cri::ListPodSandboxRequest { filter: None };
    let pods = daemon.runtime.list_pod_sandbox(pods).await.map_err(doing("list pods"))?;
    let pods: HashMap<String, cri::PodSandboxMetadata> = pods
        .into_inner()
        .items
        .into_iter()
        .map(|pod| (pod.id, pod.metadata.unwrap_or_default()))
        .collect();
    let mut standings = standings(daemon).await?;
    let mut found: Vec<Container> = list
        .into_inner()
        .containers
        .into_iter()
        .map(|container| {
            let standing = standings.remove(&container.id);
            let pod = pods.get(&container.pod_sandbox_id);
            Container::of(container, standing, pod)
        })
        .collect();
    found.sort_by_key(|container| std::cmp::Reverse(container.created));
    Ok(found)
}

/// How each container stands, by its id. A daemon that is older than this answer has none.
pub(crate) async fn standings(
    daemon: &mut Daemon,
) -> Result<HashMap<String, admin::Standing>, ClientError> {
    let answer = match daemon.davit.standings(admin::StandingsRequest {}).await {
        Ok(answer) => answer.into_inner(),
        Err(status) if status.code() == tonic::Code::Unimplemented => Default::default(),
        Err(status) => return Err(doing("ask how the containers stand")(status)),
    };
    let admin::StandingsResponse { containers } = answer;
    Ok(containers.into_iter().map(|standing| (standing.id.clone(), standing)).collect())
}

impl Container {
    fn of(
        container: cri::Container,
        standing: Option<admin::Standing>,
        pod: Option<&cri::PodSandboxMetadata>,
    ) -> Self {
        let state = state_name(container.state()).to_owned();
        let metadata = container.metadata.unwrap_or_default();
        let mut row = Self {
            id: container.id,
            name: metadata.name,
            attempt: metadata.attempt,
            pod: container.pod_sandbox_id,
            pod_name: pod.map(|pod| pod.name.clone()).unwrap_or_default(),
            pod_namespace: pod.map(|pod| pod.namespace.clone()).unwrap_or_default(),
            image: container.image.unwrap_or_default().image,
            image_id: container.image_id,
            state,
            created_at: moment(container.created_at),
            created: container.created_at,
            labels: container.labels,
            ..Self::default()
        };
        let Some(standing) = standing else { return row };
        let admin::Standing { id: _, state, pid, .. } = &standing;
        (row.state, row.pid) = (state.clone(), *pid);
        row.exit_code = (state == "exited").then_some(standing.exit_code);
        row.started_at = moment(standing.started_at);
        row.finished_at = moment(standing.finished_at);
        row.reason = standing.reason;
        row
    }
}

/// CRI's word for a state as davit says it.
pub(crate) fn state_name(state: cri::ContainerState) -> &'static str {
    match state {
        cri::ContainerState::ContainerCreated => "created",
        cri::ContainerState::ContainerRunning => "running",
        cri::ContainerState::ContainerExited => "exited",
        cri::ContainerState::ContainerUnknown => "unknown",
    }
}

impl Row for Container {
    const HEADINGS: &'static [&'static str] = &["ID", "NAME", "POD", "IMAGE", "STATE", "CREATED"];

    fn id(&self) -> &str {
        &self.id
    }

    fn cells(&self, ids: Ids) -> Vec<Vec<String>> {
        let state = match self.exit_code {
            Some(code) => format!("{} ({code})", self.state),
            None => self.state.clone(),
        };
        vec![vec![
            ids.show(&self.id),
            self.name.clone(),
            ids.show(&self.pod),
            self.image.clone(),
            state,
            self.created_at.clone(),
        ]]
    }
}

impl Listed for Container {
    const KEYS: &'static [(&'static str, Values)] = &[
        ("id", Values::Any),
        ("name", Values::Any),
        ("label", Values::Any),
        ("state", Values::OneOf(&["created", "running", "paused", "exited"])),
        ("pod", Values::Any),
        ("image", Values::Any),
    ];
    const SORTS: &'static [Sort<Self>] = &[
        ("created", |a, b| b.created.cmp(&a.created)),
        ("name", |a, b| (&a.name, a.attempt).cmp(&(&b.name, b.attempt))),
        ("pod", |a, b| (&a.pod_namespace, &a.pod_name).cmp(&(&b.pod_namespace, &b.pod_name))),
        ("image", |a, b| a.image.cmp(&b.image)),
        ("state", |a, b| a.state.cmp(&b.state)),
    ];

    fn has(&self, key: &str, value: &str) -> bool {
        match key {
            "id" => self.id.starts_with(value),
            "name" => self.name.contains(value),
            "state" => self.state == value,
            "pod" => self.pod.starts_with(value) || self.pod_name == value,
            "image" => {
                let id = self.image_id.strip_prefix("sha256:").unwrap_or(&self.image_id);
                self.image.contains(value)
                    || id.starts_with(value)
                    || self.image_id.starts_with(value)
            }
            _ => false,
        }
    }

    fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }
}
