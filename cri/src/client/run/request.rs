//! The flags of `davit run` in CRI's words.

use super::logs;
use crate::cli::{Network, RunArgs};
use crate::client::error::ClientError;
use crate::client::value::CPU_PERIOD;
use davit_proto::cri;
use std::collections::BTreeMap;

/// The label that holds the name which `davit run` gave.
pub(crate) const NAME_LABEL: &str = "davit.run/name";

/// What a container must not see, as the kubelet says for pods that ask for nothing else.
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

/// What a container must not write.
const READONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Everything that is asked of the daemon.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Request {
    /// The pod's uid.
    pub(crate) uid: String,
    /// The image's name.
    pub(crate) image: String,
    /// The pod.
    pub(crate) pod: cri::PodSandboxConfig,
    /// Its one container.
    pub(crate) container: cri::ContainerConfig,
}

impl Request {
    /// A request with a fresh uid, its logs below `root`.
    ///
    /// # Errors
    /// [`ClientError::Random`].
    pub(crate) fn new(args: &RunArgs, root: &str) -> Result<Self, ClientError> {
        Ok(Self::with_uid(args, root, draw_uid()?))
    }

    fn with_uid(args: &RunArgs, root: &str, uid: String) -> Self {
        let made_up = || format!("run-{}", uid.chars().take(8).collect::<String>());
        let name = args.name.clone().unwrap_or_else(made_up);
        Self {
            image: args.image.clone(),
            pod: pod(args, root, &name, &uid),
            container: container(args, &name),
            uid,
        }
    }
}

/// A pod's uid: one that nobody else has.
///
/// # Errors
/// [`ClientError::Random`].
pub(crate) fn draw_uid() -> Result<String, ClientError> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(ClientError::Random)?;
    Ok(hex::encode(bytes))
}

fn labels(name: &str) -> BTreeMap<String, String> {
    [(NAME_LABEL.to_owned(), name.to_owned())].into()
}

fn namespaces(args: &RunArgs) -> cri::NamespaceOption {
    let network = match args.network {
        Network::Pod => cri::NamespaceMode::Pod,
        Network::Host => cri::NamespaceMode::Node,
    };
    cri::NamespaceOption {
        network: network.into(),
        pid: cri::NamespaceMode::Container.into(),
        ipc: cri::NamespaceMode::Pod.into(),
        ..cri::NamespaceOption::default()
    }
}

fn pod(args: &RunArgs, root: &str, name: &str, uid: &str) -> cri::PodSandboxConfig {
    let security = cri::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(args)),
        privileged: args.privileged,
        ..cri::LinuxSandboxSecurityContext::default()
    };
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.to_owned(),
            uid: uid.to_owned(),
            namespace: logs::NAMESPACE.to_owned(),
            attempt: 0,
        }),
        hostname: args.hostname.clone().unwrap_or_default(),
        log_directory: format!("{root}/logs/{uid}"),
        port_mappings: args.publish.iter().cloned().map(Into::into).collect(),
        labels: labels(name),
        linux: Some(cri::LinuxPodSandboxConfig {
            security_context: Some(security),
            ..cri::LinuxPodSandboxConfig::default()
        }),
        ..cri::PodSandboxConfig::default()
    }
}

fn container(args: &RunArgs, name: &str) -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(cri::ImageSpec {
            image: args.image.clone(),
            user_specified_image: args.image.clone(),
            ..cri::ImageSpec::default()
        }),
        // CRI's args replace the image's command and leave its entrypoint, which is what a command after an image means.
        args: args.command.clone(),
        working_dir: args.workdir.clone().unwrap_or_default(),
        envs: args.env.iter().filter_map(|text| env(text)).collect(),
        mounts: args.volume.iter().cloned().map(Into::into).collect(),
        labels: labels(name),
        tty: args.tty,
        stdin: args.interactive,
        // Who is attached from the start is the only one who writes; one that is left may be come back to.
        stdin_once: args.interactive && !args.tty && !args.detach,
        log_path: "container.log".to_owned(),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(resources(args)),
            security_context: Some(security(args)),
        }),
        ..cri::ContainerConfig::default()
    }
}

/// `NAME=VALUE`, or `NAME` with the value it has here; one that has none here is left out.
fn env(text: &str) -> Option<cri::KeyValue> {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, value.to_owned()),
        None => (text, std::env::var(text).ok()?),
    };
    Some(cri::KeyValue { key: key.to_owned(), value })
}

fn resources(args: &RunArgs) -> cri::LinuxContainerResources {
    cri::LinuxContainerResources {
        memory_limit_in_bytes: args.memory.map_or(0, |memory| memory.0),
        cpu_period: args.cpus.map_or(0, |_| CPU_PERIOD),
        cpu_quota: args.cpus.map_or(0, super::super::value::Cpus::quota),
        ..cri::LinuxContainerResources::default()
    }
}

fn security(args: &RunArgs) -> cri::LinuxContainerSecurityContext {
    let owned = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
    let mut security = cri::LinuxContainerSecurityContext {
        privileged: args.privileged,
        namespace_options: Some(namespaces(args)),
        ..cri::LinuxContainerSecurityContext::default()
    };
    if !args.privileged {
        let runtime_default = cri::security_profile::ProfileType::RuntimeDefault;
        security.seccomp = Some(cri::SecurityProfile {
            profile_type: runtime_default.into(),
            localhost_ref: String::new(),
        });
        security.masked_paths = owned(&MASKED);
        security.readonly_paths = owned(&READONLY);
    }
    if let Some(user) = args.user.clone() {
        user.apply(&mut security);
    }
    security
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Action, ClientCommand, parse};

    fn request(line: &str) -> Request {
        let words = line.split_whitespace().map(std::ffi::OsString::from);
        let Ok(Action::Client(_, ClientCommand::Run(args))) = parse(words) else {
            panic!("{line}")
        };
        Request::with_uid(&args, "/root", "ab".repeat(16))
    }

    #[test]
    fn a_command_leaves_the_images_entrypoint() {
        let Request { pod, container, .. } = request("davit run alpine echo hi");
        assert_eq!(container.args, ["echo", "hi"]);
        assert!(container.command.is_empty());
        let metadata = pod.metadata.unwrap();
        assert_eq!(
            (metadata.namespace.as_str(), metadata.name.as_str()),
            ("davit", "run-abababab")
        );
        assert_eq!(pod.log_directory, format!("/root/logs/{}", metadata.uid));
    }

    #[test]
    fn every_flag_reaches_the_daemon() {
        let line = "davit run --name n -e A=B=C -e PATH -v /h:/c:ro -p 80:8080 --memory 64m --cpus 0.5 \
                    --user 5:6 --hostname h -w /w --network host i";
        let Request { pod, container, .. } = request(line);
        assert_eq!(pod.hostname, "h");
        assert_eq!(pod.port_mappings[0].host_port, 80);
        let options = pod.linux.unwrap().security_context.unwrap().namespace_options.unwrap();
        assert_eq!(options.network(), cri::NamespaceMode::Node);
        assert_eq!(container.working_dir, "/w");
        assert_eq!(container.envs[0].value, "B=C");
        assert_eq!(container.envs[1].value, std::env::var("PATH").unwrap());
        assert!(container.mounts[0].readonly);
        assert_eq!(container.labels[NAME_LABEL], "n");
        let linux = container.linux.unwrap();
        let resources = linux.resources.unwrap();
        assert_eq!(resources.memory_limit_in_bytes, 64 << 20);
        assert_eq!((resources.cpu_period, resources.cpu_quota), (100_000, 50_000));
        let security = linux.security_context.unwrap();
        assert_eq!(security.run_as_user.unwrap().value, 5);
        assert!(security.seccomp.is_some());
    }

    #[test]
    fn a_privileged_container_is_confined_by_nothing() {
        let Request { pod, container, .. } = request("davit run --privileged i");
        assert!(pod.linux.unwrap().security_context.unwrap().privileged);
        let security = container.linux.unwrap().security_context.unwrap();
        assert!(
            security.privileged && security.seccomp.is_none() && security.masked_paths.is_empty()
        );
    }

    #[test]
    fn what_davit_run_asks_for_is_what_davit_takes() {
        let Request { pod, container, .. } =
            request("davit run -p 80:80 -v /h:/c --user a:5 --memory 64m i x");
        let sandbox = crate::convert::sandbox_spec(pod, String::new()).unwrap();
        crate::convert::container_spec(container, &sandbox).unwrap();
    }
}
