//! The arguments of `davit events`.

use crate::client::{EventFilter, EventFormat, Instant};
use clap::{ArgAction, Args};

/// What is told below the help.
pub(crate) const HELP: &str = "\
Types are pod.created, ready, notready, updated, removed; container.created, started, paused, resumed, updated, oom, exited, removed; image.pulled, removed. A template's
fields are those that --format json shows.

Examples:
  davit events
  davit events --since 1h --filter type=container --filter event=exited
  davit events --no-follow --filter pod=web --format json
  davit events --format '{{ time }} {{ type }} {{ name }} {{ attributes.exit_code | default(\"\") }}'";

/// `davit events`.
#[derive(Debug, Clone, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(crate) struct EventsArgs {
    /// Only those that fit: type (of thing, or whole), event, id, pod, container, image, namespace or label; of several for one key, one must fit, but of labels all
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    pub(crate) filters: Vec<EventFilter>,
    /// Begin with what happened then: a time (2026-01-02T03:04:05Z), a date, seconds since the epoch, or how long ago (10m)
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Instant>,
    /// Nothing newer; ends then
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<Instant>,
    /// Begin with the event after this number, as an earlier `davit events` has told it
    #[arg(long, value_name = "NUMBER")]
    pub(crate) after: Option<u64>,
    /// End with what is stored
    #[arg(long)]
    pub(crate) no_follow: bool,
    /// Go on with what happens; false is --no-follow
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = ArgAction::Set, value_name = "BOOL")]
    pub(crate) stream: bool,
    /// How they are written: line, json or a template such as '{{ id }} {{ type }}'
    #[arg(long, default_value = "line", value_name = "line|json|TEMPLATE")]
    pub(crate) format: EventFormat,
    /// Whole ids
    #[arg(long)]
    pub(crate) no_trunc: bool,
}
