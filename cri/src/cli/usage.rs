//! The arguments of `davit stats`, `davit top` and `davit rmi`.

use super::Written;
use crate::client::Field;
use clap::Args;

/// `davit stats`.
#[derive(Debug, Clone, Args)]
pub(crate) struct StatsArgs {
    /// Once, and not on and on
    #[arg(long)]
    pub(crate) no_stream: bool,
    /// Seconds from one to the next
    #[arg(short = 'i', long, default_value_t = 2, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) interval: u64,
    #[command(flatten)]
    pub(crate) written: Written,
    /// Containers, by id, beginning of id or name; all that run unless given
    #[arg(value_name = "ID")]
    pub(crate) ids: Vec<String>,
}

/// `davit top`.
#[derive(Debug, Clone, Args)]
pub(crate) struct TopArgs {
    /// Seconds from one look to the next
    #[arg(short = 'i', long, default_value_t = 2, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) interval: u64,
    /// In the order of this
    #[arg(short, long, value_enum, default_value_t = Field::Cpu)]
    pub(crate) sort: Field,
    /// Pods, and not their containers
    #[arg(short, long)]
    pub(crate) pods: bool,
}

/// `davit rmi`.
#[derive(Debug, Clone, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(crate) struct RmiArgs {
    /// Also those that containers were made from, or that have other names
    #[arg(short, long)]
    pub(crate) force: bool,
    /// All that no container was made from, and that are not pinned
    #[arg(long, conflicts_with = "names")]
    pub(crate) prune: bool,
    /// Names, ids, or unambiguous beginnings of ids
    #[arg(required_unless_present = "prune", value_name = "IMAGE")]
    pub(crate) names: Vec<String>,
}
