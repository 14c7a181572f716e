//! Promises about conversion: what is refused, what is honoured, and that no value at all makes it panic.

use super::*;
use davit_proto::cri;
use davit_runtime::container::{
    AppArmor, ContainerEvent, ContainerFacts, ContainerPid, ContainerSpec, ContainerState,
    ContainerView, GroupsPolicy, Propagation, ReadOnly, RunAs, Seccomp, Signal, User,
};
use davit_runtime::id::{ContainerId, SandboxId};
use davit_runtime::image::Digest;
use davit_runtime::sandbox::{
    NetworkMode, PidMode, Protocol, SandboxSpec, SandboxState, SandboxView,
};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

pub(super) fn pod_config() -> cri::PodSandboxConfig {
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: "web".to_owned(),
            uid: "u1".to_owned(),
            namespace: "default".to_owned(),
            attempt: 2,
        }),
        log_directory: "/var/log/pods/x".to_owned(),
        linux: Some(cri::LinuxPodSandboxConfig {
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(cri::NamespaceOption {
                    pid: cri::NamespaceMode::Container.into(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub(super) fn container_config() -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: "nginx".to_owned(), attempt: 1 }),
        image: Some(cri::ImageSpec { image: "nginx:1".to_owned(), ..Default::default() }),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(cri::LinuxContainerResources::default()),
            security_context: Some(cri::LinuxContainerSecurityContext::default()),
        }),
        ..Default::default()
    }
}

fn pod() -> SandboxSpec {
    sandbox_spec(pod_config(), String::new()).unwrap()
}

type PodChange = fn(&mut cri::PodSandboxConfig);
type ContainerChange = fn(&mut cri::ContainerConfig);

fn pod_security(config: &mut cri::PodSandboxConfig) -> &mut cri::LinuxSandboxSecurityContext {
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap()
}

fn pod_options(config: &mut cri::PodSandboxConfig) -> &mut cri::NamespaceOption {
    pod_security(config).namespace_options.as_mut().unwrap()
}

fn userns(mode: cri::NamespaceMode, host_id: u32) -> Option<cri::UserNamespace> {
    let mapping = vec![cri::IdMapping { host_id, container_id: 0, length: 1 }];
    Some(cri::UserNamespace { mode: mode.into(), uids: mapping.clone(), gids: mapping })
}

fn sysctl(config: &mut cri::PodSandboxConfig, name: &str, value: &str) {
    config.linux.as_mut().unwrap().sysctls = [(name.to_owned(), value.to_owned())].into();
}

fn port(config: &mut cri::PodSandboxConfig, container: i32, host: i32, ip: &str) {
    config.port_mappings = vec![cri::PortMapping {
        container_port: container,
        host_port: host,
        host_ip: ip.to_owned(),
        protocol: 0,
    }];
}

/// A field, and a change that makes it wrong.
const WRONG_PODS: [(&str, PodChange); 45] = [
    ("metadata", |pod| pod.metadata = None),
    ("metadata.name", |pod| pod.metadata.as_mut().unwrap().name.clear()),
    ("metadata.name", |pod| pod.metadata.as_mut().unwrap().name = "a/b".into()),
    ("metadata.name", |pod| pod.metadata.as_mut().unwrap().name = "..".into()),
    ("metadata.namespace", |pod| pod.metadata.as_mut().unwrap().namespace.clear()),
    ("metadata.uid", |pod| pod.metadata.as_mut().unwrap().uid = "a\nb".into()),
    ("hostname", |pod| pod.hostname = "a".repeat(65)),
    ("hostname", |pod| pod.hostname = "a b".into()),
    ("hostname", |pod| pod.hostname = "-a".into()),
    ("hostname", |pod| pod.hostname = "a..b".into()),
    ("log_directory", |pod| pod.log_directory = "relative".into()),
    ("log_directory", |pod| pod.log_directory = "/var/../etc".into()),
    ("dns_config.servers", |pod| {
        pod.dns_config =
            Some(cri::DnsConfig { servers: vec!["ns.example".into()], ..Default::default() })
    }),
    ("dns_config.searches", |pod| {
        pod.dns_config = Some(cri::DnsConfig {
            searches: vec!["a\nnameserver 6.6.6.6".into()],
            ..Default::default()
        })
    }),
    ("dns_config.options", |pod| {
        pod.dns_config = Some(cri::DnsConfig { options: vec![String::new()], ..Default::default() })
    }),
    ("port_mappings[0].container_port", |pod| port(pod, 0, 0, "")),
    ("port_mappings[0].container_port", |pod| port(pod, 65536, 0, "")),
    ("port_mappings[0].host_port", |pod| port(pod, 80, -1, "")),
    ("port_mappings[0].host_ip", |pod| port(pod, 80, 80, "localhost")),
    ("port_mappings[0].protocol", |pod| {
        port(pod, 80, 80, "");
        pod.port_mappings[0].protocol = 9;
    }),
    ("labels", |pod| pod.labels = [("k".into(), "v".repeat(4096))].into()),
    ("labels", |pod| pod.labels = (0..200).map(|at| (at.to_string(), "v".repeat(4000))).collect()),
    ("annotations", |pod| pod.annotations = [("k".into(), "v".repeat(512 << 10))].into()),
    ("windows", |pod| pod.windows = Some(cri::WindowsPodSandboxConfig::default())),
    ("linux.cgroup_parent", |pod| pod.linux.as_mut().unwrap().cgroup_parent = "/a/../b".into()),
    ("linux.sysctls", |pod| sysctl(pod, "kernel.core_pattern", "|/x")),
    ("linux.sysctls", |pod| sysctl(pod, "net/../kernel/core_pattern", "x")),
    ("linux.sysctls", |pod| sysctl(pod, "net.ipv4.ip_forward", "1\nkernel.x=2")),
    ("linux.sysctls", |pod| {
        pod_options(pod).network = 2;
        sysctl(pod, "net.ipv4.ip_forward", "1");
    }),
    ("linux.sysctls", |pod| {
        pod_options(pod).ipc = 2;
        sysctl(pod, "kernel.shmmax", "1");
    }),
    ("linux.overhead.memory_limit_in_bytes", |pod| {
        pod.linux.as_mut().unwrap().overhead =
            Some(cri::LinuxContainerResources { memory_limit_in_bytes: -1, ..Default::default() })
    }),
    ("linux.security_context.selinux_options", |pod| {
        pod_security(pod).selinux_options =
            Some(cri::SeLinuxOption { level: "x0".into(), ..Default::default() })
    }),
    ("linux.security_context.run_as_user", |pod| {
        pod_security(pod).run_as_user = Some(cri::Int64Value { value: -1 })
    }),
    ("linux.security_context.run_as_group", |pod| {
        pod_security(pod).run_as_group = Some(cri::Int64Value { value: 5 })
    }),
    ("linux.security_context.supplemental_groups", |pod| {
        pod_security(pod).supplemental_groups = vec![1 << 32]
    }),
    ("linux.security_context.seccomp.profile_type", |pod| {
        pod_security(pod).seccomp =
            Some(cri::SecurityProfile { profile_type: 7, ..Default::default() })
    }),
    ("linux.security_context.namespace_options.network", |pod| {
        pod_options(pod).network = cri::NamespaceMode::Container.into()
    }),
    ("linux.security_context.namespace_options.pid", |pod| {
        pod_options(pod).pid = cri::NamespaceMode::Target.into()
    }),
    ("linux.security_context.namespace_options.target_id", |pod| {
        pod_options(pod).target_id = "x".into()
    }),
    ("linux.security_context.namespace_options.userns_options.uids[0].host_id", |pod| {
        pod_options(pod).userns_options = userns(cri::NamespaceMode::Pod, 0)
    }),
    ("linux.security_context.namespace_options.pid", |pod| {
        pod_options(pod).userns_options = userns(cri::NamespaceMode::Pod, 1000);
        pod_options(pod).pid = cri::NamespaceMode::Node.into();
    }),
    ("linux.security_context.namespace_options.ipc", |pod| {
        pod_options(pod).userns_options = userns(cri::NamespaceMode::Pod, 1000);
        pod_options(pod).ipc = cri::NamespaceMode::Node.into();
    }),
    ("linux.security_context.namespace_options.userns_options.mode", |pod| {
        pod_options(pod).userns_options = userns(cri::NamespaceMode::Container, 1000)
    }),
    ("linux.security_context.namespace_options.userns_options.mode", |pod| {
        pod_options(pod).userns_options = userns(cri::NamespaceMode::Target, 1000)
    }),
    ("linux.security_context.namespace_options.userns_options", |pod| {
        pod_options(pod).userns_options = userns(cri::NamespaceMode::Node, 1000)
    }),
];

#[test]
fn a_pod_that_cannot_be_is_refused_by_the_name_of_the_field() {
    for (field, change) in WRONG_PODS {
        let mut config = pod_config();
        change(&mut config);
        let refused = sandbox_spec(config, String::new()).expect_err(field);
        assert!(refused.field.starts_with(field), "{field}: {refused}");
        assert_eq!(tonic::Status::from(refused).code(), tonic::Code::InvalidArgument);
    }
}

fn security(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap()
}

fn limits(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerResources {
    config.linux.as_mut().unwrap().resources.as_mut().unwrap()
}

fn options(config: &mut cri::ContainerConfig) -> &mut cri::NamespaceOption {
    security(config).namespace_options.get_or_insert_with(|| cri::NamespaceOption {
        pid: cri::NamespaceMode::Container.into(),
        ..Default::default()
    })
}

fn mount(config: &mut cri::ContainerConfig) -> &mut cri::Mount {
    config.mounts.push(cri::Mount {
        host_path: "/h".to_owned(),
        container_path: "/c".to_owned(),
        ..Default::default()
    });
    config.mounts.last_mut().unwrap()
}

fn cdi(name: &str) -> cri::CdiDevice {
    cri::CdiDevice { name: name.to_owned() }
}

fn image_mount(config: &mut cri::ContainerConfig) -> &mut cri::Mount {
    config.mounts.push(cri::Mount {
        container_path: "/c".to_owned(),
        readonly: true,
        image: Some(cri::ImageSpec { image: "model:1".to_owned(), ..Default::default() }),
        ..Default::default()
    });
    config.mounts.last_mut().unwrap()
}

fn device(config: &mut cri::ContainerConfig) -> &mut cri::Device {
    config.devices.push(cri::Device {
        host_path: "/dev/null".to_owned(),
        container_path: "/dev/null".to_owned(),
        permissions: "rwm".to_owned(),
    });
    config.devices.last_mut().unwrap()
}

fn localhost(reference: &str) -> Option<cri::SecurityProfile> {
    let profile_type = cri::security_profile::ProfileType::Localhost.into();
    Some(cri::SecurityProfile { profile_type, localhost_ref: reference.to_owned() })
}

fn check_refusals(cases: &[(&str, ContainerChange)]) {
    for (field, change) in cases {
        let mut config = container_config();
        change(&mut config);
        let refused = container_spec(config, &pod()).expect_err(field);
        assert!(refused.field.starts_with(field), "{field}: {refused}");
    }
}

#[test]
fn a_container_that_cannot_be_is_refused_by_the_name_of_the_field() {
    check_refusals(&[
        ("metadata", |c| c.metadata = None),
        ("metadata.name", |c| c.metadata.as_mut().unwrap().name.clear()),
        ("image", |c| c.image = None),
        ("image.image", |c| c.image.as_mut().unwrap().image.clear()),
        ("image.runtime_handler", |c| c.image.as_mut().unwrap().runtime_handler = "kata".into()),
        ("command", |c| c.command = vec!["a\0b".into()]),
        ("args", |c| c.args = vec!["a\0b".into()]),
        ("working_dir", |c| c.working_dir = "relative".into()),
        ("envs.key", |c| c.envs = vec![cri::KeyValue::default()]),
        ("envs.key", |c| c.envs = vec![cri::KeyValue { key: "A=B".into(), value: String::new() }]),
        ("envs[\"A\"]", |c| c.envs = vec![cri::KeyValue { key: "A".into(), value: "\0".into() }]),
        ("labels", |c| c.labels = [("k".into(), "v".repeat(4096))].into()),
        ("annotations", |c| c.annotations = [("k".into(), "v".repeat(512 << 10))].into()),
        ("log_path", |c| c.log_path = "/absolute".into()),
        ("log_path", |c| c.log_path = "a/../../b".into()),
        ("log_path", |c| c.log_path = ".".into()),
        ("log_path", |c| c.log_path = "a/".into()),
        ("log_path", |c| c.log_path = "a\nb".into()),
        ("windows", |c| c.windows = Some(cri::WindowsContainerConfig::default())),
        ("CDI_devices[0]", |c| c.cdi_devices = vec![cri::CdiDevice { name: "1".into() }]),
        ("CDI_devices[1]", |c| c.cdi_devices = vec![cdi("v/d=1"), cdi("v/d=")]),
        ("CDI_devices[0]", |c| c.cdi_devices = vec![cdi("/d=1")]),
        ("CDI_devices[0]", |c| c.cdi_devices = vec![cdi("v/d=../1")]),
        ("stop_signal", |c| c.stop_signal = 66),
        ("mounts[0].container_path", |c| mount(c).container_path = "relative".into()),
        ("mounts[0].container_path", |c| mount(c).container_path = "/a/../b".into()),
        ("mounts[0].host_path", |c| mount(c).host_path = "volume".into()),
        ("mounts[0].host_path", |c| mount(c).host_path.clear()),
        ("mounts[0].propagation", |c| mount(c).propagation = 3),
        ("mounts[0].recursive_read_only", |c| mount(c).recursive_read_only = true),
        ("mounts[0].recursive_read_only", |c| {
            let m = mount(c);
            m.readonly = true;
            m.recursive_read_only = true;
            m.propagation = 1;
        }),
        ("mounts[0].recursive_read_only", |c| {
            let m = mount(c);
            m.readonly = true;
            m.recursive_read_only = true;
            m.propagation = 2;
        }),
        ("mounts[0].uidMappings[0].length", |c| {
            mount(c).uid_mappings = vec![cri::IdMapping::default()]
        }),
        ("mounts[0].gidMappings", |c| {
            mount(c).uid_mappings = vec![cri::IdMapping { length: 1, ..Default::default() }]
        }),
        ("mounts[0].uidMappings", |c| {
            mount(c).gid_mappings = vec![cri::IdMapping { length: 1, ..Default::default() }]
        }),
        ("devices[0].permissions", |c| device(c).permissions = "rx".into()),
        ("devices[0].permissions", |c| device(c).permissions = "rr".into()),
        ("devices[0].permissions", |c| device(c).permissions.clear()),
        ("devices[0].host_path", |c| device(c).host_path = "null".into()),
        ("devices[0].container_path", |c| device(c).container_path.clear()),
    ]);
}

#[test]
fn an_image_that_cannot_be_mounted_is_refused_by_the_name_of_the_field() {
    check_refusals(&[
        ("mounts[0].image_sub_path", |c| mount(c).image_sub_path = "x".into()),
        ("mounts[0].image_sub_path", |c| image_mount(c).image_sub_path = "/x".into()),
        ("mounts[0].image_sub_path", |c| image_mount(c).image_sub_path = "a/../b".into()),
        ("mounts[0].image_sub_path", |c| image_mount(c).image_sub_path = "a\0b".into()),
        ("mounts[0].host_path", |c| image_mount(c).host_path = "/h".into()),
        ("mounts[0].readonly", |c| image_mount(c).readonly = false),
        ("mounts[0].propagation", |c| image_mount(c).propagation = 1),
        ("mounts[0].propagation", |c| image_mount(c).propagation = 2),
        ("mounts[0].image.image", |c| {
            image_mount(c).image =
                Some(cri::ImageSpec { image_ref: "x".into(), ..Default::default() })
        }),
    ]);
}

/// Of `linux.security_context`.
const FORBIDDEN: [(&str, ContainerChange); 25] = [
    ("linux.security_context.privileged", |c| security(c).privileged = true),
    ("linux.security_context.selinux_options", |c| {
        security(c).selinux_options =
            Some(cri::SeLinuxOption { r#type: "t t".into(), ..Default::default() })
    }),
    ("linux.security_context.capabilities.add_capabilities", |c| {
        security(c).capabilities =
            Some(cri::Capability { add_capabilities: vec!["NONE".into()], ..Default::default() })
    }),
    ("linux.security_context.capabilities.drop_capabilities", |c| {
        security(c).capabilities =
            Some(cri::Capability { drop_capabilities: vec!["CAP_".into()], ..Default::default() })
    }),
    ("linux.security_context.capabilities.add_ambient_capabilities", |c| {
        security(c).capabilities = Some(cri::Capability {
            add_ambient_capabilities: vec!["x".into()],
            ..Default::default()
        })
    }),
    ("linux.security_context.run_as_user", |c| {
        security(c).run_as_user = Some(cri::Int64Value { value: i64::from(u32::MAX) })
    }),
    ("linux.security_context.run_as_group", |c| {
        security(c).run_as_group = Some(cri::Int64Value { value: 1 })
    }),
    ("linux.security_context.run_as_username", |c| security(c).run_as_username = "a:0".into()),
    ("linux.security_context.supplemental_groups", |c| security(c).supplemental_groups = vec![-5]),
    ("linux.security_context.supplemental_groups_policy", |c| {
        security(c).supplemental_groups_policy = 2
    }),
    ("linux.security_context.masked_paths", |c| security(c).masked_paths = vec!["proc".into()]),
    ("linux.security_context.readonly_paths", |c| {
        security(c).readonly_paths = vec!["/a/..".into()]
    }),
    ("linux.security_context.seccomp.localhost_ref", |c| security(c).seccomp = localhost("")),
    ("linux.security_context.seccomp.localhost_ref", |c| {
        security(c).seccomp = localhost("relative.json")
    }),
    ("linux.security_context.seccomp.localhost_ref", |c| {
        security(c).seccomp =
            Some(cri::SecurityProfile { localhost_ref: "/x".into(), ..Default::default() })
    }),
    ("linux.security_context.apparmor.localhost_ref", |c| security(c).apparmor = localhost("a b")),
    ("linux.security_context.namespace_options.network", |c| {
        options(c).network = cri::NamespaceMode::Node.into()
    }),
    ("linux.security_context.namespace_options.network", |c| {
        options(c).network = cri::NamespaceMode::Target.into()
    }),
    ("linux.security_context.namespace_options.ipc", |c| {
        options(c).ipc = cri::NamespaceMode::Node.into()
    }),
    ("linux.security_context.namespace_options.pid", |c| {
        options(c).pid = cri::NamespaceMode::Node.into()
    }),
    ("linux.security_context.namespace_options.pid", |c| {
        options(c).pid = cri::NamespaceMode::Pod.into()
    }),
    ("linux.security_context.namespace_options.pid", |c| options(c).pid = 4),
    ("linux.security_context.namespace_options.target_id", |c| {
        options(c).pid = cri::NamespaceMode::Target.into()
    }),
    ("linux.security_context.namespace_options.target_id", |c| options(c).target_id = "x".into()),
    ("linux.security_context.namespace_options.userns_options", |c| {
        options(c).userns_options = userns(cri::NamespaceMode::Pod, 1000)
    }),
];

#[test]
fn what_a_container_may_not_do_is_refused_by_the_name_of_the_field() {
    check_refusals(&FORBIDDEN);
}

#[test]
fn limits_that_the_kernel_would_not_take_are_refused() {
    check_refusals(&[
        ("linux.resources.cpu_period", |c| limits(c).cpu_period = 999),
        ("linux.resources.cpu_period", |c| limits(c).cpu_period = 1_000_001),
        ("linux.resources.cpu_quota", |c| limits(c).cpu_quota = 5),
        ("linux.resources.cpu_quota", |c| limits(c).cpu_quota = -2),
        ("linux.resources.cpu_shares", |c| limits(c).cpu_shares = -1),
        ("linux.resources.cpu_shares", |c| limits(c).cpu_shares = 262_145),
        ("linux.resources.memory_limit_in_bytes", |c| limits(c).memory_limit_in_bytes = i64::MIN),
        ("linux.resources.memory_swap_limit_in_bytes", |c| {
            limits(c).memory_swap_limit_in_bytes = -2
        }),
        ("linux.resources.memory_swap_limit_in_bytes", |c| {
            limits(c).memory_limit_in_bytes = 2;
            limits(c).memory_swap_limit_in_bytes = 1;
        }),
        ("linux.resources.oom_score_adj", |c| limits(c).oom_score_adj = 1001),
        ("linux.resources.cpuset_cpus", |c| limits(c).cpuset_cpus = "0-".into()),
        ("linux.resources.cpuset_cpus", |c| limits(c).cpuset_cpus = "3-1".into()),
        ("linux.resources.cpuset_mems", |c| limits(c).cpuset_mems = "a".into()),
        ("linux.resources.hugepage_limits.page_size", |c| {
            limits(c).hugepage_limits =
                vec![cri::HugepageLimit { page_size: "../x".into(), limit: 1 }]
        }),
        ("linux.resources.hugepage_limits.page_size", |c| {
            limits(c).hugepage_limits =
                vec![cri::HugepageLimit { page_size: "MB".into(), limit: 1 }]
        }),
        ("linux.resources.unified", |c| {
            limits(c).unified = [("../cgroup.procs".into(), "1".into())].into()
        }),
        ("linux.resources.unified", |c| limits(c).unified = [("memory".into(), "1".into())].into()),
        ("linux.resources.unified", |c| {
            limits(c).unified = [("memory.high".into(), "\0".into())].into()
        }),
    ]);
}

#[test]
fn a_refusal_tells_no_megabytes() {
    let mut config = container_config();
    config.cdi_devices = vec![cdi(&"x".repeat(10_000))];
    let refused = container_spec(config, &pod()).unwrap_err().to_string();
    assert!(refused.len() < 300, "{refused}");
}

#[test]
fn a_kubelets_pod_is_what_it_was_asked_to_be() {
    let mut config = pod_config();
    config.hostname = "web-0".into();
    config.dns_config = Some(cri::DnsConfig {
        servers: vec!["10.0.0.10".into(), "fe80::1%eth0".into()],
        searches: vec!["default.svc.cluster.local".into()],
        options: vec!["ndots:5".into()],
    });
    port(&mut config, 80, 0, "");
    sysctl(&mut config, "net.ipv4.ip_local_port_range", "1024 65535");
    config.linux.as_mut().unwrap().cgroup_parent = "/kubepods/burstable/podx".into();
    pod_options(&mut config).network = cri::NamespaceMode::Node.into();
    config.linux.as_mut().unwrap().sysctls.clear();
    pod_security(&mut config).seccomp = Some(cri::SecurityProfile::default());
    let spec = sandbox_spec(config, "crun".to_owned()).unwrap();
    assert_eq!(spec.key.to_string(), "default/web (uid u1, attempt 2)");
    assert_eq!(
        (spec.network, spec.pid, spec.host_ipc),
        (NetworkMode::Host, PidMode::Container, false)
    );
    assert_eq!(spec.handler, "crun");
    assert_eq!(spec.port_mappings[0].host_port, None);
    assert_eq!(spec.port_mappings[0].protocol, Protocol::Tcp);
    assert_eq!(spec.cgroup_parent.unwrap().as_str(), "/kubepods/burstable/podx");
    assert_eq!(spec.dns.unwrap().servers.len(), 2);
}

#[test]
fn a_pod_without_options_has_the_interfaces_defaults() {
    let mut config = pod_config();
    config.linux = None;
    config.log_directory.clear();
    config.dns_config = Some(cri::DnsConfig::default());
    let spec = sandbox_spec(config, String::new()).unwrap();
    assert_eq!((spec.network, spec.pid, spec.host_ipc), (NetworkMode::Pod, PidMode::Pod, false));
    assert_eq!((&spec.log_directory, &spec.dns), (&None, &None));
    let mut with_log = container_config();
    with_log.log_path = "x.log".into();
    assert_eq!(container_spec(with_log, &spec).unwrap_err().field, "log_path");
    // Such a pod's containers share its PID namespace, asked or not.
    assert_eq!(container_spec(container_config(), &spec).unwrap().security.pid, ContainerPid::Pod);
}

#[test]
fn a_sysctl_of_a_namespace_that_the_pod_has_is_taken() {
    for (name, value) in [
        ("kernel.shm_rmid_forced", "1"),
        ("kernel.sem", "250 32000 32\t128"),
        ("fs.mqueue.msg_max", "20"),
        ("net.ipv4.ping_group_range", "0 2147483647"),
        ("net/ipv4/ip_forward", "1"),
    ] {
        let mut config = pod_config();
        sysctl(&mut config, name, value);
        assert_eq!(sandbox_spec(config, String::new()).unwrap().sysctls[name], value);
    }
}

#[test]
fn a_container_has_its_pods_user_namespace_or_is_refused() {
    let mut config = pod_config();
    pod_options(&mut config).userns_options = userns(cri::NamespaceMode::Pod, 1000);
    let pod = sandbox_spec(config, String::new()).unwrap();
    assert_eq!(pod.userns.as_ref().unwrap().host_root(), Some((1000, 1000)));
    let with = |asked: Option<cri::UserNamespace>| {
        let mut config = container_config();
        options(&mut config).userns_options = asked;
        container_spec(config, &pod).map(drop).map_err(|refused| refused.to_string())
    };
    assert_eq!(with(None), Ok(()));
    assert_eq!(with(userns(cri::NamespaceMode::Pod, 1000)), Ok(()));
    let node = cri::UserNamespace { mode: cri::NamespaceMode::Node.into(), ..Default::default() };
    for asked in [userns(cri::NamespaceMode::Pod, 1001), Some(node)] {
        let told = with(asked).unwrap_err();
        assert!(told.ends_with("is not what the pod has"), "{told}");
    }
}

#[test]
fn a_mounts_mappings_are_told_back_as_they_came() {
    let range = |container_id, host_id| cri::IdMapping { host_id, container_id, length: 10 };
    let mut config = container_config();
    mount(&mut config).uid_mappings = vec![range(0, 1000), range(10, 2000)];
    mount(&mut config);
    config.mounts[0].gid_mappings = vec![range(0, 5)];
    config.mounts[1].container_path = "/d".into();
    let spec = container_spec(config.clone(), &pod()).unwrap();
    assert_eq!(spec.mounts[0].id_mappings.as_ref().unwrap().host_gid(9), Some(14));
    let told: Vec<cri::Mount> = spec.mounts.iter().map(super::mount::mount_to_cri).collect();
    assert_eq!(told, config.mounts);
}

#[test]
fn a_container_is_what_it_was_asked_to_be() {
    let mut config = container_config();
    config.log_path = "nginx/0.log".into();
    config.envs = vec![cri::KeyValue { key: "A".into(), value: "b=c\n".into() }];
    config.stop_signal = cri::Signal::Sigrtminplus3.into();
    *mount(&mut config) = cri::Mount {
        host_path: "/h".into(),
        container_path: "/c".into(),
        readonly: true,
        recursive_read_only: true,
        selinux_relabel: true,
        image: Some(cri::ImageSpec::default()),
        ..Default::default()
    };
    device(&mut config);
    let context = security(&mut config);
    context.run_as_user = Some(cri::Int64Value { value: 7 });
    context.run_as_group = Some(cri::Int64Value { value: 8 });
    context.supplemental_groups_policy = cri::SupplementalGroupsPolicy::Strict.into();
    context.capabilities = Some(cri::Capability {
        add_capabilities: vec!["ALL".into(), "cap_net_raw".into()],
        ..Default::default()
    });
    context.selinux_options = Some(cri::SeLinuxOption::default());
    limits(&mut config).cpuset_cpus = "0-2,7".into();
    let spec = container_spec(config, &pod()).unwrap();
    assert_eq!(spec.log_path.as_deref(), Some(Path::new("nginx/0.log")));
    assert_eq!(spec.stop_signal.unwrap().number(), 37);
    assert_eq!(
        (spec.mounts[0].readonly, spec.mounts[0].propagation),
        (ReadOnly::Recursive, Propagation::Private)
    );
    assert_eq!(spec.security.run_as, RunAs::Uid { uid: 7, gid: Some(8) });
    assert_eq!(spec.security.groups_policy, GroupsPolicy::Strict);
    assert_eq!(spec.security.pid, ContainerPid::Container);
    assert_eq!(spec.security.seccomp, Seccomp::Unconfined);
    assert_eq!(spec.security.apparmor, AppArmor::RuntimeDefault);
}

#[test]
fn a_user_name_is_heard_before_a_user_id() {
    let mut config = container_config();
    security(&mut config).run_as_user = Some(cri::Int64Value { value: 7 });
    security(&mut config).run_as_username = "www".into();
    security(&mut config).run_as_group = Some(cri::Int64Value { value: 8 });
    let run_as = container_spec(config, &pod()).unwrap().security.run_as;
    assert_eq!(run_as, RunAs::Name { name: "www".into(), gid: Some(8) });
}

#[test]
#[expect(deprecated, reason = "older clients still send the old fields")]
fn profiles_are_understood_in_the_new_and_in_the_old_words() {
    use cri::security_profile::ProfileType;
    let seccomp = |new: Option<cri::SecurityProfile>, old: &str| {
        let mut config = container_config();
        security(&mut config).seccomp = new;
        security(&mut config).seccomp_profile_path = old.to_owned();
        container_spec(config, &pod())
            .map(|spec| spec.security.seccomp)
            .map_err(|error| error.field)
    };
    let kind = |kind: ProfileType| {
        Some(cri::SecurityProfile { profile_type: kind.into(), localhost_ref: String::new() })
    };
    assert_eq!(seccomp(None, ""), Ok(Seccomp::Unconfined));
    assert_eq!(seccomp(None, "unconfined"), Ok(Seccomp::Unconfined));
    assert_eq!(seccomp(None, "runtime/default"), Ok(Seccomp::RuntimeDefault));
    assert_eq!(seccomp(None, "docker/default"), Ok(Seccomp::RuntimeDefault));
    assert_eq!(seccomp(None, "localhost//a.json"), Ok(Seccomp::Localhost("/a.json".into())));
    assert_eq!(
        seccomp(kind(ProfileType::RuntimeDefault), "unconfined"),
        Ok(Seccomp::RuntimeDefault)
    );
    assert_eq!(seccomp(kind(ProfileType::Unconfined), "runtime/default"), Ok(Seccomp::Unconfined));
    assert_eq!(
        seccomp(localhost("localhost//a.json"), ""),
        Ok(Seccomp::Localhost("/a.json".into()))
    );
    for old in ["default", "localhost/", "localhost", "/a.json"] {
        assert_eq!(
            seccomp(None, old),
            Err("linux.security_context.seccomp_profile_path".to_owned())
        );
    }
    let apparmor = |new: Option<cri::SecurityProfile>, old: &str| {
        let mut config = container_config();
        security(&mut config).apparmor = new;
        security(&mut config).apparmor_profile = old.to_owned();
        container_spec(config, &pod())
            .map(|spec| (spec.security.apparmor, spec.security.apparmor_required))
            .map_err(|error| error.field)
    };
    let own = |name: &str| Ok((AppArmor::Localhost(name.into()), false));
    assert_eq!(apparmor(None, "localhost/x"), own("x"));
    assert_eq!(apparmor(localhost("y"), "localhost/x"), own("y"));
    assert_eq!(apparmor(None, "unconfined"), Ok((AppArmor::Unconfined, false)));
    assert_eq!(apparmor(None, ""), Ok((AppArmor::RuntimeDefault, false)));
    assert_eq!(apparmor(None, "runtime/default"), Ok((AppArmor::RuntimeDefault, true)));
    assert_eq!(apparmor(None, "x"), Err("linux.security_context.apparmor_profile".to_owned()));
}

#[test]
fn a_container_has_the_pods_namespaces_unless_it_may_have_others() {
    let pid = |pod_mode: cri::NamespaceMode, own: Option<(cri::NamespaceMode, &str)>| {
        let mut config = pod_config();
        pod_options(&mut config).pid = pod_mode.into();
        let pod = sandbox_spec(config, String::new()).unwrap();
        let mut config = container_config();
        if let Some((mode, target)) = own {
            let options = options(&mut config);
            options.pid = mode.into();
            options.target_id = target.to_owned();
        }
        container_spec(config, &pod).map(|spec| spec.security.pid).ok()
    };
    use cri::NamespaceMode::{Container, Node, Pod, Target};
    assert_eq!(pid(Pod, None), Some(ContainerPid::Pod));
    assert_eq!(pid(Node, None), Some(ContainerPid::Host));
    assert_eq!(pid(Container, None), Some(ContainerPid::Container));
    assert_eq!(pid(Pod, Some((Container, ""))), Some(ContainerPid::Container));
    assert_eq!(pid(Node, Some((Pod, ""))), Some(ContainerPid::Host));
    assert_eq!(pid(Node, Some((Node, ""))), Some(ContainerPid::Host));
    assert_eq!(pid(Pod, Some((Node, ""))), None);
    assert_eq!(pid(Container, Some((Pod, ""))), None);
    assert_eq!(pid(Container, Some((Target, "abc"))), Some(ContainerPid::Target("abc".into())));
}

#[test]
fn every_stop_signal_of_the_interface_goes_there_and_back() {
    let mut seen = 0;
    for number in 1..=65 {
        let signal = signal::signal("stop_signal", number).unwrap().unwrap();
        let back = signal::signal_to_cri(signal);
        let again = signal::signal("stop_signal", back.into()).unwrap().unwrap();
        assert_eq!(again, signal, "{number}");
        seen += 1;
    }
    assert_eq!(seen, 65);
    assert_eq!(signal::signal("stop_signal", 0).unwrap(), None);
    assert_eq!(signal::signal_to_cri(Signal::TERM), cri::Signal::Sigterm);
}

pub(super) fn view() -> (SandboxView, ContainerView) {
    let pod_id = SandboxId::try_from("a1".repeat(32)).unwrap();
    let mut pod = pod();
    pod.labels = [("app".to_owned(), "web".to_owned())].into();
    let mut config = container_config();
    mount(&mut config);
    limits(&mut config).memory_limit_in_bytes = 5;
    let digest = Digest::from_sha256([7; 32]);
    let spec: ContainerSpec = container_spec(config, &pod).unwrap();
    let container = ContainerView {
        id: ContainerId::try_from("b2".repeat(32)).unwrap(),
        sandbox: pod_id.clone(),
        spec: Arc::new(spec),
        facts: Arc::new(ContainerFacts {
            created_at: 10,
            image_id: digest,
            image_name: "docker.io/library/nginx:1".to_owned(),
            image_ref: "nginx@sha256:x".to_owned(),
            volume_layers: Vec::new(),
            layers: Vec::new(),
            log_path: Some("/var/log/pods/x/nginx/0.log".into()),
            stop_signal: Signal::TERM,
            user: User { uid: 1, gid: 2, groups: vec![3] },
            own_pid_namespace: true,
        }),
        state: ContainerState::Creating.next(ContainerEvent::Made { pid: 9 }).unwrap(),
        log_dropped: 7,
        meter: davit_runtime::stats::Meter::default(),
    };
    let sandbox = SandboxView {
        id: pod_id,
        spec: Arc::new(pod),
        handler: "crun".to_owned(),
        created_at: 5,
        state: SandboxState::Ready,
        trouble: None,
        ips: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        netns: Some("/run/netns/x".into()),
        shim_pid: Some(42),
        containers: BTreeMap::new(),
        meter: davit_runtime::stats::Meter::default(),
    };
    (sandbox, container)
}

#[test]
fn an_image_that_is_mounted_is_told_back_as_it_was_given() {
    for (sub_path, recursive) in [("", false), ("models/v1", false), ("a", true)] {
        let mut config = container_config();
        let wire = image_mount(&mut config);
        wire.image_sub_path = sub_path.to_owned();
        wire.recursive_read_only = recursive;
        wire.image.as_mut().unwrap().user_specified_image = "model".to_owned();
        let wire = wire.clone();
        let spec = container_spec(config, &pod()).unwrap();
        assert_eq!(super::mount::mount_to_cri(&spec.mounts[0]), wire);
    }
}

#[test]
fn statuses_tell_what_clients_insist_on() {
    let (pod, mut container) = view();
    let status = sandbox_status(&pod);
    assert_eq!(status.state(), cri::PodSandboxState::SandboxReady);
    assert_eq!(status.runtime_handler, "crun");
    let network = status.network.unwrap();
    assert_eq!(
        (network.ip.as_str(), network.additional_ips[0].ip.as_str()),
        ("10.0.0.2", "fd00::2")
    );
    let status = container_status(&container);
    assert_eq!(status.state(), cri::ContainerState::ContainerCreated);
    assert_eq!((status.created_at, status.started_at, status.finished_at), (10, 0, 0));
    assert_eq!(status.image_id, format!("sha256:{}", "07".repeat(32)));
    assert_eq!(status.image.unwrap().image, "docker.io/library/nginx:1");
    assert_eq!(status.mounts.len(), 1);
    assert_eq!(status.resources.unwrap().linux.unwrap().memory_limit_in_bytes, 5);
    container.state = container.state.next(ContainerEvent::Started { at: 20 }).unwrap();
    let status = container_status(&container);
    assert_eq!(
        (status.state(), status.started_at, status.finished_at),
        (cri::ContainerState::ContainerRunning, 20, 0)
    );
    let killed = ContainerEvent::Exited { at: 30, code: 137, oom_killed: true };
    container.state = container.state.next(killed).unwrap();
    let status = container_status(&container);
    assert_eq!(
        (status.exit_code, status.reason.as_str(), status.finished_at),
        (137, "OOMKilled", 30)
    );
    assert_eq!(status.stop_signal(), cri::Signal::Sigterm);
}

#[test]
fn lists_tell_what_statuses_tell() {
    let (pod, container) = view();
    let listed = super::sandbox(&pod);
    assert_eq!(listed.metadata, sandbox_status(&pod).metadata);
    let listed = super::container(&container);
    let status = container_status(&container);
    assert_eq!(
        (listed.image_id, listed.image_ref, listed.image),
        (status.image_id, status.image_ref, status.image)
    );
}

#[test]
fn verbose_info_is_json_with_a_pid() {
    let (pod, container) = view();
    let json = |info: &BTreeMap<String, String>| -> serde_json::Value {
        serde_json::from_str(&info["info"]).unwrap()
    };
    assert_eq!(json(&sandbox_info(&pod))["pid"], 42);
    let info = json(&container_info(&container, Some(serde_json::json!({"ociVersion": "1.0.2"}))));
    assert_eq!((&info["pid"], &info["logDroppedBytes"]), (&9.into(), &7.into()));
    assert_eq!(info["runtimeSpec"]["ociVersion"], "1.0.2");
    assert_eq!(info["sandboxID"], "a1".repeat(32));
}

#[test]
fn a_filters_fields_must_all_fit() {
    let (pod, container) = view();
    let labels = |value: &str| BTreeMap::from([("app".to_owned(), value.to_owned())]);
    let state =
        |state: cri::PodSandboxState| Some(cri::PodSandboxStateValue { state: state.into() });
    let ready = state(cri::PodSandboxState::SandboxReady);
    let pods = |id: &str, state: Option<cri::PodSandboxStateValue>, label_selector| {
        sandbox_fits(&pod, &cri::PodSandboxFilter { id: id.to_owned(), state, label_selector })
    };
    assert!(pods("", None, BTreeMap::new()));
    assert!(pods("a1a1", ready, labels("web")));
    assert!(!pods("b", ready, labels("web")));
    assert!(!pods("a1", state(cri::PodSandboxState::SandboxNotready), labels("web")));
    assert!(!pods("a1", ready, labels("db")));
    let containers = |id: &str, pod: &str, state: Option<cri::ContainerState>| {
        let state = state.map(|state| cri::ContainerStateValue { state: state.into() });
        let filter = cri::ContainerFilter {
            id: id.to_owned(),
            pod_sandbox_id: pod.to_owned(),
            state,
            label_selector: BTreeMap::new(),
        };
        container_fits(&container, &filter)
    };
    assert!(containers("b2", "a1", Some(cri::ContainerState::ContainerCreated)));
    assert!(!containers("b2", "a1", Some(cri::ContainerState::ContainerRunning)));
    assert!(!containers("b2", "b2", None));
}

#[test]
fn an_image_has_the_id_that_it_is_asked_by() {
    let parts = ImageParts { id: "sha256:x".to_owned(), size: 5, ..Default::default() };
    let wire = image(parts);
    assert_eq!((wire.id.as_str(), wire.size), ("sha256:x", 5));
    let mut request = container_config();
    request.image.as_mut().unwrap().image_ref = "r".to_owned();
    let taken = super::image::image_request("image", request.image, &pod()).unwrap();
    assert_eq!((taken.image.as_str(), taken.image_ref.as_str()), ("nginx:1", "r"));
}

#[test]
fn limits_go_there_and_back() {
    let wire = cri::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: -1,
        cpu_shares: 2,
        memory_limit_in_bytes: 1 << 20,
        oom_score_adj: -998,
        cpuset_cpus: "0,2-3".to_owned(),
        cpuset_mems: "0".to_owned(),
        hugepage_limits: vec![cri::HugepageLimit { page_size: "2MB".to_owned(), limit: 4 }],
        unified: [("memory.high".to_owned(), "max".to_owned())].into(),
        memory_swap_limit_in_bytes: -1,
    };
    assert_eq!(
        super::resources::resources_to_cri(
            &super::resources::resources("linux", wire.clone()).unwrap()
        ),
        wire
    );
}

/// Texts of every kind, the odd ones often.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[a-z0-9./:=%@-]{0,12}",
        Just("/a/b".to_owned()),
        Just("..".to_owned()),
        Just(String::new()),
    ]
}

prop_compose! {
    fn any_profile()(profile_type in -1..4_i32, localhost_ref in text()) -> cri::SecurityProfile {
        cri::SecurityProfile { profile_type, localhost_ref }
    }
}

prop_compose! {
    fn any_options()(
        modes in [-1..5_i32, -1..5_i32, -1..5_i32, -1..5_i32], target_id in text(), user in any::<bool>(),
    ) -> cri::NamespaceOption {
        let [network, pid, ipc, mode] = modes;
        let userns_options = user.then(|| cri::UserNamespace { mode, ..Default::default() });
        cri::NamespaceOption { network, pid, ipc, target_id, userns_options }
    }
}

prop_compose! {
    fn any_limits()(
        numbers in any::<[i64; 6]>(), texts in [text(), text(), text(), text()], limit in any::<u64>(),
    ) -> cri::LinuxContainerResources {
        let [cpus, mems, page_size, key] = texts;
        cri::LinuxContainerResources {
            cpu_period: numbers[0],
            cpu_quota: numbers[1],
            cpu_shares: numbers[2],
            memory_limit_in_bytes: numbers[3],
            oom_score_adj: numbers[4],
            cpuset_cpus: cpus,
            cpuset_mems: mems,
            hugepage_limits: vec![cri::HugepageLimit { page_size, limit }],
            unified: [(key.clone(), key)].into(),
            memory_swap_limit_in_bytes: numbers[5],
        }
    }
}

prop_compose! {
    fn any_pod()(
        texts in proptest::collection::vec(text(), 12),
        numbers in any::<[i32; 3]>(),
        id in any::<i64>(),
        options in proptest::option::of(any_options()),
        seccomp in proptest::option::of(any_profile()),
        limits in proptest::option::of(any_limits()),
    ) -> cri::PodSandboxConfig {
        let mut config = pod_config();
        let value = Some(cri::Int64Value { value: id });
        config.metadata = Some(cri::PodSandboxMetadata {
            name: texts[0].clone(), uid: texts[1].clone(), namespace: texts[2].clone(), attempt: 0,
        });
        config.hostname = texts[3].clone();
        config.log_directory = texts[4].clone();
        config.dns_config = Some(cri::DnsConfig {
            servers: vec![texts[5].clone()], searches: vec![texts[6].clone()], options: vec![texts[7].clone()],
        });
        config.port_mappings = vec![cri::PortMapping {
            protocol: numbers[0], container_port: numbers[1], host_port: numbers[2], host_ip: texts[8].clone(),
        }];
        let linux = config.linux.as_mut().unwrap();
        linux.cgroup_parent = texts[9].clone();
        linux.sysctls = [(texts[10].clone(), texts[11].clone())].into();
        linux.overhead = limits;
        let context = linux.security_context.as_mut().unwrap();
        context.namespace_options = options;
        context.seccomp = seccomp;
        context.run_as_user = value;
        context.run_as_group = value;
        context.supplemental_groups = vec![id];
        config
    }
}

prop_compose! {
    fn any_container()(
        texts in proptest::collection::vec(text(), 16),
        numbers in any::<[i32; 4]>(),
        flags in any::<[bool; 3]>(),
        id in any::<i64>(),
        options in proptest::option::of(any_options()),
        profiles in [proptest::option::of(any_profile()), proptest::option::of(any_profile())],
        limits in any_limits(),
    ) -> cri::ContainerConfig {
        let mut config = container_config();
        let [seccomp, apparmor] = profiles;
        config.metadata.as_mut().unwrap().name = texts[0].clone();
        config.image.as_mut().unwrap().image = texts[1].clone();
        config.command = vec![texts[2].clone()];
        config.working_dir = texts[3].clone();
        config.envs = vec![cri::KeyValue { key: texts[4].clone(), value: texts[5].clone() }];
        config.log_path = texts[6].clone();
        config.stop_signal = numbers[0];
        config.mounts = vec![cri::Mount {
            container_path: texts[7].clone(),
            host_path: texts[8].clone(),
            readonly: flags[0],
            propagation: numbers[1] % 4,
            recursive_read_only: flags[1],
            ..Default::default()
        }];
        config.devices = vec![cri::Device {
            container_path: texts[9].clone(), host_path: texts[10].clone(), permissions: texts[11].clone(),
        }];
        config.linux.as_mut().unwrap().resources = flags[2].then_some(limits);
        let context = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        context.namespace_options = options;
        context.seccomp = seccomp;
        context.apparmor = apparmor;
        context.run_as_user = Some(cri::Int64Value { value: id });
        context.run_as_username = texts[12].clone();
        context.capabilities = Some(cri::Capability { add_capabilities: vec![texts[13].clone()], ..Default::default() });
        context.masked_paths = vec![texts[14].clone()];
        context.supplemental_groups_policy = numbers[2] % 3;
        config
    }
}

proptest! {
    #[test]
    fn no_pod_makes_the_conversion_panic(config in any_pod(), handler in text()) {
        if let Ok(spec) = sandbox_spec(config, handler) {
            prop_assert!(!spec.key.name.is_empty());
            prop_assert!(spec.log_directory.is_none_or(|path| path.is_absolute()));
        }
    }

    #[test]
    fn no_container_makes_the_conversion_panic(config in any_container()) {
        if let Ok(spec) = container_spec(config, &pod()) {
            prop_assert!(spec.mounts.iter().all(|mount| mount.container_path.is_absolute()));
            prop_assert!(spec.log_path.is_none_or(|path| path.is_relative()));
        }
    }

    #[test]
    fn a_log_path_that_is_taken_stays_below_its_directory(path in "[a./]{0,8}") {
        let mut config = container_config();
        config.log_path = path;
        if let Ok(ContainerSpec { log_path: Some(path), .. }) = container_spec(config, &pod()) {
            let mut depth = 0_i32;
            for part in path.components() {
                match part {
                    std::path::Component::Normal(_) => depth += 1,
                    std::path::Component::CurDir => {}
                    std::path::Component::Prefix(_)
                    | std::path::Component::RootDir
                    | std::path::Component::ParentDir => prop_assert!(false, "{path:?}"),
                }
            }
            prop_assert!(depth > 0);
        }
    }
}
