//! The arguments of what is done to containers that are there.

use crate::client::{Cpus, InspectKind, Instant, Memory, SignalName, Tail, Unified};
use clap::Args;

/// `davit inspect`.
#[derive(Debug, Clone, Args)]
pub(crate) struct InspectArgs {
    /// Only this kind of thing, where several have the id
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    pub(crate) kind: Option<InspectKind>,
    /// Write this template for each instead of a JSON array: '{{ info.pid }}'
    #[arg(short, long, value_name = "TEMPLATE")]
    pub(crate) format: Option<String>,
    /// Ids, unambiguous beginnings of ids, or names
    #[arg(required = true, value_name = "ID")]
    pub(crate) ids: Vec<String>,
}

/// `davit logs`.
#[derive(Debug, Clone, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(crate) struct LogsArgs {
    /// Go on until the container has ended
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Begin with so many of the last lines, or all
    #[arg(short = 'n', long, default_value = "all", value_name = "COUNT|all")]
    pub(crate) tail: Tail,
    /// Nothing older: a time (2026-01-02T03:04:05Z), a date, seconds since the epoch, or how long ago (10m)
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Instant>,
    /// Nothing newer
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<Instant>,
    /// With the time of each line
    #[arg(short, long)]
    pub(crate) timestamps: bool,
    /// Its id, an unambiguous beginning of it, or its name
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

/// Containers.
#[derive(Debug, Clone, Args)]
pub(crate) struct Ids {
    /// Ids, unambiguous beginnings of ids, or names
    #[arg(required = true, value_name = "ID")]
    pub(crate) ids: Vec<String>,
}

/// `davit kill`.
#[derive(Debug, Clone, Args)]
pub(crate) struct KillArgs {
    /// The signal, by name or number
    #[arg(short, long, default_value = "KILL", value_name = "SIGNAL")]
    pub(crate) signal: SignalName,
    #[command(flatten)]
    pub(crate) ids: Ids,
}

/// `davit stop`.
#[derive(Debug, Clone, Args)]
pub(crate) struct StopArgs {
    /// How many seconds they have between their stop signal and SIGKILL
    #[arg(short = 't', long = "time", default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(i64).range(0..=86_400))]
    pub(crate) seconds: i64,
    #[command(flatten)]
    pub(crate) ids: Ids,
}

/// `davit update`.
#[derive(Debug, Clone, Args)]
#[group(id = "limits", required = true, multiple = true)]
pub(crate) struct Limits {
    /// CPUs, such as 0.5
    #[arg(long, value_name = "COUNT")]
    pub(crate) cpus: Option<Cpus>,
    /// Weight among those that want CPU, from 2 to 262144
    #[arg(long, value_name = "WEIGHT", value_parser = clap::value_parser!(i64).range(2..=262_144))]
    pub(crate) cpu_shares: Option<i64>,
    /// On these CPUs only, such as 0-1,4
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_cpus: Option<String>,
    /// On these memory nodes only
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_mems: Option<String>,
    /// Memory, such as 64m
    #[arg(short, long, value_name = "BYTES")]
    pub(crate) memory: Option<Memory>,
    /// Memory and swap together, such as 128m
    #[arg(long, value_name = "BYTES")]
    pub(crate) memory_swap: Option<Memory>,
    /// A file of cgroup v2 and what to write there, such as pids.max=100
    #[arg(long, value_name = "FILE=VALUE")]
    pub(crate) unified: Vec<Unified>,
}

/// `davit update`.
#[derive(Debug, Clone, Args)]
pub(crate) struct UpdateArgs {
    #[command(flatten)]
    pub(crate) limits: Limits,
    #[command(flatten)]
    pub(crate) ids: Ids,
}
