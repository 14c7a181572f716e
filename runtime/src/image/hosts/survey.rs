//! All registries that the directories of `hosts.toml` files say something of.

use super::{EndpointPlan, HostsError, read_directory};
use crate::error::chain;
use std::path::{Path, PathBuf};

/// Stands for whatever registry is asked for, in a name that no registry has.
const ANY: &str = "registry.invalid";
/// The directory for those that have none of their own.
const DEFAULT: &str = "_default";
/// More of them are a mistake.
const MOST: usize = 1000;

/// What is configured for one registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfiguredRegistry {
    /// `HOST[:PORT]`, or `_default` for all others.
    pub name: String,
    /// The directory that says so.
    pub source: PathBuf,
    /// Where it is asked, in this order; of the default the mirrors only.
    pub endpoints: Vec<String>,
    /// Why nothing can be pulled from it.
    pub problem: Option<String>,
}

/// Those below these directories, by name; of two for the same registry the one that counts. A directory that is not there says nothing. Blocks.
///
/// # Errors
/// [`HostsError::Read`]: one of them can't be listed.
pub fn configured_registries(roots: &[PathBuf]) -> Result<Vec<ConfiguredRegistry>, HostsError> {
    let mut all: Vec<ConfiguredRegistry> = Vec::new();
    for root in roots {
        for source in directories(root)? {
            let one = configured(&source);
            if !all.iter().any(|earlier| earlier.name == one.name) {
                all.push(one);
            }
        }
    }
    all.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(all)
}

fn directories(root: &Path) -> Result<Vec<PathBuf>, HostsError> {
    let failed = |source| HostsError::Read { path: root.to_owned(), source };
    let entries = match std::fs::read_dir(root) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut found = Vec::new();
    for entry in entries.take(MOST) {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    // Before `host:port` comes `host_port_`, as a pull looks for them.
    found.sort_by_key(|path| !path.to_string_lossy().ends_with('_'));
    Ok(found)
}

fn configured(source: &Path) -> ConfiguredRegistry {
    let directory = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let name = registry(&directory);
    let asked = if name == DEFAULT { ANY } else { name.as_str() };
    let (endpoints, problem) = match read_directory(source, asked) {
        Ok(plans) => {
            let others = |plan: &&EndpointPlan| plan.host() != ANY;
            (plans.iter().filter(others).map(|plan| plan.url.clone()).collect(), None)
        }
        Err(error) => (Vec::new(), Some(chain(&error))),
    };
    ConfiguredRegistry { name, source: source.to_owned(), endpoints, problem }
}

/// The registry that a directory is for: `host_5000_` is `host:5000` where a colon can't be.
fn registry(directory: &str) -> String {
    let escaped = directory.strip_suffix('_').and_then(|rest| rest.rsplit_once('_'));
    match escaped {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
            format!("{host}:{port}")
        }
        _ => directory.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn every_registry_is_listed_with_its_mirrors_and_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).unwrap();
            std::fs::File::create(path.join("hosts.toml"))
                .unwrap()
                .write_all(text.as_bytes())
                .unwrap();
        };
        write("docker.io", "[host.\"https://mirror.example\"]\n");
        write("r.example_5000_", "server = \"https://r.example:5000\"\n");
        write("r.example:5000", "colour = \"red\"\n");
        write("_default", "[host.\"https://all.example\"]\n");
        write("broken.example", "colour = \"red\"\n");
        let all =
            configured_registries(&[dir.path().to_owned(), dir.path().join("nowhere")]).unwrap();
        let names: Vec<&str> = all.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["_default", "broken.example", "docker.io", "r.example:5000"]);
        assert_eq!(all[0].endpoints, ["https://all.example/v2"]);
        assert!(all[1].problem.as_ref().is_some_and(|problem| problem.contains("colour")));
        assert_eq!(
            all[2].endpoints,
            ["https://mirror.example/v2", "https://registry-1.docker.io/v2"]
        );
        assert_eq!((all[3].endpoints.len(), &all[3].problem), (1, &None));
    }
}
