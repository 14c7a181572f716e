//! `davit pods`: the pods.

use super::connect::Daemon;
use super::error::{ClientError, doing};
use super::filter::{Listed, Sort, Values, select};
use super::format::{Ids, Row, show};
use super::moment::moment;
use crate::cli::PodsArgs;
use davit_proto::cri;
use serde::Serialize;
use std::collections::BTreeMap;

/// A pod, as lists show it.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Pod {
    id: String,
    namespace: String,
    name: String,
    uid: String,
    attempt: u32,
    state: &'static str,
    handler: String,
    created_at: String,
    labels: BTreeMap<String, String>,
    #[serde(skip)]
    created: i64,
}

/// `davit pods`.
pub(crate) async fn pods(mut daemon: Daemon, args: &PodsArgs) -> Result<(), ClientError> {
    let PodsArgs { newest, filters, sort, written } = args;
    let request = cri::ListPodSandboxRequest { filter: None };
    let answer = daemon.runtime.list_pod_sandbox(request).await.map_err(doing("list pods"))?;
    let mut found: Vec<Pod> = answer.into_inner().items.into_iter().map(Pod::from).collect();
    found.sort_by_key(|pod| std::cmp::Reverse(pod.created));
    show(&select(found, filters, newest.count(), sort), written)
}

/// CRI's word for a state as davit says it.
pub(crate) fn state_name(state: cri::PodSandboxState) -> &'static str {
    match state {
        cri::PodSandboxState::SandboxReady => "ready",
        cri::PodSandboxState::SandboxNotready => "not ready",
    }
}

impl From<cri::PodSandbox> for Pod {
    fn from(pod: cri::PodSandbox) -> Self {
        let state = state_name(pod.state());
        let metadata = pod.metadata.unwrap_or_default();
        Self {
            id: pod.id,
            namespace: metadata.namespace,
            name: metadata.name,
            uid: metadata.uid,
            attempt: metadata.attempt,
            state,
            handler: pod.runtime_handler,
            created_at: moment(pod.created_at),
            created: pod.created_at,
            labels: pod.labels,
        }
    }
}

impl Row for Pod {
    const HEADINGS: &'static [&'static str] =
        &["ID", "NAMESPACE", "NAME", "STATE", "HANDLER", "CREATED"];

    fn id(&self) -> &str {
        &self.id
    }

    fn cells(&self, ids: Ids) -> Vec<Vec<String>> {
        vec![vec![
            ids.show(&self.id),
            self.namespace.clone(),
            self.name.clone(),
            self.state.to_owned(),
            self.handler.clone(),
            self.created_at.clone(),
        ]]
    }
}

impl Listed for Pod {
    const KEYS: &'static [(&'static str, Values)] = &[
        ("id", Values::Any),
        ("name", Values::Any),
        ("namespace", Values::Any),
        ("label", Values::Any),
        ("state", Values::OneOf(&["ready", "notready"])),
        ("handler", Values::Any),
    ];
    const SORTS: &'static [Sort<Self>] = &[
        ("created", |a, b| b.created.cmp(&a.created)),
        ("name", |a, b| (&a.name, a.attempt).cmp(&(&b.name, b.attempt))),
        ("namespace", |a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name))),
        ("state", |a, b| a.state.cmp(b.state)),
    ];

    fn has(&self, key: &str, value: &str) -> bool {
        match key {
            "id" => self.id.starts_with(value),
            "name" => self.name.contains(value),
            "namespace" => self.namespace == value,
            "state" => self.state.replace(' ', "") == value,
            "handler" => self.handler == value,
            _ => false,
        }
    }

    fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }
}
