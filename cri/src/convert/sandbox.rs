//! PodSandboxConfig → SandboxSpec.

use super::error::{InvalidField, refuse, variant};
use super::{namespace, profile, resources, security, text};
use davit_proto::cri;
use davit_runtime::sandbox::{
    CgroupParent, DnsConfig, NetworkMode, PortMapping, Protocol, SandboxKey, SandboxSecurity,
    SandboxSpec,
};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What a pod is asked to be.
///
/// # Errors
/// [`InvalidField`] for the first field that davit does not take.
pub(crate) fn sandbox_spec(
    config: cri::PodSandboxConfig,
    runtime_handler: String,
) -> Result<SandboxSpec, InvalidField> {
    let cri::PodSandboxConfig {
        metadata,
        hostname,
        log_directory,
        dns_config,
        port_mappings,
        labels,
        annotations,
        linux,
        windows,
    } = config;
    if let Some(windows) = windows {
        return Err(refuse("windows", &windows, "makes no sense on Linux"));
    }
    let Linux { cgroup_parent, security, namespaces, sysctls, overhead, resources } =
        linux_part(linux.unwrap_or_default())?;
    let ports = port_mappings.into_iter().enumerate();
    Ok(SandboxSpec {
        key: key(metadata)?,
        hostname: text::hostname("hostname", hostname)?,
        log_directory: text::optional_absolute("log_directory", log_directory)?,
        // One that says nothing is none: its resolv.conf would be empty, and no pod can have meant that.
        dns: dns_config
            .filter(|config| *config != cri::DnsConfig::default())
            .map(dns)
            .transpose()?,
        port_mappings: ports.map(|(at, port)| port_mapping(at, port)).collect::<Result<_, _>>()?,
        labels: text::labels("labels", labels)?,
        annotations: text::annotations("annotations", annotations)?,
        handler: text::optional_name("runtime_handler", runtime_handler)?,
        cgroup_parent,
        sysctls,
        network: namespaces.network,
        pid: namespaces.pid,
        host_ipc: namespaces.host_ipc,
        userns: namespaces.userns,
        security,
        overhead,
        resources,
    })
}

/// What `linux` holds.
struct Linux {
    cgroup_parent: Option<CgroupParent>,
    security: SandboxSecurity,
    namespaces: namespace::PodNamespaces,
    sysctls: BTreeMap<String, String>,
    overhead: Option<davit_runtime::container::Resources>,
    resources: Option<davit_runtime::container::Resources>,
}

fn linux_part(linux: cri::LinuxPodSandboxConfig) -> Result<Linux, InvalidField> {
    let cri::LinuxPodSandboxConfig {
        cgroup_parent,
        security_context,
        sysctls,
        overhead,
        resources,
    } = linux;
    let (security, namespaces) = security_part(security_context.unwrap_or_default())?;
    check_sysctls(&sysctls, &namespaces)?;
    let limits = |name: &str, wire: Option<cri::LinuxContainerResources>| {
        wire.map(|wire| resources::resources(&format!("linux.{name}"), wire)).transpose()
    };
    Ok(Linux {
        cgroup_parent: parent(cgroup_parent)?,
        security,
        namespaces,
        sysctls,
        overhead: limits("overhead", overhead)?,
        resources: limits("resources", resources)?,
    })
}

fn key(metadata: Option<cri::PodSandboxMetadata>) -> Result<SandboxKey, InvalidField> {
    let Some(metadata) = metadata else {
        return Err(refuse("metadata", &metadata, "is required"));
    };
    let cri::PodSandboxMetadata { name, uid, namespace, attempt } = metadata;
    Ok(SandboxKey {
        namespace: text::name("metadata.namespace", namespace)?,
        name: text::name("metadata.name", name)?,
        // Only a kubelet's pods must have one; no client but such ones looks for it.
        uid: text::optional_name("metadata.uid", uid)?,
        attempt,
    })
}

fn parent(text: String) -> Result<Option<CgroupParent>, InvalidField> {
    if text.is_empty() {
        return Ok(None);
    }
    let refused = |error: davit_runtime::sandbox::InvalidCgroupParent| {
        refuse("linux.cgroup_parent", &text, error.to_string())
    };
    CgroupParent::try_from(text.clone()).map(Some).map_err(refused)
}

fn dns(config: cri::DnsConfig) -> Result<DnsConfig, InvalidField> {
    let cri::DnsConfig { servers, searches, options } = config;
    let words = |field: &str, words: Vec<String>| -> Result<Vec<String>, InvalidField> {
        words.into_iter().map(|word| text::word(field, word)).collect()
    };
    let servers = words("dns_config.servers", servers)?;
    for server in &servers {
        // A link-local address has its interface behind a `%`.
        let address = server.split('%').next().unwrap_or_default();
        if address.parse::<IpAddr>().is_err() {
            return Err(refuse("dns_config.servers", server, "is no IP address"));
        }
    }
    Ok(DnsConfig {
        servers,
        searches: words("dns_config.searches", searches)?,
        options: words("dns_config.options", options)?,
    })
}

fn port_mapping(at: usize, mapping: cri::PortMapping) -> Result<PortMapping, InvalidField> {
    let cri::PortMapping { protocol, container_port, host_port, host_ip } = mapping;
    let field = |name: &str| format!("port_mappings[{at}].{name}");
    let port = |name: &str, port: i32| match u16::try_from(port) {
        Ok(port) if port > 0 => Ok(port),
        Ok(_) | Err(_) => Err(refuse(field(name), &port, "is not between 1 and 65535")),
    };
    let protocol = match variant(&field("protocol"), protocol)? {
        cri::Protocol::Tcp => Protocol::Tcp,
        cri::Protocol::Udp => Protocol::Udp,
        cri::Protocol::Sctp => Protocol::Sctp,
    };
    let address = |text: &str| {
        text.parse::<IpAddr>().map_err(|_none| refuse(field("host_ip"), text, "is no IP address"))
    };
    Ok(PortMapping {
        protocol,
        container_port: port("container_port", container_port)?,
        host_port: (host_port != 0).then(|| port("host_port", host_port)).transpose()?,
        host_ip: (!host_ip.is_empty()).then(|| address(&host_ip)).transpose()?,
    })
}

fn security_part(
    context: cri::LinuxSandboxSecurityContext,
) -> Result<(SandboxSecurity, namespace::PodNamespaces), InvalidField> {
    #[expect(deprecated, reason = "older clients still send the old field")]
    let cri::LinuxSandboxSecurityContext {
        namespace_options,
        selinux_options,
        run_as_user,
        run_as_group,
        readonly_rootfs,
        supplemental_groups,
        supplemental_groups_policy,
        privileged,
        seccomp,
        apparmor,
        seccomp_profile_path,
    } = context;
    const FIELD: &str = "linux.security_context";
    let selinux = security::selinux(FIELD, selinux_options)?;
    // Both confine the process that holds a pod together, and davit has none; they must make sense all the same.
    profile::seccomp(FIELD, seccomp, seccomp_profile_path)?;
    profile::apparmor(FIELD, apparmor, String::new())?;
    let _: cri::SupplementalGroupsPolicy =
        variant(&format!("{FIELD}.supplemental_groups_policy"), supplemental_groups_policy)?;
    let user = run_as_user.map(|user| user.value);
    let group = run_as_group.map(|group| group.value);
    security::ids(&format!("{FIELD}.run_as_user"), user.as_slice())?;
    security::ids(&format!("{FIELD}.run_as_group"), group.as_slice())?;
    security::ids(&format!("{FIELD}.supplemental_groups"), &supplemental_groups)?;
    if let (None, Some(group)) = (user, group) {
        let field = format!("{FIELD}.run_as_group");
        return Err(refuse(field, &group, "is given without run_as_user"));
    }
    let namespaces = namespace::of_pod(&format!("{FIELD}.namespace_options"), namespace_options)?;
    let security = SandboxSecurity {
        privileged,
        run_as_user: user,
        run_as_group: group,
        supplemental_groups,
        readonly_rootfs,
        selinux,
    };
    Ok((security, namespaces))
}

/// Only what belongs to a namespace that the pod has for itself: anything else would change the host. The value is one value: it is
/// written to its own file under /proc/sys, never joined with others.
fn check_sysctls(
    sysctls: &BTreeMap<String, String>,
    namespaces: &namespace::PodNamespaces,
) -> Result<(), InvalidField> {
    for (name, value) in sysctls {
        let field = format!("linux.sysctls[{name:?}]");
        let fits =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/' | b'_' | b'-');
        let parts = || name.split(['.', '/']);
        if !name.bytes().all(fits) || parts().any(str::is_empty) {
            return Err(refuse(field, name, "is no name of a sysctl"));
        }
        if value.chars().any(|letter| letter.is_control() && letter != '\t') || value.len() > 4096 {
            return Err(refuse(field, value, "is no value of a sysctl"));
        }
        let dotted = parts().collect::<Vec<_>>().join(".");
        let network = dotted.starts_with("net.");
        let ipc = dotted == "kernel.sem"
            || ["kernel.shm", "kernel.msg", "fs.mqueue."]
                .iter()
                .any(|start| dotted.starts_with(start));
        if network && namespaces.network == NetworkMode::Host {
            return Err(refuse(
                field,
                value,
                "would change the host's network, which the pod uses",
            ));
        }
        if ipc && namespaces.host_ipc {
            return Err(refuse(field, value, "would change the host's IPC, which the pod uses"));
        }
        if !network && !ipc {
            return Err(refuse(field, value, "belongs to no namespace of the pod"));
        }
    }
    Ok(())
}
