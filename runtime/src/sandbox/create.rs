//! A pod's creation: a list of steps, each with its undo.
//!
//! Owns the order. The record says `Creating` before anything is made and `Ready` after everything is: that write is the commit point. What
//! fails before it, and what a crash before it has left, is undone by [`super::undoing`].

use super::error::RunSandboxError;
use super::shim::Shim;
use super::{NetworkMode, PidMode, SandboxSpec, files, teardown, undoing};
use crate::ahead::{PodAhead, ShimAhead};
use crate::cgroup::Group;
use crate::clock;
use crate::id::SandboxId;
use crate::network::{Attachment, DetachError, NetworkAhead};
use crate::oci::handlers::UserNamespaces;
use crate::oci::sealed::Copy;
use crate::shared::Shared;
use crate::shim::{SpawnError, spawn};
use crate::store::{SandboxPhase, SandboxRecord, ShimRecord, VERSION, reach, write_json};
use crate::undo::Undo;
use davit_proto::disk::{self, ShimConfig};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A pod that has come to be.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) record: SandboxRecord,
    pub(super) shim: Shim,
}

/// The default size of a pod's `/dev/shm`, which every peer has.
const SHM_SIZE: u64 = 64 << 20;

/// Makes the pod, or leaves nothing of it.
pub(super) async fn create(
    shared: &Arc<Shared>,
    id: SandboxId,
    spec: Arc<SandboxSpec>,
    waiting: Option<PodAhead>,
) -> Result<Made, RunSandboxError> {
    let handler = shared.handlers.get(&spec.handler)?;
    if let (Some(_), UserNamespaces::No(why)) = (&spec.userns, &handler.features.user_namespaces) {
        let (handler, why) = (handler.name.clone(), why.clone());
        return Err(RunSandboxError::UserNamespaces { handler, why });
    }
    let (waiting, network) =
        waiting.map_or((None, None), |waiting| (Some(waiting.shim), waiting.network));
    let start = ShimStart { sealed: shared.sealed(handler), waiting };
    let handler = handler.name.clone();
    let has_netns = spec.network == NetworkMode::Pod;
    let mut record = SandboxRecord {
        version: VERSION,
        netns: has_netns.then(|| shared.netns(&id)),
        id,
        spec: SandboxSpec::clone(&spec),
        handler,
        created_at: clock::now(),
        phase: SandboxPhase::Creating,
        shim: None,
        ips: Vec::new(),
        cgroups: Vec::new(),
        trouble: None,
    };
    let mut undo = Undo::default();
    match Box::pin(steps(shared, &mut record, (start, network), &mut undo)).await {
        Ok(shim) => Ok(Made { record, shim }),
        Err(error) => {
            undoing::take_back(shared, record, undo).await;
            Err(error)
        }
    }
}

/// How its shim comes to be.
struct ShimStart {
    sealed: Option<Arc<Copy>>,
    /// One that waits for this pod.
    waiting: Option<ShimAhead>,
}

impl ShimStart {
    fn go(
        self,
        executable: &Path,
        directory: &Path,
        config: &ShimConfig,
    ) -> Result<ShimRecord, SpawnError> {
        let sealed = self.sealed.as_deref();
        let given = self.waiting.map(|shim| shim.give(directory, config, sealed)).transpose()?;
        given.flatten().map_or_else(|| spawn(executable, directory, config, sealed), Ok)
    }
}

/// After a pod comes its first container, if the client need not be waited for.
const NEXT_CALL: Duration = Duration::from_millis(40);

async fn steps(
    shared: &Arc<Shared>,
    record: &mut SandboxRecord,
    (start, ahead): (ShimStart, Option<NetworkAhead>),
    undo: &mut Undo<'static>,
) -> Result<Shim, RunSandboxError> {
    let directory = shared.layout.pod(&record.id);
    let record_file = shared.layout.sandbox_record(&record.id);
    let steps = &shared.metrics.steps;
    let step = steps.run_record.begin();
    crate::store::ensure_dir(&shared.layout.containers(&record.id))?;
    reach("run.directory")?;
    write_json(&record_file, record)?;
    reach("run.record")?;
    files::write(&directory, record)?;
    reach("run.files")?;

    drop(step);
    let group = shared.pod_group(&record.id, &record.spec)?;
    let (shim, ips) = match attachment(record, &group) {
        Some(attachment) if has_early_netns(record) => {
            let ahead = ahead.filter(|ahead| shared.network.fits(ahead));
            let made = ahead.as_ref().and_then(|ahead| ahead.descriptor().ok());
            let ahead = ahead.filter(|_| made.is_some());
            let made = made.map_or_else(crate::network::new_namespace, Ok);
            davit_sys::pin::new_network(made, &attachment.netns)?;
            let (id, netns) = (record.id.clone(), attachment.netns.clone());
            undo.push(undoing::NETNS, async move { teardown::unpin(&id, &netns) });
            undo.push(undoing::NETWORK, detach(shared, record));
            reach("run.netns")?;
            // Both are awaited whatever becomes of one: what is under way can't be undone.
            let attached = network(shared, attachment, ahead);
            let (ips, shim) = tokio::join!(attached, shim(shared, record, &group, start, undo));
            (shim?, ips?)
        }
        Some(attachment) => {
            let shim = shim(shared, record, &group, start, undo).await?;
            undo.push(undoing::NETWORK, detach(shared, record));
            (shim, network(shared, attachment, None).await?)
        }
        None => (shim(shared, record, &group, start, undo).await?, Vec::new()),
    };
    record.ips = ips;
    let _step = steps.run_commit.begin();
    record.phase = SandboxPhase::Ready;
    write_json(&record_file, record)?;
    reach("run.committed")?;
    Ok(shim)
}

/// The pod's cgroup and its shim, until that serves.
async fn shim(
    shared: &Arc<Shared>,
    record: &mut SandboxRecord,
    group: &Group,
    start: ShimStart,
    undo: &mut Undo<'static>,
) -> Result<Shim, RunSandboxError> {
    // The init of a shared PID namespace moves there, where it can.
    let first = record.spec.pid == PidMode::Pod;
    if first {
        cgroup(shared, record, group, undo).await?;
    }
    let netns = record.netns.clone();
    let step = shared.metrics.steps.run_shim.begin();
    let config = shim_config(shared, record, group);
    let directory = shared.layout.pod(&record.id);
    let started = start.go(&shared.config.shim, &directory, &config);
    record.shim = started.as_ref().ok().copied();
    // With what was started: the record on the disk may not come to know it. One that failed may have begun.
    undo.push(
        undoing::SHIM,
        teardown::unborn_shim(Arc::clone(shared), record.id.clone(), netns, record.shim),
    );
    started?;
    reach("run.shim")?;
    write_json(&shared.layout.sandbox_record(&record.id), record)?;
    reach("run.shim_record")?;
    // While the shim comes up.
    if !first {
        cgroup(shared, record, group, undo).await?;
    }
    // Its first container's.
    shared.moves.expect(NEXT_CALL);
    let found = Shim::connect(shared, &record.id, record.shim).await;
    drop(step);
    let shim = found.map_err(RunSandboxError::Shim)?.shim;
    reach("run.connected")?;
    Ok(shim)
}

/// The pod's cgroup.
async fn cgroup(
    shared: &Arc<Shared>,
    record: &mut SandboxRecord,
    group: &Group,
    undo: &mut Undo<'static>,
) -> Result<(), RunSandboxError> {
    let _step = shared.metrics.steps.run_cgroup.begin();
    // A failure in there leaves nothing; what was there before is not ours to remove, which only the record knows after a crash.
    record.cgroups = shared.host.cgroups.ensure(group).await?.made;
    undo.push(undoing::CGROUP, teardown::cgroups(Arc::clone(shared), record.cgroups.clone()));
    reach("run.cgroup")?;
    write_json(&shared.layout.sandbox_record(&record.id), record)?;
    reach("run.cgroup_record")?;
    Ok(())
}

/// Attaches the pod to its network: its addresses.
async fn network(
    shared: &Arc<Shared>,
    attachment: Attachment,
    ahead: Option<NetworkAhead>,
) -> Result<Vec<IpAddr>, RunSandboxError> {
    let _step = shared.metrics.steps.run_network.begin();
    let attached = shared.network.attach_to(attachment, ahead).await?;
    reach("run.attached")?;
    Ok(attached.ips)
}

fn detach(
    shared: &Arc<Shared>,
    record: &SandboxRecord,
) -> impl Future<Output = Result<(), DetachError>> + Send + use<> {
    teardown::network(Arc::clone(shared), record.id.clone(), record.netns.clone())
}

/// Whether the network namespace is made here, so that the network is set up while the shim comes up. The shim makes one that a
/// user namespace of its own is to own, and one whose parameters are to be set.
fn has_early_netns(record: &SandboxRecord) -> bool {
    record.netns.is_some() && is_early(&record.spec)
}

fn is_early(spec: &SandboxSpec) -> bool {
    spec.userns.is_none() && spec.sysctls.is_empty()
}

/// Whether a pod can have what was made ahead: its network is none, or one that the shim need not make. The links that wait have the pod's name already.
pub(crate) fn can_wait(spec: &SandboxSpec) -> bool {
    spec.network != NetworkMode::Pod || is_early(spec)
}

/// What is attached; `None` for a pod on the host's network.
fn attachment(record: &SandboxRecord, group: &Group) -> Option<Attachment> {
    Some(Attachment {
        id: record.id.clone(),
        key: record.spec.key.clone(),
        netns: record.netns.clone()?,
        port_mappings: record.spec.port_mappings.clone(),
        dns: record.spec.dns.clone(),
        annotations: record.spec.annotations.clone(),
        labels: record.spec.labels.clone(),
        cgroup_path: Some(group.path().display().to_string()),
    })
}

fn shim_config(shared: &Shared, record: &SandboxRecord, group: &Group) -> ShimConfig {
    let spec = &record.spec;
    ShimConfig {
        version: disk::VERSION,
        sandbox: record.id.to_string(),
        hostname: (spec.network == NetworkMode::Pod).then(|| files::hostname(record)),
        netns: record.netns.clone().filter(|_| !has_early_netns(record)),
        ipc: !spec.host_ipc,
        shared_pid: spec.pid == PidMode::Pod,
        shm: (!spec.host_ipc).then(|| shared.layout.shm(&record.id)),
        shm_size: SHM_SIZE,
        sysctls: spec.sysctls.clone(),
        optional_sysctls: optional_sysctls(record),
        cgroup_procs: shared.shim_procs.clone(),
        pod_cgroup_procs: shared.host.cgroups.procs_beside(group, &shared.shim_procs),
        oom_score_adj: Some(shared.host.lowest_oom_score_adj),
        userns: spec.userns.clone(),
        userns_rootfs: spec.userns.is_some().then(|| shared.layout.userns_rootfs()),
    }
}

/// What the pod's network namespace has unless the pod says otherwise, if the shim makes that.
fn optional_sysctls(record: &SandboxRecord) -> BTreeMap<String, String> {
    let spec = &record.spec;
    if record.netns.is_none() || has_early_netns(record) {
        return BTreeMap::new();
    }
    let all = crate::network::defaults(spec.userns.as_ref());
    let others = all.filter(|(name, _)| !spec.sysctls.contains_key(name));
    others.map(|(name, value)| (name, value.to_owned())).collect()
}
