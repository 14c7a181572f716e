//! The runtime that the configuration asks for, and the services that stand before it.
//!
//! Owns the translation from davit's configuration to the runtime's, and nothing after that.

use crate::config::{CgroupDriver, Config, MissingHostPaths};
use crate::metrics::Counters;
use crate::serve::{Opened, Services};
use crate::service::{Admin, Images, Keyring, RuntimeApi};
use crate::state;
use crate::streaming::{Limits, Server, Urls};
use anyhow::Context as _;
use davit_runtime::Runtime;
use davit_runtime::cgroup::Driver;
use davit_runtime::config::{Deadlines, RuntimeConfig};
use davit_runtime::image::ImagesConfig;
use davit_runtime::network::NetworkConfig;
use davit_runtime::oci::handlers::{HandlerConfig, HandlersConfig};
use davit_runtime::oci::{HostConfig, MissingSources};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where Debian puts the CNI plugins, looked in after the configured directory.
const DEBIAN_CNI: &str = "/usr/lib/cni";
/// Where an executable is looked for if the environment doesn't say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const SHIM: &str = "davit-shim";

/// Opens the runtime and makes the services; `urls` are those of the streams.
///
/// # Errors
/// In one line, what keeps it from working at all.
pub(crate) async fn open(config: Arc<Config>, urls: Urls) -> anyhow::Result<Opened> {
    let runtime = Runtime::open(runtime_config(&config)?).await?;
    let times = config.times();
    let limits = Limits { idle: times.stream_idle, creation: times.stream_creation };
    let streams = Server::new(urls.clone(), Arc::new(runtime.clone()), limits)?;
    let keyring = Keyring::new(config.registry_auth_file().map(Path::to_owned));
    let services = Services {
        runtime: RuntimeApi::new(runtime.clone(), urls.clone()),
        image: Images::new(runtime.clone(), keyring.clone()),
        davit: Admin::new(runtime.clone(), urls, keyring, Arc::clone(&config)),
    };
    let (counting, dumping, flushing) = (runtime.clone(), runtime.clone(), runtime.clone());
    Ok(Opened {
        announcement: announcement(&runtime),
        routes: services.routes(),
        streams,
        counters: Arc::new(move || Counters::of(&counting)),
        collectors: Arc::new(move || runtime.metrics().collectors()),
        state: Arc::new(move || state::of(&dumping, &config)),
        flush: Arc::new(move || {
            let runtime = flushing.clone();
            Box::pin(async move {
                runtime.flush_events().await;
                runtime.images().flush().await
            })
        }),
    })
}

/// What the runtime is to be, by this configuration.
///
/// # Errors
/// In one line: the shim is nowhere, or a value that the runtime has no use for.
pub(crate) fn runtime_config(config: &Config) -> anyhow::Result<RuntimeConfig> {
    let state = config.state().to_owned();
    let shim = shim(config)?;
    Ok(RuntimeConfig {
        root: config.root().to_owned(),
        netns_dir: config.netns_dir().to_owned(),
        shim: shim.clone(),
        shim_cgroup: Some(config.shim_cgroup().to_owned()),
        images: ImagesConfig {
            certs_dirs: vec![config.registry_config_dir().to_owned()],
            pull_progress_timeout: config.pull_progress_timeout(),
            limits: config.image_limits(),
            ..ImagesConfig::new(config.root().to_owned())
        },
        network: network(config),
        handlers: handlers(config, shim),
        pod_cgroup_parent: config.pod_cgroup_parent().clone(),
        criu: config.criu(),
        cdi_spec_dirs: config.cdi_spec_dirs(),
        host: HostConfig {
            cgroup_driver: driver(config.cgroup_driver()),
            missing_sources: match config.missing_host_paths() {
                MissingHostPaths::Create => MissingSources::Create,
                MissingHostPaths::Refuse => MissingSources::Refuse,
            },
        },
        max_log_line: config.max_log_line(),
        creations: config.max_creations(),
        pods_ahead: config.pods_ahead(),
        sweep_interval: config.sweep_interval(),
        events_retain: config.events_retain_count(),
        deadlines: Deadlines {
            shim: config.times().shim,
            runtime: config.times().runtime,
            start: config.times().start,
            ..Deadlines::default()
        },
        state,
    })
}

fn driver(configured: CgroupDriver) -> Option<Driver> {
    match configured {
        CgroupDriver::Auto => None,
        CgroupDriver::Cgroupfs => Some(Driver::Cgroupfs),
        CgroupDriver::Systemd => Some(Driver::Systemd),
    }
}

fn network(config: &Config) -> NetworkConfig {
    NetworkConfig {
        cni_conf_dir: config.cni_conf_dir().to_owned(),
        cni_bin_dirs: vec![config.cni_bin_dir().to_owned(), PathBuf::from(DEBIAN_CNI)],
        cni_timeout: config.times().cni,
        bridge: config.bridge(),
        ..NetworkConfig::new(config.root().join("network"))
    }
}

fn handlers(config: &Config, shim: PathBuf) -> HandlersConfig {
    let handler = |handler: crate::config::Handler| HandlerConfig {
        path: handler.path,
        root: handler.root,
        systemd_cgroup: handler.systemd_cgroup,
        args: handler.args,
        start_fifo: handler.start_fifo,
    };
    HandlersConfig {
        handlers: config
            .handlers()
            .into_iter()
            .map(|(name, value)| (name, handler(value)))
            .collect::<BTreeMap<_, _>>(),
        default: config.default_handler().map(str::to_owned),
        state: config.state().to_owned(),
        root: config.root().to_owned(),
        shim,
        path: std::env::var_os("PATH").unwrap_or_else(|| PATH.into()),
    }
}

/// The configured shim, else the one beside this executable, else the first in PATH.
fn shim(config: &Config) -> anyhow::Result<PathBuf> {
    if let Some(path) = config.shim() {
        anyhow::ensure!(path.is_file(), "shim: {} is not there", path.display());
        return Ok(path.to_owned());
    }
    let own = std::env::current_exe().context("find davit's own executable")?;
    let path = std::env::var_os("PATH").unwrap_or_else(|| PATH.into());
    let beside = own.parent().map(|directory| directory.join(SHIM));
    let in_path = std::env::split_paths(&path).map(|directory| directory.join(SHIM));
    let mut found = beside.into_iter().chain(in_path).filter(|candidate| candidate.is_file());
    found
        .next()
        .with_context(|| format!("shim: {SHIM} is neither beside {} nor in PATH", own.display()))
}

fn announcement(runtime: &Runtime) -> Vec<String> {
    let found = runtime.handlers().list().iter().map(|handler| {
        let what = format!("{} {} at {}", handler.name, handler.version, handler.path.display());
        match &handler.problem {
            None => format!("OCI runtime {what}"),
            Some(problem) => format!("OCI runtime {what} does not work here: {problem}"),
        }
    });
    let why = runtime.handlers().why_default().to_owned();
    let network = runtime.network().status();
    found
        .chain([
            why,
            format!(
                "network {}: {}",
                network.name,
                if network.ready { "ready" } else { &network.message }
            ),
        ])
        .collect()
}
