//! One call of one plugin.
//!
//! Owns the finding of the program, its environment and its standard input, and the reading of its exit.

use super::result::{self, ResultError};
use crate::metrics::CniCalls;
use crate::network::bridge::link::POD_LINK;
use crate::network::child::{self, ChildError};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// What a plugin is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Attach.
    Add,
    /// Detach.
    Del,
    /// Say whether ADD would work.
    Status,
    /// Drop what belongs to no attachment.
    Gc,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Status => "STATUS",
            Self::Gc => "GC",
        })
    }
}

/// A plugin's failure.
#[derive(Debug, thiserror::Error)]
#[error("CNI {verb} by plugin {plugin} of network {network}")]
pub struct PluginError {
    /// Its type.
    pub plugin: String,
    /// The network's name.
    pub network: String,
    /// What it was asked to do.
    pub verb: Verb,
    /// What went wrong.
    #[source]
    pub failure: PluginFailure,
}

/// How a plugin failed.
#[derive(Debug, thiserror::Error)]
pub enum PluginFailure {
    /// There is no such program.
    #[error("no such program in {}", .0.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", "))]
    NotFound(Vec<PathBuf>),
    /// It did not come to an end by itself.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// It says that it failed.
    #[error("it failed ({}): {message}", code.map_or_else(|| "no error code".to_owned(), |code| format!("code {code}")))]
    Said {
        /// The spec's or its own; `None`: it gave none.
        code: Option<u64>,
        /// Its `msg` and `details`, or whatever it wrote.
        message: String,
    },
    /// It says that it succeeded, with a result that makes no sense.
    #[error(transparent)]
    Result(#[from] ResultError),
    /// What it is to be told can't be written as JSON.
    #[error("write its configuration")]
    Configuration(#[source] serde_json::Error),
}

impl PluginError {
    /// Whether there is no such program.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self.failure, PluginFailure::NotFound(_))
    }

    /// Whether it did not come to its end in time, and was killed.
    #[must_use]
    pub fn is_deadline(&self) -> bool {
        matches!(self.failure, PluginFailure::Child(ChildError::Deadline(_)))
    }
}

/// What a call is about.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) verb: Verb,
    pub(super) network: &'a str,
    pub(super) cni_version: &'a str,
    /// `None` for the verbs that are about no pod.
    pub(super) pod: Option<Pod<'a>>,
    pub(super) capabilities: &'a BTreeMap<String, Value>,
    pub(super) bin_dirs: &'a [PathBuf],
    pub(super) deadline: Duration,
    pub(super) measured: &'a CniCalls,
}

/// The pod's part of the environment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pod<'a> {
    pub(super) id: &'a str,
    /// `None`: it is gone.
    pub(super) netns: Option<&'a Path>,
    pub(super) args: &'a str,
}

/// A plugin's type, as its configuration was found to have one.
pub(super) fn kind(plugin: &Map<String, Value>) -> &str {
    plugin.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// The first executable file of that name.
pub(super) fn find(kind: &str, dirs: &[PathBuf]) -> Option<PathBuf> {
    let executable = |path: &PathBuf| {
        std::fs::metadata(path)
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    // Records are read back from disk: what the configuration's check refuses is not looked for either.
    let plain = !kind.is_empty() && !kind.contains('/') && kind != "..";
    dirs.iter().filter(|_| plain).map(|dir| dir.join(kind)).find(executable)
}

impl Call<'_> {
    /// Runs `plugin` with what `extra` adds to its configuration; its standard output.
    pub(super) async fn run(
        &self,
        plugin: &Map<String, Value>,
        extra: Option<(&str, Value)>,
    ) -> Result<Vec<u8>, PluginError> {
        let kind_of_call = match self.verb {
            Verb::Add => &self.measured.add,
            Verb::Del => &self.measured.del,
            Verb::Status => &self.measured.status,
            Verb::Gc => &self.measured.gc,
        };
        let run = kind_of_call.measure(self.try_run(plugin, extra));
        run.await.map_err(|failure| self.failed(plugin, failure))
    }

    pub(super) fn failed(
        &self,
        plugin: &Map<String, Value>,
        failure: PluginFailure,
    ) -> PluginError {
        PluginError {
            plugin: kind(plugin).to_owned(),
            network: self.network.to_owned(),
            verb: self.verb,
            failure,
        }
    }

    async fn try_run(
        &self,
        plugin: &Map<String, Value>,
        extra: Option<(&str, Value)>,
    ) -> Result<Vec<u8>, PluginFailure> {
        let program = find(kind(plugin), self.bin_dirs)
            .ok_or_else(|| PluginFailure::NotFound(self.bin_dirs.to_vec()))?;
        let input = serde_json::to_vec(&self.configuration(plugin, extra))
            .map_err(PluginFailure::Configuration)?;
        let done = child::run(self.command(&program), &input, self.deadline).await?;
        if done.status.success() {
            return Ok(done.stdout);
        }
        let (code, mut message) = result::plugin_error(&done.stdout, &done.stderr);
        if message.is_empty() {
            message = done.status.to_string();
        }
        Err(PluginFailure::Said { code, message })
    }

    fn configuration(
        &self,
        plugin: &Map<String, Value>,
        extra: Option<(&str, Value)>,
    ) -> Map<String, Value> {
        let mut all = plugin.clone();
        let declared = all.remove("capabilities");
        let wants = |capability: &str| {
            declared.as_ref().and_then(|all| all.get(capability)).and_then(Value::as_bool)
                == Some(true)
        };
        let runtime: Map<String, Value> = self
            .capabilities
            .iter()
            .filter(|(capability, _)| wants(capability))
            .map(|(capability, value)| (capability.clone(), value.clone()))
            .collect();
        if !runtime.is_empty() {
            all.insert("runtimeConfig".to_owned(), Value::Object(runtime));
        }
        all.insert("name".to_owned(), self.network.into());
        all.insert("cniVersion".to_owned(), self.cni_version.into());
        all.extend(extra.map(|(field, value)| (field.to_owned(), value)));
        all
    }

    fn command(&self, program: &Path) -> Command {
        let path: Vec<String> = self.bin_dirs.iter().map(|dir| dir.display().to_string()).collect();
        let mut command = Command::new(program);
        // The daemon's environment otherwise: plugins call iptables, ip and the like by PATH.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"CNI_") || name == "NOTIFY_SOCKET" {
                command.env_remove(name);
            }
        }
        command
            .current_dir("/")
            .env("CNI_COMMAND", self.verb.to_string())
            .env("CNI_PATH", path.join(":"));
        if let Some(pod) = self.pod {
            command
                .env("CNI_CONTAINERID", pod.id)
                .env("CNI_IFNAME", POD_LINK)
                .env("CNI_ARGS", pod.args)
                .env("CNI_NETNS", pod.netns.unwrap_or(Path::new("")));
        }
        command
    }
}
