//! Pod networks: CNI when it is configured, a bridge of our own when it is not.
//!
//! Owns every attachment of a pod to a network, from before the first change until the last undo has succeeded: the record
//! (`record.rs`), the CNI client (`cni/`), the built-in bridge (`bridge/`). Does not own network namespaces: whoever makes one pins it
//! and says where.
//!
//! Invariants:
//! - A record is written before anything is done and removed after everything is undone. It holds all that an undo needs, so a pod
//!   can be detached whatever the configuration says by then, and with its namespace gone.
//! - After any attempt to attach that failed, everything is undone: a plugin that failed or was killed may have done half.
//! - Work runs in tasks of its own, to its end: a caller that goes away leaves nothing half made. Per sandbox one operation at a time;
//!   sandboxes do not wait for each other.
//!
//! ```text
//! attach ─► turn ─► plan ─► record ─┬─► cni: lo, ADD…    ─┬─► record: attached
//!                                   └─► bridge: veth, nft ─┴─► (failed) undo ─► no record
//! detach ─► turn ─► record? ─┬─► cni: DEL… reversed ─► no record
//!                            └─► bridge: host ports gone ─► answered ─► reaper: links, leases ─► no record
//! ```

mod ahead;
mod attachment;
mod bridge;
mod child;
mod cni;
mod config;
mod conntrack;
mod defaults;
mod error;
mod examine;
mod files;
mod netfilter;
mod netlink;
mod nftables;
mod owed;
mod record;
mod recover;
mod status;
mod sysctl;
#[cfg(test)]
mod tests;
mod turn;

use ahead::Kind;
pub(crate) use ahead::NetworkAhead;
pub use attachment::{Attached, Attachment};
pub use bridge::BridgeError;
pub use bridge::firewall::FirewallError;
pub use bridge::ipam::IpamError;
pub use bridge::ports::PortError;
pub use child::ChildError;
pub use cni::{ArgsError, PluginError, PluginFailure, ResultError, Verb};
pub use config::{BridgeConfig, InvalidConfig, NetworkConfig};
pub(crate) use defaults::{defaults, new_namespace};
pub use error::{AttachCause, AttachError, DetachCause, DetachError, OpenError, PodCidrError};
pub(crate) use examine::examine;
pub use netlink::NetlinkError;
pub use recover::{RecoverReport, Recovery};
pub use status::{NetworkStatus, PodCidrOutcome};

use crate::error::chain;
use crate::id::SandboxId;
use crate::metrics::CniCalls;
use crate::shortage::is_shortage;
use bridge::ports::Owner;
use bridge::{Bridge, Ranges};
use cni::Cni;
use ipnet::IpNet;
use owed::Owed;
use record::{BridgeRecord, CniRecord, Phase, Provider, Record, Records};
use rustix::fs::statfs;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use turn::{Gate, Turns};

/// `f_type` of a pinned namespace: a bind mount of nsfs (`NSFS_MAGIC`).
const NSFS: i64 = 0x6e73_6673;

/// How long plugins that are nobody's any more are looked for.
const ORPHANS: Duration = Duration::from_secs(10);

/// The network of this node's pods. A clone is another handle to the same.
#[derive(Debug, Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: NetworkConfig,
    cni: Arc<Cni>,
    bridge: Bridge,
    records: Records,
    turns: Turns,
    gate: Gate,
    owed: Owed,
    runtime: Handle,
}

impl Network {
    /// Reads records, leases and configuration; attaches and makes nothing. Links are made in the network namespace of the thread that
    /// this runs on.
    ///
    /// # Errors
    /// [`OpenError`]. A CNI folder that is not there is none.
    pub(crate) async fn open(
        config: NetworkConfig,
        measured: Arc<CniCalls>,
    ) -> Result<Self, OpenError> {
        let runtime = Handle::current();
        let opened =
            tokio::task::spawn_blocking(move || Inner::open(config, runtime, measured)).await;
        let inner = Arc::new(opened.unwrap_or(Err(OpenError::Interrupted))?);
        Ok(Self { inner })
    }

    /// Attaches a pod. A pod that is attached already is answered the same again.
    ///
    /// # Errors
    /// [`AttachError`]; nothing of the attempt is left then (or the error says what).
    pub async fn attach(&self, attachment: Attachment) -> Result<Attached, AttachError> {
        self.attach_to(attachment, None).await
    }

    /// [`Self::attach`], where the pod's namespace is one that was made ahead for it.
    pub(crate) async fn attach_to(
        &self,
        attachment: Attachment,
        ahead: Option<NetworkAhead>,
    ) -> Result<Attached, AttachError> {
        let (inner, id) = (Arc::clone(&self.inner), attachment.id.clone());
        let task = tokio::spawn(async move {
            let _turn = inner.turns.take(&attachment.id).await;
            let _place = inner.gate.enter().await;
            inner.attach(&attachment, ahead).await
        });
        task.await.unwrap_or(Err(AttachError { id, cause: AttachCause::Interrupted, undo: None }))
    }

    /// Detaches a pod, as its record says it was attached; one that is not attached is as good as detached. `netns`: where its
    /// namespace is by now; `None`: where it was. It may be gone.
    ///
    /// With the built-in bridge, host ports are closed when this returns; link and addresses follow within some 30 ms ([`Self::settle`]).
    ///
    /// # Errors
    /// [`DetachError`]; the record is left, and another call tries again.
    pub async fn detach(&self, id: &SandboxId, netns: Option<&Path>) -> Result<(), DetachError> {
        let (inner, id, netns) = (Arc::clone(&self.inner), id.clone(), netns.map(Path::to_owned));
        let told = id.clone();
        let task = tokio::spawn(async move { inner.detach(&id, netns.as_deref()).await });
        task.await.unwrap_or(Err(DetachError { id: told, cause: DetachCause::Interrupted }))
    }

    /// The pods that have a network, or had one that is not undone yet, or an address and nothing else. Blocks. None if the records can't be
    /// listed: nothing can be said then.
    #[must_use]
    pub fn recorded(&self) -> Vec<SandboxId> {
        let Ok(mut ids) = self.inner.records.ids() else { return Vec::new() };
        ids.extend(self.inner.bridge.owners());
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Where the network namespace of a pod was, by its record. Blocks.
    ///
    /// # Errors
    /// A want of descriptors or memory. A record that makes no sense names none.
    pub fn recorded_netns(&self, id: &SandboxId) -> std::io::Result<Option<PathBuf>> {
        match self.inner.records.load(id) {
            Err(error) if is_shortage(&error) => Err(error),
            record => Ok(record.ok().flatten().map(|record| record.netns)),
        }
    }

    /// The links on the built-in bridge that are named as pods' are.
    #[must_use]
    pub fn links(&self) -> Vec<String> {
        bridge::pod_links(&self.inner.config.bridge.name)
    }

    /// The name that a pod's link has on the built-in bridge.
    #[must_use]
    pub fn link_of(id: &SandboxId) -> String {
        bridge::link_of(id)
    }

    /// Removes the built-in bridge and its firewall table, if no pod is on it any more.
    ///
    /// # Errors
    /// The kernel's, or nft's.
    pub async fn purge(&self) -> Result<(), BridgeError> {
        self.settle().await;
        let purged = self.inner.blocking(|inner| inner.bridge.purge()).await;
        purged.unwrap_or(Err(BridgeError::Interrupted))
    }

    /// Waits until nothing is left of the pods that were detached before.
    pub async fn settle(&self) {
        self.inner.bridge.reaper.idle().await;
    }
}

impl Inner {
    fn open(
        config: NetworkConfig,
        runtime: Handle,
        measured: Arc<CniCalls>,
    ) -> Result<Self, OpenError> {
        config::validate(&config)?;
        let state = |source| OpenError::State { dir: config.state.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&config.state).map_err(state)?;
        let records = Records::new(config.state.clone());
        let subnets = status::kept_subnets(&config).map_err(state)?;
        let mut group = [0; 4];
        getrandom::fill(&mut group).map_err(OpenError::NoRandomness)?;
        // Group 0 is where all links are.
        let group = u32::from_ne_bytes(group) >> 1 | 1;
        let leases = config.state.join("leases");
        let found = records.scan().map_err(state)?;
        let given: Vec<IpNet> = found.records.iter().flat_map(Record::subnets).collect();
        let ranges = Ranges::at_start(subnets, &given);
        let bridge = Bridge::open(config.bridge.clone(), ranges, leases, group)
            .map_err(OpenError::Bridge)?;
        let cni = Cni::new(&config, measured);
        for path in &found.quarantined {
            tracing::error!(path = %path.display(), "put aside a network record that is none");
        }
        for record in &found.records {
            remember(&bridge, record);
        }
        let (turns, gate, owed) = (Turns::default(), Gate::default(), Owed::default());
        Ok(Self { config, cni: Arc::new(cni), bridge, records, turns, gate, owed, runtime })
    }

    async fn attach(
        self: &Arc<Self>,
        attachment: &Attachment,
        ahead: Option<NetworkAhead>,
    ) -> Result<Attached, AttachError> {
        let failed = |cause, undo| AttachError { id: attachment.id.clone(), cause, undo };
        if let Some(attached) =
            self.earlier(attachment).await.map_err(|cause| failed(cause, None))?
        {
            return Ok(attached);
        }
        let mut record = self.plan(attachment).map_err(|cause| failed(cause, None))?;
        self.records.save(&record).map_err(|source| failed(AttachCause::Record(source), None))?;
        let done = self.act(attachment, &record, ahead).await.and_then(|attached| {
            let Attached { ips, mac, result } = attached.clone();
            record.phase = Phase::Attached { ips, mac, result };
            self.records.save(&record).map_err(AttachCause::Record)?;
            Ok(attached)
        });
        match done {
            Ok(attached) => Ok(attached),
            Err(cause) => Err(failed(cause, self.undo(&record, None).await.err())),
        }
    }

    /// What an earlier attach of the same sandbox left: its answer if it succeeded, else nothing once it is undone.
    async fn earlier(
        self: &Arc<Self>,
        attachment: &Attachment,
    ) -> Result<Option<Attached>, AttachCause> {
        let Some(record) = self.records.load(&attachment.id).map_err(AttachCause::Record)? else {
            return Ok(None);
        };
        match &record.phase {
            Phase::Attached { .. } if record.netns != attachment.netns => {
                return Err(AttachCause::Elsewhere { attached: record.netns });
            }
            Phase::Attached { ips, mac, result } => {
                return Ok(Some(Attached {
                    ips: ips.clone(),
                    mac: mac.clone(),
                    result: result.clone(),
                }));
            }
            Phase::Detaching => self.bridge.reaper.idle().await,
            Phase::Attaching => self.end_orphans(&record).await,
        }
        self.undo(&record, None).await.map_err(|error| AttachCause::Earlier(Box::new(error)))?;
        Ok(None)
    }

    fn plan(&self, attachment: &Attachment) -> Result<Record, AttachCause> {
        let loaded = self.cni.current();
        let provider = match &loaded.conf {
            Some(conf) => Provider::Cni(Box::new(Cni::record(conf, attachment)?)),
            None if self.is_bridged(&loaded) => Provider::Bridge(BridgeRecord {
                table: self.config.bridge.table.clone(),
                ports: attachment.port_mappings.clone(),
            }),
            None => return Err(AttachCause::NotReady(self.no_network(&loaded.problems))),
        };
        Ok(Record {
            version: record::VERSION,
            id: attachment.id.clone(),
            key: attachment.key.clone(),
            netns: attachment.netns.clone(),
            provider,
            phase: Phase::Attaching,
        })
    }

    /// Whether pods' networks are the built-in one: no file says anything of plugins, be it wrong.
    fn is_bridged(&self, loaded: &cni::Loaded) -> bool {
        !loaded.any_file && self.config.bridge.enabled
    }

    async fn act(
        self: &Arc<Self>,
        attachment: &Attachment,
        record: &Record,
        ahead: Option<NetworkAhead>,
    ) -> Result<Attached, AttachCause> {
        match &record.provider {
            Provider::Cni(cni) => self.act_cni(attachment, cni, ahead).await,
            Provider::Bridge(_) => match self.act_bridge(attachment, ahead).await {
                // Addresses of pods on their way out are about to be free.
                Err(BridgeError::Address(IpamError::Exhausted { .. })) => {
                    self.bridge.reaper.idle().await;
                    let undone = self.blocking({
                        let id = attachment.id.clone();
                        move |inner| inner.bridge.detach_now(&id)
                    });
                    undone.await.unwrap_or(Ok(()))?;
                    Ok(self.act_bridge(attachment, None).await?)
                }
                done => Ok(done?),
            },
        }
    }

    async fn act_cni(
        self: &Arc<Self>,
        attachment: &Attachment,
        record: &CniRecord,
        ahead: Option<NetworkAhead>,
    ) -> Result<Attached, AttachCause> {
        let netns = attachment.netns.clone();
        let up = self.blocking(move |_| match ahead {
            // Up already. Plugins may have been configured this very moment.
            Some(ahead) => bridge::without_link(ahead),
            None => bridge::bring_up_loopback(&netns),
        });
        up.await.ok_or(AttachCause::Interrupted)?.map_err(AttachCause::Loopback)?;
        let added = self.cni.add(record, &attachment.id, &attachment.netns).await?;
        Ok(Attached { ips: added.ips, mac: added.mac, result: added.result })
    }

    async fn act_bridge(
        self: &Arc<Self>,
        attachment: &Attachment,
        ahead: Option<NetworkAhead>,
    ) -> Result<Attached, BridgeError> {
        let mut owner =
            Owner { id: attachment.id.clone(), key: attachment.key.clone(), ips: Vec::new() };
        let (netns, ports) = (attachment.netns.clone(), attachment.port_mappings.clone());
        let given = self
            .blocking(move |inner| inner.bridge.attach(&mut owner, &netns, &ports, ahead))
            .await;
        let given = given.unwrap_or(Err(BridgeError::Interrupted))?;
        Ok(Attached { ips: given.ips, mac: Some(given.mac), result: given.result })
    }

    async fn detach(
        self: &Arc<Self>,
        id: &SandboxId,
        netns: Option<&Path>,
    ) -> Result<(), DetachError> {
        let _turn = self.turns.take(id).await;
        let failed = |cause| DetachError { id: id.clone(), cause };
        let Some(record) = self.records.load(id).map_err(|error| failed(error.into()))? else {
            return self.free(id).await.map_err(failed);
        };
        match record.provider {
            Provider::Cni(_) => {
                self.end_orphans(&record).await;
                self.undo(&record, netns).await
            }
            Provider::Bridge(_) => self.leave_bridge(record).await.map_err(failed),
        }
    }

    /// Before DEL of what was being attached, and not by this daemon: whose turn it is has no plugin running.
    async fn end_orphans(self: &Arc<Self>, record: &Record) {
        if !matches!((&record.phase, &record.provider), (Phase::Attaching, Provider::Cni(_))) {
            return;
        }
        let id = record.id.clone();
        let ended = self.blocking(move |_| cni::orphans::end(&id));
        // The kernel keeps whoever reads of a process that hangs in it waiting.
        match tokio::time::timeout(ORPHANS, ended).await.ok().flatten() {
            Some(0) => {}
            ended => {
                tracing::warn!(sandbox = %record.id, ?ended, "CNI plugins that an earlier daemon began were ended")
            }
        }
    }

    /// An address without a record: the record, written before and removed after it, was taken away by somebody else.
    async fn free(self: &Arc<Self>, id: &SandboxId) -> Result<(), DetachCause> {
        if !self.bridge.owners().contains(id) {
            return Ok(());
        }
        let id = id.clone();
        let freed = self.blocking(move |inner| inner.bridge.detach_now(&id)).await;
        Ok(freed.ok_or(DetachCause::Interrupted)??)
    }

    /// Closes host ports and leaves the rest to the reaper.
    async fn leave_bridge(self: &Arc<Self>, mut record: Record) -> Result<(), DetachCause> {
        record.phase = Phase::Detaching;
        if let Err(error) = self.records.save(&record) {
            // A disk without room must not keep a pod from being stopped: all of it now, and there is nothing to remember.
            tracing::warn!(id = %record.id, %error, "the record of a pod's network could not be written");
            return self.undo(&record, None).await.map_err(|error| error.cause);
        }
        let left = self.blocking(move |inner| {
            inner.bridge.unpublish(&record.id)?;
            let finish = Arc::clone(inner);
            inner
                .bridge
                .reaper
                .bury(&record.id, Arc::new(move |id, deleted| finish.buried(id, deleted)));
            Ok(())
        });
        left.await.unwrap_or(Err(DetachCause::Interrupted))
    }

    fn buried(&self, id: &SandboxId, deleted: Result<(), NetlinkError>) {
        let released = deleted.map_err(BridgeError::from).and_then(|()| self.bridge.release(id));
        let removed =
            released.map_err(DetachCause::from).and_then(|()| Ok(self.records.remove(id)?));
        if let Err(error) = removed {
            // Nobody waits for it: the record stays, and `recover` or another detach goes on.
            tracing::error!(%id, error = chain(&error), "remove what is left of a pod's network");
        }
    }

    /// Undoes all of a record, now, and removes it.
    async fn undo(
        self: &Arc<Self>,
        record: &Record,
        netns: Option<&Path>,
    ) -> Result<(), DetachError> {
        let failed = |cause| DetachError { id: record.id.clone(), cause };
        match &record.provider {
            Provider::Bridge(_) => {
                let id = record.id.clone();
                let gone = self.blocking(move |inner| inner.bridge.detach_now(&id)).await;
                gone.ok_or_else(|| failed(DetachCause::Interrupted))?
                    .map_err(|error| failed(error.into()))?;
            }
            Provider::Cni(cni) => {
                let netns =
                    [netns, Some(&record.netns)].into_iter().flatten().find(|path| is_netns(path));
                let result = match &record.phase {
                    Phase::Attached { result, .. } => Some(result),
                    Phase::Attaching | Phase::Detaching => None,
                };
                let failures = self.cni.del(cni, &record.id, netns, result).await;
                if !failures.is_empty() {
                    return Err(failed(DetachCause::Plugins(failures)));
                }
            }
        }
        self.records.remove(&record.id).map_err(|error| failed(error.into()))
    }

    /// Runs `work` where it may block; `None` if it panicked.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Self>) -> T + Send + 'static,
    ) -> Option<T> {
        let inner = Arc::clone(self);
        tokio::task::spawn_blocking(move || work(&inner)).await.ok()
    }
}

/// A live pod's host ports are its own again.
fn remember(bridge: &Bridge, record: &Record) {
    let (Provider::Bridge(bridged), Phase::Attached { ips, .. }) =
        (&record.provider, &record.phase)
    else {
        return;
    };
    let owner = Owner { id: record.id.clone(), key: record.key.clone(), ips: ips.clone() };
    if let Err(error) = bridge.remember(&owner, &bridged.ports) {
        tracing::error!(id = %record.id, error = chain(&error), "claim a recorded pod's host ports");
    }
}

/// What is left of a pin once its namespace is gone is an empty file, which plugins would trip over.
fn is_netns(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.f_type == NSFS)
}
