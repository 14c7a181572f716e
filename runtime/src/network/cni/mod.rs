//! The CNI client, spec 1.1.
//!
//! Owns which configuration counts now, and the order of plugin calls: ADD through the chain, DEL back through it. What DEL needs comes
//! from the pod's record, never from the configuration of today. There is no lock over networks: plugins of different pods run
//! side by side, and what they share they guard themselves.

mod args;
pub(super) mod conf;
pub(super) mod orphans;
mod plugin;
mod result;
mod versions;

pub use args::ArgsError;
pub use plugin::{PluginError, PluginFailure, Verb};
pub use result::ResultError;

pub(super) use versions::versions;

use super::record::CniRecord;
use super::{Attachment, NetworkConfig};
use crate::id::SandboxId;
use crate::metrics::CniCalls;
pub(super) use conf::Loaded;
use conf::{Fingerprint, NetworkConf, at_least};
use plugin::{Call, Pod};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// How old the plugins' last word on their status may be before they are asked again.
const STATUS_AGE: Duration = Duration::from_secs(5);

/// What ADD gave.
#[derive(Debug)]
pub(super) struct Added {
    pub(super) ips: Vec<IpAddr>,
    pub(super) mac: Option<String>,
    pub(super) result: Value,
}

#[derive(Debug, Default)]
struct Health {
    /// Of which configuration.
    conf: Option<NetworkConf>,
    asked: Option<Instant>,
    running: bool,
    /// `Some`: not ready.
    problem: Option<String>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Cni {
    conf_dir: PathBuf,
    bin_dirs: Vec<PathBuf>,
    deadline: Duration,
    measured: Arc<CniCalls>,
    seen: Mutex<(Option<Fingerprint>, Arc<Loaded>)>,
    health: Mutex<Health>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cni {
    pub(super) fn new(config: &NetworkConfig, measured: Arc<CniCalls>) -> Self {
        Self {
            conf_dir: config.cni_conf_dir.clone(),
            bin_dirs: config.cni_bin_dirs.clone(),
            deadline: config.cni_timeout,
            measured,
            seen: Mutex::default(),
            health: Mutex::default(),
        }
    }

    /// A plugin's type.
    pub(super) fn kind(plugin: &Map<String, Value>) -> &str {
        plugin::kind(plugin)
    }

    /// The configuration as it is on disk now.
    pub(super) fn current(&self) -> Arc<Loaded> {
        let mut seen = lock(&self.seen);
        let read = conf::fingerprint(&self.conf_dir).and_then(|now| {
            let known = seen.0.as_ref() == Some(&now);
            if known { Ok(None) } else { conf::load(&now).map(|loaded| Some((now, loaded))) }
        });
        match read {
            Ok(None) => {}
            Ok(Some((now, loaded))) => *seen = (Some(now), Arc::new(loaded)),
            // Whoever asks next tries again.
            Err(error) => {
                let problem = format!("read {}: {error}", self.conf_dir.display());
                let unreadable = Loaded { any_file: true, conf: None, problems: vec![problem] };
                *seen = (None, Arc::new(unreadable));
            }
        }
        Arc::clone(&seen.1)
    }

    /// What is written down before ADD.
    pub(super) fn record(
        conf: &NetworkConf,
        attachment: &Attachment,
    ) -> Result<CniRecord, ArgsError> {
        let capabilities = args::capabilities(attachment)?;
        let served = |plugin: &Map<String, Value>| {
            plugin.get("capabilities").and_then(|all| all.get("portMappings")).is_some()
        };
        if capabilities.contains_key("portMappings") && !conf.plugins.iter().any(served) {
            tracing::warn!(network = conf.name, pod = %attachment.key, "no CNI plugin maps host ports: the pod's are not published");
        }
        Ok(CniRecord {
            network: conf.name.clone(),
            cni_version: conf.cni_version.clone(),
            source: conf.source.clone(),
            plugins: conf.plugins.clone(),
            args: args::cni_args(attachment)?,
            capabilities,
        })
    }

    /// ADD by each plugin in turn, each told the result of the one before. After an error DEL is due.
    pub(super) async fn add(
        &self,
        record: &CniRecord,
        id: &SandboxId,
        netns: &Path,
    ) -> Result<Added, PluginError> {
        let call = self.call(Verb::Add, record, id, Some(netns));
        let mut previous: Option<(&Map<String, Value>, Value)> = None;
        for plugin in &record.plugins {
            let told = previous
                .take()
                .map(|(_, result)| result)
                .filter(|_| at_least(&record.cni_version, "0.3.0"));
            let said = call.run(plugin, told.map(|result| ("prevResult", result))).await?;
            let parsed = result::parse(&said, &record.cni_version);
            let result = parsed.map_err(|error| call.failed(plugin, error.into()))?;
            previous = Some((plugin, result));
        }
        let Some((last, result)) = previous else {
            return Err(call.failed(&Map::new(), ResultError::NoAddress.into()));
        };
        let summary = result::summary(&result).map_err(|error| call.failed(last, error.into()))?;
        Ok(Added { ips: summary.ips, mac: summary.mac, result })
    }

    /// DEL by each plugin, the last first; goes on after failures and tells them all.
    pub(super) async fn del(
        &self,
        record: &CniRecord,
        id: &SandboxId,
        netns: Option<&Path>,
        result: Option<&Value>,
    ) -> Vec<PluginError> {
        let call = self.call(Verb::Del, record, id, netns);
        let result = result.filter(|_| at_least(&record.cni_version, "0.4.0"));
        let mut failures = Vec::new();
        for plugin in record.plugins.iter().rev() {
            let told = result.map(|result| ("prevResult", result.clone()));
            failures.extend(call.run(plugin, told).await.err());
        }
        failures
    }

    /// Whether garbage is to be collected: wanted, and known to the version of the plugins.
    pub(super) fn has_gc(conf: &NetworkConf) -> bool {
        !conf.disable_gc && at_least(&conf.cni_version, "1.1.0")
    }

    /// GC, where the spec version has it: all that belongs to no pod in `valid` goes. What takes longer than `time`, all plugins together, is cut off.
    pub(super) async fn gc(
        &self,
        conf: &NetworkConf,
        valid: &[SandboxId],
        time: Duration,
    ) -> Vec<PluginError> {
        let end = Instant::now() + time.min(self.deadline);
        let attachments: Vec<Value> = valid
            .iter()
            .map(|id| json!({"containerID": id, "ifname": super::bridge::link::POD_LINK}))
            .collect();
        let mut failures = Vec::new();
        for plugin in &conf.plugins {
            let told = ("cni.dev/valid-attachments", Value::Array(attachments.clone()));
            let left = end.saturating_duration_since(Instant::now());
            let call = Call { deadline: left, ..self.about_network(Verb::Gc, conf) };
            failures.extend(call.run(plugin, Some(told)).await.err());
        }
        failures
    }

    /// Why pods can't be attached to `conf` now; `None`: nothing is known against it. Never waits: plugins that have a STATUS verb are
    /// asked in the background, and their last word is told.
    pub(super) fn problem(
        self: &Arc<Self>,
        conf: &NetworkConf,
        runtime: &Handle,
    ) -> Option<String> {
        let missing = conf
            .plugins
            .iter()
            .map(plugin::kind)
            .find(|kind| plugin::find(kind, &self.bin_dirs).is_none());
        if let Some(kind) = missing {
            return Some(format!(
                "CNI plugin {kind} of {} is not in {:?}",
                conf.source.display(),
                self.bin_dirs
            ));
        }
        if !at_least(&conf.cni_version, "1.1.0") {
            return None;
        }
        let mut health = lock(&self.health);
        if health.conf.as_ref() != Some(conf) {
            *health = Health { conf: Some(conf.clone()), ..Health::default() };
        }
        let due = health.asked.is_none_or(|asked| asked.elapsed() >= STATUS_AGE);
        if due && !health.running {
            health.running = true;
            let (cni, conf) = (Arc::clone(self), conf.clone());
            drop(runtime.spawn(async move { cni.ask_status(conf).await }));
        }
        health.problem.clone()
    }

    async fn ask_status(&self, conf: NetworkConf) {
        let mut problem = None;
        for plugin in &conf.plugins {
            if let Err(error) = self.about_network(Verb::Status, &conf).run(plugin, None).await
                && !knows_no_status(&error)
            {
                problem = Some(crate::error::chain(&error));
                break;
            }
        }
        let mut health = lock(&self.health);
        // The configuration may have changed meanwhile: its own question is on the way then.
        if health.conf.as_ref() == Some(&conf) {
            health.problem = problem;
            health.asked = Some(Instant::now());
            health.running = false;
        }
    }

    fn call<'a>(
        &'a self,
        verb: Verb,
        record: &'a CniRecord,
        id: &'a SandboxId,
        netns: Option<&'a Path>,
    ) -> Call<'a> {
        Call {
            verb,
            network: &record.network,
            cni_version: &record.cni_version,
            pod: Some(Pod { id: id.as_str(), netns, args: &record.args }),
            capabilities: &record.capabilities,
            bin_dirs: &self.bin_dirs,
            deadline: self.deadline,
            measured: &self.measured,
        }
    }

    fn about_network<'a>(&'a self, verb: Verb, conf: &'a NetworkConf) -> Call<'a> {
        const NONE: &BTreeMap<String, Value> = &BTreeMap::new();
        Call {
            verb,
            network: &conf.name,
            cni_version: &conf.cni_version,
            pod: None,
            capabilities: NONE,
            bin_dirs: &self.bin_dirs,
            deadline: self.deadline,
            measured: &self.measured,
        }
    }
}

/// A plugin older than its list: codes 1 (version) and 4 (environment: an unknown command) say that it can't tell.
fn knows_no_status(error: &PluginError) -> bool {
    matches!(error.failure, PluginFailure::Said { code: Some(1 | 4), .. })
}
