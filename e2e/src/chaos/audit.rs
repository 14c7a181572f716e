//! The look at everything while nothing moves: what davit tells must be what the workers know.

use super::tally::{Did, Loss};
use super::world::{Known, World};
use crate::cri::Cri;
use crate::host::{eventually, names_in, pause};
use crate::leaks;
use anyhow::{Context, Result};
use k8s_cri::v1::{ContainerState, PodSandboxMetadata, PodSandboxState, StatusRequest};
use rustix::process::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;
use tonic::Status;

/// What is being taken away when a removal returns may need this long to be gone.
const GRACE: Duration = Duration::from_secs(20);
/// How often counters are compared with lists that change meanwhile, because containers end when they like.
const TRIES: u32 = 50;

/// Stops the world and compares.
pub(super) fn look(world: &World<'_>) -> Result<()> {
    let _all = world.stop_the_world();
    world.tally.did(Did::Audit);
    let cri = world.cri();
    let known = world.pods().clone();
    pods(world, &cri, &known)?;
    containers(world, &cri, &known)?;
    addresses(world, &cri, &known)?;
    processes(world, &cri, &known)?;
    counters(world, &cri)
}

/// A pod's name as one word.
pub(super) fn key(metadata: Option<&PodSandboxMetadata>) -> String {
    metadata.map_or_else(String::new, |it| {
        format!("{}/{}/{}/{}", it.namespace, it.name, it.uid, it.attempt)
    })
}

fn pods(world: &World<'_>, cri: &Cri, known: &BTreeMap<String, Known>) -> Result<()> {
    let told = cri.pods(None).context("ListPodSandbox")?;
    let lose = |what: String| world.tally.lose(Loss::Name, what);
    let mut keys = BTreeSet::new();
    for pod in &told {
        let key = key(pod.metadata.as_ref());
        let Some(known) = known.get(&pod.id) else {
            lose(format!("pod {} ({key}) is nobody's", pod.id));
            continue;
        };
        if (pod.state() == PodSandboxState::SandboxReady) != known.ready {
            lose(format!("pod {} ({key}) is {:?}", pod.id, pod.state()));
        }
        if key != known.key || !keys.insert(key.clone()) {
            lose(format!("pod {} is called {key}, as another is, or was not", pod.id));
        }
    }
    for (id, known) in known {
        if !told.iter().any(|pod| pod.id == *id) {
            lose(format!("pod {id} ({}) is gone", known.key));
        }
    }
    Ok(())
}

fn containers(world: &World<'_>, cri: &Cri, known: &BTreeMap<String, Known>) -> Result<()> {
    let told = cri.containers(None).context("ListContainers")?;
    let lose = |what: String| world.tally.lose(Loss::Name, what);
    for container in &told {
        let of_pod = known.get(&container.pod_sandbox_id);
        let metadata = container.metadata.clone().unwrap_or_default();
        let name = format!("{}/{}", metadata.name, metadata.attempt);
        if of_pod.and_then(|pod| pod.containers.get(&container.id)).is_none_or(|it| it.name != name)
        {
            lose(format!("container {} ({name}) is nobody's", container.id));
        }
    }
    for id in known.values().flat_map(|pod| pod.containers.keys()) {
        if !told.iter().any(|container| container.id == *id) {
            lose(format!("container {id} is gone"));
        }
    }
    Ok(())
}

fn addresses(world: &World<'_>, cri: &Cri, known: &BTreeMap<String, Known>) -> Result<()> {
    let mut seen = BTreeSet::new();
    for (id, known) in known.iter().filter(|(_, known)| known.ready && !known.ip.is_empty()) {
        let status = cri.pod_status(id).context("PodSandboxStatus")?;
        let ip = status.network.map(|network| network.ip).unwrap_or_default();
        if ip != known.ip {
            world.tally.lose(Loss::Address, format!("pod {id} had {}, now {ip}", known.ip));
        }
        if !seen.insert(ip.clone()) {
            world.tally.lose(Loss::Address, format!("{ip} is pod {id}'s and another's"));
        }
    }
    Ok(())
}

/// What must run runs, as the same process.
fn processes(world: &World<'_>, cri: &Cri, known: &BTreeMap<String, Known>) -> Result<()> {
    for (id, expected) in known.values().flat_map(|pod| &pod.containers) {
        let Some(expected) = expected.pid else { continue };
        let told = pid(cri, id).context("ContainerStatus")?;
        let state = cri.status(id).context("ContainerStatus")?.state();
        if told != Some(expected) || !alive(expected) || state != ContainerState::ContainerRunning {
            world.tally.lose(
                Loss::Running,
                format!("container {id} was process {expected}, is {told:?} and {state:?}"),
            );
        }
    }
    Ok(())
}

/// The pid that is told of a container, if one is.
pub(super) fn pid(cri: &Cri, id: &str) -> Result<Option<u32>, Status> {
    let info = cri.container_info(id)?;
    let json: Option<serde_json::Value> =
        info.get("info").and_then(|text| serde_json::from_str(text).ok());
    let pid = json.and_then(|json| json.get("pid")?.as_u64()).filter(|pid| *pid > 0);
    Ok(pid.and_then(|pid| u32::try_from(pid).ok()))
}

/// The process runs: it is there, and no zombie.
pub(super) fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with(['Z', 'X']))
}

/// The pod's shim, as its record names it.
pub(super) fn shim_pid(world: &World<'_>, id: &str) -> Result<Option<Pid>> {
    let path = world.settings.state().join("pods").join(id).join("sandbox.json");
    let text = crate::host::read_optional(&path)?.unwrap_or_default();
    let record: serde_json::Value = serde_json::from_str(&text).context("read a pod's record")?;
    let pid = record.pointer("/shim/pid").and_then(serde_json::Value::as_i64);
    Ok(pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)))
}

fn counters(world: &World<'_>, cri: &Cri) -> Result<()> {
    let mut last = String::new();
    for _ in 0..TRIES {
        let before = counted(cri)?;
        let told = told(cri)?;
        let after = counted(cri)?;
        if before != after {
            continue;
        }
        if before == told {
            return Ok(());
        }
        last = format!("listed {before:?}, counted {told:?}");
        pause(Duration::from_millis(5));
    }
    world.tally.lose(Loss::Counter, last);
    Ok(())
}

/// Created, running, stopped containers; ready and other pods: as listed.
fn counted(cri: &Cri) -> Result<[u64; 5]> {
    let mut counts = [0; 5];
    let [created, running, stopped, ready, not_ready] = &mut counts;
    for container in cri.containers(None).context("ListContainers")? {
        match container.state() {
            ContainerState::ContainerCreated => *created += 1,
            ContainerState::ContainerRunning => *running += 1,
            ContainerState::ContainerExited | ContainerState::ContainerUnknown => *stopped += 1,
        }
    }
    for pod in cri.pods(None).context("ListPodSandbox")? {
        match pod.state() {
            PodSandboxState::SandboxReady => *ready += 1,
            PodSandboxState::SandboxNotready => *not_ready += 1,
        }
    }
    Ok(counts)
}

/// The same as `davit info`, Status and Prometheus count it.
fn told(cri: &Cri) -> Result<[u64; 5]> {
    let status =
        cri.wait(cri.runtime().status(StatusRequest { verbose: true })).context("Status")?;
    let text = status.info.get("counters").context("Status tells no counters")?;
    let json: serde_json::Value = serde_json::from_str(text).context("read the counters")?;
    let count = |name: &str| {
        json.pointer(name)
            .and_then(serde_json::Value::as_u64)
            .with_context(|| format!("{name} in {json}"))
    };
    Ok([
        count("/containers/created")?,
        count("/containers/running")?,
        count("/containers/stopped")?,
        count("/sandboxes/ready")?,
        count("/sandboxes/notReady")?,
    ])
}

/// When all pods are removed nothing of them is there.
pub(super) fn nothing_left(world: &World<'_>) -> Result<()> {
    let daemon = world.test.daemon().pid();
    let mut left = Vec::new();
    let looked = eventually(GRACE, "nothing is left", || {
        left = leaks::find(&world.settings, daemon, &[])?;
        left.extend(leases(world)?);
        Ok(left.is_empty().then_some(()))
    });
    if looked.is_err() {
        for each in left {
            world.tally.lose(Loss::Left, each);
        }
    }
    Ok(())
}

/// Addresses that the plugin host-local still holds, and ports of its bridge.
fn leases(world: &World<'_>) -> Result<Vec<String>> {
    let tag = world.settings.tag();
    let leases = names_in(&world.settings.dir.join("ipam").join(&tag))?;
    let held = leases.into_iter().filter(|name| name.starts_with(|c: char| c.is_ascii_digit()));
    let mut left: Vec<String> = held.map(|name| format!("lease {name}")).collect();
    let ports = names_in(&Path::new("/sys/class/net").join(format!("{tag}c")).join("brif"))?;
    left.extend(ports.into_iter().map(|port| format!("link {port} on bridge {tag}c")));
    Ok(left)
}
