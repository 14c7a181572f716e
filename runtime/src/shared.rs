//! What every pod's task works with.

use crate::ahead::Ahead;
use crate::cdi::Cdi;
use crate::cgroup::{Driver, Group, InvalidGroup, Moves};
use crate::config::RuntimeConfig;
use crate::counters::Counters;
use crate::events::Events;
use crate::id::{ContainerId, SandboxId};
use crate::image::Images;
use crate::journal::Journal;
use crate::looks::Looks;
use crate::metrics::Metrics;
use crate::mounts::Mounts;
use crate::network::Network;
use crate::oci::sealed::{Copy, Sealed};
use crate::oci::{Handler, Handlers, Host};
use crate::places::Places;
use crate::sandbox::{CgroupParent, Index, InvalidCgroupParent, SandboxSpec};
use crate::stats::Walkers;
use crate::store::Layout;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// The parts of one runtime.
#[derive(Debug)]
pub(crate) struct Shared {
    /// This davit's, for as long as its root is kept.
    pub(crate) id: String,
    pub(crate) config: RuntimeConfig,
    pub(crate) layout: Layout,
    pub(crate) images: Images,
    pub(crate) network: Network,
    pub(crate) handlers: Handlers,
    pub(crate) host: Host,
    pub(crate) sealed: Sealed,
    pub(crate) cdi: Cdi,
    /// Containers of which a checkpoint is being made.
    pub(crate) checkpoints: Mutex<BTreeSet<ContainerId>>,
    /// The files through which a shim enters its own cgroup.
    pub(crate) shim_procs: Vec<PathBuf>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) metrics: Metrics,
    pub(crate) events: Events,
    pub(crate) journal: Journal,
    pub(crate) mounts: Mounts,
    pub(crate) looks: Looks,
    /// Between cgroups.
    pub(crate) moves: Arc<Moves>,
    pub(crate) ahead: Ahead,
    pub(crate) walkers: Walkers,
    pub(crate) index: Index,
    /// Where pods and containers are made and containers started.
    pub(crate) creations: Places,
    /// Where pods are ended: nobody who makes room waits for one who takes it.
    pub(crate) endings: Places,
}

impl Shared {
    /// The pod's cgroup: the one that was asked for, else one of its own.
    pub(crate) fn pod_cgroup(
        &self,
        id: &SandboxId,
        spec: &SandboxSpec,
    ) -> Result<CgroupParent, InvalidGroup> {
        match &spec.cgroup_parent {
            Some(parent) => Ok(parent.clone()),
            None => self.own_cgroup(id),
        }
    }

    /// The cgroup of a pod that named none: below davit's parent, so nobody else makes it.
    fn own_cgroup(&self, id: &SandboxId) -> Result<CgroupParent, InvalidGroup> {
        let above = self.config.pod_cgroup_parent.as_str();
        let name = match self.host.driver {
            Driver::Cgroupfs => format!("{above}/{id}"),
            // A dash makes a slice the child of the one that is named before it.
            Driver::Systemd => {
                format!("{}-{id}.slice", above.strip_suffix(".slice").unwrap_or(above))
            }
        };
        let invalid = |error: InvalidCgroupParent| InvalidGroup {
            value: error.to_string(),
            problem: "is none",
        };
        CgroupParent::try_from(name).map_err(invalid)
    }

    /// The pod's cgroup, as the cgroup driver has it.
    pub(crate) fn pod_group(
        &self,
        id: &SandboxId,
        spec: &SandboxSpec,
    ) -> Result<Group, InvalidGroup> {
        Group::of_parent(self.host.driver, &self.pod_cgroup(id, spec)?)
    }

    /// The directories of the cgroup of a pod that named none, where they are: made by nobody but davit, whatever a record says.
    pub(crate) fn own_cgroups(&self, id: &SandboxId) -> Vec<PathBuf> {
        let group = self.own_cgroup(id).and_then(|own| Group::of_parent(self.host.driver, &own));
        let files = group.map(|group| self.host.cgroups.procs_files(&group)).unwrap_or_default();
        files.iter().filter_map(|file| file.parent().map(Path::to_owned)).collect()
    }

    /// Where those directories would be, in every hierarchy.
    pub(crate) fn own_cgroup_places(&self, id: &SandboxId) -> Vec<PathBuf> {
        let group = self.own_cgroup(id).and_then(|own| Group::of_parent(self.host.driver, &own));
        let Ok(group) = group else { return Vec::new() };
        let hierarchies = self.host.cgroups.layout().hierarchies();
        hierarchies.map(|one| one.mount.join(group.path())).collect()
    }

    /// The copy of a handler's executable that shims are to start, if there is to be one.
    pub(crate) fn sealed(&self, handler: &Handler) -> Option<Arc<Copy>> {
        if self.host.selinux.is_some() { None } else { self.sealed.of(handler) }
    }

    /// Where the pod's network namespace is pinned.
    pub(crate) fn netns(&self, id: &SandboxId) -> PathBuf {
        self.config.netns_dir.join(format!("davit-{id}"))
    }
}
