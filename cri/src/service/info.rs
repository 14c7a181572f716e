//! What the daemon is, can do and has to do: what `davit info` and the verbose Status of CRI tell, both from here.
//!
//! Owns the gathering. Each part is read from who has it, at the moment of the question; what blocks, does so on a thread for that.

use crate::metrics::{Counters, process};
use davit_proto::admin::{
    Debugging, Disk, Handler, HandlerFeatures, InfoRequest, InfoResponse, Machine, NetworkState,
    Registry, Security, Storage,
};
use davit_runtime::image::{ConfiguredRegistry, configured_registries};
use davit_runtime::network::NetworkStatus;
use davit_runtime::oci;
use davit_runtime::oci::handlers::{Features, UserNamespaces};
use davit_runtime::{Heap, Runtime, machine};
use std::path::Path;

/// What is asked for of it.
pub(super) async fn info(runtime: &Runtime, request: InfoRequest) -> InfoResponse {
    let InfoRequest { machine, debug } = request;
    let plain = plain(runtime);
    let plain = if machine { with_machine(runtime, plain).await } else { plain };
    if debug { with_debugging(runtime, plain).await } else { plain }
}

/// What is known without looking.
fn plain(runtime: &Runtime) -> InfoResponse {
    let NetworkStatus { ready, reason: _, message, name, config } = runtime.network().status();
    InfoResponse {
        id: runtime.id().to_owned(),
        version: crate::VERSION.to_owned(),
        root: runtime.config().root.display().to_string(),
        state: runtime.config().state.display().to_string(),
        default_handler: runtime.handlers().default_name().unwrap_or_default().to_owned(),
        handlers: runtime.handlers().list().iter().map(|one| handler(one)).collect(),
        counters: Some(Counters::of(runtime).to_wire()),
        cgroup_version: runtime.host().cgroups.layout().version().name().to_owned(),
        cgroup_driver: runtime.host().driver.name().to_owned(),
        network: name,
        network_state: Some(NetworkState { ready, message, config: config.to_string() }),
        ..InfoResponse::default()
    }
}

fn handler(handler: &oci::Handler) -> Handler {
    let features = |features: &Features| {
        let Features {
            recursive_read_only,
            user_namespaces,
            seccomp,
            net_devices,
            oci_version_max,
            start_fifo,
        } = features;
        let problem = match user_namespaces {
            UserNamespaces::Yes => None,
            UserNamespaces::No(why) => Some(why.clone()),
        };
        HandlerFeatures {
            seccomp: *seccomp,
            recursive_read_only: *recursive_read_only,
            user_namespaces: problem.is_none(),
            user_namespaces_problem: problem.unwrap_or_default(),
            net_devices: *net_devices,
            oci_version_max: oci_version_max.clone().unwrap_or_default(),
            start_fifo: *start_fifo,
        }
    };
    Handler {
        name: handler.name.clone(),
        path: handler.path.display().to_string(),
        version: handler.version.clone(),
        problem: handler.problem.clone().unwrap_or_default(),
        features: handler.problem.is_none().then(|| features(&handler.features)),
    }
}

async fn with_machine(runtime: &Runtime, plain: InfoResponse) -> InfoResponse {
    let looking = runtime.clone();
    let looked = tokio::task::spawn_blocking(move || {
        let config = looking.config();
        let storage = Storage {
            driver: "overlay".to_owned(),
            root: Some(disk(&config.root)),
            state: Some(disk(&config.state)),
        };
        // A directory that can't be listed is among the warnings.
        let registries = configured_registries(&config.images.certs_dirs).unwrap_or_default();
        (machine::Machine::read(), storage, registries, security(&looking))
    });
    // A panic in there is told by the log.
    let Ok((machine, storage, registries, security)) = looked.await else { return plain };
    let warnings = runtime.warnings().await;
    InfoResponse {
        machine: Some(machine_of(machine)),
        storage: Some(storage),
        security: Some(security),
        registries: registries.into_iter().map(registry).collect(),
        warnings: warnings.iter().map(ToString::to_string).collect(),
        ..plain
    }
}

fn disk(path: &Path) -> Disk {
    let unknown = Disk { path: path.display().to_string(), ..Disk::default() };
    let Ok(told) = machine::Disk::of(path) else { return unknown };
    let machine::Disk { path: _, filesystem, size, free, inodes, inodes_free } = told;
    Disk { filesystem, size, free, inodes, inodes_free, ..unknown }
}

fn machine_of(machine: machine::Machine) -> Machine {
    let machine::Machine { name, kernel, os, architecture, cpus, memory, swap } = machine;
    Machine { name, kernel, os, architecture, cpus, memory, swap }
}

fn registry(configured: ConfiguredRegistry) -> Registry {
    let ConfiguredRegistry { name, source, endpoints, problem } = configured;
    let (source, problem) = (source.display().to_string(), problem.unwrap_or_default());
    Registry { name, source, endpoints, problem }
}

fn security(runtime: &Runtime) -> Security {
    let host = runtime.host();
    let default = runtime.handlers().get("").ok();
    Security {
        seccomp: host.seccomp,
        apparmor: host.apparmor,
        selinux: machine::selinux(host).unwrap_or_default().to_owned(),
        user_namespaces: default
            .is_some_and(|one| one.features.user_namespaces == UserNamespaces::Yes),
    }
}

async fn with_debugging(runtime: &Runtime, plain: InfoResponse) -> InfoResponse {
    let shims: Vec<u32> = runtime.sandboxes().iter().filter_map(|pod| pod.shim_pid).collect();
    let measured = tokio::task::spawn_blocking(move || {
        let Heap { arena: _, used, free, mapped } = davit_runtime::heap();
        let usage = process::usage();
        let bytes = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        Debugging {
            threads: process::threads(),
            resident: usage.resident_bytes,
            proportional: machine::proportional([std::process::id()]),
            heap: bytes(used.saturating_add(mapped)),
            heap_free: bytes(free),
            shims_proportional: machine::proportional(shims),
            cpu_seconds: usage.cpu_seconds,
            started_at: nanoseconds(process::started()),
        }
    });
    InfoResponse { debugging: measured.await.ok(), ..plain }
}

/// A moment in seconds since the epoch, as the wire has it.
fn nanoseconds(seconds: f64) -> i64 {
    let since = std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
