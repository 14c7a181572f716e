//! The configuration that davit runs with: every key has its value, and the values make sense together.
//!
//! Owns the defaults. Whether one value makes sense by itself is its type's business ([`super::value`]), and whether they do together is
//! looked at in [`super::check`].

use super::access::Group;
use super::check::{self, Tls};
use super::layer::{self, Layer};
use super::load::{ConfigError, Sources};
use super::timeouts::Times;
use super::value::{
    AbsolutePath, CgroupDriver, Collector, HostPort, Listen, LogLevel, MissingHostPaths, Name,
    Share, Span,
};
use super::{bridge, images};
use davit_runtime::network::BridgeConfig;
use davit_runtime::sandbox::CgroupParent;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What davit runs with.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config {
    /// Every key with its value, those that have no default and were not given left out.
    full: Layer,
    /// The parent cgroup of pods that name none.
    pod_cgroup_parent: CgroupParent,
    /// Complete, if it was given at all.
    tls: Option<Tls>,
    /// The same.
    streaming_tls: Option<Tls>,
    /// The same.
    metrics_tls: Option<Tls>,
}

/// A runtime handler.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Handler {
    /// Its program; `None`: its name, looked up in PATH.
    pub(crate) path: Option<PathBuf>,
    /// Where it keeps its own state; `None`: below davit's.
    pub(crate) root: Option<PathBuf>,
    /// Its cgroups are systemd's; `None`: as [`Config::cgroup_driver`] says.
    pub(crate) systemd_cgroup: Option<bool>,
    /// Arguments that go before its commands.
    pub(crate) args: Vec<String>,
    /// `Some(false)`: containers are started by its `start`, whatever that does.
    pub(crate) start_fifo: Option<bool>,
}

/// The handlers that are looked for whether or not a `[handlers]` table names them.
pub(super) const WELL_KNOWN: [&str; 3] = ["crun", "runc", "youki"];

const ROOT: &str = "/var/lib/davit";
const STATE: &str = "/run/davit";
const SOCKET: &str = "davit.sock";
const CDI: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// A value for a key that was not given. The texts are constants, and a test reads every one of them.
fn or_default<T: std::str::FromStr>(given: Option<T>, text: &str) -> Option<T> {
    given.or_else(|| text.parse().ok())
}

impl Config {
    /// What these sources come to.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for values that make no sense together, with the source that gave the last word on the key.
    pub(crate) fn new(sources: &Sources) -> Result<Self, ConfigError> {
        let full = with_defaults(sources.merged());
        check::directories(&full, sources)?;
        check::handlers(&full, sources)?;
        check::limits(&full, sources)?;
        images::check(&full, sources)?;
        bridge::check(&full, sources)?;
        let tls = check::tls(&full, sources)?;
        let streaming_tls = check::streaming_tls(&full, sources)?;
        let metrics_tls = check::metrics_tls(&full, sources)?;
        let parent = full.pod_cgroup_parent.clone().unwrap_or_default();
        let pod_cgroup_parent = CgroupParent::try_from(parent.clone()).map_err(|problem| {
            let set = |layer: &Layer| layer.pod_cgroup_parent.is_some();
            sources.wrong(set, "pod_cgroup_parent", &parent, problem.to_string())
        })?;
        Ok(Self { full, pod_cgroup_parent, tls, streaming_tls, metrics_tls })
    }

    /// Every key with its value, for `davit config dump` and to compare two configurations.
    pub(crate) fn as_layer(&self) -> &Layer {
        &self.full
    }

    /// Where images and layers are kept.
    pub(crate) fn root(&self) -> &Path {
        path(self.full.root.as_ref(), ROOT)
    }

    /// Where this boot's records are kept.
    pub(crate) fn state(&self) -> &Path {
        path(self.full.state.as_ref(), STATE)
    }

    /// Where calls are taken; never empty.
    pub(crate) fn listen(&self) -> &[Listen] {
        self.full.listen.as_deref().unwrap_or_default()
    }

    /// The group that may call over `unix://`; `None`: root only.
    pub(crate) fn socket_group(&self) -> Option<&Group> {
        self.full.socket_group.as_ref()
    }

    /// What `tcp://` listeners show and demand.
    pub(crate) fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Where metrics are served.
    pub(crate) fn metrics_listen(&self) -> Option<SocketAddr> {
        self.full.metrics_listen.map(|HostPort(address)| address)
    }

    /// How often the status counters are logged; `None`: never.
    pub(crate) fn metrics_interval(&self) -> Option<Duration> {
        self.full.metrics_interval.map(Span::as_duration)
    }

    /// Where the streams of exec, attach and port-forward are served.
    pub(crate) fn streaming_listen(&self) -> SocketAddr {
        self.full.streaming_listen.map_or(STREAMING, |HostPort(address)| address)
    }

    /// What the streaming listener shows and demands; `None`: it speaks plain HTTP.
    pub(crate) fn streaming_tls(&self) -> Option<&Tls> {
        self.streaming_tls.as_ref()
    }

    /// What the metrics' listener shows and demands; `None`: it speaks plain HTTP.
    pub(crate) fn metrics_tls(&self) -> Option<&Tls> {
        self.metrics_tls.as_ref()
    }

    /// Where traces are sent; `None`: there are none.
    pub(crate) fn trace_collector(&self) -> Option<&str> {
        self.full.tracing.endpoint.as_ref().map(Collector::as_str)
    }

    /// The share of calls that are traced where the caller does not say.
    pub(crate) fn trace_share(&self) -> f64 {
        self.full.tracing.sampling.unwrap_or_default().get()
    }

    /// Where the pid is written.
    pub(crate) fn pidfile(&self) -> Option<&Path> {
        self.full.pidfile.as_ref().map(AbsolutePath::as_path)
    }

    /// Where CNI configurations are.
    pub(crate) fn cni_conf_dir(&self) -> &Path {
        path(self.full.cni_conf_dir.as_ref(), "/etc/cni/net.d")
    }

    /// Where CNI plugins are.
    pub(crate) fn cni_bin_dir(&self) -> &Path {
        path(self.full.cni_bin_dir.as_ref(), "/opt/cni/bin")
    }

    /// Where network namespaces are pinned.
    pub(crate) fn netns_dir(&self) -> &Path {
        path(self.full.netns_dir.as_ref(), "/run/netns")
    }

    /// Where registries' hosts.toml files are.
    pub(crate) fn registry_config_dir(&self) -> &Path {
        path(self.full.registry_config_dir.as_ref(), "/etc/davit/certs.d")
    }

    /// Where credentials are for pulls that bring none.
    pub(crate) fn registry_auth_file(&self) -> Option<&Path> {
        self.full.registry_auth_file.as_ref().map(AbsolutePath::as_path)
    }

    /// Whether containers can be checkpointed.
    pub(crate) fn criu(&self) -> bool {
        self.full.criu.unwrap_or(true)
    }

    /// Where CDI specifications are.
    pub(crate) fn cdi_spec_dirs(&self) -> Vec<PathBuf> {
        let given = self.full.cdi_spec_dirs.iter().flatten();
        given.map(|path| path.as_path().to_owned()).collect()
    }

    /// How long a pull may receive nothing.
    pub(crate) fn pull_progress_timeout(&self) -> Duration {
        span(self.full.pull_progress_timeout, 300)
    }

    /// The handler of pods that name none; `None`: the first of the well-known ones that works.
    pub(crate) fn default_handler(&self) -> Option<&str> {
        self.full.default_handler.as_ref().map(Name::as_str)
    }

    /// The handlers that were configured. crun, runc and youki are looked for besides.
    pub(crate) fn handlers(&self) -> BTreeMap<String, Handler> {
        let handler = |handler: &layer::Handler| Handler {
            path: handler.path.as_ref().map(|path| path.as_path().to_owned()),
            root: handler.root.as_ref().map(|path| path.as_path().to_owned()),
            systemd_cgroup: handler.systemd_cgroup,
            args: handler.args.clone().unwrap_or_default(),
            start_fifo: handler.start_fifo,
        };
        let named = self.full.handlers.iter();
        named.map(|(name, value)| (name.to_string(), handler(value))).collect()
    }

    /// The shim's program; `None`: `davit-shim` beside davit, else in PATH.
    pub(crate) fn shim(&self) -> Option<&Path> {
        self.full.shim.as_ref().map(AbsolutePath::as_path)
    }

    /// The cgroup that shims live in.
    pub(crate) fn shim_cgroup(&self) -> &str {
        self.full.shim_cgroup.as_ref().map_or("davit", Name::as_str)
    }

    /// Who makes cgroups.
    pub(crate) fn cgroup_driver(&self) -> CgroupDriver {
        self.full.cgroup_driver.unwrap_or(CgroupDriver::Auto)
    }

    /// The parent cgroup of pods that name none.
    pub(crate) fn pod_cgroup_parent(&self) -> &CgroupParent {
        &self.pod_cgroup_parent
    }

    /// What is done about a volume's path that isn't there.
    pub(crate) fn missing_host_paths(&self) -> MissingHostPaths {
        self.full.missing_host_paths.unwrap_or(MissingHostPaths::Create)
    }

    /// The longest line of a log, in bytes.
    pub(crate) fn max_log_line(&self) -> u32 {
        self.full.max_log_line.unwrap_or(16_384)
    }

    /// How often is swept.
    pub(crate) fn sweep_interval(&self) -> Duration {
        span(self.full.sweep_interval, SWEEP)
    }

    /// How many events are stored.
    pub(crate) fn events_retain_count(&self) -> usize {
        count(self.full.events_retain_count, EVENTS)
    }

    /// How many connections each listener serves at once.
    pub(crate) fn max_connections(&self) -> usize {
        count(self.full.limits.connections, CONNECTIONS)
    }

    /// How many calls are answered at once.
    pub(crate) fn max_calls(&self) -> usize {
        count(self.full.limits.calls, CALLS)
    }

    /// How many pods and containers are made or started at once.
    pub(crate) fn max_creations(&self) -> usize {
        count(self.full.limits.creations, CREATIONS)
    }

    /// For how many pods to come a shim and a network namespace are kept ready.
    pub(crate) fn pods_ahead(&self) -> usize {
        count(self.full.limits.pods_ahead, PODS_AHEAD)
    }

    /// How much of a registry's word is taken.
    pub(crate) fn image_limits(&self) -> davit_runtime::image::Limits {
        self.full.images.limits()
    }

    /// How much is logged; `debug` counts as the level of that name, and nothing less.
    pub(crate) fn log_level(&self) -> LogLevel {
        match (self.debug(), self.full.log_level) {
            (true, Some(LogLevel::Trace)) => LogLevel::Trace,
            (true, _) => LogLevel::Debug,
            (false, level) => level.unwrap_or(LogLevel::Info),
        }
    }

    /// Whether signals may ask for dumps of the state.
    pub(crate) fn debug(&self) -> bool {
        self.full.debug.unwrap_or(false)
    }

    /// The built-in network.
    pub(crate) fn bridge(&self) -> BridgeConfig {
        self.full.bridge.config()
    }

    /// How long others may take.
    pub(crate) fn times(&self) -> Times {
        self.full.timeouts.times()
    }
}

/// Seconds between two sweeps: a leak costs disk, not correctness.
const SWEEP: u64 = 600;
/// What containerd 0.2 kept: the lives of some dozens of pods.
const EVENTS: u32 = 500;
/// The kubelet has one, people at a shell a few.
const CONNECTIONS: u32 = 1024;
/// Endless ones included. The kubelet has a few dozen.
const CALLS: u32 = 4096;
/// Enough to keep some cores busy while others wait for plugins; few enough that a burst does not take the node's memory.
const CREATIONS: u32 = 16;
/// Pods come one or two at a time on a node that is not just starting.
const PODS_AHEAD: u32 = 2;
const STREAMING: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn path<'a>(given: Option<&'a AbsolutePath>, default: &'static str) -> &'a Path {
    given.map_or(Path::new(default), AbsolutePath::as_path)
}

fn span(given: Option<Span>, default: u64) -> Duration {
    given.unwrap_or(Span::seconds(default)).as_duration()
}

fn count(given: Option<u32>, default: u32) -> usize {
    usize::try_from(given.unwrap_or(default)).unwrap_or(usize::MAX)
}

/// Every key that has a default gets it, so that what is dumped is what is used. The getters' own defaults are the same (tested).
fn with_defaults(layer: Layer) -> Layer {
    let state = layer.state.as_ref().map_or(STATE.to_owned(), ToString::to_string);
    let listen = format!("unix://{state}/{SOCKET}").parse().ok().map(|listen| vec![listen]);
    Layer {
        root: or_default(layer.root, ROOT),
        state: or_default(layer.state, STATE),
        listen: layer.listen.filter(|listen| !listen.is_empty()).or(listen),
        socket_group: layer.socket_group,
        metrics_listen: layer.metrics_listen,
        metrics_interval: layer.metrics_interval,
        streaming_listen: layer.streaming_listen.or(Some(HostPort(STREAMING))),
        pidfile: layer.pidfile,
        cni_conf_dir: or_default(layer.cni_conf_dir, "/etc/cni/net.d"),
        cni_bin_dir: or_default(layer.cni_bin_dir, "/opt/cni/bin"),
        netns_dir: or_default(layer.netns_dir, "/run/netns"),
        registry_config_dir: or_default(layer.registry_config_dir, "/etc/davit/certs.d"),
        registry_auth_file: layer.registry_auth_file,
        criu: layer.criu.or(Some(true)),
        cdi_spec_dirs: layer.cdi_spec_dirs.or_else(|| {
            let directories = CDI.iter().filter_map(|directory| directory.parse().ok());
            Some(directories.collect())
        }),
        pull_progress_timeout: layer.pull_progress_timeout.or(Some(Span::seconds(300))),
        default_handler: layer.default_handler,
        shim: layer.shim,
        shim_cgroup: or_default(layer.shim_cgroup, "davit"),
        cgroup_driver: layer.cgroup_driver.or(Some(CgroupDriver::Auto)),
        pod_cgroup_parent: layer.pod_cgroup_parent.or_else(|| Some("davit-pods".to_owned())),
        missing_host_paths: layer.missing_host_paths.or(Some(MissingHostPaths::Create)),
        max_log_line: layer.max_log_line.or(Some(16_384)),
        sweep_interval: layer.sweep_interval.or(Some(Span::seconds(SWEEP))),
        events_retain_count: layer.events_retain_count.or(Some(EVENTS)),
        log_level: layer.log_level.or(Some(LogLevel::Info)),
        debug: layer.debug.or(Some(false)),
        bridge: layer.bridge.with_defaults(),
        timeouts: layer.timeouts.with_defaults(),
        limits: layer::Limits {
            connections: layer.limits.connections.or(Some(CONNECTIONS)),
            calls: layer.limits.calls.or(Some(CALLS)),
            creations: layer.limits.creations.or(Some(CREATIONS)),
            pods_ahead: layer.limits.pods_ahead.or(Some(PODS_AHEAD)),
        },
        images: layer.images.with_defaults(),
        tls: layer.tls,
        streaming_tls: layer.streaming_tls,
        metrics_tls: layer.metrics_tls,
        tracing: layer::Tracing {
            endpoint: layer.tracing.endpoint,
            sampling: layer.tracing.sampling.or(Some(Share::default())),
        },
        handlers: layer.handlers,
    }
}
