//! The flags that lists share.

use crate::client::{Container, Filter, Format, Image, Listed, Pod};
use clap::Args;

/// What is told below the help of each list.
pub(crate) const TEMPLATES: &str = "\
A template is Jinja: {{ field }}, {% if … %}, {% for … %}, and \\t and \\n. Its fields are those that --format json shows.

Examples:
  davit ps -a --filter state=exited --format '{{ id }}\\t{{ exit_code }}'
  davit rm $(davit ps -q --filter label=app=web)
  davit pods --filter state=notready
  davit images --format '{{ repo_tags[0] }} {{ size }}'";

/// How something is written that has no list.
#[derive(Debug, Clone, Args)]
pub(crate) struct Listing {
    /// How it is written: table, json or a template such as '{{ version }}'
    #[arg(long, default_value_t = Format::Table, value_name = "table|json|TEMPLATE")]
    pub(crate) format: Format,
}

/// `davit info`.
#[derive(Debug, Clone, Args)]
pub(crate) struct InfoArgs {
    /// With descriptors, tasks, threads and memory
    #[arg(long)]
    pub(crate) debug: bool,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

/// How a list is written.
#[derive(Debug, Clone, Default, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(crate) struct Written {
    /// How the list is written: table, json or a template such as '{{ id }} {{ name }}'
    #[arg(long, default_value_t = Format::Table, value_name = "table|json|TEMPLATE")]
    pub(crate) format: Format,
    /// Ids only
    #[arg(short, long, conflicts_with = "format")]
    pub(crate) quiet: bool,
    /// Whole ids
    #[arg(long)]
    pub(crate) no_trunc: bool,
}

/// How many of those that were made last.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Newest {
    /// Only so many, the newest, whatever their state
    #[arg(short = 'n', long, value_name = "COUNT")]
    pub(crate) last: Option<usize>,
    /// Only the newest, whatever its state
    #[arg(short, long, conflicts_with = "last")]
    pub(crate) latest: bool,
}

impl Newest {
    /// So many at most; `None`: all.
    pub(crate) fn count(self) -> Option<usize> {
        self.last.or(self.latest.then_some(1))
    }
}

/// `davit ps`.
#[derive(Debug, Clone, Args)]
pub(crate) struct PsArgs {
    /// Those that don't run, too
    #[arg(short, long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) newest: Newest,
    /// Only those that fit: id, name, label, state, pod or image; of several for one key, one must fit, but of labels all
    #[arg(short, long = "filter", value_name = "KEY=VALUE", value_parser = Container::filter)]
    pub(crate) filters: Vec<Filter>,
    /// In this order
    #[arg(long, default_value = "created", value_name = "FIELD", value_parser = Container::sort_keys())]
    pub(crate) sort: String,
    #[command(flatten)]
    pub(crate) written: Written,
}

/// `davit pods`.
#[derive(Debug, Clone, Args)]
pub(crate) struct PodsArgs {
    #[command(flatten)]
    pub(crate) newest: Newest,
    /// Only those that fit: id, name, namespace, label, state or handler; of several for one key, one must fit, but of labels all
    #[arg(short, long = "filter", value_name = "KEY=VALUE", value_parser = Pod::filter)]
    pub(crate) filters: Vec<Filter>,
    /// In this order
    #[arg(long, default_value = "created", value_name = "FIELD", value_parser = Pod::sort_keys())]
    pub(crate) sort: String,
    #[command(flatten)]
    pub(crate) written: Written,
}

/// `davit images`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ImagesArgs {
    /// Only those with this in their names
    pub(crate) name: Option<String>,
    /// Only those that fit: id, name, dangling (true or false) or pinned (true or false)
    #[arg(short, long = "filter", value_name = "KEY=VALUE", value_parser = Image::filter)]
    pub(crate) filters: Vec<Filter>,
    /// In this order
    #[arg(long, default_value = "name", value_name = "FIELD", value_parser = Image::sort_keys())]
    pub(crate) sort: String,
    #[command(flatten)]
    pub(crate) written: Written,
}
