//! The configuration that davit runs with: every key has its value, and the values make sense together.
//!
//! Owns the defaults and the checks that look at more than one key. Whether one value makes sense by itself is its type's business
//! ([`super::value`]).

use super::layer::{self, Layer};
use super::load::{ConfigError, Sources};
use super::value::{
    AbsolutePath, CgroupDriver, HandlerKind, HostPort, Interface, Listen, LogLevel, Name, Span,
    Subnet,
};
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
}

/// What a `tcp://` listener shows and demands: PEM files.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tls {
    /// Its certificate chain.
    pub(crate) cert: PathBuf,
    /// Its key.
    pub(crate) key: PathBuf,
    /// Who signs the clients' certificates.
    pub(crate) client_ca: PathBuf,
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
}

/// The network that is used while there is no CNI configuration.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bridge {
    /// Its interface.
    pub(crate) name: String,
    /// Its addresses.
    pub(crate) subnet: Subnet,
    /// Its nftables table.
    pub(crate) table: String,
}

/// The handlers that are looked for whether or not a `[handlers]` table names them.
const WELL_KNOWN: [&str; 3] = ["crun", "runc", "youki"];

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
        check_directories(&full, sources)?;
        check_handlers(&full, sources)?;
        check_limits(&full, sources)?;
        let tls = check_tls(&full, sources)?;
        if let Some(address) = full.streaming_listen {
            return Err(sources.wrong(
                |layer| layer.streaming_listen.is_some(),
                "streaming_listen",
                &address,
                "is not supported yet: exec, attach and port-forward are not served",
            ));
        }
        let parent = full.pod_cgroup_parent.clone().unwrap_or_default();
        let pod_cgroup_parent = CgroupParent::try_from(parent.clone()).map_err(|problem| {
            let set = |layer: &Layer| layer.pod_cgroup_parent.is_some();
            sources.wrong(set, "pod_cgroup_parent", &parent, problem.to_string())
        })?;
        Ok(Self { full, pod_cgroup_parent, tls })
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

    /// What `tcp://` listeners show and demand.
    pub(crate) fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Where metrics are served.
    pub(crate) fn metrics_listen(&self) -> Option<SocketAddr> {
        self.full.metrics_listen.map(|HostPort(address)| address)
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

    /// The longest line of a log, in bytes.
    pub(crate) fn max_log_line(&self) -> u32 {
        self.full.max_log_line.unwrap_or(16_384)
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
    pub(crate) fn bridge(&self) -> Bridge {
        let layer::Bridge { name, subnet, table } = &self.full.bridge;
        Bridge {
            name: name.as_ref().map_or("davit0", Interface::as_str).to_owned(),
            subnet: subnet.unwrap_or(SUBNET),
            table: table.as_ref().map_or("davit", Name::as_str).to_owned(),
        }
    }

    /// How long a CNI plugin may take.
    pub(crate) fn cni_timeout(&self) -> Duration {
        span(self.full.timeouts.cni, 120)
    }

    /// How long an OCI runtime may take.
    pub(crate) fn runtime_timeout(&self) -> Duration {
        span(self.full.timeouts.runtime, 60)
    }

    /// How long a shim may take.
    pub(crate) fn shim_timeout(&self) -> Duration {
        span(self.full.timeouts.shim, 10)
    }
}

const SUBNET: Subnet = Subnet { address: std::net::Ipv4Addr::new(10, 88, 0, 0), prefix: 16 };

fn path<'a>(given: Option<&'a AbsolutePath>, default: &'static str) -> &'a Path {
    given.map_or(Path::new(default), AbsolutePath::as_path)
}

fn span(given: Option<Span>, default: u64) -> Duration {
    given.unwrap_or(Span::seconds(default)).as_duration()
}

/// Every key that has a default gets it, so that what is dumped is what is used. The getters' own defaults are the same (tested).
fn with_defaults(layer: Layer) -> Layer {
    let state = layer.state.as_ref().map_or(STATE.to_owned(), ToString::to_string);
    let listen = format!("unix://{state}/{SOCKET}").parse().ok().map(|listen| vec![listen]);
    Layer {
        root: or_default(layer.root, ROOT),
        state: or_default(layer.state, STATE),
        listen: layer.listen.filter(|listen| !listen.is_empty()).or(listen),
        metrics_listen: layer.metrics_listen,
        streaming_listen: layer.streaming_listen,
        pidfile: layer.pidfile,
        cni_conf_dir: or_default(layer.cni_conf_dir, "/etc/cni/net.d"),
        cni_bin_dir: or_default(layer.cni_bin_dir, "/opt/cni/bin"),
        netns_dir: or_default(layer.netns_dir, "/run/netns"),
        registry_config_dir: or_default(layer.registry_config_dir, "/etc/davit/certs.d"),
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
        max_log_line: layer.max_log_line.or(Some(16_384)),
        log_level: layer.log_level.or(Some(LogLevel::Info)),
        debug: layer.debug.or(Some(false)),
        bridge: layer::Bridge {
            name: or_default(layer.bridge.name, "davit0"),
            subnet: layer.bridge.subnet.or(Some(SUBNET)),
            table: or_default(layer.bridge.table, "davit"),
        },
        timeouts: layer::Timeouts {
            cni: layer.timeouts.cni.or(Some(Span::seconds(120))),
            runtime: layer.timeouts.runtime.or(Some(Span::seconds(60))),
            shim: layer.timeouts.shim.or(Some(Span::seconds(10))),
        },
        tls: layer.tls,
        handlers: layer.handlers,
    }
}

/// One directory for both would mix what a boot must forget with what it must keep.
fn check_directories(full: &Layer, sources: &Sources) -> Result<(), ConfigError> {
    let (Some(root), Some(state)) = (&full.root, &full.state) else { return Ok(()) };
    let (root, state) = (root.as_path(), state.as_path());
    if root.starts_with(state) || state.starts_with(root) {
        return Err(sources.wrong(
            |layer| layer.state.is_some() || layer.root.is_some(),
            "state",
            &state.display(),
            format!("is not apart from root {}: one would hold the other", root.display()),
        ));
    }
    Ok(())
}

fn check_handlers(full: &Layer, sources: &Sources) -> Result<(), ConfigError> {
    for (name, handler) in &full.handlers {
        if handler.kind == Some(HandlerKind::ShimV2) {
            let set =
                |layer: &Layer| layer.handlers.get(name).is_some_and(|own| own.kind.is_some());
            let key = format!("handlers.{name}.kind");
            return Err(sources.wrong(set, &key, &"shim-v2", "is not supported yet: oci is"));
        }
    }
    let Some(default) = &full.default_handler else { return Ok(()) };
    if full.handlers.contains_key(default) || WELL_KNOWN.contains(&default.as_str()) {
        return Ok(());
    }
    let problem = format!(
        "is no handler: those configured are [{}], and crun, runc and youki are known",
        full.handlers.keys().map(Name::as_str).collect::<Vec<_>>().join(", ")
    );
    Err(sources.wrong(|layer| layer.default_handler.is_some(), "default_handler", default, problem))
}

fn check_limits(full: &Layer, sources: &Sources) -> Result<(), ConfigError> {
    let line = full.max_log_line.unwrap_or_default();
    if !(1024..=1 << 20).contains(&line) {
        let set = |layer: &Layer| layer.max_log_line.is_some();
        return Err(sources.wrong(set, "max_log_line", &line, "is not between 1024 and 1048576"));
    }
    let listen = full.listen.as_deref().unwrap_or_default();
    if listen.is_empty() {
        // The default address is made from it, and only too long a path can't be one.
        let state = full.state.as_ref().map(ToString::to_string).unwrap_or_default();
        let set = |layer: &Layer| layer.state.is_some();
        return Err(sources.wrong(
            set,
            "state",
            &state,
            "is too long for a socket in it: give listen",
        ));
    }
    if listen.len() > 16 {
        let set = |layer: &Layer| layer.listen.is_some();
        return Err(sources.wrong(set, "listen", &listen.len(), "addresses are more than 16"));
    }
    for (at, address) in listen.iter().enumerate() {
        if listen.iter().take(at).any(|earlier| earlier == address) {
            let set = |layer: &Layer| layer.listen.is_some();
            return Err(sources.wrong(set, "listen", address, "is given twice"));
        }
    }
    Ok(())
}

/// Whoever reaches a listener is root on this node: beyond loopback only somebody with a certificate may.
fn check_tls(full: &Layer, sources: &Sources) -> Result<Option<Tls>, ConfigError> {
    let pem = |path: &AbsolutePath| path.as_path().to_owned();
    let layer::Tls { cert, key, client_ca } = &full.tls;
    if let (Some(cert), Some(key), Some(client_ca)) = (cert, key, client_ca) {
        return Ok(Some(Tls { cert: pem(cert), key: pem(key), client_ca: pem(client_ca) }));
    }
    if let Some(given) = cert.as_ref().or(key.as_ref()).or(client_ca.as_ref()) {
        let set = |layer: &Layer| layer.tls != layer::Tls::default();
        return Err(sources.wrong(
            set,
            "tls",
            given,
            "is not enough: cert, key and client_ca go together",
        ));
    }
    for address in full.listen.as_deref().unwrap_or_default() {
        match address {
            Listen::Tcp(tcp) if !tcp.ip().is_loopback() => {
                return Err(sources.wrong(
                    |layer| layer.listen.is_some(),
                    "listen",
                    address,
                    "is not loopback and so demands mutual TLS: give tls.cert, tls.key and tls.client_ca",
                ));
            }
            Listen::Tcp(_) | Listen::Unix(_) => {}
        }
    }
    Ok(None)
}
