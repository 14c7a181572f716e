//! The pod that is measured: one container that sleeps.
//!
//! Owns what is asked of each runtime, the same of all: the fields that the kubelet fills in for a plain pod.

use super::lane::{Lane, Subject};
use anyhow::{Context, Result};
use k8s_cri::v1::security_profile::ProfileType;
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, ImageSpec, LinuxContainerConfig, LinuxContainerResources,
    LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext,
    NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata, RuntimeCondition,
    SecurityProfile,
};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// What the kubelet hides of `/proc` and `/sys` in every container.
const MASKED: [&str; 10] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
/// What it lets be read only.
const READONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Which network a pod gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Network {
    /// The host's.
    Host,
    /// One of its own.
    Own,
}

/// A pod that runs.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) pod: String,
    pub(super) container: String,
}

/// What runs in a pod unless something else is asked for.
pub(super) const SLEEP: [&str; 2] = ["sleep", "1000000"];

/// How long each call of a start took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Steps {
    /// RunPodSandbox.
    pub(super) sandbox: Duration,
    /// CreateContainer.
    pub(super) create: Duration,
    /// StartContainer.
    pub(super) start: Duration,
}

impl Steps {
    /// All three.
    pub(super) fn whole(self) -> Duration {
        self.sandbox + self.create + self.start
    }
}

/// RunPodSandbox, CreateContainer, StartContainer.
pub(super) fn run(subject: &Subject, network: Network) -> Result<Running> {
    Ok(timed(subject, network, &SLEEP)?.0)
}

/// The same with this command, and how long each call took.
pub(super) fn timed(
    subject: &Subject,
    network: Network,
    command: &[&str],
) -> Result<(Running, Steps)> {
    let name = format!("pod-{}", subject.pods.fetch_add(1, Ordering::Relaxed));
    let pod_config = pod_config(subject, &name, network);
    let config = container_config(subject, network, command);
    // The kubelet makes it.
    std::fs::create_dir_all(&pod_config.log_directory).context("make the log directory")?;
    let title = subject.lane.title();
    let begun = Instant::now();
    let pod =
        subject.cri.run_pod(&pod_config, "").with_context(|| format!("{title}: run {name}"))?;
    let sandbox = begun.elapsed();
    let container = subject
        .cri
        .create(&pod, &config, &pod_config)
        .with_context(|| format!("{title}: create in {name}"))?;
    let create = begun.elapsed() - sandbox;
    subject.cri.start(&container).with_context(|| format!("{title}: start in {name}"))?;
    let start = begun.elapsed() - sandbox - create;
    Ok((Running { pod, container }, Steps { sandbox, create, start }))
}

/// StopPodSandbox, RemovePodSandbox.
pub(super) fn remove(subject: &Subject, running: &Running) -> Result<()> {
    let title = subject.lane.title();
    if subject.lane == Lane::Crio {
        // As part of a pod's stop it gives them 10 s to heed a signal, which a first process that sleeps does not.
        subject.cri.stop(&running.container, 0).with_context(|| format!("{title}: stop"))?;
    }
    subject.cri.stop_pod(&running.pod).with_context(|| format!("{title}: stop a pod"))?;
    subject.cri.remove_pod(&running.pod).with_context(|| format!("{title}: remove a pod"))
}

/// What Status tells of a runtime that can take pods.
pub(super) fn ready(conditions: &[RuntimeCondition]) -> bool {
    let holds = |name: &str| conditions.iter().any(|it| it.r#type == name && it.status);
    holds("RuntimeReady") && holds("NetworkReady")
}

fn pod_config(subject: &Subject, name: &str, network: Network) -> PodSandboxConfig {
    let tag = subject.settings.tag();
    let logs = subject.settings.dir.join("logs").join(name);
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("{tag}-{name}"),
            namespace: "bench".to_owned(),
            attempt: 0,
        }),
        hostname: match network {
            // The host's own; the kubelet names none.
            Network::Host => String::new(),
            Network::Own => name.to_owned(),
        },
        log_directory: logs.to_string_lossy().into_owned(),
        linux: Some(LinuxPodSandboxConfig {
            // Not a runtime's default, so that the search for leaks knows it.
            cgroup_parent: format!("/{tag}-pods"),
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(network)),
                seccomp: Some(unconfined()),
                ..LinuxSandboxSecurityContext::default()
            }),
            ..LinuxPodSandboxConfig::default()
        }),
        ..PodSandboxConfig::default()
    }
}

fn container_config(subject: &Subject, network: Network, command: &[&str]) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: "main".to_owned(), attempt: 0 }),
        image: Some(ImageSpec {
            // CRI-O makes no container without.
            user_specified_image: subject.image.clone(),
            ..crate::cri::spec(&subject.image)
        }),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        log_path: "main.log".to_owned(),
        linux: Some(LinuxContainerConfig {
            resources: Some(LinuxContainerResources {
                cpu_shares: 2,
                ..LinuxContainerResources::default()
            }),
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: Some(namespaces(network)),
                masked_paths: MASKED.map(str::to_owned).to_vec(),
                readonly_paths: READONLY.map(str::to_owned).to_vec(),
                seccomp: Some(unconfined()),
                ..LinuxContainerSecurityContext::default()
            }),
        }),
        ..ContainerConfig::default()
    }
}

fn namespaces(network: Network) -> NamespaceOption {
    let network = match network {
        Network::Host => NamespaceMode::Node,
        Network::Own => NamespaceMode::Pod,
    };
    NamespaceOption {
        network: i32::from(network),
        pid: i32::from(NamespaceMode::Container),
        ..NamespaceOption::default()
    }
}

/// The kubelet's own default.
fn unconfined() -> SecurityProfile {
    SecurityProfile {
        profile_type: i32::from(ProfileType::Unconfined),
        ..SecurityProfile::default()
    }
}
