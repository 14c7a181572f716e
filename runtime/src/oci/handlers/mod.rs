//! Runtime handlers: the OCI runtimes that pods can ask for by name (RuntimeClass), and which of them work here.
//!
//! Owns finding them and finding out about them. A handler that doesn't work stays in the list with its problem, so that who asks for it
//! is told why; it is never the default. Probing runs each candidate's own command line, in parallel and on a deadline.
//!
//! ```text
//! configured, else crun, runc, youki in PATH ──version, features──► ──trial container──► Handler{problem: None | Some}
//!                                                └── known from before, by path, size, times, boot and cgroups ──┘
//! ```

mod cache;
mod command;
mod probe;
mod trial;
mod userns;

#[cfg(test)]
mod tests;

pub use probe::{HandlerConfig, HandlersConfig, ProbeError};

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;

/// Which program a handler is, by its own word: some facts can't be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// <https://github.com/containers/crun>
    Crun,
    /// <https://github.com/opencontainers/runc>
    Runc,
    /// <https://github.com/youki-dev/youki>
    Youki,
    /// Any other with the same command line.
    Other,
}

/// What an OCI runtime can do on this host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the flags are what runtimes announce, each by itself"
)]
pub struct Features {
    /// Mount option `rro`: seen to work in the trial container.
    pub recursive_read_only: bool,
    /// Pods with a user namespace: seen to work, with a pod that had one.
    pub user_namespaces: UserNamespaces,
    /// Seccomp filters: announced; `true` where nothing is announced.
    pub seccomp: bool,
    /// Network devices of the host that are moved into a container: announced.
    #[serde(default)]
    pub net_devices: bool,
    /// A container's init waits for a byte in `exec.fifo` in its state directory, so that a start needs no process: seen to work, in the trial container. Only
    /// crun is tried, and no script in front of it: others that have such a file use it the other way round, or announce more than the start by it.
    #[serde(default)]
    pub start_fifo: bool,
    /// The newest `ociVersion` it takes, if it says.
    pub oci_version_max: Option<String>,
}

/// Whether pods can have a user namespace of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserNamespaces {
    /// They can.
    Yes,
    /// They can't, and why.
    No(String),
}

impl Default for UserNamespaces {
    fn default() -> Self {
        Self::No("nobody has tried".to_owned())
    }
}

/// One OCI runtime under one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handler {
    /// What RuntimeClasses call it.
    pub name: String,
    /// The executable; absolute.
    pub path: PathBuf,
    /// Its `--root`.
    pub root: PathBuf,
    /// It is given `--systemd-cgroup`.
    pub systemd_cgroup: bool,
    /// Further arguments, in front of the verb.
    pub args: Vec<String>,
    /// Which program it is.
    pub kind: Kind,
    /// Its version, by its own word; empty if it has none.
    pub version: String,
    /// What it can do here.
    pub features: Features,
    /// Why it doesn't work here; `None`: it does.
    pub problem: Option<String>,
}

impl Handler {
    /// The smallest memory limit in bytes with which it can still start a process: what runs before the container's own command counts.
    #[must_use]
    pub fn least_memory(&self) -> i64 {
        match self.kind {
            Kind::Crun => 512 << 10,
            Kind::Runc | Kind::Youki | Kind::Other => 6 << 20,
        }
    }
}

/// Why there is no handler to use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandlerError {
    /// None has this name.
    #[error("no runtime handler {name:?}: there are {}", known.join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// It doesn't work here.
    #[error("runtime handler {name:?} does not work here: {problem}")]
    Broken {
        /// Which.
        name: String,
        /// Why.
        problem: String,
    },
    /// There is no default.
    #[error("no runtime handler works here: {why}")]
    NoDefault {
        /// Why.
        why: String,
    },
}

/// All handlers, and which is the default.
#[derive(Debug, Clone)]
pub struct Handlers {
    list: Vec<Arc<Handler>>,
    default: Option<Arc<Handler>>,
    why: String,
}

impl Handlers {
    /// The handler of this name; empty: the default.
    ///
    /// # Errors
    /// [`HandlerError`] if there is none, or it doesn't work here.
    pub fn get(&self, name: &str) -> Result<&Arc<Handler>, HandlerError> {
        let handler = if name.is_empty() {
            self.default
                .as_ref()
                .ok_or_else(|| HandlerError::NoDefault { why: self.why.clone() })?
        } else {
            self.list.iter().find(|handler| handler.name == name).ok_or_else(|| {
                HandlerError::Unknown {
                    name: name.chars().take(100).collect(),
                    known: self.list.iter().map(|handler| handler.name.clone()).collect(),
                }
            })?
        };
        match &handler.problem {
            None => Ok(handler),
            Some(problem) => {
                Err(HandlerError::Broken { name: handler.name.clone(), problem: problem.clone() })
            }
        }
    }

    /// All of them, those that don't work included.
    #[must_use]
    pub fn list(&self) -> &[Arc<Handler>] {
        &self.list
    }

    /// The default's name; `None`: there is none that works.
    #[must_use]
    pub fn default_name(&self) -> Option<&str> {
        self.default.as_ref().map(|handler| handler.name.as_str())
    }

    /// Why it is the default, in a sentence for the log.
    #[must_use]
    pub fn why_default(&self) -> &str {
        &self.why
    }

    /// The default: the configured one, broken or not, so that a pod never gets another than its operator chose; else the first that works.
    fn choose(list: Vec<Arc<Handler>>, configured: Option<&str>) -> Self {
        let broken: Vec<String> = list
            .iter()
            .filter_map(|handler| {
                Some(format!("{} does not work here ({})", handler.name, handler.problem.as_ref()?))
            })
            .collect();
        let (default, mut why) = if let Some(name) = configured {
            (
                list.iter().find(|handler| handler.name == name).cloned(),
                format!("{name} is configured as the default handler"),
            )
        } else {
            match list.iter().find(|handler| handler.problem.is_none()).cloned() {
                Some(first) => {
                    let why =
                        format!("{} is the default handler: the first that works here", first.name);
                    (Some(first), why)
                }
                None => (None, "there is no OCI runtime that works here".to_owned()),
            }
        };
        for one in &broken {
            why.push_str("; ");
            why.push_str(one);
        }
        Self { list, default, why }
    }
}
