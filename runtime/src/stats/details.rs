//! All that there is to tell of a pod, for metrics.

use super::{ContainerUse, ProcessUse, SandboxUse, place, processes, sandboxes};
use crate::cgroup::detail::Detail;
use crate::sandbox::SandboxView;
use crate::shared::Shared;
use std::sync::Arc;

/// A pod, with everything that is known of its containers.
#[derive(Debug, Clone)]
pub struct SandboxDetail {
    /// The pod's own figures. Its containers' are in [`Self::containers`].
    pub used: SandboxUse,
    /// Its containers that run.
    pub containers: Vec<ContainerDetail>,
    /// The file system of the writable layers; `None` if the kernel doesn't tell.
    pub disk: Option<DiskSpace>,
}

/// A container, with everything that is known of it.
#[derive(Debug, Clone)]
pub struct ContainerDetail {
    /// What statistics tell.
    pub used: ContainerUse,
    /// What they don't.
    pub detail: Detail,
    /// What its processes hold open.
    pub processes: ProcessUse,
    /// Its cgroup, below the root of every hierarchy.
    pub cgroup: String,
}

/// A file system's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes.
    pub size: u64,
    /// Inodes that there can be.
    pub inodes: u64,
    /// Inodes that are free.
    pub inodes_free: u64,
}

/// Measures pods in all detail.
pub(crate) async fn details(
    shared: &Arc<Shared>,
    wanted: Vec<Arc<SandboxView>>,
) -> Vec<SandboxDetail> {
    let used = sandboxes(shared, wanted).await;
    let shared = Arc::clone(shared);
    super::blocking(move || {
        let disk = disk_space(&shared);
        used.into_iter().map(|used| sandbox(&shared, used, disk)).collect()
    })
    .await
}

fn sandbox(shared: &Shared, mut used: SandboxUse, disk: Option<DiskSpace>) -> SandboxDetail {
    let containers = std::mem::take(&mut used.containers);
    let pod = Arc::clone(&used.sandbox);
    let containers = containers.into_iter().map(|used| container(shared, &pod, used)).collect();
    SandboxDetail { used, containers, disk }
}

fn container(shared: &Shared, pod: &SandboxView, used: ContainerUse) -> ContainerDetail {
    let group = place(shared, pod, &used.container).group;
    let cgroups = &shared.host.cgroups;
    let pids = group.as_ref().and_then(|group| cgroups.processes(group).ok()).unwrap_or_default();
    let detail = group.as_ref().map(|group| cgroups.detail(group)).unwrap_or_default();
    let cgroup = group.map(|group| format!("/{}", group.path().display())).unwrap_or_default();
    let processes = processes::read(used.container.state.pid(), &pids);
    ContainerDetail { used, detail, processes, cgroup }
}

fn disk_space(shared: &Shared) -> Option<DiskSpace> {
    let found = rustix::fs::statvfs(shared.layout.writable_layers()).ok()?;
    Some(DiskSpace {
        size: found.f_blocks.saturating_mul(found.f_frsize),
        inodes: found.f_files,
        inodes_free: found.f_ffree,
    })
}
