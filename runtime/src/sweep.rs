//! What belongs to nobody any more: finding it, and removing it.
//!
//! Owns the comparison of what is there with what belongs to somebody, at the start, every so often, and when somebody asks. Removed is only what can be
//! proved to be davit's own and nobody's: it is below davit's root or a record there names it, it has the name that davit gives such a thing, it was
//! there when the pods and containers were listed after it, and none of them, living, coming or going, has its id. Everything else is named and
//! left alone: what looks like davit's where others may have theirs too may be another davit's.
//!
//! | what | where | proof | so it is |
//! |---|---|---|---|
//! | writable layer | `<root>/containers/<id>` | place and name | removed |
//! | a pod's `/dev/shm` | `<state>/shm/<id>` | place and name | unmounted and removed |
//! | network of a pod: record, addresses, link, host ports | `<root>/network/` | a record or a lease | detached |
//! | network namespace | where they are pinned | that pod's network record | released with the network |
//! | network namespace, link, cgroup of a pod without any record | shared with the host | none | named |
//! | half a pull, a layer of no image | `<root>/layers`, `<root>/images` | place and name | removed |
//! | anything else in these places | | none | named |
//! | a record that could not be read | `<state>/quarantine` | | kept for a person |

use crate::error::chain;
use crate::id::{ContainerId, SandboxId};
use crate::sandbox::release;
use crate::shared::Shared;
use crate::store::remove_tree;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// What is seen at a first look and not at a second, this much later, was on its way out.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// Something that nobody needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leftover {
    /// What a container wrote, which is no more.
    WritableLayer {
        /// Where.
        path: PathBuf,
    },
    /// The `/dev/shm` of a pod that is no more.
    SharedMemory {
        /// The pod.
        sandbox: SandboxId,
    },
    /// The network of a pod that is no more.
    Network {
        /// The pod.
        sandbox: SandboxId,
    },
    /// A pinned network namespace with a name that davit gives, of a pod that it does not know.
    NetworkNamespace {
        /// Where.
        path: PathBuf,
    },
    /// A pod's cgroup, of a pod that davit does not know.
    Cgroup {
        /// Where, in the first hierarchy that has it.
        path: PathBuf,
    },
    /// A link on davit's bridge with a name that davit gives, of a pod that it does not know.
    Link {
        /// Its name.
        name: String,
    },
    /// Something in a directory of davit's that has no name that davit gives.
    Foreign {
        /// Where.
        path: PathBuf,
    },
    /// A record that could not be read and was put aside. Never removed: a person may want to look.
    Quarantined {
        /// Where.
        path: PathBuf,
    },
}

impl std::fmt::Display for Leftover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::WritableLayer { path } => write!(f, "writable layer {}", path.display()),
            Self::SharedMemory { sandbox } => write!(f, "shared memory of pod {sandbox}"),
            Self::Network { sandbox } => write!(f, "network of pod {sandbox}"),
            Self::NetworkNamespace { path } => write!(f, "network namespace {}", path.display()),
            Self::Cgroup { path } => write!(f, "cgroup {}", path.display()),
            Self::Link { name } => write!(f, "link {name}"),
            Self::Foreign { path } => path.display().fmt(f),
            Self::Quarantined { path } => write!(f, "record {}", path.display()),
        }
    }
}

impl Leftover {
    /// Why davit leaves it where it is, whoever asks; `None` if it is davit's to remove.
    #[must_use]
    pub fn why_left(&self) -> Option<&'static str> {
        match self {
            Self::WritableLayer { .. } | Self::SharedMemory { .. } | Self::Network { .. } => None,
            Self::NetworkNamespace { .. } | Self::Cgroup { .. } | Self::Link { .. } => {
                Some("no record says that it was this davit's, and it may be another's")
            }
            Self::Foreign { .. } => Some("davit did not make it"),
            Self::Quarantined { .. } => Some("it is kept for a person to look at"),
        }
    }
}

/// What became of a leftover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Swept {
    /// It is gone.
    Removed,
    /// It was not to be removed, or could not be: why.
    Left(String),
}

/// What belongs to nobody, seen twice.
pub(crate) async fn leftovers(shared: &Arc<Shared>) -> BTreeSet<Leftover> {
    let first = look(shared, everything).await;
    if first.is_empty() {
        return first;
    }
    tokio::time::sleep(SECOND_LOOK).await;
    let second = look(shared, everything).await;
    first.intersection(&second).cloned().collect()
}

/// Removes what belongs to nobody; tells what became of each.
pub(crate) async fn sweep(shared: &Arc<Shared>) -> Vec<(Leftover, Swept)> {
    let mut all = Vec::new();
    for leftover in leftovers(shared).await {
        let swept = remove(shared, &leftover).await;
        match &swept {
            Swept::Removed => tracing::info!(%leftover, "swept: it belonged to nobody"),
            Swept::Left(why) => tracing::debug!(%leftover, why, "not swept"),
        }
        all.push((leftover, swept));
    }
    let layers = shared.images.sweep().await.layers;
    if !layers.is_empty() {
        tracing::info!(count = layers.len(), "swept: layers of no image");
    }
    all
}

/// Sweeps writable layers, pods' `/dev/shm` and the image store at the start, when only what a crash interrupted comes or goes, which has its place on disk: one look is
/// enough. Networks are put right by their own recovery, and what is only to be named can wait for whoever asks.
pub(crate) async fn at_start(shared: &Arc<Shared>) {
    for leftover in look(shared, places_of_its_own).await {
        match (leftover.why_left(), remove(shared, &leftover).await) {
            (None, Swept::Removed) => tracing::info!(%leftover, "swept: it belonged to nobody"),
            (None, Swept::Left(why)) => tracing::error!(%leftover, why, "could not be swept"),
            (Some(why), _) => tracing::warn!(%leftover, why, "left alone"),
        }
    }
    let report = shared.images.sweep().await;
    tracing::debug!(?report, "layers");
}

/// Sweeps every so often, for as long as the runtime lives.
pub(crate) fn spawn(shared: &Arc<Shared>) {
    let weak: Weak<Shared> = Arc::downgrade(shared);
    let every = shared.config.sweep_interval;
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(every).await;
            let Some(shared) = weak.upgrade() else { return };
            sweep(&shared).await;
            // What a burst has left free in the heap; some milliseconds at most, for a heap of that size.
            drop(tokio::task::spawn_blocking(davit_sys::memory::trim).await);
        }
    });
}

async fn remove(shared: &Arc<Shared>, leftover: &Leftover) -> Swept {
    let removed = match leftover {
        Leftover::WritableLayer { path } => {
            let path = path.clone();
            let removed = tokio::task::spawn_blocking(move || remove_tree(&path)).await;
            match removed {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(chain(&error)),
                Err(error) => Err(error.to_string()),
            }
        }
        Leftover::SharedMemory { sandbox } => {
            let released = release(sandbox, &shared.layout.shm(sandbox), None);
            released.map_err(|error| chain(&error))
        }
        Leftover::Network { sandbox } => {
            match shared.network.recorded_netns(sandbox) {
                // Its record, which goes with the network, is all that names it.
                Err(error) => Err(chain(&error)),
                Ok(pin) => match shared.network.detach(sandbox, None).await {
                    Ok(()) => release_pin(shared, sandbox, pin).map_err(|error| chain(&error)),
                    Err(error) => Err(chain(&error)),
                },
            }
        }
        Leftover::NetworkNamespace { .. }
        | Leftover::Cgroup { .. }
        | Leftover::Link { .. }
        | Leftover::Foreign { .. }
        | Leftover::Quarantined { .. } => Err(leftover.why_left().unwrap_or_default().to_owned()),
    };
    removed.map_or_else(Swept::Left, |()| Swept::Removed)
}

/// Takes away the pin of a pod's network namespace, as the pod's network record named it: only one that has the name that davit gives.
pub(crate) fn release_pin(
    shared: &Shared,
    sandbox: &SandboxId,
    pin: Option<PathBuf>,
) -> Result<(), crate::sandbox::StopSandboxError> {
    let own = shared.netns(sandbox);
    match pin {
        Some(pin) if pin.is_absolute() && pin.file_name() == own.file_name() => {
            release(sandbox, &shared.layout.shm(sandbox), Some(&pin))
        }
        Some(_) | None => Ok(()),
    }
}

/// First what there is, then whose it may be: what comes in between is claimed, and so is what goes.
type Look = fn(&Shared) -> io::Result<BTreeSet<Leftover>>;

async fn look(shared: &Arc<Shared>, look: Look) -> BTreeSet<Leftover> {
    let shared = Arc::clone(shared);
    let looked = tokio::task::spawn_blocking(move || look(&shared)).await;
    looked.unwrap_or_else(|ended| Err(ended.into())).unwrap_or_else(|error| {
        // Whose something is can't be said, so nothing is anybody's to remove.
        tracing::warn!(%error, "nothing is swept: the pods can't be listed");
        BTreeSet::new()
    })
}

fn everything(shared: &Shared) -> io::Result<BTreeSet<Leftover>> {
    let found = Found::now(shared);
    Ok(found.unclaimed(shared, claimed(shared)?))
}

fn places_of_its_own(shared: &Shared) -> io::Result<BTreeSet<Leftover>> {
    let (layers, memory) = (names(&shared.layout.writable_layers()), names(&shared.layout.shms()));
    let claimed = claimed(shared)?;
    let mut left = unclaimed_layers(shared, layers, &claimed);
    left.extend(unclaimed_memory(shared, memory, &claimed));
    Ok(left)
}

/// What those of `found` are that nobody has.
fn unclaimed(
    found: Vec<String>,
    claimed: &BTreeSet<String>,
    leftover: impl Fn(String) -> Option<Leftover>,
) -> BTreeSet<Leftover> {
    found.into_iter().filter(|name| !claimed.contains(name)).filter_map(leftover).collect()
}

fn unclaimed_memory(
    shared: &Shared,
    found: Vec<String>,
    claimed: &BTreeSet<String>,
) -> BTreeSet<Leftover> {
    unclaimed(found, claimed, |name| {
        let path = shared.layout.shms().join(&name);
        let sandbox = SandboxId::try_from(name);
        Some(
            sandbox
                .map_or(Leftover::Foreign { path }, |sandbox| Leftover::SharedMemory { sandbox }),
        )
    })
}

fn unclaimed_layers(
    shared: &Shared,
    found: Vec<String>,
    claimed: &BTreeSet<String>,
) -> BTreeSet<Leftover> {
    unclaimed(found, claimed, |name| {
        leftover_of_containers(&name, shared.layout.writable_layers().join(&name))
    })
}

/// What there is that may be a pod's or a container's, at one moment.
struct Found {
    writable: Vec<String>,
    memory: Vec<String>,
    networks: Vec<SandboxId>,
    namespaces: Vec<(SandboxId, PathBuf)>,
    cgroups: Vec<(SandboxId, PathBuf)>,
    links: Vec<String>,
    foreign: Vec<PathBuf>,
}

impl Found {
    fn now(shared: &Shared) -> Self {
        Self {
            writable: names(&shared.layout.writable_layers()),
            memory: names(&shared.layout.shms()),
            networks: shared.network.recorded(),
            namespaces: namespaces(&shared.config.netns_dir),
            cgroups: pod_cgroups(shared),
            links: shared.network.links(),
            foreign: shared.images.foreign(),
        }
    }

    fn unclaimed(self, shared: &Shared, mut claimed: BTreeSet<String>) -> BTreeSet<Leftover> {
        let mut left = unclaimed_layers(shared, self.writable, &claimed);
        left.extend(unclaimed_memory(shared, self.memory, &claimed));
        let networks = self.networks.into_iter();
        let networks: Vec<_> = networks.filter(|id| !claimed.contains(id.as_str())).collect();
        // What goes with them is not told twice.
        claimed.extend(networks.iter().map(ToString::to_string));
        let links: BTreeSet<String> = claimed
            .iter()
            .filter_map(|id| SandboxId::try_from(id.clone()).ok())
            .chain(shared.ahead.ids())
            .map(|id| crate::network::Network::link_of(&id))
            .collect();
        left.extend(networks.into_iter().map(|sandbox| Leftover::Network { sandbox }));
        let unknown = |id: &SandboxId| !claimed.contains(id.as_str());
        let namespaces = self.namespaces.into_iter().filter(|(id, _)| unknown(id));
        left.extend(namespaces.map(|(_, path)| Leftover::NetworkNamespace { path }));
        let cgroups = self.cgroups.into_iter().filter(|(id, _)| unknown(id));
        left.extend(cgroups.map(|(_, path)| Leftover::Cgroup { path }));
        let unknown = self.links.into_iter().filter(|name| !links.contains(name));
        left.extend(unknown.map(|name| Leftover::Link { name }));
        left.extend(self.foreign.into_iter().map(|path| Leftover::Foreign { path }));
        let quarantine = shared.layout.quarantine();
        let records = names(&quarantine).into_iter().map(|name| quarantine.join(name));
        left.extend(records.map(|path| Leftover::Quarantined { path }));
        left
    }
}

/// What something among the writable layers is that no container has.
fn leftover_of_containers(name: &str, path: PathBuf) -> Option<Leftover> {
    match ContainerId::try_from(name.to_owned()) {
        Ok(_) => Some(Leftover::WritableLayer { path }),
        // The file system's own, at its root.
        Err(_) if name == "lost+found" => None,
        Err(_) => Some(Leftover::Foreign { path }),
    }
}

/// The pins that are named as davit names them.
fn namespaces(directory: &Path) -> Vec<(SandboxId, PathBuf)> {
    let all = names(directory).into_iter();
    all.filter_map(|name| {
        let id = SandboxId::try_from(name.strip_prefix("davit-")?.to_owned()).ok()?;
        Some((id, directory.join(name)))
    })
    .collect()
}

/// The cgroups that are named as davit names those of pods which name none, each where it is first found.
fn pod_cgroups(shared: &Shared) -> Vec<(SandboxId, PathBuf)> {
    // Its place is the same for every pod but for the id in it.
    let Ok(any) = SandboxId::try_from("0".repeat(64)) else { return Vec::new() };
    let mut found = std::collections::BTreeMap::new();
    for pattern in shared.own_cgroup_places(&any) {
        let (Some(parent), Some(name)) = (pattern.parent(), pattern.file_name()) else { continue };
        let name = name.to_string_lossy();
        let Some((before, after)) = name.split_once(any.as_str()) else { continue };
        for name in names(parent) {
            let id = name.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
            if let Some(Ok(id)) = id.map(|id| SandboxId::try_from(id.to_owned())) {
                found.entry(id).or_insert_with(|| parent.join(name));
            }
        }
    }
    found.into_iter().collect()
}

/// The ids of all pods and containers that are, come or go: those that are known, and those that have a place on disk.
fn claimed(shared: &Shared) -> io::Result<BTreeSet<String>> {
    let mut claimed: BTreeSet<String> = BTreeSet::new();
    for pod in listed(&shared.layout.pods())? {
        claimed.extend(listed(&shared.layout.pods().join(&pod).join("containers"))?);
        claimed.insert(pod);
    }
    claimed.extend(shared.index.container_ids().into_iter().map(String::from));
    claimed.extend(shared.index.pod_ids().into_iter().map(String::from));
    Ok(claimed)
}

/// What may be looked at; what can't be listed is not looked at.
fn names(directory: &Path) -> Vec<String> {
    listed(directory).unwrap_or_default()
}

/// Every name in a directory; none if it is not there, or no directory.
fn listed(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(directory) {
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Ok(Vec::new());
        }
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string().ok());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_listed_is_told_from_what_is_not_there() {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir(top.path().join("pod")).unwrap();
        std::fs::File::create(top.path().join("file")).unwrap();
        let mut found = listed(top.path()).unwrap();
        found.sort();
        assert_eq!(found, ["file", "pod"]);
        assert!(listed(&top.path().join("gone")).unwrap().is_empty());
        assert!(listed(&top.path().join("file")).unwrap().is_empty());
        // A name that no file system holds stands for whatever else can be wrong.
        assert!(listed(&top.path().join("x".repeat(300))).is_err());
    }
}
