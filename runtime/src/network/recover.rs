//! Putting the network right after a restart.
//!
//! Owns the comparison of records and leases with the pods that are alive; the undoing itself is [`super::Inner::detach`]. What has to be known before the
//! first attach is found at once; what takes time, since plugins are processes and the kernel takes links down as it likes, is done beside all else.
//!
//! ```text
//! begin: who is dead, which leases are nobody's ──► serve ──► attach, detach…
//!          └──────────────────────────────────────► finish: DEL of the dead, leases, table, GC (alone) ──► owed: what failed, again and again
//! ```

use super::cni::Cni;
use super::owed::SIDE_BY_SIDE;
use super::record::{Phase, Provider, Record};
use super::{DetachError, Inner, Network, PluginError};
use crate::error::chain;
use crate::id::SandboxId;
use futures_util::stream::{self, StreamExt};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long GC may hold up those who want to attach, while it waits for those who do.
const ALONE: Duration = Duration::from_secs(2);
/// How long GC itself may take, plugins together: who attaches waits meanwhile.
const GC: Duration = Duration::from_secs(10);

/// What [`Recovery::finish`] did.
#[derive(Debug, Default)]
pub struct RecoverReport {
    /// Pods that are gone and no longer attached.
    pub detached: Vec<SandboxId>,
    /// Pods that are gone and could not be detached; their records are left.
    pub failed: Vec<DetachError>,
    /// Records that could not be read, under their new names.
    pub quarantined: Vec<PathBuf>,
    /// What plugins said to GC.
    pub gc: Vec<PluginError>,
    /// Anything else that went wrong, in words.
    pub problems: Vec<String>,
}

/// What is to be put right, found before any attach.
#[derive(Debug)]
pub struct Recovery {
    inner: Arc<Inner>,
    /// Recorded pods that are not alive.
    dead: Vec<Record>,
    /// Who has leases and no record: it was put aside, or removed by hand.
    strays: Vec<SandboxId>,
    /// Tables that records named and the configuration no longer does.
    old_tables: Vec<String>,
    /// There is a pod on the built-in bridge, or was.
    bridged: bool,
    report: RecoverReport,
}

impl Network {
    /// Both halves of the recovery, one after the other.
    pub async fn recover(&self, live: &[SandboxId]) -> RecoverReport {
        self.begin_recovery(live).await.finish().await
    }

    /// Finds every recorded pod that is not in `live`, and leases that no record explains. To be called once, before any attach. Runs no plugin.
    pub async fn begin_recovery(&self, live: &[SandboxId]) -> Recovery {
        let live: BTreeSet<SandboxId> = live.iter().cloned().collect();
        let begun = self.inner.blocking(move |inner| Recovery::begin(inner, &live)).await;
        begun.unwrap_or_else(|| {
            let mut nothing = Recovery::nothing(&self.inner);
            nothing.report.problems.push("the task ended early".to_owned());
            nothing
        })
    }
}

impl Recovery {
    fn nothing(inner: &Arc<Inner>) -> Self {
        Self {
            inner: Arc::clone(inner),
            dead: Vec::new(),
            strays: Vec::new(),
            old_tables: Vec::new(),
            bridged: false,
            report: RecoverReport::default(),
        }
    }

    fn begin(inner: &Arc<Inner>, live: &BTreeSet<SandboxId>) -> Self {
        let mut recovery = Self::nothing(inner);
        let found = match inner.records.scan() {
            Ok(found) => found,
            Err(error) => {
                recovery.report.problems.push(format!("list network records: {error}"));
                return recovery;
            }
        };
        recovery.report.quarantined = found.quarantined;
        recovery.bridged =
            found.records.iter().any(|record| matches!(record.provider, Provider::Bridge(_)));
        let known: BTreeSet<SandboxId> =
            found.records.iter().map(|record| record.id.clone()).collect();
        let owners: BTreeSet<SandboxId> = inner.bridge.owners().into_iter().collect();
        // A pod that runs has its address, whatever became of its record.
        let strays = owners.difference(&known).filter(|id| !live.contains(*id));
        recovery.strays = strays.cloned().collect();
        // One that was being detached has been answered: nobody will ask for it again.
        let stays = |record: &Record| live.contains(&record.id) && record.phase != Phase::Detaching;
        let (kept, dead) = found.records.into_iter().partition(stays);
        recovery.old_tables = inner.old_tables(kept, &mut recovery.report);
        recovery.dead = dead;
        recovery
    }

    /// Recorded pods that are not alive, which [`Recovery::finish`] will detach, and where their network namespaces were.
    pub fn dead(&self) -> impl Iterator<Item = (&SandboxId, &Path)> {
        self.dead.iter().map(|record| (&record.id, record.netns.as_path()))
    }

    /// Detaches the dead, frees leases that no record explains, writes the nftables table anew from the pods that are left, and calls CNI's GC where
    /// its version has it. Others may attach and detach meanwhile.
    pub async fn finish(self) -> RecoverReport {
        let Self { inner, dead, strays, old_tables, bridged, mut report } = self;
        inner.detach_dead(dead, &mut report).await;
        let freed = inner
            .blocking(move |inner| {
                let failures = strays.iter().filter_map(|id| inner.bridge.detach_now(id).err());
                failures.map(|error| chain(&error)).collect::<Vec<_>>()
            })
            .await;
        report.problems.extend(freed.unwrap_or_default());
        if bridged {
            let done = inner.blocking(move |inner| inner.bridge.reinstall(&old_tables)).await;
            report.problems.extend(done.and_then(Result::err).map(|error| chain(&error)));
        }
        report.gc = inner.collect_garbage().await;
        report
    }
}

impl Inner {
    async fn detach_dead(self: &Arc<Self>, dead: Vec<Record>, report: &mut RecoverReport) {
        let mut outcomes = stream::iter(dead)
            .map(|record| async move { self.detach(&record.id, None).await.map(|()| record.id) })
            .buffer_unordered(SIDE_BY_SIDE);
        while let Some(outcome) = outcomes.next().await {
            match outcome {
                Ok(id) => report.detached.push(id),
                Err(error) => report.failed.push(error),
            }
        }
        self.bridge.reaper.idle().await;
        for id in &report.detached {
            if !matches!(self.records.load(id), Ok(None)) {
                report.problems.push(format!("record of {id} is left; see the log"));
            }
        }
    }

    /// Tables that records name and the configuration no longer does; the records are moved to ours.
    fn old_tables(&self, kept: Vec<Record>, report: &mut RecoverReport) -> Vec<String> {
        let mut old = BTreeSet::new();
        for mut record in kept {
            let Provider::Bridge(bridged) = &mut record.provider else { continue };
            if bridged.table != self.config.bridge.table {
                old.insert(std::mem::replace(&mut bridged.table, self.config.bridge.table.clone()));
                let saved = self.records.save(&record);
                report.problems.extend(
                    saved.err().map(|error| format!("keep record of {}: {error}", record.id)),
                );
            }
        }
        old.into_iter().collect()
    }

    /// One that could not be detached has a record, so GC does not take it for gone: its DEL is still to come.
    async fn collect_garbage(self: &Arc<Self>) -> Vec<PluginError> {
        let conf = self.cni.current().conf.clone().filter(Cni::has_gc);
        let Some(conf) = conf else { return Vec::new() };
        // Whoever comes to attach waits behind this, so a plugin that hangs must not hold it up. What is not collected now is at another start.
        let Ok(_alone) = tokio::time::timeout(ALONE, self.gate.clear()).await else {
            tracing::info!("networks are being made: CNI's GC is left to the next start");
            return Vec::new();
        };
        let name = conf.name.clone();
        // Who can't be told is not in question: nothing is collected then.
        let Some(Some(valid)) = self.blocking(move |inner| inner.attached_to(&name)).await else {
            return Vec::new();
        };
        self.cni.gc(&conf, &valid, GC).await
    }

    /// Who has a record of this CNI network; `None` if that can't be said.
    fn attached_to(&self, network: &str) -> Option<Vec<SandboxId>> {
        let mut attached = Vec::new();
        for id in self.records.ids().ok()? {
            let record = self.records.load(&id).ok()?;
            let of_network = record.is_some_and(
                |record| matches!(&record.provider, Provider::Cni(cni) if cni.network == network),
            );
            attached.extend(of_network.then_some(id));
        }
        Some(attached)
    }
}
