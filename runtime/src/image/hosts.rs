//! Where an image's registry really is: containerd's `hosts.toml`.
//!
//! Owns the files' grammar and the order of endpoints; owns no connection. For a registry the directories
//! `<host>_<port>_`, `<host>:<port>` (or `<host>`) and `_default` are looked for below each configured root, and the first
//! that exists decides, whatever it holds: a `hosts.toml`, or certificates in Docker's layout (`*.crt`, and `*.cert` with
//! `*.key`). Read anew at every pull, so that an edit needs no restart. What is not understood is refused with its file and
//! key, because a mirror that is silently ignored sends a private image's name to the public.

mod file;
mod survey;

pub use survey::{ConfiguredRegistry, configured_registries};

use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a connection may take to be made, unless `dial_timeout` says otherwise: containerd's default.
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);
const DOCKER: &str = "docker.io";
/// Where docker.io's images really are.
pub(crate) const DOCKER_ENDPOINT: &str = "registry-1.docker.io";

/// Why a registry's configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// A file or directory cannot be read.
    #[error("read {path}")]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is no TOML, or has a key that is not known, or a value of the wrong type.
    #[error("parse {path}")]
    Parse {
        /// Which one.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A value that cannot be used.
    #[error("{path}: {key} = {value:?} {reason}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The key, with its table.
        key: String,
        /// As it stands there.
        value: String,
        /// What is wrong.
        reason: String,
    },
}

/// What an endpoint may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// What a tag means.
    Resolve,
    /// Content by digest.
    Pull,
}

/// One place to ask for images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointPlan {
    /// The URL that `/<repository>/manifests/…` is appended to: `https://registry-1.docker.io/v2`.
    pub url: String,
    /// What it may be asked for.
    pub capabilities: Vec<Capability>,
    /// The registry that the image's name says, told to a mirror that serves several (`?ns=`).
    pub namespace: Option<String>,
    /// Certificates that are trusted besides the system's.
    pub ca: Vec<PathBuf>,
    /// Certificate and key to show; both may be in one file.
    pub client: Vec<(PathBuf, PathBuf)>,
    /// Certificates are not checked.
    pub skip_verify: bool,
    /// Sent with every request to this endpoint and to no other.
    pub headers: Vec<(String, String)>,
    /// For a connection to be made.
    pub dial_timeout: Duration,
    /// The file that says so; `None` for the registry itself without one.
    pub source: Option<PathBuf>,
}

impl EndpointPlan {
    /// Whether it may be asked for this.
    #[must_use]
    pub fn can(&self, capability: Capability) -> bool {
        self.capabilities.contains(&capability)
    }

    /// Host and port of [`Self::url`].
    #[must_use]
    pub fn host(&self) -> &str {
        let rest = self.url.split_once("://").map_or(self.url.as_str(), |(_, rest)| rest);
        rest.split('/').next().unwrap_or(rest)
    }

    /// The registry itself, with nothing configured.
    pub(super) fn origin(registry: &str) -> Self {
        let host = if registry == DOCKER { DOCKER_ENDPOINT } else { registry };
        let scheme = if is_loopback(host) && !host.ends_with(":443") { "http" } else { "https" };
        Self {
            url: format!("{scheme}://{host}/v2"),
            capabilities: vec![Capability::Resolve, Capability::Pull],
            namespace: None,
            ca: Vec::new(),
            client: Vec::new(),
            skip_verify: false,
            headers: Vec::new(),
            dial_timeout: DIAL_TIMEOUT,
            source: None,
        }
    }
}

/// `localhost` or a loopback address, with or without a port: spoken to in clear, as Docker does.
pub(crate) fn is_loopback(host: &str) -> bool {
    if let Some(rest) = host.strip_prefix('[') {
        return rest
            .split(']')
            .next()
            .and_then(|ip| ip.parse::<std::net::Ipv6Addr>().ok())
            .is_some_and(|ip| ip.is_loopback());
    }
    let name = host.split(':').next().unwrap_or(host);
    name == "localhost" || name.parse::<std::net::Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
}

/// The endpoints for `registry`, in the order in which they are tried.
///
/// # Errors
/// [`HostsError`] names the file, the key and the value.
pub(crate) fn endpoints(
    roots: &[PathBuf],
    registry: &str,
) -> Result<Vec<EndpointPlan>, HostsError> {
    match find_directory(roots, registry)? {
        Some(directory) => read_directory(&directory, registry),
        None => Ok(vec![EndpointPlan::origin(registry)]),
    }
}

fn find_directory(roots: &[PathBuf], registry: &str) -> Result<Option<PathBuf>, HostsError> {
    let escaped = registry.rsplit_once(':').map(|(host, port)| format!("{host}_{port}_"));
    let names = escaped.into_iter().chain([registry.to_owned(), "_default".to_owned()]);
    let names: Vec<String> = names.collect();
    for root in roots {
        for name in &names {
            let path = root.join(name);
            match std::fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => return Ok(Some(path)),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(HostsError::Read { path, source }),
            }
        }
    }
    Ok(None)
}

fn read_directory(directory: &Path, registry: &str) -> Result<Vec<EndpointPlan>, HostsError> {
    let path = directory.join("hosts.toml");
    match std::fs::read_to_string(&path) {
        Ok(text) => file::parse(&path, &text, registry),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            docker_layout(directory, registry)
        }
        Err(source) => Err(HostsError::Read { path, source }),
    }
}

/// A directory without `hosts.toml`: every `*.crt` is trusted, every `*.cert` is shown with its `*.key`.
fn docker_layout(directory: &Path, registry: &str) -> Result<Vec<EndpointPlan>, HostsError> {
    let failed = |source| HostsError::Read { path: directory.to_owned(), source };
    let mut plan = EndpointPlan::origin(registry);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        paths.push(entry.map_err(failed)?.path());
    }
    paths.sort();
    for path in paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => plan.ca.push(path),
            Some("cert") => {
                let key = path.with_extension("key");
                plan.client.push((path, key));
            }
            Some(_) | None => {}
        }
    }
    if !plan.ca.is_empty() || !plan.client.is_empty() {
        plan.url = plan.url.replacen("http://", "https://", 1);
        plan.source = Some(directory.to_owned());
    }
    Ok(vec![plan])
}

#[cfg(test)]
mod tests;
