//! What pods and containers use.
//!
//! Owns the measuring: CPU, memory, swap, I/O and tasks from the files of their cgroups, the network from the pod's own namespace, the writable layer by
//! walking it. Nobody is asked for it, neither the shim nor an OCI runtime, and nothing runs while nobody asks: a rate is the difference to the
//! reading before, which stands in the [`Meter`] of the pod or container and goes with it.
//!
//! ```text
//! asked ─► cgroup files, /proc/thread-self/net/dev ──────────────────────────► answer
//!      └─► Meter: last CPU reading (rate), last walk of the layer (older than 10 s: walked again, behind the answer)
//! ```

mod details;
mod layer;
mod meter;
mod network;
mod processes;

pub use crate::cgroup::detail::{CpuDetail, Detail, DiskUse, MemoryDetail};
pub use crate::cgroup::usage::{CpuUse, MemoryUse, Pressure, Stall, SwapUse, Usage};
pub(crate) use details::details;
pub use details::{ContainerDetail, DiskSpace, SandboxDetail};
pub use layer::LayerUse;
pub use meter::Meter;
pub use network::{InterfaceUse, NetworkUse, Traffic};
pub use processes::ProcessUse;

use crate::cgroup::Group;
use crate::clock;
use crate::container::{ContainerState, ContainerView};
use crate::sandbox::{SandboxState, SandboxView};
use crate::shared::Shared;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// How many threads walk layers at once, whatever the number of containers.
const WALKERS: usize = 2;
/// How many threads read the files of one answer, and the containers for which one is enough: the kernel makes most of them up as they are read.
const READERS: usize = 2;
const ENOUGH: usize = 16;
/// How long an answer waits for the first walk of a layer. Those who have been walked before are not waited for.
const FIRST_WALK: Duration = Duration::from_millis(100);

/// What measuring shares between calls.
#[derive(Debug)]
pub(crate) struct Walkers(Arc<Semaphore>);

impl Default for Walkers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(WALKERS)))
    }
}

/// What one container uses.
#[derive(Debug, Clone)]
pub struct ContainerUse {
    /// Which.
    pub container: Arc<ContainerView>,
    /// When it was read, in nanoseconds since the epoch.
    pub at: i64,
    /// What its cgroup says; nothing once it has ended.
    pub usage: Usage,
    /// Nanoseconds of all cores per second since the reading before.
    pub nano_cores: Option<u64>,
    /// Its writable layer; `None` until it has been walked.
    pub layer: Option<LayerUse>,
}

/// What one pod uses.
#[derive(Debug, Clone)]
pub struct SandboxUse {
    /// Which.
    pub sandbox: Arc<SandboxView>,
    /// When it was read, in nanoseconds since the epoch.
    pub at: i64,
    /// What the pod's cgroup says.
    pub usage: Usage,
    /// Nanoseconds of all cores per second since the reading before.
    pub nano_cores: Option<u64>,
    /// Tasks, as the kernel counts them: a thread is one.
    pub tasks: Option<u64>,
    /// Its interfaces; `None` with the host's network.
    pub network: Option<NetworkUse>,
    /// Its containers that run.
    pub containers: Vec<ContainerUse>,
}

/// A container to be measured, and where.
struct Place {
    container: Arc<ContainerView>,
    group: Option<Group>,
    layer: PathBuf,
}

/// Measures containers. Those that don't run have a layer and nothing else.
pub(crate) async fn containers(
    shared: &Arc<Shared>,
    wanted: Vec<(Arc<SandboxView>, Arc<ContainerView>)>,
) -> Vec<ContainerUse> {
    let places: Vec<Place> =
        wanted.iter().map(|(pod, container)| place(shared, pod, container)).collect();
    walk_layers(shared, places.iter()).await;
    let share = places.len().div_ceil(READERS).max(ENOUGH);
    let mut rest = places.into_iter();
    let shares = std::iter::from_fn(|| {
        let places: Vec<Place> = rest.by_ref().take(share).collect();
        let shared = Arc::clone(shared);
        (!places.is_empty()).then(|| {
            blocking(move || {
                places.into_iter().map(|place| measured(&shared, place)).collect::<Vec<_>>()
            })
        })
    });
    futures_util::future::join_all(shares).await.into_iter().flatten().collect()
}

/// Measures pods and their containers.
pub(crate) async fn sandboxes(
    shared: &Arc<Shared>,
    wanted: Vec<Arc<SandboxView>>,
) -> Vec<SandboxUse> {
    let pods: Vec<(Arc<SandboxView>, Vec<Place>)> = wanted
        .into_iter()
        .map(|pod| {
            let running = pod.containers.values().filter(|container| runs(container));
            let places = running.map(|container| place(shared, &pod, container)).collect();
            (pod, places)
        })
        .collect();
    walk_layers(shared, pods.iter().flat_map(|(_, places)| places)).await;
    let shared = Arc::clone(shared);
    blocking(move || {
        let pins = pods.iter().filter_map(|(pod, _)| {
            let ready = pod.state == SandboxState::Ready;
            Some((pod.id.clone(), pod.netns.clone().filter(|_| ready)?))
        });
        let mut networks: HashMap<_, _> = network::read(pins.collect()).into_iter().collect();
        pods.into_iter()
            .map(|(pod, places)| sandbox(&shared, networks.remove(&pod.id), pod, places))
            .collect()
    })
    .await
}

fn sandbox(
    shared: &Shared,
    network: Option<NetworkUse>,
    pod: Arc<SandboxView>,
    places: Vec<Place>,
) -> SandboxUse {
    let at = clock::now();
    let (cgroups, group) = (&shared.host.cgroups, shared.pod_group(&pod.id, &pod.spec).ok());
    let usage = group.as_ref().map(|group| cgroups.usage(group)).unwrap_or_default();
    SandboxUse {
        at,
        nano_cores: rate(&pod.meter, &usage),
        usage,
        tasks: group.and_then(|group| cgroups.tasks(&group)),
        network,
        containers: places.into_iter().map(|place| measured(shared, place)).collect(),
        sandbox: pod,
    }
}

/// Whether a container runs, and so uses something.
#[must_use]
pub fn runs(container: &ContainerView) -> bool {
    match container.state {
        ContainerState::Running { .. } => true,
        ContainerState::Creating | ContainerState::Created { .. } | ContainerState::Exited(_) => {
            false
        }
    }
}

fn place(shared: &Shared, pod: &SandboxView, container: &Arc<ContainerView>) -> Place {
    let group = shared.pod_group(&pod.id, &pod.spec).and_then(|pod| pod.container(&container.id));
    Place {
        container: Arc::clone(container),
        group: group.ok().filter(|_| runs(container)),
        layer: shared.layout.writable(&container.id).join("fs"),
    }
}

fn measured(shared: &Shared, place: Place) -> ContainerUse {
    let Place { container, group, layer: _ } = place;
    let at = clock::now();
    let usage = group.map(|group| shared.host.cgroups.usage(&group)).unwrap_or_default();
    ContainerUse {
        at,
        nano_cores: rate(&container.meter, &usage),
        usage,
        layer: container.meter.layer(),
        container,
    }
}

fn rate(meter: &Meter, usage: &Usage) -> Option<u64> {
    usage.cpu.and_then(|cpu| meter.rate(Instant::now(), cpu.nanoseconds))
}

/// Has the layers walked that were not for a while; waits a little for those that never were.
async fn walk_layers(shared: &Shared, places: impl Iterator<Item = &Place>) {
    let now = Instant::now();
    // All walkers are busy: the layers are as they were told last, and the next call tries again.
    let Ok(permit) = Arc::clone(&shared.walkers.0).try_acquire_owned() else { return };
    let due: Vec<(Meter, PathBuf)> = places
        .filter(|place| place.container.meter.claim_walk(now))
        .map(|place| (place.container.meter.clone(), place.layer.clone()))
        .collect();
    if due.is_empty() {
        return;
    }
    let first = due.iter().any(|(meter, _)| meter.layer().is_none());
    let walking = tokio::task::spawn_blocking(move || {
        for (meter, path) in due {
            let begun = Instant::now();
            let found = layer::walk(&path, clock::now());
            meter.walked(begun, found);
        }
        drop(permit);
    });
    if first {
        // It goes on if it takes longer.
        drop(tokio::time::timeout(FIRST_WALK, walking).await);
    }
}

/// Files of the kernel answer at once, but hundreds of them are more than an executor thread should be kept from its other work.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Vec<T> + Send + 'static) -> Vec<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(found) => found,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "measuring has failed");
            Vec::new()
        }
    }
}
