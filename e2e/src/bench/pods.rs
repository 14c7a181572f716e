//! The pod that is measured: one container that sleeps.
//!
//! Owns what is asked of each runtime, the same of all: the fields that the kubelet fills in for a plain pod.

use super::lane::Subject;
use anyhow::{Context, Result};
use k8s_cri::v1::security_profile::ProfileType;
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, LinuxContainerConfig, LinuxContainerResources,
    LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext,
    NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata, RuntimeCondition,
    SecurityProfile,
};
use std::sync::atomic::Ordering;

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

/// RunPodSandbox, CreateContainer, StartContainer.
pub(super) fn run(subject: &Subject, network: Network) -> Result<Running> {
    let name = format!("pod-{}", subject.pods.fetch_add(1, Ordering::Relaxed));
    let pod_config = pod_config(subject, &name, network);
    // The kubelet makes it.
    std::fs::create_dir_all(&pod_config.log_directory).context("make the log directory")?;
    let title = subject.lane.title();
    let pod =
        subject.cri.run_pod(&pod_config, "").with_context(|| format!("{title}: run {name}"))?;
    let container = subject
        .cri
        .create(&pod, &container_config(subject, network), &pod_config)
        .with_context(|| format!("{title}: create in {name}"))?;
    subject.cri.start(&container).with_context(|| format!("{title}: start in {name}"))?;
    Ok(Running { pod, container })
}

/// StopPodSandbox, RemovePodSandbox.
pub(super) fn remove(subject: &Subject, running: &Running) -> Result<()> {
    let title = subject.lane.title();
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

fn container_config(subject: &Subject, network: Network) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: "main".to_owned(), attempt: 0 }),
        image: Some(crate::cri::spec(&subject.image)),
        command: ["sleep", "1000000"].map(str::to_owned).to_vec(),
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
