//! `davit version`, `info`, `images`, `ps` and `pods`: what there is, as a table or as JSON.

use super::connect::Daemon;
use super::error::{ClientError, doing};
use crate::cli::Format;
use crate::output;
use davit_proto::{admin, cri};
use serde::Serialize;
use std::collections::BTreeMap;

/// Which containers are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// Those that run.
    Running,
    /// Every one.
    All,
}

/// As many digits of an id as tell things apart on one node.
const SHORT: usize = 13;

/// `davit version`: the daemon's part; the program's own was printed before anybody was asked.
pub(crate) async fn version(mut daemon: Daemon) -> Result<(), ClientError> {
    let request = cri::VersionRequest { version: String::new() };
    let answer = daemon.runtime.version(request).await.map_err(doing("ask for the version"))?;
    let cri::VersionResponse { version: _, runtime_name, runtime_version, runtime_api_version } =
        answer.into_inner();
    output::print(&format!(
        "daemon: {runtime_name} {runtime_version} (CRI {runtime_api_version})\n"
    ))?;
    Ok(())
}

/// `davit info`.
pub(crate) async fn info(mut daemon: Daemon, format: Format) -> Result<(), ClientError> {
    let info = ask_info(&mut daemon).await?;
    let counters = info.counters.unwrap_or_default();
    match format {
        Format::Json => print_json(&info_json(&info, &counters)),
        Format::Table => Ok(output::print(&info_text(&info, &counters))?),
    }
}

/// What the daemon says of itself.
pub(crate) async fn ask_info(daemon: &mut Daemon) -> Result<admin::InfoResponse, ClientError> {
    let answer = daemon.davit.info(admin::InfoRequest {}).await;
    Ok(answer.map_err(doing("ask the daemon about itself"))?.into_inner())
}

fn info_json(info: &admin::InfoResponse, counters: &admin::Counters) -> serde_json::Value {
    let handlers: Vec<_> = info.handlers.iter().map(handler_json).collect();
    serde_json::json!({
        "version": info.version,
        "root": info.root,
        "state": info.state,
        "default_handler": info.default_handler,
        "handlers": handlers,
        "cgroup_version": info.cgroup_version,
        "cgroup_driver": info.cgroup_driver,
        "network": info.network,
        "counters": {
            "containers": {
                "created": counters.containers_created,
                "running": counters.containers_running,
                "paused": counters.containers_paused,
                "stopped": counters.containers_stopped,
            },
            "sandboxes": {
                "ready": counters.sandboxes_ready,
                "not_ready": counters.sandboxes_not_ready,
            },
            "images": counters.images,
            "event_listeners": counters.event_listeners,
            "log_dropped_bytes": counters.log_dropped_bytes,
            "descriptors": counters.descriptors,
            "tasks": counters.tasks,
            "system_time": counters.system_time,
        },
    })
}

fn handler_json(handler: &admin::Handler) -> serde_json::Value {
    let admin::Handler { name, path, version, problem } = handler;
    serde_json::json!({ "name": name, "path": path, "version": version, "problem": problem })
}

fn info_text(info: &admin::InfoResponse, counters: &admin::Counters) -> String {
    let line =
        |name: &str, value: &dyn std::fmt::Display| vec![format!("{name}:"), value.to_string()];
    let mut rows = vec![
        line("Version", &info.version),
        line("Root", &info.root),
        line("State", &info.state),
        line("Network", &info.network),
        line("Cgroups", &format!("{}, {} driver", info.cgroup_version, info.cgroup_driver)),
        line("Default handler", &info.default_handler),
    ];
    for admin::Handler { name, path, version, problem } in &info.handlers {
        let works = if problem.is_empty() { version } else { problem };
        rows.push(line("Handler", &format!("{name} ({path}): {works}")));
    }
    let containers = format!(
        "{} created, {} running, {} paused, {} stopped",
        counters.containers_created,
        counters.containers_running,
        counters.containers_paused,
        counters.containers_stopped
    );
    rows.push(line("Containers", &containers));
    let sandboxes =
        format!("{} ready, {} not ready", counters.sandboxes_ready, counters.sandboxes_not_ready);
    rows.push(line("Pods", &sandboxes));
    rows.push(line("Images", &counters.images));
    rows.push(line("Event listeners", &counters.event_listeners));
    rows.push(line("Log bytes dropped", &counters.log_dropped_bytes));
    rows.push(line("Descriptors", &counters.descriptors));
    rows.push(line("Tasks", &counters.tasks));
    rows.push(line("System time", &moment(counters.system_time)));
    // A table without headings: they would say "name" and "value".
    let text = output::table(&["", ""], &rows);
    text.split_once('\n').map(|(_, rest)| rest.to_owned()).unwrap_or(text)
}

#[derive(Debug, Serialize)]
struct ImageRow {
    id: String,
    repo_tags: Vec<String>,
    repo_digests: Vec<String>,
    size: u64,
    pinned: bool,
}

/// `davit images`.
pub(crate) async fn images(mut daemon: Daemon, format: Format) -> Result<(), ClientError> {
    let request = cri::ListImagesRequest { filter: None };
    let answer = daemon.image.list_images(request).await.map_err(doing("list images"))?;
    let mut rows: Vec<ImageRow> =
        answer.into_inner().images.into_iter().map(ImageRow::from).collect();
    rows.sort_by(|one, other| (&one.repo_tags, &one.id).cmp(&(&other.repo_tags, &other.id)));
    match format {
        Format::Json => print_json(&rows),
        Format::Table => {
            let cells: Vec<Vec<String>> = rows.iter().flat_map(ImageRow::cells).collect();
            Ok(output::print(&output::table(&["IMAGE", "ID", "SIZE"], &cells))?)
        }
    }
}

impl From<cri::Image> for ImageRow {
    fn from(image: cri::Image) -> Self {
        let cri::Image { id, repo_tags, repo_digests, size, uid: _, username: _, spec: _, pinned } =
            image;
        Self { id, repo_tags, repo_digests, size, pinned }
    }
}

impl ImageRow {
    /// One line for each name; one for an image without any.
    fn cells(&self) -> Vec<Vec<String>> {
        let id = short(self.id.strip_prefix("sha256:").unwrap_or(&self.id));
        let size = indicatif::BinaryBytes(self.size).to_string();
        let names = if self.repo_tags.is_empty() { &self.repo_digests } else { &self.repo_tags };
        let line = |name: &str| vec![name.to_owned(), id.clone(), size.clone()];
        if names.is_empty() {
            vec![line("<none>")]
        } else {
            names.iter().map(|name| line(name)).collect()
        }
    }
}

#[derive(Debug, Serialize)]
struct ContainerRow {
    id: String,
    name: String,
    attempt: u32,
    pod: String,
    image: String,
    image_id: String,
    state: &'static str,
    created_at: String,
    labels: BTreeMap<String, String>,
}

/// `davit ps`.
pub(crate) async fn containers(
    mut daemon: Daemon,
    which: Which,
    format: Format,
) -> Result<(), ClientError> {
    let running = cri::ContainerStateValue { state: cri::ContainerState::ContainerRunning.into() };
    let filter = (which == Which::Running)
        .then(|| cri::ContainerFilter { state: Some(running), ..cri::ContainerFilter::default() });
    let request = cri::ListContainersRequest { filter };
    let answer = daemon.runtime.list_containers(request).await.map_err(doing("list containers"))?;
    let mut found = answer.into_inner().containers;
    found.sort_by_key(|container| std::cmp::Reverse(container.created_at));
    let rows: Vec<ContainerRow> = found.into_iter().map(ContainerRow::from).collect();
    match format {
        Format::Json => print_json(&rows),
        Format::Table => {
            let cells: Vec<Vec<String>> = rows.iter().map(ContainerRow::cells).collect();
            let headings = ["ID", "NAME", "POD", "IMAGE", "STATE", "CREATED"];
            Ok(output::print(&output::table(&headings, &cells))?)
        }
    }
}

impl From<cri::Container> for ContainerRow {
    fn from(container: cri::Container) -> Self {
        let state = container_state(container.state());
        let metadata = container.metadata.unwrap_or_default();
        Self {
            id: container.id,
            name: metadata.name,
            attempt: metadata.attempt,
            pod: container.pod_sandbox_id,
            image: container.image.unwrap_or_default().image,
            image_id: container.image_id,
            state,
            created_at: moment(container.created_at),
            labels: container.labels,
        }
    }
}

impl ContainerRow {
    fn cells(&self) -> Vec<String> {
        vec![
            short(&self.id),
            self.name.clone(),
            short(&self.pod),
            self.image.clone(),
            self.state.to_owned(),
            self.created_at.clone(),
        ]
    }
}

fn container_state(state: cri::ContainerState) -> &'static str {
    match state {
        cri::ContainerState::ContainerCreated => "created",
        cri::ContainerState::ContainerRunning => "running",
        cri::ContainerState::ContainerExited => "exited",
        cri::ContainerState::ContainerUnknown => "unknown",
    }
}

#[derive(Debug, Serialize)]
struct PodRow {
    id: String,
    namespace: String,
    name: String,
    uid: String,
    attempt: u32,
    state: &'static str,
    handler: String,
    created_at: String,
    labels: BTreeMap<String, String>,
}

/// `davit pods`.
pub(crate) async fn pods(mut daemon: Daemon, format: Format) -> Result<(), ClientError> {
    let request = cri::ListPodSandboxRequest { filter: None };
    let answer = daemon.runtime.list_pod_sandbox(request).await.map_err(doing("list pods"))?;
    let mut found = answer.into_inner().items;
    found.sort_by_key(|pod| std::cmp::Reverse(pod.created_at));
    let rows: Vec<PodRow> = found.into_iter().map(PodRow::from).collect();
    match format {
        Format::Json => print_json(&rows),
        Format::Table => {
            let cells: Vec<Vec<String>> = rows.iter().map(PodRow::cells).collect();
            let headings = ["ID", "NAMESPACE", "NAME", "STATE", "HANDLER", "CREATED"];
            Ok(output::print(&output::table(&headings, &cells))?)
        }
    }
}

impl From<cri::PodSandbox> for PodRow {
    fn from(pod: cri::PodSandbox) -> Self {
        let state = match pod.state() {
            cri::PodSandboxState::SandboxReady => "ready",
            cri::PodSandboxState::SandboxNotready => "not ready",
        };
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
            labels: pod.labels,
        }
    }
}

impl PodRow {
    fn cells(&self) -> Vec<String> {
        vec![
            short(&self.id),
            self.namespace.clone(),
            self.name.clone(),
            self.state.to_owned(),
            self.handler.clone(),
            self.created_at.clone(),
        ]
    }
}

fn short(id: &str) -> String {
    id.chars().take(SHORT).collect()
}

/// Nanoseconds since the epoch as a date and time, to the second; empty if there is none.
fn moment(nanoseconds: i64) -> String {
    if nanoseconds == 0 {
        return String::new();
    }
    match jiff::Timestamp::from_nanosecond(i128::from(nanoseconds)) {
        Ok(moment) => format!("{moment:.0}"),
        Err(_) => nanoseconds.to_string(),
    }
}

fn print_json<T: Serialize + ?Sized>(value: &T) -> Result<(), ClientError> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    Ok(output::print(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_seconds() {
        assert_eq!(moment(0), "");
        assert_eq!(moment(1_700_000_000_999_999_999), "2023-11-14T22:13:20Z");
        assert_eq!(moment(i64::MAX), "2262-04-11T23:47:16Z");
    }

    #[test]
    fn an_image_has_a_line_for_each_of_its_names() {
        let image = |tags: &[&str]| cri::Image {
            id: format!("sha256:{}", "a".repeat(64)),
            repo_tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            size: 1024,
            ..cri::Image::default()
        };
        assert_eq!(ImageRow::from(image(&["a:1", "b:1"])).cells().len(), 2);
        let none = ImageRow::from(image(&[])).cells();
        assert_eq!(none, [["<none>".to_owned(), "a".repeat(13), "1.00 KiB".to_owned()]]);
    }
}
