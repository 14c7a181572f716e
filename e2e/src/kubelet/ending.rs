//! A kubelet's end: of its pods, of itself, and of what it has made on the machine.
//!
//! Owns the order of these, and the search for what is left. Each step goes on where the one before failed.

use super::{Kubelet, cgroups, log};
use crate::host::{eventually, names_in};
use anyhow::{Context, Result};
use rustix::mount::{UnmountFlags, unmount};
use std::path::Path;
use std::sync::PoisonError;
use std::time::Duration;

/// How long it may take to end all pods and give back what they held: it looks every 2 s.
const CLEAR: Duration = Duration::from_secs(40);
/// Where it links every container's log, whatever its configuration says.
pub(super) const LINKS: &str = "/var/log/containers";

impl Kubelet<'_> {
    /// Ends all pods, looks for what is left, ends the kubelet, looks into its log; each goes on where the one before failed.
    pub(super) fn finish(&self, problems: &mut Vec<String>) {
        let mut note = |what: &str, result: Result<()>| {
            if let Err(error) = result {
                problems.push(format!("{what}: {error:#}"));
            }
        };
        if self.child().is_some() {
            note("end the kubelet's pods", self.clear());
            note("end the kubelet", self.stop());
        }
        note("remove the kubelet's cgroups", cgroups::remove(&self.cgroup()));
        note("unmount the kubelet's directory", self.unmount());
        note("remove the links to logs", self.remove_links());
        let allowed = self.allowed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let errors = log::unexpected(&self.log(), &allowed);
        if !errors.is_empty() {
            note(
                "the kubelet's log",
                Err(anyhow::anyhow!("errors that were not expected:\n{}", errors.join("\n"))),
            );
        }
    }

    /// Takes all manifests away and waits until nothing of their pods is left. The sandboxes stay, stopped: the kubelet removes
    /// them once a minute, and the test's own end does it now.
    fn clear(&self) -> Result<()> {
        for name in names_in(&self.dir.join("manifests"))? {
            let path = self.dir.join("manifests").join(&name);
            std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
        let mut left = Vec::new();
        let cleared = eventually(CLEAR, "the kubelet has given everything back", || {
            left = self.left()?;
            Ok(left.is_empty().then_some(()))
        });
        cleared.with_context(|| format!("left:\n{}", left.join("\n")))
    }

    /// The kubelet takes a link away with its container; those of the containers that the test's own end removes are left. Every
    /// kubelet of the machine takes away those that lead nowhere: a neighbouring test's may come first.
    fn remove_links(&self) -> Result<()> {
        let links = Path::new(LINKS);
        for name in names_in(links)? {
            let link = links.join(&name);
            if std::fs::read_link(&link).is_ok_and(|target| target.starts_with(&self.dir)) {
                match std::fs::remove_file(&link) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(error).with_context(|| format!("remove {}", link.display()));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// The kubelet mounts its directory over itself to share what is mounted in there. What is left in there keeps it busy.
    fn unmount(&self) -> Result<()> {
        let root = self.dir.join("root");
        let mounted = || -> Result<bool> {
            let table =
                std::fs::read_to_string("/proc/self/mountinfo").context("read mountinfo")?;
            Ok(table.lines().any(|line| line.split(' ').nth(4).map(Path::new) == Some(&root)))
        };
        while mounted()? {
            unmount(&root, UnmountFlags::empty())
                .with_context(|| format!("unmount {}", root.display()))?;
        }
        Ok(())
    }

    fn left(&self) -> Result<Vec<String>> {
        use k8s_cri::v1::{ContainerState, PodSandboxState};
        let mut left = Vec::new();
        let pods = self.api.pods()?;
        left.extend(pods.iter().map(|pod| format!("pod {}", pod.name())));
        for pod in self.test.cri.pods(None)? {
            if pod.state() == PodSandboxState::SandboxReady {
                left.push(format!("sandbox {}", pod.id));
            }
        }
        for container in self.test.cri.containers(None)? {
            if container.state() == ContainerState::ContainerRunning {
                left.push(format!("container {}", container.id));
            }
        }
        for pod in names_in(&self.dir.join("root/pods"))? {
            left.push(format!("directory root/pods/{pod}"));
        }
        for path in cgroups::pods(&self.cgroup())? {
            left.push(format!("cgroup {}", path.display()));
        }
        Ok(left)
    }
}
