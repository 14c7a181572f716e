//! Which pods and containers there are, and what they are called.
//!
//! Owns names and ids, and the way to each pod's task. A name is taken by the same insertion that makes the pod findable and freed by
//! the removal that ends it: there is no second list of names that could outlive the first.

use super::handle::PodHandle;
use super::{SandboxKey, SandboxView};
use crate::container::ContainerView;
use crate::id::{ContainerId, SandboxId};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

/// An id from outside that leads nowhere.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LookupError {
    /// Nothing has it.
    #[error("no {what} has the id {id:?}")]
    Unknown {
        /// `pod sandbox` or `container`.
        what: &'static str,
        /// As it was asked for.
        id: String,
    },
    /// More than one begins with it.
    #[error("the id {id:?} is ambiguous: {count} of kind {what} begin with it")]
    Ambiguous {
        /// `pod sandbox` or `container`.
        what: &'static str,
        /// As it was asked for.
        id: String,
        /// How many.
        count: usize,
    },
}

const POD: &str = "pod sandbox";
const CONTAINER: &str = "container";

#[derive(Debug, Default)]
struct Entries {
    pods: BTreeMap<SandboxId, PodHandle>,
    names: HashMap<SandboxKey, SandboxId>,
    containers: BTreeMap<ContainerId, SandboxId>,
}

/// The index. Its lock is held for look-ups only, never across an await.
#[derive(Debug, Default)]
pub(crate) struct Index {
    entries: RwLock<Entries>,
}

impl Index {
    fn read<T>(&self, look: impl FnOnce(&Entries) -> T) -> T {
        look(&self.entries.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut Entries) -> T) -> T {
        change(&mut self.entries.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// The pod that has this key, or, if there is none, the one that `make` makes, which has it from now on.
    pub(crate) fn pod_of_key<E>(
        &self,
        key: &SandboxKey,
        make: impl FnOnce() -> Result<(SandboxId, PodHandle), E>,
    ) -> Result<(SandboxId, PodHandle), E> {
        self.write(|entries| {
            if let Some((id, handle)) =
                entries.names.get(key).and_then(|id| entries.pods.get_key_value(id))
            {
                return Ok((id.clone(), handle.clone()));
            }
            let (id, handle) = make()?;
            entries.names.insert(key.clone(), id.clone());
            entries.pods.insert(id.clone(), handle.clone());
            Ok((id, handle))
        })
    }

    /// Forgets a pod: its name is free.
    pub(crate) fn remove_pod(&self, id: &SandboxId, key: &SandboxKey) {
        self.write(|entries| {
            entries.pods.remove(id);
            if entries.names.get(key) == Some(id) {
                entries.names.remove(key);
            }
            entries.containers.retain(|_, sandbox| sandbox != id);
        });
    }

    pub(crate) fn add_container(&self, id: &ContainerId, sandbox: &SandboxId) {
        self.write(|entries| entries.containers.insert(id.clone(), sandbox.clone()));
    }

    pub(crate) fn remove_container(&self, id: &ContainerId) {
        self.write(|entries| entries.containers.remove(id));
    }

    /// The pod whose id is, or alone begins with, `id`.
    pub(crate) fn pod(&self, id: &str) -> Result<(SandboxId, PodHandle), LookupError> {
        self.read(|entries| {
            let (id, handle) = by_prefix(&entries.pods, id, SandboxId::as_str, POD)?;
            Ok((id.clone(), handle.clone()))
        })
    }

    /// The container whose id is, or alone begins with, `id`, and its pod.
    pub(crate) fn container(&self, id: &str) -> Result<(ContainerId, PodHandle), LookupError> {
        self.read(|entries| {
            let (found, sandbox) =
                by_prefix(&entries.containers, id, ContainerId::as_str, CONTAINER)?;
            let handle = entries.pods.get(sandbox).ok_or_else(|| unknown(CONTAINER, id))?;
            Ok((found.clone(), handle.clone()))
        })
    }

    /// All pods that others may see.
    pub(crate) fn views(&self) -> Vec<Arc<SandboxView>> {
        self.read(|entries| entries.pods.values().filter_map(PodHandle::view).collect())
    }

    /// The ids of all pods, those that are coming included.
    pub(crate) fn pod_ids(&self) -> Vec<SandboxId> {
        self.read(|entries| entries.pods.keys().cloned().collect())
    }

    /// The ids of all containers.
    pub(crate) fn container_ids(&self) -> Vec<ContainerId> {
        self.read(|entries| entries.containers.keys().cloned().collect())
    }
}

/// The one container of this view with this id.
pub(crate) fn container_in(
    view: &SandboxView,
    id: &ContainerId,
) -> Result<Arc<ContainerView>, LookupError> {
    view.containers.get(id).cloned().ok_or_else(|| unknown(CONTAINER, id.as_str()))
}

pub(crate) fn unknown(what: &'static str, id: &str) -> LookupError {
    LookupError::Unknown { what, id: id.to_owned() }
}

fn by_prefix<'a, K: Ord, V>(
    map: &'a BTreeMap<K, V>,
    prefix: &str,
    text: impl Fn(&K) -> &str,
    what: &'static str,
) -> Result<(&'a K, &'a V), LookupError> {
    // An empty id names nothing, not everything.
    let mut matches =
        map.iter().filter(|(key, _)| !prefix.is_empty() && text(key).starts_with(prefix));
    let first = matches.next().ok_or_else(|| unknown(what, prefix))?;
    match matches.count() {
        0 => Ok(first),
        more => Err(LookupError::Ambiguous { what, id: prefix.to_owned(), count: more + 1 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(ids: &[&str], prefix: &str) -> Result<String, String> {
        let map: BTreeMap<String, ()> = ids.iter().map(|id| ((*id).to_owned(), ())).collect();
        by_prefix(&map, prefix, String::as_str, POD)
            .map(|(id, ())| id.clone())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn an_id_is_found_by_any_prefix_that_only_it_has() {
        assert_eq!(find(&["abc", "abd", "b"], "abc").unwrap(), "abc");
        assert_eq!(find(&["abc", "abd", "b"], "b").unwrap(), "b");
        assert_eq!(
            find(&["abc", "abd"], "ab").unwrap_err(),
            "the id \"ab\" is ambiguous: 2 of kind pod sandbox begin with it"
        );
        assert_eq!(find(&["abc"], "x").unwrap_err(), "no pod sandbox has the id \"x\"");
        assert_eq!(find(&["abc"], "").unwrap_err(), "no pod sandbox has the id \"\"");
    }
}
