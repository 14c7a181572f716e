//! What belongs to nobody any more: finding it, and removing it.
//!
//! Owns the comparison of what is on disk with what there is, at the start, every so often, and when somebody asks. Removed is only what can be
//! proved to be davit's own and nobody's: it is below davit's root, it was there when the pods and containers were listed after it, and none of
//! them, living, coming or going, has its id. Everything else is named and left alone.

use crate::error::chain;
use crate::id::SandboxId;
use crate::shared::Shared;
use crate::store::remove_tree;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Between two looks: a leak costs disk, not correctness.
const EVERY: Duration = Duration::from_secs(600);
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
    /// The network of a pod that is no more.
    Network {
        /// The pod.
        sandbox: SandboxId,
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
            Self::Network { sandbox } => write!(f, "network of pod {sandbox}"),
            Self::Quarantined { path } => write!(f, "record {}", path.display()),
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
    let first = look(shared).await;
    if first.is_empty() {
        return first;
    }
    tokio::time::sleep(SECOND_LOOK).await;
    let second = look(shared).await;
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

/// Sweeps at the start, when only what a crash interrupted comes or goes, which has its place on disk: one look is enough. Networks have been put right
/// by their own recovery.
pub(crate) async fn at_start(shared: &Arc<Shared>) {
    for leftover in look(shared).await {
        match &leftover {
            Leftover::WritableLayer { .. } => match remove(shared, &leftover).await {
                Swept::Removed => tracing::info!(%leftover, "swept: it belonged to nobody"),
                Swept::Left(why) => tracing::error!(%leftover, why, "could not be swept"),
            },
            Leftover::Network { .. } | Leftover::Quarantined { .. } => {}
        }
    }
    let report = shared.images.sweep().await;
    tracing::debug!(?report, "layers");
}

/// Sweeps every so often, for as long as the runtime lives.
pub(crate) fn spawn(shared: &Arc<Shared>) {
    let weak: Weak<Shared> = Arc::downgrade(shared);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(EVERY).await;
            let Some(shared) = weak.upgrade() else { return };
            sweep(&shared).await;
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
        Leftover::Network { sandbox } => {
            shared.network.detach(sandbox, None).await.map_err(|error| chain(&error))
        }
        Leftover::Quarantined { .. } => Err("it is kept for a person to look at".to_owned()),
    };
    removed.map_or_else(Swept::Left, |()| Swept::Removed)
}

async fn look(shared: &Arc<Shared>) -> BTreeSet<Leftover> {
    let shared = Arc::clone(shared);
    let looked = tokio::task::spawn_blocking(move || {
        // First what there is on disk, then whose it may be: what comes in between is claimed, and so is what goes.
        let writable = names(&shared.layout.writable_layers());
        let networks = shared.network.recorded();
        let claimed = match claimed(&shared) {
            Ok(claimed) => claimed,
            Err(error) => {
                // Whose something is can't be said, so nothing is anybody's to remove.
                tracing::warn!(%error, "nothing is swept: the pods can't be listed");
                return BTreeSet::new();
            }
        };
        let unclaimed = |name: &String| !claimed.contains(name);
        let layers = writable.into_iter().filter(unclaimed).map(|name| Leftover::WritableLayer {
            path: shared.layout.writable_layers().join(name),
        });
        let networks = networks
            .into_iter()
            .filter(|sandbox| !claimed.contains(sandbox.as_str()))
            .map(|sandbox| Leftover::Network { sandbox });
        let quarantine = shared.layout.quarantine();
        let records = names(&quarantine)
            .into_iter()
            .map(|name| Leftover::Quarantined { path: quarantine.join(name) });
        layers.chain(networks).chain(records).collect()
    });
    looked.await.unwrap_or_default()
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
