//! `davit info`: what the daemon is and has.

use super::connect::Daemon;
use super::error::{ClientError, doing};
use super::format::{Format, print_json, print_template};
use super::moment::moment;
use crate::output;
use davit_proto::admin;

/// `davit info`.
pub(crate) async fn info(mut daemon: Daemon, format: &Format) -> Result<(), ClientError> {
    let info = ask_info(&mut daemon).await?;
    let counters = info.counters.unwrap_or_default();
    match format {
        Format::Json => print_json(&info_json(&info, &counters)),
        Format::Table => Ok(output::print(&info_text(&info, &counters))?),
        Format::Template(text) => print_template(text, &info_json(&info, &counters)),
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
