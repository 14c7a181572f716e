//! What the tests of this folder make specs from.

use super::handlers::{Features, Handler, Kind};
use super::*;
use crate::cgroup::{Cgroups, Driver, Hierarchy, Layout};
use crate::container::{
    AppArmor, Capabilities, ContainerPid, ContainerSecurity, GroupsPolicy, ImageRequest, Resources,
    RunAs, Seccomp,
};
use crate::sandbox::{CgroupParent, NetworkMode, PidMode, SandboxKey, SandboxSecurity};
use std::collections::BTreeMap;

/// Held by tests that depend on, or change for a while, which hierarchy a controller is in: that is the kernel's, and there is only one.
pub(in crate::oci) static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The least a client can say.
pub(super) fn security() -> ContainerSecurity {
    ContainerSecurity {
        privileged: false,
        capabilities: Capabilities::default(),
        pid: ContainerPid::Container,
        run_as: RunAs::Image,
        supplemental_groups: Vec::new(),
        groups_policy: GroupsPolicy::Merge,
        readonly_rootfs: false,
        no_new_privs: false,
        masked_paths: Vec::new(),
        readonly_paths: Vec::new(),
        seccomp: Seccomp::Unconfined,
        apparmor: AppArmor::RuntimeDefault,
        apparmor_required: false,
        selinux: crate::container::SelinuxOptions::default(),
    }
}

/// Everything that a test may change before a spec is built.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    pub(crate) container: ContainerSpec,
    pub(crate) sandbox: SandboxSpec,
    pub(crate) image: ImageDefaults,
    pub(crate) users: UserFiles,
    pub(crate) pod: PodPaths,
    pub(crate) rootfs: PathBuf,
    pub(crate) handler: Handler,
    pub(crate) host: Host,
}

impl Given {
    pub(crate) fn new() -> Self {
        Self {
            container: container(),
            sandbox: sandbox(),
            image: ImageDefaults { cmd: vec!["sh".into()], ..ImageDefaults::default() },
            users: UserFiles {
                passwd: Some(
                    b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n".into(),
                ),
                group: Some(b"root:x:0:\napp:x:1000:\nextra:x:50000:app\n".into()),
            },
            pod: pod(),
            rootfs: "/run/davit/pods/p/rootfs".into(),
            handler: handler(),
            host: host(Version2::Yes),
        }
    }

    pub(super) fn id() -> ContainerId {
        ContainerId::try_from("c".repeat(64)).unwrap()
    }

    pub(crate) fn build(&self) -> Result<Built, SpecError> {
        let sandbox_id = SandboxId::try_from("d".repeat(64)).unwrap();
        build(&SpecInput {
            id: &Self::id(),
            sandbox_id: &sandbox_id,
            container: &self.container,
            sandbox: &self.sandbox,
            image: &self.image,
            users: &self.users,
            pod: &self.pod,
            rootfs: &self.rootfs,
            volumes: Path::new("/run/davit/pods/p/volumes"),
            mapped: Path::new("/run/davit/pods/p/mapped"),
            handler: &self.handler,
            host: &self.host,
            spot: &Spot::default(),
        })
    }
}

pub(crate) fn container() -> ContainerSpec {
    ContainerSpec {
        name: "main".into(),
        attempt: 0,
        image: ImageRequest { image: "busybox:latest".into(), ..ImageRequest::default() },
        command: Vec::new(),
        args: Vec::new(),
        working_dir: None,
        envs: Vec::new(),
        mounts: Vec::new(),
        devices: Vec::new(),
        cdi_devices: Vec::new(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        log_path: None,
        stdin: false,
        stdin_once: false,
        tty: false,
        resources: Resources::default(),
        security: security(),
        stop_signal: None,
    }
}

pub(crate) fn sandbox() -> SandboxSpec {
    SandboxSpec {
        key: SandboxKey {
            namespace: "default".into(),
            name: "web".into(),
            uid: "u-1".into(),
            attempt: 0,
        },
        hostname: "web".into(),
        log_directory: None,
        dns: None,
        port_mappings: Vec::new(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        handler: String::new(),
        cgroup_parent: Some(
            CgroupParent::try_from("/kubepods/burstable/podu-1".to_owned()).unwrap(),
        ),
        sysctls: BTreeMap::new(),
        network: NetworkMode::Pod,
        pid: PidMode::Container,
        host_ipc: false,
        userns: None,
        security: SandboxSecurity::default(),
        overhead: None,
        resources: None,
    }
}

fn pod() -> PodPaths {
    PodPaths {
        netns: Some("/run/netns/davit-p".into()),
        ipcns: Some("/proc/77/ns/ipc".into()),
        utsns: Some("/proc/77/ns/uts".into()),
        userns: None,
        pidns: None,
        shm: Some("/run/davit/pods/p/shm".into()),
        hostname_file: Some("/run/davit/pods/p/hostname".into()),
        resolv_conf: Some("/run/davit/pods/p/resolv.conf".into()),
        hostname: "web".into(),
    }
}

pub(super) fn handler() -> Handler {
    Handler {
        name: "crun".into(),
        path: "/usr/bin/crun".into(),
        root: "/run/davit/oci/crun".into(),
        systemd_cgroup: false,
        args: Vec::new(),
        kind: Kind::Crun,
        version: "1.20".into(),
        features: Features { recursive_read_only: true, seccomp: true, ..Features::default() },
        problem: None,
    }
}

/// Which cgroups a host of the tests has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version2 {
    Yes,
    No,
}

/// A host that can do everything, whatever this one can.
pub(super) fn host(version: Version2) -> Host {
    let hierarchy = |mount: &str, controllers: &[&str]| Hierarchy {
        mount: mount.into(),
        controllers: controllers.iter().map(|one| (*one).to_owned()).collect(),
    };
    let layout = match version {
        Version2::Yes => Layout {
            v1: Vec::new(),
            v2: Some(hierarchy("/sys/fs/cgroup", &["cpu", "cpuset", "memory", "pids", "hugetlb"])),
            swap: true,
        },
        Version2::No => Layout {
            v1: vec![
                hierarchy("/sys/fs/cgroup/cpu", &["cpu"]),
                hierarchy("/sys/fs/cgroup/memory", &["memory"]),
            ],
            v2: None,
            swap: false,
        },
    };
    Host {
        cgroups: Cgroups::new(layout),
        driver: Driver::Cgroupfs,
        bounding: super::capabilities::of_bits(0x1ff_ffff_ffff),
        lowest_oom_score_adj: -1000,
        nofile: (1024, 1_048_576),
        seccomp: true,
        apparmor: false,
        apparmor_default: Ok(()),
        selinux: None,
        missing_sources: MissingSources::Refuse,
    }
}

/// A pod as it is shown that has just been made, with an id of its own.
pub(crate) fn sandbox_view() -> crate::sandbox::SandboxView {
    crate::sandbox::SandboxView {
        id: crate::id::SandboxId::random().unwrap(),
        spec: std::sync::Arc::new(sandbox()),
        handler: "crun".to_owned(),
        created_at: 1,
        state: crate::sandbox::SandboxState::Ready,
        trouble: None,
        ips: Vec::new(),
        netns: None,
        shim_pid: Some(7),
        containers: BTreeMap::new(),
        meter: crate::stats::Meter::default(),
    }
}

/// The same of a container.
pub(crate) fn container_view() -> crate::container::ContainerView {
    use crate::container::{ContainerFacts, ContainerState, ContainerView, Signal, User};
    ContainerView {
        id: crate::id::ContainerId::random().unwrap(),
        sandbox: crate::id::SandboxId::random().unwrap(),
        spec: std::sync::Arc::new(container()),
        facts: std::sync::Arc::new(ContainerFacts {
            created_at: 1,
            image_id: crate::image::Digest::from_sha256([7; 32]),
            image_name: "x".to_owned(),
            image_ref: "x".to_owned(),
            layers: Vec::new(),
            volume_layers: Vec::new(),
            log_path: None,
            stop_signal: Signal::TERM,
            user: User::default(),
            own_pid_namespace: true,
        }),
        state: ContainerState::Created { pid: 7 },
        log_dropped: 0,
        meter: crate::stats::Meter::default(),
    }
}
