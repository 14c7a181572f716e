//! Putting the network right after a restart.
//!
//! Owns the comparison of records and leases with the pods that are alive; the undoing itself is [`super::Inner::detach`].

use super::record::{Phase, Provider, Record};
use super::{DetachError, Inner, Network, PluginError};
use crate::error::chain;
use crate::id::SandboxId;
use futures_util::stream::{self, StreamExt};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

/// How many pods are detached side by side: plugins are processes, and this is not the only thing a node does at start.
const SIDE_BY_SIDE: usize = 8;

/// What [`Network::recover`] did.
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

impl Network {
    /// Detaches every recorded pod that is not in `live`, frees leases that no record explains, writes the nftables table anew
    /// from the pods that are left, and calls CNI's GC where its version has it. To be called once, before any attach.
    pub async fn recover(&self, live: &[SandboxId]) -> RecoverReport {
        let (inner, live) = (Arc::clone(&self.inner), live.iter().cloned().collect());
        let task = tokio::spawn(async move { inner.recover(&live).await });
        let interrupted = || RecoverReport {
            problems: vec!["the task ended early".to_owned()],
            ..RecoverReport::default()
        };
        task.await.unwrap_or_else(|_| interrupted())
    }
}

impl Inner {
    async fn recover(self: &Arc<Self>, live: &BTreeSet<SandboxId>) -> RecoverReport {
        let mut report = RecoverReport::default();
        let found = match self.records.scan() {
            Ok(found) => found,
            Err(error) => {
                report.problems.push(format!("list network records: {error}"));
                return report;
            }
        };
        report.quarantined = found.quarantined;
        // One that was being detached has been answered: nobody will ask for it again.
        let stays = |record: &Record| live.contains(&record.id) && record.phase != Phase::Detaching;
        let (kept, dead): (Vec<Record>, Vec<Record>) = found.records.into_iter().partition(stays);
        let bridged =
            kept.iter().chain(&dead).any(|record| matches!(record.provider, Provider::Bridge(_)));
        self.detach_dead(dead, &mut report).await;
        self.free_leases(&kept, &mut report).await;
        let old = self.old_tables(&kept, &mut report);
        if bridged {
            let done = self.blocking(move |inner| inner.bridge.reinstall(&old)).await;
            report.problems.extend(done.and_then(Result::err).map(|error| chain(&error)));
        }
        self.collect_garbage(&kept, &mut report).await;
        report
    }

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

    /// A lease without a record: the record was put aside, or removed by hand.
    async fn free_leases(self: &Arc<Self>, kept: &[Record], report: &mut RecoverReport) {
        let known: BTreeSet<SandboxId> = kept
            .iter()
            .map(|record| record.id.clone())
            .chain(report.failed.iter().map(|error| error.id.clone()))
            .collect();
        let freed = self.blocking(move |inner| {
            let owners: BTreeSet<SandboxId> = inner.bridge.owners().into_iter().collect();
            owners
                .difference(&known)
                .filter_map(|id| inner.bridge.detach_now(id).err())
                .collect::<Vec<_>>()
        });
        report.problems.extend(freed.await.unwrap_or_default().iter().map(|error| chain(error)));
    }

    /// Tables that records name and the configuration no longer does; the records are moved to ours.
    fn old_tables(&self, kept: &[Record], report: &mut RecoverReport) -> Vec<String> {
        let mut old = BTreeSet::new();
        for record in kept {
            let mut record = record.clone();
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

    async fn collect_garbage(&self, kept: &[Record], report: &mut RecoverReport) {
        let Some(conf) = self.cni.current().conf.clone() else { return };
        let failed: BTreeSet<&SandboxId> = report.failed.iter().map(|error| &error.id).collect();
        // One that could not be detached is none that GC should take for gone: its DEL is still to come.
        let valid: Vec<SandboxId> = kept
            .iter()
            .filter(
                |record| matches!(&record.provider, Provider::Cni(cni) if cni.network == conf.name),
            )
            .map(|record| record.id.clone())
            .chain(failed.into_iter().cloned())
            .collect();
        report.gc = self.cni.gc(&conf, &valid).await;
    }
}
