//! Taking up what an earlier daemon has left.
//!
//! Owns the order of the start: the parts first, then the records, then what no record names. A pod that was given to its caller is taken up as it
//! is; one whose creation was interrupted is undone, and the network of one that is gone taken down, while others are served already; after a reboot nothing of any pod is left, so all are swept.
//! A record that can't be read is put aside and named, and hinders nobody else.

mod records;

use crate::ahead::Ahead;
use crate::cdi::Cdi;
use crate::cgroup::{CgroupError, Cgroups, Driver, Group, InvalidGroup, Moves};
use crate::config::RuntimeConfig;
use crate::container::ContainerState;
use crate::counters::Counters;
use crate::events::Events;
use crate::id::{ContainerId, SandboxId};
use crate::journal::Journal;
use crate::laps::Laps;
use crate::metrics::Metrics;
use crate::oci::{Handlers, Host, apparmor};
use crate::places::Places;
use crate::sandbox::{Index, Slot, spawn_recovered, spawn_undoing};
use crate::shared::Shared;
use crate::stats::Walkers;
use crate::store::{
    Layout, SandboxPhase, SandboxRecord, StoreError, ensure_dir, ensure_id, keep_mounts_private,
    let_pass, probe_overlay, probe_state, reach, read_plain, remove_tree, share_mounts,
    write_bytes,
};
use crate::sweep::release_pin;
use crate::{image, network, oci, sweep};
use records::{Containers, names, put_away_container, read_pods};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::task::JoinSet;

/// Why a runtime can't work at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A directory of its own is missing and can't be made, or can't be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The host's facts could not be learnt.
    #[error("look at the host")]
    Host(#[from] oci::HostError),
    /// The shims' cgroup is none that can be had.
    #[error("shim_cgroup")]
    ShimCgroup(#[from] InvalidGroup),
    /// The pods' cgroup is none that can be had.
    #[error("pod_cgroup_parent")]
    PodCgroupParent(#[source] InvalidGroup),
    /// The pods' cgroup could not be made.
    #[error("make the pods' cgroup")]
    Cgroup(#[source] CgroupError),
    /// The images could not be read.
    #[error("open the images")]
    Images(#[from] image::OpenError),
    /// The network could not be set up.
    #[error("open the network")]
    Network(#[from] network::OpenError),
    /// No OCI runtime works here.
    #[error("find an OCI runtime")]
    Handlers(#[from] oci::handlers::ProbeError),
    /// The directory of pods' `/dev/shm` can't be made a mount.
    #[error("prepare the place of pods' shared memory")]
    Memory(#[from] davit_sys::pin::PinError),
    /// The directory of network namespaces can't be made a mount that passes on what is mounted in it.
    #[error("prepare the directory of network namespaces")]
    Namespaces(#[from] crate::store::ShareError),
    /// Records could not be read for want of descriptors or memory: whoever goes on would take them for none.
    #[error("read what the daemon before has written down")]
    Short(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The kernel doesn't say which boot this is.
    #[error("read {BOOT_ID}")]
    Boot(#[source] std::io::Error),
}

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Opens the parts and takes up the pods.
pub(crate) async fn open(config: RuntimeConfig) -> Result<Arc<Shared>, OpenError> {
    let mut laps = Laps::begin();
    let layout = Layout::new(config.root.clone(), config.state.clone());
    for directory in [layout.root(), layout.state(), &layout.pods(), &layout.writable_layers()] {
        ensure_dir(directory)?;
    }
    keep_mounts_private(layout.state())?;
    ensure_dir(&layout.shms())?;
    davit_sys::pin::own_mount(&layout.shms())?;
    // Before any pod: who mounts it from then on is told of each namespace.
    share_mounts(&config.netns_dir)?;
    // The way to where such containers' roots are mounted. All else below the state root is for root alone.
    let_pass(layout.state())?;
    ensure_dir(&layout.userns_rootfs())?;
    let_pass(&layout.userns_rootfs())?;
    probe_state(layout.state())?;
    probe_overlay(&layout.writable_layers())?;
    let boot = fs::read(BOOT_ID).map_err(OpenError::Boot)?;
    let records = records_are_of(&layout, &boot)?;
    laps.lap("directories");
    let shared = Arc::new(parts(config, layout, &mut laps).await?);
    reach("recover.parts")?;
    if records == Boot::Earlier {
        sweep_after_reboot(&shared)?;
    }
    if records != Boot::This {
        // Only now: a crash in between must not make the records of the earlier boot look like this one's.
        write_bytes(&shared.layout.boot_id(), &boot, 0o600)?;
    }
    laps.lap("cgroups");
    let records = read_pods(&shared).await?;
    reach("recover.records")?;
    let live: Vec<SandboxId> = records.iter().map(|(record, _)| record.id.clone()).collect();
    let (interrupted, given): (Vec<_>, Vec<_>) =
        records.into_iter().partition(|(record, _)| record.phase == SandboxPhase::Creating);
    take_up(&shared, given).await;
    laps.lap("pods");
    let recovery = shared.network.begin_recovery(&live).await;
    reach("recover.networks")?;
    for (record, _) in interrupted {
        // Only now: what the network finds must not be what a detachment leaves half-way.
        spawn_undoing(&shared, record);
    }
    laps.lap("networks");
    sweep::at_start(&shared).await;
    reach("recover.swept")?;
    spawn_detaching(&shared, recovery);
    laps.lap("sweep");
    shared.metrics.recovered(laps.whole());
    tracing::info!(took = %laps, "taken up");
    Ok(shared)
}

/// Takes down networks of pods that are no more, while davit serves: a plugin that hangs keeps nobody from starting a pod without it. With a network goes
/// the pin that its record names: where the state was lost, nothing else tells of that.
fn spawn_detaching(shared: &Arc<Shared>, recovery: network::Recovery) {
    let (shared, network) = (Arc::clone(shared), shared.network.clone());
    let pins: Vec<_> =
        recovery.dead().map(|(id, netns)| (id.clone(), Some(netns.to_owned()))).collect();
    tokio::spawn(async move {
        let report = recovery.finish().await;
        tracing::debug!(?report, "networks");
        for failed in &report.failed {
            tracing::warn!(sandbox = %failed.id, error = failed as &dyn std::error::Error, "the network of a pod that is gone could not be taken down yet");
        }
        // DEL has yet to be called for those that failed, in their namespaces. They are released when it has been.
        let failed: BTreeSet<_> = report.failed.iter().map(|error| error.id.clone()).collect();
        for (id, pin) in pins.into_iter().filter(|(id, _)| !failed.contains(id)) {
            if let Err(error) = release_pin(&shared, &id, pin) {
                tracing::error!(sandbox = %id, error = crate::error::chain(&error), "left of a pod that is gone");
            }
        }
        drop(shared);
        network.owe(report.failed.into_iter().map(|error| error.id));
    });
}

async fn parts(
    config: RuntimeConfig,
    layout: Layout,
    laps: &mut Laps,
) -> Result<Shared, OpenError> {
    let id = ensure_id(layout.root());
    let mut host = Host::probe(&config.host)?;
    if host.apparmor {
        host.apparmor_default = apparmor::load_default().await;
        if let Err(why) = &host.apparmor_default {
            tracing::warn!(
                "containers run without an AppArmor profile unless they ask for one: {why}"
            );
        }
    }
    for shortcoming in crate::machine::shortcomings(&host) {
        tracing::info!("{shortcoming}");
    }
    laps.lap("host");
    let handlers = Handlers::probe(&config.handlers, &host).await?;
    laps.lap("handlers");
    let metrics = Metrics::default();
    let images = image::Images::open(config.images.clone(), Arc::clone(&metrics.pulls)).await?;
    laps.lap("images");
    let journal = Journal::open(&layout.events(), config.events_retain).await?;
    images.tell(journal.inbox());
    laps.lap("events");
    let network = network::Network::open(config.network.clone(), Arc::clone(&metrics.cni)).await?;
    laps.lap("network");
    let shim_procs = shim_procs(&config, &host.cgroups).await?;
    if host.driver == Driver::Cgroupfs {
        // Made once and for good: a pod that ends must not take it from under one that begins.
        let above = Group::of_parent(host.driver, &config.pod_cgroup_parent)
            .map_err(OpenError::PodCgroupParent)?;
        host.cgroups.ensure(&above).await.map_err(OpenError::Cgroup)?;
    }
    let moves = Arc::new(Moves::new(host.cgroups.layout()));
    Ok(Shared {
        ahead: Ahead::new(config.pods_ahead),
        creations: Places::new(config.creations),
        endings: Places::new(config.creations),
        cdi: Cdi::new(config.cdi_spec_dirs.clone()),
        checkpoints: Default::default(),
        id,
        config,
        layout,
        images,
        network,
        handlers,
        host,
        sealed: Default::default(),
        shim_procs,
        counters: Arc::new(Counters::default()),
        metrics,
        events: Events::new(journal.inbox()),
        journal,
        mounts: Default::default(),
        looks: Default::default(),
        moves,
        walkers: Walkers::default(),
        index: Index::default(),
    })
}

/// Makes the cgroup that the shims live in. Where that is not allowed they live in the daemon's: a worse place, not a reason to stand still.
async fn shim_procs(config: &RuntimeConfig, cgroups: &Cgroups) -> Result<Vec<PathBuf>, OpenError> {
    let Some(name) = &config.shim_cgroup else { return Ok(Vec::new()) };
    let group = Group::at(name)?;
    match cgroups.ensure(&group).await {
        Ok(_) => Ok(cgroups.procs_files(&group)),
        Err(error) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the shims stay in the daemon's cgroup"
            );
            Ok(Vec::new())
        }
    }
}

/// Which boot the records are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Boot {
    This,
    Earlier,
    /// Nothing says it. They are taken for this boot's: a shim that has ended is noticed, but one that runs would be lost with its pod's records.
    Unknown,
}

fn records_are_of(layout: &Layout, now: &[u8]) -> Result<Boot, OpenError> {
    let path = layout.boot_id();
    match read_plain(&path) {
        Ok(before) if before == now => Ok(Boot::This),
        Ok(before) if before.len() == now.len() => Ok(Boot::Earlier),
        Ok(_) => {
            tracing::warn!(path = %path.display(), "it holds no boot id: the pods are taken up as those of this boot");
            Ok(Boot::Unknown)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Boot::Unknown),
        Err(error) => Err(StoreError::io("read", &path)(error).into()),
    }
}

/// Nothing of a pod outlives the boot but what it has on disk; its network is told below, when no pod is live. Where the state directory is on a disk,
/// names of namespaces and what OCI runtimes keep of containers are still there, and mean nothing any more.
fn sweep_after_reboot(shared: &Shared) -> Result<(), OpenError> {
    for id in names(&shared.layout.pods())? {
        tracing::info!(sandbox = id, "swept: of an earlier boot");
        let Ok(id) = SandboxId::try_from(id) else { continue };
        let pin = shared.netns(&id);
        match fs::remove_file(&pin) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::error!(path = %pin.display(), %error, "the name of an earlier boot's namespace stays");
            }
            Ok(()) | Err(_) => {}
        }
    }
    remove_tree(&shared.layout.oci())?;
    remove_tree(&shared.layout.pods())?;
    ensure_dir(&shared.layout.pods())?;
    Ok(())
}

/// All at once: a pod that takes long holds up none of the others.
async fn take_up(shared: &Arc<Shared>, records: Vec<(SandboxRecord, Containers)>) {
    let mut tasks = JoinSet::new();
    for (record, containers) in records {
        let shared = Arc::clone(shared);
        tasks.spawn(async move { take_up_one(&shared, record, containers) });
    }
    crate::join::all(tasks).await;
}

fn take_up_one(shared: &Arc<Shared>, record: SandboxRecord, containers: Containers) {
    let (mut slots, mut interrupted) = (Vec::new(), Vec::new());
    for (id, read) in containers {
        match read {
            Ok(container) if container.state != ContainerState::Creating => {
                let facts = &container.facts;
                let layers: Vec<_> = [&facts.layers[..], &facts.volume_layers].concat();
                // Of a damaged image it keeps what is left: it may run.
                let left = shared.images.hold_left(&layers);
                if let Err(error) = shared.images.hold(&layers) {
                    tracing::error!(container = %id, error = &error as &dyn std::error::Error, "its image is damaged");
                }
                slots.push(Slot::recovered(container, vec![left]));
            }
            // Interrupted: nobody was told of it.
            Ok(_) => interrupted.push(id),
            Err(error) => {
                put_away_container(shared, &record.id, &id, &error);
                interrupted.push(id);
            }
        }
    }
    let ids: Vec<ContainerId> = slots.iter().map(|slot| slot.id().clone()).collect();
    let (key, sandbox) = (record.spec.key.clone(), record.id.clone());
    let handle = spawn_recovered(Arc::clone(shared), record, slots, interrupted);
    let taken = shared
        .index
        .pod_of_key(&key, || Ok::<_, std::convert::Infallible>((sandbox.clone(), handle)));
    let Ok((holder, _)) = taken;
    if holder != sandbox {
        tracing::error!(%sandbox, %holder, "two pods have one name: the record of the first stands");
    }
    for id in ids {
        shared.index.add_container(&id, &sandbox);
    }
}
