//! One event, as it is kept and shown.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Something that has happened. What is not told of its kind is empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Grows with each event, over restarts and reboots.
    pub number: u64,
    /// When it was found out, in nanoseconds since the epoch.
    pub at: i64,
    /// What happened.
    #[serde(rename = "type")]
    pub what: What,
    /// The pod's, container's or image's id.
    pub id: String,
    /// Its name; an image's first one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The pod's id, of a container the one that it is in.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod: String,
    /// The pod's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod_name: String,
    /// The pod's namespace.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// The name of a container's image.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image: String,
    /// The pod's or the container's labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What else there is to tell.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "&'static str", try_from = "String")]
pub enum What {
    /// A pod was made.
    PodCreated,
    /// A pod is ready, for the first time or again.
    PodReady,
    /// A pod is not ready any more.
    PodNotReady,
    /// A pod's limits were changed.
    PodUpdated,
    /// A pod is gone.
    PodRemoved,
    /// A container was made.
    ContainerCreated,
    /// A container runs.
    ContainerStarted,
    /// A container was frozen.
    ContainerPaused,
    /// A container goes on.
    ContainerResumed,
    /// A container's limits were changed.
    ContainerUpdated,
    /// The OOM killer struck a container.
    ContainerOom,
    /// A container has ended.
    ContainerExited,
    /// A container is gone.
    ContainerRemoved,
    /// An image was pulled.
    ImagePulled,
    /// An image is gone.
    ImageRemoved,
}

impl What {
    /// All there is.
    pub const ALL: [Self; 15] = [
        Self::PodCreated,
        Self::PodReady,
        Self::PodNotReady,
        Self::PodUpdated,
        Self::PodRemoved,
        Self::ContainerCreated,
        Self::ContainerStarted,
        Self::ContainerPaused,
        Self::ContainerResumed,
        Self::ContainerUpdated,
        Self::ContainerOom,
        Self::ContainerExited,
        Self::ContainerRemoved,
        Self::ImagePulled,
        Self::ImageRemoved,
    ];

    /// As people see it: the kind of thing, a dot, and what happened to it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::PodCreated => "pod.created",
            Self::PodReady => "pod.ready",
            Self::PodNotReady => "pod.notready",
            Self::PodUpdated => "pod.updated",
            Self::PodRemoved => "pod.removed",
            Self::ContainerCreated => "container.created",
            Self::ContainerStarted => "container.started",
            Self::ContainerPaused => "container.paused",
            Self::ContainerResumed => "container.resumed",
            Self::ContainerUpdated => "container.updated",
            Self::ContainerOom => "container.oom",
            Self::ContainerExited => "container.exited",
            Self::ContainerRemoved => "container.removed",
            Self::ImagePulled => "image.pulled",
            Self::ImageRemoved => "image.removed",
        }
    }

    /// The kind of thing: `pod`, `container` or `image`.
    #[must_use]
    pub fn kind(self) -> &'static str {
        self.word().split_once('.').map_or("", |(kind, _)| kind)
    }
}

/// A word for nothing that can happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is nothing that can happen")]
pub struct UnknownWhat(String);

impl FromStr for What {
    type Err = UnknownWhat;

    fn from_str(text: &str) -> Result<Self, UnknownWhat> {
        let found = Self::ALL.into_iter().find(|what| what.word() == text);
        found.ok_or_else(|| UnknownWhat(text.chars().take(100).collect()))
    }
}

impl TryFrom<String> for What {
    type Error = UnknownWhat;

    fn try_from(text: String) -> Result<Self, UnknownWhat> {
        text.parse()
    }
}

impl From<What> for &'static str {
    fn from(what: What) -> Self {
        what.word()
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
