//! How long others may take: the table `[timeouts]`, its defaults, and what they come to.

use super::value::Span;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// `[timeouts]`: how long a call to somebody else's program may take before it is given up.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Timeouts {
    /// How long a CNI plugin may take
    #[arg(long = "timeouts-cni", id = "timeouts-cni", value_name = "TIME")]
    pub(crate) cni: Option<Span>,
    /// How long an OCI runtime may take for one of its commands other than `start`
    #[arg(long = "timeouts-runtime", id = "timeouts-runtime", value_name = "TIME")]
    pub(crate) runtime: Option<Span>,
    /// How long a container may take to start before it is killed; else as long as timeouts.runtime
    #[arg(
        long = "timeouts-start",
        visible_alias = "start-timeout",
        id = "timeouts-start",
        value_name = "TIME"
    )]
    pub(crate) start: Option<Span>,
    /// How long a shim may take to answer
    #[arg(long = "timeouts-shim", id = "timeouts-shim", value_name = "TIME")]
    pub(crate) shim: Option<Span>,
    /// How long nothing may happen on a stream of exec, attach or port-forward before it is cut
    #[arg(long = "timeouts-stream-idle", id = "timeouts-stream-idle", value_name = "TIME")]
    pub(crate) stream_idle: Option<Span>,
    /// How long a client may take to open the streams that its exec or attach has
    #[arg(long = "timeouts-stream-creation", id = "timeouts-stream-creation", value_name = "TIME")]
    pub(crate) stream_creation: Option<Span>,
}

impl Timeouts {
    /// Both in one; where both speak, `over` is heard.
    pub(super) fn under(self, over: Self) -> Self {
        Self {
            cni: over.cni.or(self.cni),
            runtime: over.runtime.or(self.runtime),
            start: over.start.or(self.start),
            shim: over.shim.or(self.shim),
            stream_idle: over.stream_idle.or(self.stream_idle),
            stream_creation: over.stream_creation.or(self.stream_creation),
        }
    }

    /// Every one has its value.
    pub(super) fn with_defaults(self) -> Self {
        let or = |given: Option<Span>, seconds| Some(given.unwrap_or(Span::seconds(seconds)));
        let runtime = or(self.runtime, RUNTIME);
        Self {
            cni: or(self.cni, CNI),
            runtime,
            // Who has made the one longer or shorter means it for the other, too.
            start: self.start.or(runtime),
            shim: or(self.shim, SHIM),
            stream_idle: or(self.stream_idle, STREAM_IDLE),
            stream_creation: or(self.stream_creation, STREAM_CREATION),
        }
    }

    /// As [`Self::with_defaults`] has them.
    pub(super) fn times(&self) -> Times {
        let time = |given: Option<Span>| given.map(Span::as_duration).unwrap_or_default();
        let full = self.clone().with_defaults();
        Times {
            cni: time(full.cni),
            runtime: time(full.runtime),
            start: time(full.start),
            shim: time(full.shim),
            stream_idle: time(full.stream_idle),
            stream_creation: time(full.stream_creation),
        }
    }
}

/// How long others may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Times {
    /// A CNI plugin.
    pub(crate) cni: Duration,
    /// An OCI runtime, for any command but `start`.
    pub(crate) runtime: Duration,
    /// An OCI runtime, for a container's start.
    pub(crate) start: Duration,
    /// A shim.
    pub(crate) shim: Duration,
    /// A stream on which nothing happens.
    pub(crate) stream_idle: Duration,
    /// A client that has yet to open its streams.
    pub(crate) stream_creation: Duration,
}

/// Seconds each.
const CNI: u64 = 120;
const RUNTIME: u64 = 60;
const SHIM: u64 = 10;
const STREAM_IDLE: u64 = 4 * 60 * 60;
const STREAM_CREATION: u64 = 30;
