//! One source's say in the configuration: a file, or the command line. Every key may be missing.
//!
//! Owns the keys: this one set of types is what a file is read into, what the flags of `davit serve` are (the key `bridge.name` is the
//! flag `--bridge-name`), and what `davit config dump` writes, so that none of the three can lack a key of the others. Doc comments
//! here are the help texts. Owns no default: those are in [`super::effective`].

mod tls;

pub(crate) use tls::{MetricsTls, StreamingTls, Tls};

use super::access::Group;
use super::bridge::Bridge;
use super::images::Images;
use super::timeouts::Timeouts;
use super::value::{
    AbsolutePath, CgroupDriver, Collector, HandlerKind, HostPort, Listen, LogLevel,
    MissingHostPaths, Name, Share, Span,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::str::FromStr;

/// What one source says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Layer {
    /// Where images, layers and writable layers are kept
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<AbsolutePath>,
    /// Where the records of this boot's pods and containers are kept
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<AbsolutePath>,
    /// Where calls are taken: unix://PATH or tcp://HOST:PORT; may be given more than once
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<Vec<Listen>>,
    /// The group, by name or number, whose members may call over unix:// too: they are as good as root
    #[arg(long, value_name = "GROUP")]
    pub(crate) socket_group: Option<Group>,
    /// Where /metrics, /healthz and /readyz are served; nowhere unless given
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) metrics_listen: Option<HostPort>,
    /// How often the status counters are written to the log; never unless given
    #[arg(long, value_name = "TIME")]
    pub(crate) metrics_interval: Option<Span>,
    /// Where the streams of exec, attach and port-forward are served
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) streaming_listen: Option<HostPort>,
    /// A file that holds the daemon's pid while it runs
    #[arg(long, value_name = "FILE")]
    pub(crate) pidfile: Option<AbsolutePath>,
    /// Where CNI configurations are; the built-in bridge is used while there is none
    #[arg(long, value_name = "DIR")]
    pub(crate) cni_conf_dir: Option<AbsolutePath>,
    /// Where CNI plugins are
    #[arg(long, value_name = "DIR")]
    pub(crate) cni_bin_dir: Option<AbsolutePath>,
    /// Where pods' network namespaces are pinned
    #[arg(long, value_name = "DIR")]
    pub(crate) netns_dir: Option<AbsolutePath>,
    /// Where registries' hosts.toml files are; read again at each pull
    #[arg(long, value_name = "DIR")]
    pub(crate) registry_config_dir: Option<AbsolutePath>,
    /// Credentials for pulls that bring none, as `davit login` keeps them; read again at each pull
    #[arg(long, value_name = "FILE")]
    pub(crate) registry_auth_file: Option<AbsolutePath>,
    /// Where vendors describe devices (CDI), a later directory before an earlier; read when a container asks for one
    #[arg(long, value_name = "DIR")]
    pub(crate) cdi_spec_dirs: Option<Vec<AbsolutePath>>,
    /// Let containers be checkpointed, where CRIU works
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) criu: Option<bool>,
    /// A pull that receives nothing for this long is given up
    #[arg(long, value_name = "TIME")]
    pub(crate) pull_progress_timeout: Option<Span>,
    /// The handler of pods that name none; else the first of crun, runc, youki that works here
    #[arg(long, value_name = "NAME")]
    pub(crate) default_handler: Option<Name>,
    /// The pods' shim; else davit-shim beside davit, else in PATH
    #[arg(long, value_name = "FILE")]
    pub(crate) shim: Option<AbsolutePath>,
    /// The cgroup that the shims live in, below the root of the hierarchy
    #[arg(long, value_name = "NAME")]
    pub(crate) shim_cgroup: Option<Name>,
    /// Who makes cgroups
    #[arg(long, value_enum, value_name = "DRIVER")]
    pub(crate) cgroup_driver: Option<CgroupDriver>,
    /// The parent cgroup of pods that name none; a slice with systemd's driver
    #[arg(long, value_name = "CGROUP")]
    pub(crate) pod_cgroup_parent: Option<String>,
    /// What is done about a volume's path on the host that isn't there
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) missing_host_paths: Option<MissingHostPaths>,
    /// The longest line of a container's log, in bytes; a longer one is split
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_log_line: Option<u32>,
    /// How often what belongs to nobody any more is looked for and removed
    #[arg(long, value_name = "TIME")]
    pub(crate) sweep_interval: Option<Span>,
    /// How many events are stored, for those who ask later (davit events); 0: none
    #[arg(long, visible_alias = "retain-count", value_name = "COUNT")]
    pub(crate) events_retain_count: Option<u32>,
    /// How much is logged
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub(crate) log_level: Option<LogLevel>,
    /// Log every call, and dump the state on SIGUSR1 and SIGQUIT
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) debug: Option<bool>,
    /// The built-in network.
    #[command(flatten)]
    pub(crate) bridge: Bridge,
    /// How long others may take.
    #[command(flatten)]
    pub(crate) timeouts: Timeouts,
    /// How much there may be at once.
    #[command(flatten)]
    pub(crate) limits: Limits,
    /// How much an image's layers may hold.
    #[command(flatten)]
    pub(crate) images: Images,
    /// What a tcp:// listener shows and demands.
    #[command(flatten)]
    pub(crate) tls: Tls,
    /// What the streaming listener shows and demands.
    #[command(flatten)]
    pub(crate) streaming_tls: StreamingTls,
    /// What the metrics' listener shows and demands.
    #[command(flatten)]
    pub(crate) metrics_tls: MetricsTls,
    /// Where traces go.
    #[command(flatten)]
    pub(crate) tracing: Tracing,
    /// Runtime handlers by name. As a flag: [`HandlerFlag`].
    #[arg(skip)]
    pub(crate) handlers: BTreeMap<Name, Handler>,
}

/// `[limits]`: how much there may be at once; each from 1 to 65536, but for the last, from 0 to 64.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Limits {
    /// How many connections each listener serves at once; the next one waits
    #[arg(long = "limits-connections", id = "limits-connections", value_name = "COUNT")]
    pub(crate) connections: Option<u32>,
    /// How many calls are answered at once; the next one is refused
    #[arg(long = "limits-calls", id = "limits-calls", value_name = "COUNT")]
    pub(crate) calls: Option<u32>,
    /// How many pods and containers are made or started at once, and how many pods ended; the next one waits its turn
    #[arg(long = "limits-creations", id = "limits-creations", value_name = "COUNT")]
    pub(crate) creations: Option<u32>,
    /// For how many pods to come a shim and a network are kept ready; 0: none
    #[arg(long = "limits-pods-ahead", id = "limits-pods-ahead", value_name = "COUNT")]
    pub(crate) pods_ahead: Option<u32>,
}

/// `[tracing]`: where traces go.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Tracing {
    /// Where traces are sent, by OTLP over gRPC: http://HOST:PORT; nowhere unless given
    #[arg(long = "tracing-endpoint", id = "tracing-endpoint", value_name = "URL")]
    pub(crate) endpoint: Option<Collector>,
    /// The share of calls that are traced, from 0 to 1, of those whose caller does not decide it
    #[arg(long = "tracing-sampling", id = "tracing-sampling", value_name = "SHARE")]
    pub(crate) sampling: Option<Share>,
}

impl Tracing {
    fn under(self, over: Self) -> Self {
        Self {
            endpoint: over.endpoint.or(self.endpoint),
            sampling: over.sampling.or(self.sampling),
        }
    }
}

/// `[handlers.NAME]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Handler {
    /// How it is driven.
    pub(crate) kind: Option<HandlerKind>,
    /// Its program; else the handler's name, looked up in PATH.
    pub(crate) path: Option<AbsolutePath>,
    /// Where it keeps its own state; else below davit's.
    pub(crate) root: Option<AbsolutePath>,
    /// Its cgroups are systemd's; else as `cgroup_driver` says.
    pub(crate) systemd_cgroup: Option<bool>,
    /// Arguments that go before its commands.
    pub(crate) args: Option<Vec<String>>,
    /// `false`: containers are started by its `start` even where that is seen to do no more than write to a FIFO.
    pub(crate) start_fifo: Option<bool>,
}

/// `--handler NAME.KEY=VALUE`: one key of one handler.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HandlerFlag {
    name: Name,
    said: Handler,
}

/// Why a text is no [`HandlerFlag`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidHandlerFlag {
    /// It has no `=`, or no `.` before it.
    #[error("{0:?} is not NAME.KEY=VALUE")]
    Form(String),
    /// The key is none of a handler's.
    #[error(
        "handler key {key:?} is unknown: kind, path, root, systemd_cgroup, args and start_fifo are known"
    )]
    Key {
        /// As given.
        key: String,
    },
    /// The value does not fit the key.
    #[error("handler key {key}: {problem}")]
    Value {
        /// As given.
        key: String,
        /// In the parser's words.
        problem: String,
    },
}

impl FromStr for HandlerFlag {
    type Err = InvalidHandlerFlag;

    fn from_str(text: &str) -> Result<Self, InvalidHandlerFlag> {
        let form = || InvalidHandlerFlag::Form(text.to_owned());
        let (left, value) = text.split_once('=').ok_or_else(form)?;
        let (name, key) = left.rsplit_once('.').ok_or_else(form)?;
        let refused = |problem: String| InvalidHandlerFlag::Value { key: key.to_owned(), problem };
        let name = name.parse().map_err(|error| refused(format!("{error}")))?;
        let path =
            || value.parse::<AbsolutePath>().map(Some).map_err(|error| refused(error.to_string()));
        let flag = || {
            let no_flag = |_| refused(format!("{value:?} is neither true nor false"));
            value.parse::<bool>().map(Some).map_err(no_flag)
        };
        let mut said = Handler::default();
        match key {
            "kind" => {
                said.kind = Some(clap::ValueEnum::from_str(value, false).map_err(refused)?);
            }
            "path" => said.path = path()?,
            "root" => said.root = path()?,
            "systemd_cgroup" => said.systemd_cgroup = flag()?,
            "start_fifo" => said.start_fifo = flag()?,
            "args" => said.args = Some(value.split_whitespace().map(str::to_owned).collect()),
            _ => return Err(InvalidHandlerFlag::Key { key: key.to_owned() }),
        }
        Ok(Self { name, said })
    }
}

impl Layer {
    /// This layer with what handler flags say.
    pub(crate) fn with_handlers(mut self, flags: Vec<HandlerFlag>) -> Self {
        for HandlerFlag { name, said } in flags {
            let handler = self.handlers.entry(name).or_default();
            *handler = std::mem::take(handler).under(said);
        }
        self
    }

    /// Both layers in one; where both speak, `over` is heard. Lists are replaced whole.
    pub(crate) fn under(self, over: Self) -> Self {
        let mut handlers = self.handlers;
        for (name, said) in over.handlers {
            let handler = handlers.entry(name).or_default();
            *handler = std::mem::take(handler).under(said);
        }
        // Every field is named, none is left to `..`: a new key that is not merged does not compile.
        Self {
            root: over.root.or(self.root),
            state: over.state.or(self.state),
            listen: over.listen.or(self.listen),
            socket_group: over.socket_group.or(self.socket_group),
            metrics_listen: over.metrics_listen.or(self.metrics_listen),
            metrics_interval: over.metrics_interval.or(self.metrics_interval),
            streaming_listen: over.streaming_listen.or(self.streaming_listen),
            pidfile: over.pidfile.or(self.pidfile),
            cni_conf_dir: over.cni_conf_dir.or(self.cni_conf_dir),
            cni_bin_dir: over.cni_bin_dir.or(self.cni_bin_dir),
            netns_dir: over.netns_dir.or(self.netns_dir),
            registry_config_dir: over.registry_config_dir.or(self.registry_config_dir),
            registry_auth_file: over.registry_auth_file.or(self.registry_auth_file),
            criu: over.criu.or(self.criu),
            cdi_spec_dirs: over.cdi_spec_dirs.or(self.cdi_spec_dirs),
            pull_progress_timeout: over.pull_progress_timeout.or(self.pull_progress_timeout),
            default_handler: over.default_handler.or(self.default_handler),
            shim: over.shim.or(self.shim),
            shim_cgroup: over.shim_cgroup.or(self.shim_cgroup),
            cgroup_driver: over.cgroup_driver.or(self.cgroup_driver),
            pod_cgroup_parent: over.pod_cgroup_parent.or(self.pod_cgroup_parent),
            missing_host_paths: over.missing_host_paths.or(self.missing_host_paths),
            max_log_line: over.max_log_line.or(self.max_log_line),
            sweep_interval: over.sweep_interval.or(self.sweep_interval),
            events_retain_count: over.events_retain_count.or(self.events_retain_count),
            log_level: over.log_level.or(self.log_level),
            debug: over.debug.or(self.debug),
            bridge: self.bridge.under(over.bridge),
            timeouts: self.timeouts.under(over.timeouts),
            limits: Limits {
                connections: over.limits.connections.or(self.limits.connections),
                calls: over.limits.calls.or(self.limits.calls),
                creations: over.limits.creations.or(self.limits.creations),
                pods_ahead: over.limits.pods_ahead.or(self.limits.pods_ahead),
            },
            images: self.images.under(&over.images),
            tls: self.tls.under(over.tls),
            streaming_tls: self.streaming_tls.under(over.streaming_tls),
            metrics_tls: self.metrics_tls.under(over.metrics_tls),
            tracing: self.tracing.under(over.tracing),
            handlers,
        }
    }
}

impl Handler {
    fn under(self, over: Self) -> Self {
        Self {
            kind: over.kind.or(self.kind),
            path: over.path.or(self.path),
            root: over.root.or(self.root),
            systemd_cgroup: over.systemd_cgroup.or(self.systemd_cgroup),
            args: over.args.or(self.args),
            start_fifo: over.start_fifo.or(self.start_fifo),
        }
    }
}
