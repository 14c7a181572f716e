//! What the daemon tells of itself, as JSON: for `davit info --format json` and, under `info`, for the verbose Status of CRI. docs/metrics.md lists the keys.

use davit_proto::admin::{
    Counters, Debugging, Disk, Handler, HandlerFeatures, InfoResponse, Machine, NetworkState,
    Registry, Security, Storage,
};
use serde_json::{Value, json};

/// All of it. What was not asked for is null.
pub(crate) fn info(info: &InfoResponse) -> Value {
    let InfoResponse {
        version,
        root,
        state,
        default_handler,
        handlers,
        counters,
        cgroup_version,
        cgroup_driver,
        network,
        id,
        network_state,
        machine: about,
        storage: disks,
        security: modules,
        registries,
        warnings,
        debugging: debug,
    } = info;
    json!({
        "id": id,
        "name": about.as_ref().map(|machine| &machine.name),
        "version": version,
        "root": root,
        "state": state,
        "counters": counters.as_ref().map(counted),
        "default_handler": default_handler,
        "handlers": handlers.iter().map(handler).collect::<Vec<_>>(),
        "cgroup_version": cgroup_version,
        "cgroup_driver": cgroup_driver,
        "network": network,
        "network_state": network_state.as_ref().map(network_now),
        "machine": about.as_ref().map(machine),
        "storage": disks.as_ref().map(storage),
        "security": modules.as_ref().map(security),
        "registries": registries.iter().map(registry).collect::<Vec<_>>(),
        "warnings": warnings,
        "debugging": debug.as_ref().map(debugging),
    })
}

fn counted(counters: &Counters) -> Value {
    let Counters {
        containers_created,
        containers_running,
        containers_paused,
        containers_stopped,
        sandboxes_ready,
        sandboxes_not_ready,
        images,
        event_listeners,
        descriptors,
        tasks,
        system_time,
        log_dropped_bytes,
        image_layers,
        image_layer_bytes,
        shims,
        events_dropped,
    } = counters;
    json!({
        "containers": {
            "total": total(counters),
            "created": containers_created,
            "running": containers_running,
            "paused": containers_paused,
            "stopped": containers_stopped,
        },
        "sandboxes": { "ready": sandboxes_ready, "not_ready": sandboxes_not_ready },
        "shims": shims,
        "images": images,
        "image_layers": image_layers,
        "image_layer_bytes": image_layer_bytes,
        "event_listeners": event_listeners,
        "events_dropped": events_dropped,
        "log_dropped_bytes": log_dropped_bytes,
        "descriptors": descriptors,
        "tasks": tasks,
        "system_time": system_time,
    })
}

/// Containers in every state.
pub(crate) fn total(counters: &Counters) -> u64 {
    let states = [
        counters.containers_created,
        counters.containers_running,
        counters.containers_paused,
        counters.containers_stopped,
    ];
    states.into_iter().fold(0, u64::saturating_add)
}

fn handler(handler: &Handler) -> Value {
    let Handler { name, path, version, problem, features } = handler;
    json!({
        "name": name,
        "path": path,
        "version": version,
        "problem": problem,
        "features": features.as_ref().map(features_of),
    })
}

fn features_of(features: &HandlerFeatures) -> Value {
    let HandlerFeatures {
        seccomp,
        recursive_read_only,
        user_namespaces,
        user_namespaces_problem,
        net_devices,
        oci_version_max,
        start_fifo,
    } = features;
    json!({
        "seccomp": seccomp,
        "recursive_read_only": recursive_read_only,
        "user_namespaces": user_namespaces,
        "user_namespaces_problem": user_namespaces_problem,
        "net_devices": net_devices,
        "oci_version_max": oci_version_max,
        "start_fifo": start_fifo,
    })
}

fn network_now(state: &NetworkState) -> Value {
    let NetworkState { ready, message, config } = state;
    let config: Value = serde_json::from_str(config).unwrap_or_default();
    json!({ "ready": ready, "message": message, "config": config })
}

fn machine(machine: &Machine) -> Value {
    let Machine { name, kernel, os, architecture, cpus, memory, swap } = machine;
    json!({
        "name": name, "kernel": kernel, "os": os, "architecture": architecture,
        "cpus": cpus, "memory": memory, "swap": swap,
    })
}

fn storage(storage: &Storage) -> Value {
    let Storage { driver, root, state } = storage;
    json!({
        "driver": driver,
        "root": root.as_ref().map(disk),
        "state": state.as_ref().map(disk),
    })
}

fn disk(disk: &Disk) -> Value {
    let Disk { path, filesystem, size, free, inodes, inodes_free } = disk;
    json!({
        "path": path, "filesystem": filesystem, "size": size, "free": free,
        "inodes": inodes, "inodes_free": inodes_free,
    })
}

fn security(security: &Security) -> Value {
    let Security { seccomp, apparmor, selinux, user_namespaces } = security;
    json!({
        "seccomp": seccomp, "apparmor": apparmor, "selinux": selinux,
        "user_namespaces": user_namespaces,
    })
}

fn registry(registry: &Registry) -> Value {
    let Registry { name, source, endpoints, problem } = registry;
    json!({ "name": name, "source": source, "endpoints": endpoints, "problem": problem })
}

fn debugging(debugging: &Debugging) -> Value {
    let Debugging {
        threads,
        resident,
        proportional,
        heap,
        heap_free,
        shims_proportional,
        cpu_seconds,
        started_at,
    } = debugging;
    json!({
        "threads": threads,
        "resident": resident,
        "proportional": proportional,
        "heap": heap,
        "heap_free": heap_free,
        "shims_proportional": shims_proportional,
        "cpu_seconds": cpu_seconds,
        "started_at": started_at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = include_str!("../../../docs/metrics.md");

    #[test]
    fn every_key_is_documented() {
        let whole = InfoResponse {
            counters: Some(Counters::default()),
            handlers: vec![Handler {
                features: Some(HandlerFeatures::default()),
                ..Handler::default()
            }],
            network_state: Some(NetworkState::default()),
            machine: Some(Machine::default()),
            storage: Some(Storage { root: Some(Disk::default()), ..Storage::default() }),
            security: Some(Security::default()),
            registries: vec![Registry::default()],
            debugging: Some(Debugging::default()),
            ..InfoResponse::default()
        };
        let told = info(&whole);
        for key in told.as_object().unwrap().keys() {
            assert!(DOCUMENT.contains(&format!("| `{key}` |")), "{key} is not in docs/metrics.md");
        }
        let mut inner =
            vec![&told["counters"], &told["handlers"][0]["features"], &told["storage"]["root"]];
        inner.extend(["network_state", "machine", "security", "debugging"].map(|key| &told[key]));
        inner.push(&told["registries"][0]);
        for key in inner.into_iter().flat_map(|value| value.as_object().unwrap().keys()) {
            assert!(DOCUMENT.contains(&format!("`{key}`")), "{key} is not in docs/metrics.md");
        }
    }

    #[test]
    fn all_containers_are_those_in_every_state() {
        let counters = Counters {
            containers_created: 1,
            containers_running: 2,
            containers_paused: 3,
            containers_stopped: 4,
            ..Counters::default()
        };
        assert_eq!(counted(&counters)["containers"]["total"], 10);
    }
}
