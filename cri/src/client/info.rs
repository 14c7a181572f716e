//! `davit info`: what the daemon is and has, and what the machine lacks.

use super::connect::Daemon;
use super::error::{ClientError, doing};
use super::format::{Format, print_json, print_template};
use super::moment::moment;
use crate::cli::{InfoArgs, Listing};
use crate::convert::{about_json, all_containers};
use crate::output;
use davit_proto::admin;
use indicatif::BinaryBytes;

/// `davit info`.
pub(crate) async fn info(mut daemon: Daemon, args: &InfoArgs) -> Result<(), ClientError> {
    let InfoArgs { debug, listing: Listing { format } } = args;
    let info = ask(&mut daemon, admin::InfoRequest { machine: true, debug: *debug }).await?;
    match format {
        Format::Json => print_json(&about_json(&info)),
        Format::Template(text) => print_template(text, &about_json(&info)),
        Format::Table => Ok(output::print(&table(&info))?),
    }
}

/// What the daemon says of itself without looking at the machine.
pub(crate) async fn ask_info(daemon: &mut Daemon) -> Result<admin::InfoResponse, ClientError> {
    ask(daemon, admin::InfoRequest::default()).await
}

async fn ask(
    daemon: &mut Daemon,
    request: admin::InfoRequest,
) -> Result<admin::InfoResponse, ClientError> {
    let answer = daemon.davit.info(request).await;
    Ok(answer.map_err(doing("ask the daemon about itself"))?.into_inner())
}

/// For people.
fn bytes(count: u64) -> String {
    BinaryBytes(count).to_string()
}

/// Names and what there is to say, one below the other.
#[derive(Default)]
struct Lines(Vec<Vec<String>>);

impl Lines {
    fn add(&mut self, name: &str, value: impl ToString) {
        self.0.push(vec![format!("{name}:"), value.to_string()]);
    }

    /// What belongs to the line before it.
    fn more(&mut self, value: impl ToString) {
        self.0.push(vec![String::new(), value.to_string()]);
    }

    /// A table without headings: they would say "name" and "value".
    fn text(&self) -> String {
        let text = output::table(&["", ""], &self.0);
        text.split_once('\n').map(|(_, rest)| rest.to_owned()).unwrap_or(text)
    }
}

fn table(info: &admin::InfoResponse) -> String {
    let mut lines = Lines::default();
    lines.add("Id", &info.id);
    if let Some(machine) = &info.machine {
        lines.add("Name", &machine.name);
    }
    lines.add("Version", &info.version);
    counted(&mut lines, &info.counters.unwrap_or_default());
    if let Some(storage) = &info.storage {
        disks(&mut lines, storage);
    }
    lines.add("Cgroups", format!("{}, {} driver", info.cgroup_version, info.cgroup_driver));
    handlers(&mut lines, info);
    network(&mut lines, info);
    if let Some(security) = &info.security {
        lines.add("Security", modules(security));
    }
    for (at, registry) in info.registries.iter().enumerate() {
        let line = registry_line(registry);
        if at == 0 { lines.add("Registries", line) } else { lines.more(line) }
    }
    if let Some(machine) = &info.machine {
        machine_lines(&mut lines, machine);
    }
    lines.add("Root", &info.root);
    lines.add("State", &info.state);
    if let Some(debugging) = &info.debugging {
        debug(&mut lines, debugging, &info.counters.unwrap_or_default());
    }
    let warnings: Vec<String> =
        info.warnings.iter().map(|warning| format!("WARNING: {warning}\n")).collect();
    lines.text() + &warnings.concat()
}

fn counted(lines: &mut Lines, counters: &admin::Counters) {
    lines.add(
        "Containers",
        format!(
            "{}: {} created, {} running, {} paused, {} stopped",
            all_containers(counters),
            counters.containers_created,
            counters.containers_running,
            counters.containers_paused,
            counters.containers_stopped
        ),
    );
    let (ready, not_ready) = (counters.sandboxes_ready, counters.sandboxes_not_ready);
    lines.add("Pods", format!("{ready} ready, {not_ready} not ready"));
    let (layers, size) = (counters.image_layers, bytes(counters.image_layer_bytes));
    lines.add("Images", format!("{}, {layers} layers, {size}", counters.images));
    if counters.log_dropped_bytes > 0 {
        lines.add("Log bytes dropped", counters.log_dropped_bytes);
    }
}

fn disks(lines: &mut Lines, storage: &admin::Storage) {
    lines.add("Storage", &storage.driver);
    for disk in [&storage.root, &storage.state].into_iter().flatten() {
        let (free, size) = (bytes(disk.free), bytes(disk.size));
        lines.more(format!("{}: {}, {free} of {size} free", disk.path, disk.filesystem));
    }
}

fn handlers(lines: &mut Lines, info: &admin::InfoResponse) {
    lines.add("Default handler", &info.default_handler);
    for admin::Handler { name, path, version, problem, features } in &info.handlers {
        let works = features.as_ref().map_or_else(
            || format!("does not work here: {problem}"),
            |features| format!("{version}{}", abilities(features)),
        );
        lines.add("Handler", format!("{name} ({path}): {works}"));
    }
}

/// What is worth a word in a table.
fn abilities(features: &admin::HandlerFeatures) -> String {
    let all = [
        (features.seccomp, "seccomp"),
        (features.user_namespaces, "user namespaces"),
        (features.recursive_read_only, "recursive read-only mounts"),
        (features.net_devices, "network devices"),
    ];
    all.into_iter().filter(|(has, _)| *has).map(|(_, name)| format!(", {name}")).collect()
}

fn network(lines: &mut Lines, info: &admin::InfoResponse) {
    let state = info.network_state.clone().unwrap_or_default();
    let ready = if state.ready { "ready" } else { "not ready" };
    lines.add("Network", format!("{}, {ready}", info.network));
    if !state.message.is_empty() {
        lines.more(state.message);
    }
}

fn modules(security: &admin::Security) -> String {
    let admin::Security { seccomp, apparmor, selinux, user_namespaces } = security;
    let selinux = if selinux.is_empty() { String::new() } else { format!("SELinux ({selinux})") };
    let named = [(*seccomp, "seccomp"), (*apparmor, "AppArmor"), (!selinux.is_empty(), &selinux)];
    let named = named.into_iter().chain([(*user_namespaces, "user namespaces")]);
    let there: Vec<&str> = named.filter(|(there, _)| *there).map(|(_, name)| name).collect();
    if there.is_empty() { "none".to_owned() } else { there.join(", ") }
}

fn registry_line(registry: &admin::Registry) -> String {
    let admin::Registry { name, source, endpoints, problem } = registry;
    if problem.is_empty() {
        format!("{name}: {}", endpoints.join(", "))
    } else {
        format!("{name} ({source}): {problem}")
    }
}

fn machine_lines(lines: &mut Lines, machine: &admin::Machine) {
    let admin::Machine { name: _, kernel, os, architecture, cpus, memory, swap } = machine;
    lines.add("Kernel", kernel);
    lines.add("OS", os);
    lines.add("Architecture", architecture);
    lines.add("CPUs", cpus);
    lines.add("Memory", format!("{}, {} swap", bytes(*memory), bytes(*swap)));
}

fn debug(lines: &mut Lines, debugging: &admin::Debugging, counters: &admin::Counters) {
    let admin::Debugging {
        threads,
        resident,
        proportional,
        heap,
        heap_free,
        shims_proportional,
        cpu_seconds,
        started_at,
    } = debugging;
    lines.add("Started", moment(*started_at));
    lines.add("System time", moment(counters.system_time));
    lines.add("CPU time", format!("{cpu_seconds:.2} s"));
    lines.add("Descriptors", counters.descriptors);
    lines.add("Tasks", counters.tasks);
    lines.add("Threads", threads);
    let (listeners, dropped) = (counters.event_listeners, counters.events_dropped);
    lines.add("Event subscribers", format!("{listeners}, {dropped} events dropped"));
    lines.add("Shims", counters.shims);
    let (resident, proportional) = (bytes(*resident), bytes(*proportional));
    lines.add("Memory of davit", format!("{resident} resident, {proportional} by share"));
    lines.more(format!("{} in the heap, {} free in it", bytes(*heap), bytes(*heap_free)));
    lines.add("Memory of shims", format!("{} by share", bytes(*shims_proportional)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_work_is_told_beside_what_does() {
        let handler = |name: &str, problem: &str| admin::Handler {
            name: name.to_owned(),
            path: format!("/usr/bin/{name}"),
            version: "1.0".to_owned(),
            problem: problem.to_owned(),
            features: problem.is_empty().then(|| admin::HandlerFeatures {
                seccomp: true,
                ..admin::HandlerFeatures::default()
            }),
        };
        let info = admin::InfoResponse {
            handlers: vec![handler("crun", ""), handler("runc", "it says no")],
            warnings: vec!["swap is not limited".to_owned()],
            registries: vec![admin::Registry {
                name: "r.example".to_owned(),
                problem: "parse it".to_owned(),
                ..admin::Registry::default()
            }],
            ..admin::InfoResponse::default()
        };
        let text = table(&info);
        for part in [
            "crun (/usr/bin/crun): 1.0, seccomp\n",
            "runc (/usr/bin/runc): does not work here: it says no\n",
            "r.example (): parse it\n",
            "WARNING: swap is not limited\n",
            "0: 0 created, 0 running, 0 paused, 0 stopped\n",
        ] {
            assert!(text.contains(part), "{part:?} is missing from {text}");
        }
        assert!(!text.contains("Threads") && !text.contains("Kernel"), "{text}");
    }
}
