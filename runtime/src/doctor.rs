//! Whether this machine can run pods, found out as the daemon finds it out, and without one.
//!
//! Owns the order and the places for trials: directories beside davit's own, so on the same file systems, that are gone afterwards. Owns no check: each is the
//! part's that depends on it, and the daemon goes by the same. Invariant: nothing is left behind, and nothing of a daemon that runs is touched.

use crate::config::RuntimeConfig;
use crate::error::chain;
use crate::image::configured_registries;
use crate::machine::{self, Finding, nearest};
use crate::network;
use crate::oci::handlers::{HandlersConfig, UserNamespaces};
use crate::oci::{Handler, Handlers, Host, HostConfig};
use crate::store::{
    Layout, StoreError, ensure_dir, let_pass, new_dir, probe_overlay, probe_state, remove_tree,
};
use crate::{checkpoint, id};
use std::path::{Path, PathBuf};

/// What there is to say of this machine, whatever the configuration. Blocks.
#[must_use]
pub fn examine_machine() -> Vec<Finding> {
    match Host::probe(&HostConfig::default()) {
        Ok(host) => machine::base(&host),
        Err(error) => vec![no_host(&error)],
    }
}

/// What there is to say of it with this configuration. It takes some seconds: containers are made for it.
pub async fn examine(config: &RuntimeConfig) -> Vec<Finding> {
    let host = match Host::probe(&config.host) {
        Ok(host) => host,
        Err(error) => return vec![no_host(&error)],
    };
    let mut found = machine::survey(config, &host);
    match Trial::begin(config) {
        Ok(trial) => {
            found.extend(trial.directories());
            found.extend(trial.handlers(config, &host).await);
            found.extend(trial.end());
        }
        Err(error) => found.push(Finding::problem(
            "directories",
            format!("trials have no place: {}", chain(&error)),
            "let root write beside root and state",
        )),
    }
    found.extend(network::examine(&config.network).await);
    found.extend(registries(&config.images.certs_dirs));
    found.push(checkpoint::examine(config).await);
    found
}

fn no_host(error: &crate::oci::HostError) -> Finding {
    Finding::problem(
        "kernel",
        format!("it does not tell what is needed: {}", chain(error)),
        "mount /proc and the cgroups",
    )
}

/// What is wrong with the files for registries; one line if nothing is.
pub(crate) fn registries(certs_dirs: &[PathBuf]) -> Vec<Finding> {
    let subject = "registries";
    let advice = "correct the file";
    let all = match configured_registries(certs_dirs) {
        Ok(all) => all,
        Err(error) => return vec![Finding::problem(subject, chain(&error), advice)],
    };
    let broken: Vec<Finding> = all
        .iter()
        .filter_map(|one| {
            let problem = one.problem.as_ref()?;
            Some(Finding::warning(
                subject,
                format!("nothing can be pulled from {}: {problem}", one.name),
                advice,
            ))
        })
        .collect();
    if !broken.is_empty() {
        return broken;
    }
    let names: Vec<&str> = all.iter().map(|one| one.name.as_str()).collect();
    let told = if names.is_empty() {
        "none is configured: each is asked as its name says".to_owned()
    } else {
        names.join(", ")
    };
    vec![Finding::ok(subject, told)]
}

/// The places for trials.
struct Trial {
    state: PathBuf,
    root: PathBuf,
}

impl Trial {
    /// Makes them: where davit's directories are or will be.
    fn begin(config: &RuntimeConfig) -> Result<Self, StoreError> {
        let random = |path: &Path| {
            let id = id::SandboxId::random().map_err(|error| StoreError::Io {
                verb: "draw a name for a trial in",
                path: path.to_owned(),
                source: std::io::Error::other(error),
            })?;
            // Short: a socket's path below it has to fit into 108 bytes.
            Ok(path.join(format!(".doctor-{}", id.as_str().get(..8).unwrap_or_default())))
        };
        let trial =
            Self { state: random(&nearest(&config.state))?, root: random(&nearest(&config.root))? };
        trial.make()?;
        Ok(trial)
    }

    /// As the daemon makes its own.
    fn make(&self) -> Result<(), StoreError> {
        new_dir(&self.state, 0o700)?;
        new_dir(&self.root, 0o700)?;
        let rootfs = Layout::new(self.root.clone(), self.state.clone()).userns_rootfs();
        let_pass(&self.state)?;
        ensure_dir(&rootfs)?;
        let_pass(&rootfs)
    }

    fn directories(&self) -> Vec<Finding> {
        let judge = |subject: &str, tried: Result<(), StoreError>, what: &str| match tried {
            Ok(()) => Finding::ok(subject, what),
            Err(error) => Finding::problem(subject, chain(&error), "put it on another file system"),
        };
        vec![
            judge(
                "file system of root",
                probe_overlay(&self.root),
                "takes containers' writable layers (overlay)",
            ),
            judge("file system of state", probe_state(&self.state), "has sockets, pipes and modes"),
        ]
    }

    async fn handlers(&self, config: &RuntimeConfig, host: &Host) -> Vec<Finding> {
        let (state, root) = (self.state.clone(), self.root.clone());
        let config = HandlersConfig { state, root, ..config.handlers.clone() };
        match Handlers::probe(&config, host).await {
            Ok(handlers) => handler_findings(&handlers),
            Err(error) => vec![Finding::problem(
                "OCI runtimes",
                chain(&error),
                "correct the configuration, or install it",
            )],
        }
    }

    /// Removes them.
    fn end(self) -> Option<Finding> {
        let left =
            [remove_tree(&self.state), remove_tree(&self.root)].into_iter().find_map(Result::err);
        left.map(|error| {
            Finding::warning(
                "directories",
                format!("a trial's are left: {}", chain(&error)),
                "remove them",
            )
        })
    }
}

impl Drop for Trial {
    /// Whatever became of the trials.
    fn drop(&mut self) {
        drop((remove_tree(&self.state), remove_tree(&self.root)));
    }
}

/// Each handler, and whether there is one for pods that name none.
pub(crate) fn handler_findings(handlers: &Handlers) -> Vec<Finding> {
    let subject = "OCI runtimes";
    let install = "install crun or runc, or set handlers.NAME.path";
    let mut found: Vec<Finding> =
        handlers.list().iter().flat_map(|handler| of_handler(handler)).collect();
    if let Err(error) = handlers.get("") {
        found.push(Finding::problem(
            subject,
            format!("no pod can be run: {}", chain(&error)),
            install,
        ));
    }
    found
}

fn of_handler(handler: &Handler) -> Vec<Finding> {
    let subject = "OCI runtimes";
    let Handler { name, path, version, features, problem, .. } = handler;
    let told = format!("{name} {version} ({})", path.display());
    if let Some(problem) = problem {
        let text = format!("{told} does not work here: {problem}");
        return vec![Finding::warning(
            subject,
            text,
            "pods can have another by RuntimeClass; mend or remove it",
        )];
    }
    let mut found = vec![Finding::ok(subject, format!("{told} made a trial container"))];
    if let UserNamespaces::No(why) = &features.user_namespaces {
        let text = format!("pods with hostUsers: false are refused with {name}: {why}");
        found.push(Finding::warning(
            subject,
            text,
            "Linux 6.3, a file system with idmapped mounts, and crun or runc 1.1 have them",
        ));
    }
    if !features.seccomp {
        found.push(Finding::warning(
            subject,
            format!(
                "{name} was built without seccomp: containers that ask for a profile are refused"
            ),
            "install another build",
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Verdict;
    use std::io::Write as _;

    #[test]
    fn a_registry_whose_file_is_wrong_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let roots = [dir.path().to_owned()];
        assert_eq!(registries(&roots)[0].verdict, Verdict::Ok);
        std::fs::create_dir(dir.path().join("r.example")).unwrap();
        let mut file = std::fs::File::create(dir.path().join("r.example/hosts.toml")).unwrap();
        file.write_all(b"colour = 1\n").unwrap();
        let found = registries(&roots);
        assert_eq!((found.len(), found[0].verdict), (1, Verdict::Warning));
        assert!(
            found[0].text.contains("r.example") && found[0].text.contains("colour"),
            "{found:?}"
        );
    }

    #[test]
    fn the_machine_is_examined_without_a_configuration() {
        let found = examine_machine();
        for subject in ["kernel", "capabilities", "cgroups", "security", "clock"] {
            assert!(found.iter().any(|one| one.subject == subject), "{subject}: {found:?}");
        }
    }
}
