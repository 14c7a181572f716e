//! Pods, containers, images and commands, one line each.

use super::Test;
use super::log::{Line, parse_log};
use crate::host::{eventually, read_optional};
use crate::images::{ImageBuilder, catalog};
use crate::tools;
use anyhow::{Context, Result, bail};
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, ContainerState, ContainerStatus, LinuxContainerConfig,
    LinuxContainerResources, LinuxContainerSecurityContext, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, NamespaceOption, PodSandboxConfig, PodSandboxMetadata,
};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;
use tonic::Status;

/// How long a container may take to end that ends by itself at once.
const EXIT: Duration = Duration::from_secs(20);

/// A pod that was run.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Its id.
    pub id: String,
    /// What was asked for.
    pub config: PodSandboxConfig,
}

/// `sh -c SCRIPT`.
#[must_use]
pub fn sh(script: &str) -> Vec<String> {
    ["sh", "-c", script].map(str::to_owned).to_vec()
}

/// The resources of a container to be.
pub fn resources(config: &mut ContainerConfig) -> &mut LinuxContainerResources {
    config.linux.get_or_insert_default().resources.get_or_insert_default()
}

/// The security context of a container to be.
pub fn security(config: &mut ContainerConfig) -> &mut LinuxContainerSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

/// The namespaces of a pod to be.
pub fn namespaces(config: &mut PodSandboxConfig) -> &mut NamespaceOption {
    let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
    security.namespace_options.get_or_insert_default()
}

impl Test {
    /// The configuration of a pod with this name, as the kubelet would write it.
    #[must_use]
    pub fn pod_config(&self, name: &str) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                // Its own even where several tests share one runtime.
                uid: format!("{}-{name}", self.settings().tag()),
                namespace: "e2e".to_owned(),
                attempt: 0,
            }),
            log_directory: self.dir.join("logs").join(name).to_string_lossy().into_owned(),
            linux: Some(LinuxPodSandboxConfig {
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(NamespaceOption {
                        pid: 1,
                        ..NamespaceOption::default()
                    }),
                    ..LinuxSandboxSecurityContext::default()
                }),
                ..LinuxPodSandboxConfig::default()
            }),
            ..PodSandboxConfig::default()
        }
    }

    /// Runs a pod with a changed configuration.
    ///
    /// # Errors
    /// The server's.
    pub fn try_pod(
        &self,
        name: &str,
        change: impl FnOnce(&mut PodSandboxConfig),
    ) -> Result<Pod, Status> {
        let mut config = self.pod_config(name);
        change(&mut config);
        if !config.log_directory.is_empty() {
            // The kubelet makes it.
            std::fs::create_dir_all(&config.log_directory)?;
        }
        let id = self.cri.run_pod(&config, "")?;
        self.watch(&id);
        Ok(Pod { id, config })
    }

    /// Runs a pod.
    ///
    /// # Errors
    /// The server's.
    pub fn pod(&self, name: &str, change: impl FnOnce(&mut PodSandboxConfig)) -> Result<Pod> {
        self.try_pod(name, change).with_context(|| format!("run pod {name}"))
    }

    /// The configuration of a container that sleeps until it is told to end.
    #[must_use]
    pub fn container_config(&self, name: &str) -> ContainerConfig {
        ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(crate::cri::spec(&self.registry.reference("davit-test/busybox:latest"))),
            command: sh("trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done"),
            log_path: format!("{name}.log"),
            linux: Some(LinuxContainerConfig {
                resources: Some(LinuxContainerResources::default()),
                security_context: Some(LinuxContainerSecurityContext {
                    namespace_options: Some(NamespaceOption {
                        pid: 1,
                        ..NamespaceOption::default()
                    }),
                    ..LinuxContainerSecurityContext::default()
                }),
            }),
            ..ContainerConfig::default()
        }
    }

    /// Creates a container with a changed configuration; its image is pulled first if it is the default one.
    ///
    /// # Errors
    /// The server's.
    pub fn try_create(
        &self,
        pod: &Pod,
        name: &str,
        change: impl FnOnce(&mut ContainerConfig),
    ) -> Result<String, Status> {
        let mut config = self.container_config(name);
        let default = config.image.clone();
        change(&mut config);
        if let Some(image) = config.image.as_ref().filter(|image| Some(*image) == default.as_ref())
        {
            self.cri.pull(&image.image)?;
        }
        let id = self.cri.create(&pod.id, &config, &pod.config)?;
        self.watch(&id);
        Ok(id)
    }

    /// Creates a container.
    ///
    /// # Errors
    /// The server's.
    pub fn create(
        &self,
        pod: &Pod,
        name: &str,
        change: impl FnOnce(&mut ContainerConfig),
    ) -> Result<String> {
        self.try_create(pod, name, change).with_context(|| format!("create container {name}"))
    }

    /// Creates and starts a container.
    ///
    /// # Errors
    /// The server's.
    pub fn run(
        &self,
        pod: &Pod,
        name: &str,
        change: impl FnOnce(&mut ContainerConfig),
    ) -> Result<String> {
        let id = self.create(pod, name, change)?;
        self.cri.start(&id).with_context(|| format!("start container {name}"))?;
        Ok(id)
    }

    /// A pod with one container that sleeps.
    ///
    /// # Errors
    /// The server's.
    pub fn sleeper(&self, change: impl FnOnce(&mut ContainerConfig)) -> Result<(Pod, String)> {
        let pod = self.pod("pod", |_| ())?;
        let id = self.run(&pod, "main", change)?;
        Ok((pod, id))
    }

    /// Runs a script in a container: its standard output without the last line's end.
    ///
    /// # Errors
    /// The server's, and an exit code that is not 0.
    pub fn exec(&self, id: &str, script: &str) -> Result<String> {
        let answer = self
            .cri
            .exec(id, &["sh", "-c", script], 20)
            .with_context(|| format!("exec {script:?}"))?;
        let stdout = String::from_utf8_lossy(&answer.stdout).trim_end().to_owned();
        if answer.exit_code != 0 {
            let stderr = String::from_utf8_lossy(&answer.stderr).into_owned();
            bail!(
                "exec {script:?}: exit code {}\nstdout: {stdout}\nstderr: {stderr}",
                answer.exit_code
            );
        }
        Ok(stdout)
    }

    /// The pid of a running container's first process, on the host.
    ///
    /// # Errors
    /// The server's, or that it does not say.
    pub fn pid(&self, id: &str) -> Result<u32> {
        let info = self.cri.container_info(id)?;
        let text = info.get("info").context("a verbose ContainerStatus has no info")?;
        let json: serde_json::Value =
            serde_json::from_str(text).context("read a verbose ContainerStatus")?;
        let pid = json.get("pid").and_then(serde_json::Value::as_u64).context("info has no pid")?;
        u32::try_from(pid).context("info's pid is none")
    }

    /// Waits until a container has ended.
    ///
    /// # Errors
    /// If it does not end.
    pub fn wait_for_exit(&self, id: &str) -> Result<ContainerStatus> {
        eventually(EXIT, "the container ends", || {
            let status = self.cri.status(id)?;
            Ok((status.state() == ContainerState::ContainerExited).then_some(status))
        })
    }

    /// Runs a container to its end and tells how it ended, with its log.
    ///
    /// # Errors
    /// The server's, or that it does not end.
    pub fn output(
        &self,
        pod: &Pod,
        name: &str,
        change: impl FnOnce(&mut ContainerConfig),
    ) -> Result<(ContainerStatus, Vec<Line>)> {
        let id = self.run(pod, name, change)?;
        let status = self.wait_for_exit(&id)?;
        let lines = self.log(&status)?;
        Ok((status, lines))
    }

    /// A container's log.
    ///
    /// # Errors
    /// If it is not in the format of CRI.
    pub fn log(&self, status: &ContainerStatus) -> Result<Vec<Line>> {
        let path = PathBuf::from(&status.log_path);
        let text =
            read_optional(&path)?.with_context(|| format!("{} is not there", path.display()))?;
        parse_log(&text)
    }

    /// Pulls an image of the test's registry, `repository:tag`: its reference.
    ///
    /// # Errors
    /// The server's.
    pub fn pull(&self, name: &str) -> Result<String> {
        let reference = self.registry.reference(name);
        self.cri.pull(&reference).with_context(|| format!("pull {reference}"))?;
        Ok(reference)
    }

    /// An image builder that begins with busybox.
    ///
    /// # Errors
    /// If the shared images cannot be read.
    pub fn busybox(&self) -> Result<ImageBuilder> {
        catalog::busybox(&self.images)
    }

    /// Puts an image into the test's registry under `repository:latest`: its reference, not pulled yet.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn push(&self, repository: &str, image: &ImageBuilder) -> Result<String> {
        image.push(self.registry.store(), repository, &["latest"])?;
        Ok(self.registry.reference(&format!("{repository}:latest")))
    }

    /// Runs `davit` with these arguments against the test's daemon.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn davit(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.daemon().davit();
        command.args(arguments).current_dir(&self.dir);
        command.output().with_context(|| format!("run {command:?}"))
    }

    /// Runs `davit`, which has to succeed: its standard output, trimmed.
    ///
    /// # Errors
    /// If it fails.
    pub fn davit_ok(&self, arguments: &[&str]) -> Result<String> {
        let output = self.davit(arguments)?;
        if !output.status.success() {
            bail!("davit {arguments:?}: {}", tools::describe(&output));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Runs `crictl` against the test's daemon, which has to succeed: its standard output, trimmed.
    ///
    /// # Errors
    /// If it fails.
    pub fn crictl(&self, arguments: &[&str]) -> Result<String> {
        Ok(tools::run(&mut self.crictl_command(arguments)?)?.trim().to_owned())
    }

    /// `crictl` for the test's daemon, to be started.
    ///
    /// # Errors
    /// If it is not there.
    pub fn crictl_command(&self, arguments: &[&str]) -> Result<Command> {
        let endpoint = format!("unix://{}", self.settings().socket().display());
        let mut command = Command::new(tools::crictl()?);
        command.args([
            "--config",
            "/dev/null",
            "--runtime-endpoint",
            &endpoint,
            "--image-endpoint",
            &endpoint,
        ]);
        command.args(["--timeout", "30s"]).args(arguments).current_dir(&self.dir);
        Ok(command)
    }

    /// Runs `crictl` and reads what it prints as JSON.
    ///
    /// # Errors
    /// If it fails or prints something else.
    pub fn crictl_json(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        let text = self.crictl(arguments)?;
        serde_json::from_str(&text)
            .with_context(|| format!("crictl {arguments:?} printed {text:?}"))
    }
}
