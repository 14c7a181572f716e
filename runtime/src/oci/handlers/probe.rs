//! Finding OCI runtimes and finding out what they can do.

use super::cache::Cache;
use super::command::ask;
use super::trial::{self, Place};
use super::{Features, Handler, Handlers, Kind, UserNamespaces, userns};
use crate::cgroup::Driver;
use crate::oci::host::Host;
use crate::oci::sealed;
use crate::shortage::spare;
use oci_spec::runtime::Features as Announced;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// What is looked for where nothing is configured, the fastest first.
const KNOWN: [&str; 3] = ["crun", "runc", "youki"];
/// How long a version or a list of features may take.
const ASK_DEADLINE: Duration = Duration::from_secs(5);

/// One handler of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandlerConfig {
    /// The executable; `None`: the one of the handler's name in PATH.
    #[serde(default)]
    pub path: Option<PathBuf>,
    /// Its `--root`; `None`: one below davit's state directory.
    #[serde(default)]
    pub root: Option<PathBuf>,
    /// Whether it is given `--systemd-cgroup`; `None`: as the cgroup driver is.
    #[serde(default)]
    pub systemd_cgroup: Option<bool>,
    /// Further arguments, in front of the verb.
    #[serde(default)]
    pub args: Vec<String>,
    /// `false`: containers are started by its `start` even where that is seen to do no more than write to a FIFO.
    #[serde(default)]
    pub start_fifo: Option<bool>,
}

/// What to look for, and where.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HandlersConfig {
    /// By name. crun, runc and youki are there without being named, if they are in the path.
    pub handlers: BTreeMap<String, HandlerConfig>,
    /// The default's name; `None`: the first of crun, runc, youki that works, else the first configured one that does.
    pub default: Option<String>,
    /// davit's state directory, which must exist.
    pub state: PathBuf,
    /// davit's directory of what is kept, which must exist.
    pub root: PathBuf,
    /// The `davit-shim` executable.
    pub shim: PathBuf,
    /// Where executables are looked for, as in `PATH`.
    pub path: std::ffi::OsString,
}

/// Why there are no handlers.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The default isn't among them.
    #[error("default handler {name:?} is neither configured nor found: there are {}", known.join(", "))]
    UnknownDefault {
        /// Its name.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A name that can't be one.
    #[error("handler name {0:?} is not made of letters, digits, dots, dashes and underscores")]
    Name(String),
    /// What would be found out would not be so, and would be believed for as long as the machine is up.
    #[error(
        "try the OCI runtimes: fewer than {needed} descriptors are left, raise the limit of open files"
    )]
    Descriptors {
        /// How many it takes.
        needed: usize,
        /// What the kernel says.
        #[source]
        source: std::io::Error,
    },
    /// The trials were ended with the program, or panicked.
    #[error("try the OCI runtimes")]
    Interrupted(#[source] tokio::task::JoinError),
}

/// A handler to be tried.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) root: PathBuf,
    pub(super) systemd_cgroup: bool,
    pub(super) args: Vec<String>,
    pub(super) start_fifo: Option<bool>,
}

impl Candidate {
    pub(super) fn as_handler(&self, kind: Kind, version: String, features: Features) -> Handler {
        let Self { name, path, root, systemd_cgroup, args, start_fifo: _ } = self.clone();
        Handler { name, path, root, systemd_cgroup, args, kind, version, features, problem: None }
    }

    fn broken(&self, problem: String) -> Handler {
        let handler = self.as_handler(Kind::Other, String::new(), Features::default());
        Handler { problem: Some(problem), ..handler }
    }
}

impl Handlers {
    /// Finds all handlers and tries each, in parallel. Those that worked before and haven't changed since are not tried again.
    ///
    /// # Errors
    /// [`ProbeError`] for a configuration that can't be meant. That a handler, or every one, doesn't work is no error: it is told to who
    /// asks for it.
    pub async fn probe(config: &HandlersConfig, host: &Host) -> Result<Self, ProbeError> {
        let candidates = candidates(config, host)?;
        if let Some(name) =
            config.default.as_ref().filter(|name| candidates.iter().all(|one| &one.name != *name))
        {
            let known = candidates.into_iter().map(|one| one.name).collect();
            return Err(ProbeError::UnknownDefault { name: name.clone(), known });
        }
        userns::sweep(&config.state, &config.root).await;
        let reachable = userns::reachable(&config.state);
        let shim = userns::stamp(&config.shim);
        let cache = Cache::load(
            &config.state,
            &format!("{} {shim} {reachable:?}", host.cgroups.layout().fingerprint()),
        );
        let (known, unknown): (Vec<_>, Vec<_>) = candidates
            .iter()
            .map(|candidate| (candidate.clone(), cache.find(candidate)))
            .partition(|(_, handler)| handler.is_some());
        let mut found: Vec<(Candidate, Handler)> = known
            .into_iter()
            .filter_map(|(candidate, handler)| Some((candidate, handler?)))
            .collect();
        let unknown: Vec<Candidate> = unknown.into_iter().map(|(candidate, _)| candidate).collect();
        if !unknown.is_empty() {
            let needed = unknown.len() * TRIAL_DESCRIPTORS;
            spare(needed).map_err(|source| ProbeError::Descriptors { needed, source })?;
            // Spawned: who asked may go away, and what a trial makes must go nevertheless.
            let (config, host) = (config.clone(), host.clone());
            let trials = tokio::spawn(async move { try_all(unknown, &config, &host).await });
            found.extend(trials.await.map_err(ProbeError::Interrupted)?);
        }
        if let Err(error) = cache.store(&found) {
            // Costs the next start some milliseconds, no more.
            tracing::warn!(error = %error, "what was found out about OCI runtimes can't be kept");
        }
        // Back in the order of preference.
        let place = |name: &str| candidates.iter().position(|one| one.name == name);
        found.sort_by_key(|(candidate, _)| place(&candidate.name));
        let list = found.into_iter().map(|(_, handler)| Arc::new(handler)).collect();
        Ok(Self::choose(list, config.default.as_deref()))
    }
}

/// More than one's trials take at a time: pipes, pidfds, a shim's connection, files.
const TRIAL_DESCRIPTORS: usize = 32;

/// The well-known ones that are there, in order of preference, then the others that are configured.
fn candidates(config: &HandlersConfig, host: &Host) -> Result<Vec<Candidate>, ProbeError> {
    let mut out = Vec::new();
    let empty = HandlerConfig::default();
    let known = KNOWN.iter().filter_map(|name| {
        let configured = config.handlers.get(*name);
        let there = configured.is_some() || find(name, &config.path).is_some();
        there.then(|| ((*name).to_owned(), configured.unwrap_or(&empty)))
    });
    let others = config.handlers.iter().filter(|(name, _)| !KNOWN.contains(&name.as_str()));
    for (name, handler) in known.chain(others.map(|(name, handler)| (name.clone(), handler))) {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.bytes().all(allowed)
        {
            return Err(ProbeError::Name(name));
        }
        let path = handler.path.clone().or_else(|| find(&name, &config.path));
        out.push(Candidate {
            path: path.unwrap_or_else(|| PathBuf::from(&name)),
            root: handler.root.clone().unwrap_or_else(|| config.state.join("oci").join(&name)),
            systemd_cgroup: handler.systemd_cgroup.unwrap_or(host.driver == Driver::Systemd),
            args: handler.args.clone(),
            start_fifo: handler.start_fifo,
            name,
        });
    }
    Ok(out)
}

/// The first executable of this name, as a shell finds it.
fn find(name: &str, path: &OsStr) -> Option<PathBuf> {
    let directories = std::env::split_paths(path).filter(|directory| directory.is_absolute());
    let mut files = directories.map(|directory| directory.join(name));
    files.find(|file| is_executable(file))
}

/// A script that calls one may have its own view of any verb.
fn is_program(file: &Path) -> bool {
    std::fs::File::open(file).is_ok_and(|mut file| sealed::is_program(&mut file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

async fn try_all(
    candidates: Vec<Candidate>,
    config: &HandlersConfig,
    host: &Host,
) -> Vec<(Candidate, Handler)> {
    let group = match trial::group(host.driver, &config.state) {
        Ok(group) => group,
        Err(problem) => {
            return candidates
                .into_iter()
                .map(|one| (one.clone(), one.broken(problem.clone())))
                .collect();
        }
    };
    trial::sweep(&host.cgroups, &group, &config.state).await;
    let made = match host.cgroups.ensure(&group).await {
        Ok(ensured) => ensured.made,
        Err(error) => {
            let problem = format!("make a cgroup for the trial: {error}");
            return candidates
                .into_iter()
                .map(|one| (one.clone(), one.broken(problem.clone())))
                .collect();
        }
    };
    let mut running = JoinSet::new();
    for candidate in candidates {
        let (group, config) = (group.clone(), config.clone());
        running.spawn(async move {
            let HandlersConfig { state, root, shim, .. } = &config;
            let handler = try_one(&candidate, &Place { state, group: &group, root, shim }).await;
            (candidate, handler)
        });
    }
    let found = crate::join::all(running).await;
    if let Err(error) = host.cgroups.remove(&made).await {
        tracing::warn!(error = %error, "the cgroup of the trial containers is left behind");
    }
    found
}

async fn try_one(candidate: &Candidate, place: &Place<'_>) -> Handler {
    if !candidate.path.is_absolute() {
        return candidate.broken(format!("there is no executable {:?} in PATH", candidate.name));
    }
    if !is_executable(&candidate.path) {
        return candidate.broken(format!("{} is no executable file", candidate.path.display()));
    }
    let told = tokio::join!(
        ask(&candidate.path, &["--version"], ASK_DEADLINE),
        ask(&candidate.path, &["features"], ASK_DEADLINE),
        trial::run(candidate, place),
        userns::run(candidate, place),
    );
    let (version, features, trial, user_namespaces) = told;
    let (kind, version) = match version {
        Ok(ended) => parse_version(&ended.stdout),
        Err(problem) => return candidate.broken(problem),
    };
    let announced = features.ok().filter(|ended| ended.success).map(|ended| ended.stdout);
    let mut features = parse_features(announced.as_deref().unwrap_or_default());
    let problem = match trial {
        Ok(shown) => {
            features.recursive_read_only = shown.recursive_read_only;
            features.start_fifo = shown.start_fifo
                && kind == Kind::Crun
                && is_program(&candidate.path)
                && candidate.start_fifo.unwrap_or(true);
            features.user_namespaces = match user_namespaces {
                Ok(()) => UserNamespaces::Yes,
                Err(why) => {
                    tracing::info!(handler = %candidate.name, why, "no user namespaces for pods");
                    UserNamespaces::No(why)
                }
            };
            None
        }
        Err(problem) => Some(problem),
    };
    Handler { problem, ..candidate.as_handler(kind, version, features) }
}

/// `crun version 1.8.1`, `runc version 1.1.5+ds1`, `youki version: 0.5.7`: the first line's first and last words.
fn parse_version(stdout: &[u8]) -> (Kind, String) {
    let text = String::from_utf8_lossy(stdout);
    let line = text.lines().next().unwrap_or_default();
    let kind = match line.split_ascii_whitespace().next() {
        Some("crun") => Kind::Crun,
        Some("runc") => Kind::Runc,
        Some("youki") => Kind::Youki,
        Some(_) | None => Kind::Other,
    };
    let version = line.split_ascii_whitespace().next_back().unwrap_or_default();
    (kind, version.chars().filter(|c| !c.is_control()).take(100).collect())
}

/// What the runtime announces. One that has no such verb announces nothing, which is taken for what every runtime can.
fn parse_features(json: &[u8]) -> Features {
    let unknown = Features { seccomp: true, ..Features::default() };
    let Ok(announced) = serde_json::from_slice::<Announced>(json) else { return unknown };
    let linux = announced.linux().as_ref();
    let seccomp =
        linux.and_then(|linux| linux.seccomp().as_ref()).and_then(|seccomp| *seccomp.enabled());
    Features {
        seccomp: seccomp.unwrap_or(true),
        net_devices: linux
            .and_then(|linux| linux.net_devices().as_ref())
            .is_some_and(|devices| *devices.enabled() == Some(true)),
        oci_version_max: Some(announced.oci_version_max().clone())
            .filter(|version| !version.is_empty()),
        ..Features::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_version_is_the_last_word_of_the_first_line() {
        for (text, kind, version) in [
            ("crun version 1.8.1\ncommit: f8a0\n+SYSTEMD +SECCOMP\n", Kind::Crun, "1.8.1"),
            ("runc version 1.1.5+ds1\nspec: 1.0.2-dev\n", Kind::Runc, "1.1.5+ds1"),
            ("youki version: 0.5.7\n", Kind::Youki, "0.5.7"),
            ("runsc version release-20240101.0\nspec: 1.1.0\n", Kind::Other, "release-20240101.0"),
            ("", Kind::Other, ""),
        ] {
            assert_eq!(parse_version(text.as_bytes()), (kind, version.to_owned()));
        }
    }

    #[test]
    fn features_are_what_is_announced_and_silence_is_what_all_can() {
        let text = br#"{"ociVersionMin":"1.0.0","ociVersionMax":"1.2.0","mountOptions":["ro","rro"],"linux":{
            "namespaces":["user","mount"],"seccomp":{"enabled":false},"mountExtensions":{"idmap":{"enabled":true}}}}"#;
        let features = parse_features(text);
        assert!(!features.seccomp);
        assert_eq!(features.oci_version_max.as_deref(), Some("1.2.0"));
        assert_eq!(parse_features(b""), Features { seccomp: true, ..Features::default() });
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_fail(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            parse_version(&bytes);
            parse_features(&bytes);
        }
    }
}
