//! What is built, as a whole (snapshots) and rule by rule (tables).

use super::testing::{Given, Version2, handler, host};
use super::*;
use crate::cgroup::Driver;
use crate::container::{
    AppArmor, ContainerPid, DeviceSpec, HugepageLimit, ImageRequest, MountSource, MountSpec,
    Propagation, ReadOnly, Resources, RunAs, Seccomp,
};
use crate::sandbox::{CgroupParent, IdMapping, IdMappings, NetworkMode};
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use serde_json::Value;

/// The spec as text: sets in order, and what differs between machines or is too long to read left out.
fn text(built: &Built) -> String {
    let mut spec = serde_json::to_value(&built.spec).unwrap();
    for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
        let list = spec["process"]["capabilities"][set].as_array_mut().unwrap();
        list.sort_by_key(|one| one.as_str().unwrap().to_owned());
    }
    if let Some(syscalls) = spec["linux"]["seccomp"].get_mut("syscalls") {
        *syscalls = Value::from("the default profile's");
        spec["linux"]["seccomp"]["architectures"] = Value::from("this machine's");
    }
    if spec["linux"]["devices"].as_array().is_some_and(|nodes| nodes.len() > 10) {
        spec["linux"]["devices"] = Value::from("all of the host's");
    }
    serde_json::to_string_pretty(&spec).unwrap()
}

fn bind(source: impl Into<PathBuf>, destination: &str) -> MountSpec {
    MountSpec {
        container_path: destination.into(),
        source: MountSource::Host(source.into()),
        readonly: ReadOnly::No,
        propagation: Propagation::Private,
        selinux_relabel: false,
        id_mappings: None,
    }
}

fn destinations(built: &Built) -> Vec<&str> {
    built
        .spec
        .mounts()
        .iter()
        .flatten()
        .map(|mount| mount.destination().to_str().unwrap())
        .collect()
}

fn mount<'a>(built: &'a Built, destination: &str) -> &'a oci_spec::runtime::Mount {
    let mut found = built
        .spec
        .mounts()
        .iter()
        .flatten()
        .filter(|mount| mount.destination() == Path::new(destination));
    let one = found.next().unwrap_or_else(|| panic!("nothing at {destination}"));
    assert!(found.next().is_none(), "{destination} is mounted twice");
    one
}

fn options(built: &Built, destination: &str) -> Vec<String> {
    mount(built, destination).options().clone().unwrap()
}

/// A pod's container as the kubelet asks for it.
fn kubelet() -> Given {
    let mut given = Given::new();
    given.image = ImageDefaults {
        entrypoint: vec!["/docker-entrypoint.sh".into()],
        cmd: vec!["nginx".into(), "-g".into(), "daemon off;".into()],
        env: vec!["PATH=/usr/local/bin:/usr/bin:/bin".into(), "NGINX_VERSION=1.27".into()],
        working_dir: "/usr/share/nginx".into(),
        user: "app".into(),
        stop_signal: "SIGQUIT".into(),
        volumes: vec!["/var/cache/nginx".into()],
    };
    let container = &mut given.container;
    container.args = vec!["nginx".into(), "-T".into()];
    container.envs = vec![("KUBERNETES_SERVICE_HOST".into(), "10.0.0.1".into())];
    let mut token = bind("/tmp", "/var/run/secrets/kubernetes.io/serviceaccount");
    token.readonly = ReadOnly::Yes;
    container.mounts =
        vec![token, bind("/etc/passwd", "/etc/hosts"), bind("/dev/null", "/dev/termination-log")];
    container.resources.cpu_shares = 102;
    container.resources.cpu_period = 100_000;
    container.resources.cpu_quota = 20_000;
    container.resources.memory_limit = 128 << 20;
    container.resources.oom_score_adj = 985;
    container.resources.hugepage_limits = vec![HugepageLimit { page_size: "2MB".into(), limit: 0 }];
    container.resources.unified = [("memory.oom.group".to_owned(), "1".to_owned())].into();
    container.security.pid = ContainerPid::Container;
    container.security.seccomp = Seccomp::RuntimeDefault;
    container.security.supplemental_groups = vec![2000];
    container.security.masked_paths = vec!["/proc/kcore".into(), "/sys/firmware".into()];
    container.security.readonly_paths = vec!["/proc/sys".into()];
    container.annotations = [
        ("run.oci.handler".to_owned(), "krun".to_owned()),
        ("org.systemd.property.ExecStopPost".to_owned(), "x".to_owned()),
        ("module.wasm.image/variant".to_owned(), "compat".to_owned()),
    ]
    .into();
    given.sandbox.annotations = given.container.annotations.clone();
    given
}

#[test]
fn a_typical_container_of_the_kubelets() {
    let built = kubelet().build().unwrap();
    insta::assert_snapshot!(text(&built));
    assert_eq!(built.user, User { uid: 1000, gid: 1000, groups: vec![1000, 50000, 2000] });
    assert_eq!(built.stop_signal.to_string(), "SIGQUIT");
    let made: Vec<_> = built.make_dirs.iter().map(|one| one.path.to_str().unwrap()).collect();
    assert_eq!(made, ["/usr/share/nginx", "/var/cache/nginx"]);
    assert!(built.own_pid_namespace);
    assert_eq!(built.warnings, Vec::<String>::new());
}

#[test]
fn a_privileged_container() {
    let mut given = kubelet();
    given.sandbox.security.privileged = true;
    given.container.security.privileged = true;
    given.container.tty = true;
    insta::assert_snapshot!(text(&given.build().unwrap()));
}

#[test]
fn a_container_in_the_hosts_namespaces() {
    let mut given = kubelet();
    given.sandbox.network = NetworkMode::Host;
    given.sandbox.host_ipc = true;
    given.container.security.pid = ContainerPid::Host;
    given.container.security.readonly_rootfs = true;
    given.pod = PodPaths {
        hostname: "node-1".into(),
        resolv_conf: given.pod.resolv_conf,
        ..PodPaths::default()
    };
    let built = given.build().unwrap();
    insta::assert_snapshot!(text(&built));
    assert!(!built.own_pid_namespace);
}

/// A pod with a user namespace, from this line on.
fn with_userns(mut given: Given) -> Given {
    let range = IdMapping { inside: 0, host: 100_000, length: 65536 };
    given.sandbox.userns = Some(IdMappings { uids: vec![range], gids: vec![range] });
    given.pod.userns = Some("/proc/77/fd/9".into());
    given
}

#[test]
fn a_container_in_a_user_namespace() {
    let mut given = with_userns(Given::new());
    let mapped = IdMappings {
        uids: vec![IdMapping { inside: 0, host: 5, length: 1 }],
        gids: vec![IdMapping { inside: 0, host: 6, length: 1 }],
    };
    given.container.mounts = vec![
        MountSpec { id_mappings: Some(mapped.clone()), ..bind("/tmp", "/overridden") },
        MountSpec { id_mappings: Some(mapped.clone()), ..bind("/etc/passwd", "/data") },
        bind("/tmp", "/overridden"),
    ];
    let built = given.build().unwrap();
    let linux = built.spec.linux().as_ref().unwrap();
    let user = linux.namespaces().as_ref().unwrap().iter();
    let user = user.clone().find(|one| one.typ() == LinuxNamespaceType::User).unwrap();
    assert_eq!(user.path().as_deref(), Some(Path::new("/proc/77/fd/9")));
    for table in [linux.uid_mappings(), linux.gid_mappings()] {
        let [one] = table.as_deref().unwrap() else { panic!("{table:?}") };
        assert_eq!((one.container_id(), one.host_id(), one.size()), (0, 100_000, 65536));
    }
    let below = |name: &str| Path::new("/run/davit/pods/p/mapped").join(name);
    let told: Vec<_> =
        built.mapped.iter().map(|one| (one.source.as_path(), one.target.clone())).collect();
    let pod = Path::new("/run/davit/pods/p");
    assert_eq!(
        told,
        [
            (Path::new("/etc/passwd"), below("1")),
            (pod.join("hostname").as_path(), below("hostname")),
            (pod.join("resolv.conf").as_path(), below("resolv.conf")),
        ]
    );
    assert_eq!((&built.mapped[0].mappings, built.mapped[0].is_dir), (&mapped, false));
    let source = |at: &str| {
        let mounts = built.spec.mounts().as_ref().unwrap().iter();
        mounts.clone().find(|mount| mount.destination() == Path::new(at)).unwrap().source().clone()
    };
    assert_eq!([source("/data"), source("/overridden")], [Some(below("1")), Some("/tmp".into())]);
}

#[test]
fn the_hosts_network_in_a_user_namespace_has_the_hosts_sys_which_cannot_be_written() {
    let mut given = with_userns(Given::new());
    assert!(!options(&given.build().unwrap(), "/sys").contains(&"rbind".to_owned()));
    given.sandbox.network = NetworkMode::Host;
    for (recursive, option) in [(true, "rro"), (false, "ro")] {
        given.handler.features.recursive_read_only = recursive;
        let options = options(&given.build().unwrap(), "/sys");
        assert_eq!(options, ["rbind", "rprivate", "nosuid", "noexec", "nodev", option]);
    }
}

#[test]
fn who_is_not_in_the_pods_user_namespace_cannot_be_the_containers_user() {
    let mut given = with_userns(Given::new());
    given.container.security.run_as = RunAs::Uid { uid: 65536, gid: None };
    let error = given.build().unwrap_err().to_string();
    assert_eq!(error, "run_as_user 65536 is not in the pod's user namespace");
}

#[test]
fn the_least_that_crictl_can_ask_for() {
    let mut given = Given::new();
    given.host = host(Version2::No);
    given.sandbox.cgroup_parent = None;
    let built = given.build().unwrap();
    insta::assert_snapshot!(text(&built));
    assert_eq!(built.make_dirs, []);
    assert_eq!(built.stop_signal, Signal::TERM);
}

#[test]
fn what_runs_is_the_pods_word_over_the_images() {
    let list = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    for (command, args, entrypoint, cmd, expected) in [
        (&[][..], &[][..], &["e"][..], &["c"][..], Some(&["e", "c"][..])),
        (&[], &["a"], &["e"], &["c"], Some(&["e", "a"])),
        (&["k"], &[], &["e"], &["c"], Some(&["k"])),
        (&["k"], &["a"], &["e"], &["c"], Some(&["k", "a"])),
        (&[], &[], &[], &["c"], Some(&["c"])),
        (&[], &["a"], &[], &["c"], Some(&["a"])),
        (&[], &[], &[""], &["c"], Some(&["c"])),
        (&[], &[], &[], &[], None),
        (&[], &[], &[""], &[], None),
        (&[""], &[], &["e"], &["c"], None),
        (&[], &[""], &[], &[], None),
    ] {
        let mut given = Given::new();
        given.container.command = list(command);
        given.container.args = list(args);
        given.image.entrypoint = list(entrypoint);
        given.image.cmd = list(cmd);
        let result = given
            .build()
            .map(|built| built.spec.process().as_ref().unwrap().args().clone().unwrap());
        match (result, expected) {
            (Ok(args), Some(expected)) => assert_eq!(args, expected),
            (Err(error), None) => assert_eq!(error.to_string(), "no command specified"),
            other => panic!("{command:?} {args:?} {entrypoint:?} {cmd:?}: {other:?}"),
        }
    }
}

/// A change to a request, and the message it is refused with.
type Refusal = (fn(&mut Given), &'static str);

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn what_cannot_be_is_refused_with_field_and_value() {
    let refusals: &[Refusal] = &[
        (
            |g| g.container.security.privileged = true,
            "privileged is true, but the pod's sandbox is not privileged",
        ),
        (
            |g| g.container.command = vec!["sh".into(), "a\0b".into()],
            "argument 1 of the command has a NUL in it",
        ),
        (|g| g.container.working_dir = Some("app".into()), "working_dir \"app\" is not absolute"),
        (
            |g| g.container.working_dir = Some("/a/../b".into()),
            "working_dir \"/a/../b\" has a `..` in it",
        ),
        (
            |g| g.image.working_dir = "/proc/self/fd/7".into(),
            "the image's WORKDIR \"/proc/self/fd/7\" is below a directory of the kernel's",
        ),
        (
            |g| g.image.user = "ghost".into(),
            "the image's USER \"ghost\": the image's /etc/passwd has no such entry",
        ),
        (
            |g| g.container.security.run_as = RunAs::Name { name: "ghost".into(), gid: None },
            "run_as_username \"ghost\": the image's /etc/passwd has no such entry",
        ),
        (
            |g| g.container.envs = vec![("A=B".into(), String::new())],
            "environment variable \"A=B\" of the pod has a `=` or NUL in its name",
        ),
        (
            |g| g.image.env = vec!["HOME=/x\nroot2::0:0".into()],
            "environment variable \"HOME\" of the image has a line break or a colon in its value",
        ),
        (
            |g| g.container.mounts = vec![bind("/davit-not-there", "/data")],
            "mounts[0].host_path \"/davit-not-there\" can't be mounted",
        ),
        (
            |g| g.container.mounts = vec![bind("tmp", "/data")],
            "mounts[0].host_path \"tmp\" is not absolute",
        ),
        (
            |g| g.container.mounts = vec![bind("/tmp", "/a"), bind("/tmp", "data")],
            "mounts[1].container_path \"data\" is not absolute",
        ),
        (
            |g| g.container.mounts = vec![bind("/tmp", "//")],
            "mounts[0].container_path \"//\" is the root",
        ),
        (
            |g| g.container.mounts = vec![bind("/tmp", "/a/../etc")],
            "mounts[0].container_path \"/a/../etc\" has a `..` in it",
        ),
        (
            |g| {
                g.handler.features.recursive_read_only = false;
                g.container.mounts =
                    vec![MountSpec { readonly: ReadOnly::Recursive, ..bind("/tmp", "/a") }];
            },
            "mounts[0].recursive_read_only: RROUnsupported: handler \"crun\" can't mount recursively read-only",
        ),
        (
            |g| {
                g.container.devices = vec![DeviceSpec {
                    host_path: "/dev/davit-none".into(),
                    container_path: "/dev/x".into(),
                    permissions: "r".into(),
                }]
            },
            "devices[0].host_path \"/dev/davit-none\" can't be read",
        ),
        (
            |g| g.container.security.capabilities.add = vec!["NOPE".into()],
            "capabilities.add[0] \"NOPE\" is no capability",
        ),
        (
            |g| {
                g.host.bounding.clear();
                g.container.security.capabilities.add = vec!["SYS_ADMIN".into()];
            },
            "capabilities.add[0] \"SYS_ADMIN\" is not in davit's own bounding set, so no container can have it",
        ),
        (
            |g| g.container.security.seccomp = Seccomp::Localhost("/davit/none.json".into()),
            "read seccomp profile /davit/none.json",
        ),
        (
            |g| {
                g.host.seccomp = false;
                g.container.security.seccomp = Seccomp::RuntimeDefault;
            },
            "seccomp profile \"runtime default\" can't be applied: this host's kernel has no seccomp",
        ),
        (
            |g| {
                g.handler.features.seccomp = false;
                g.container.security.seccomp = Seccomp::Localhost("/p.json".into());
            },
            "seccomp profile \"/p.json\" can't be applied: handler \"crun\" has no seccomp",
        ),
        (
            |g| g.container.security.apparmor = AppArmor::Localhost("p".into()),
            "AppArmor profile \"p\" can't be applied: this host has no AppArmor",
        ),
        (
            |g| g.container.security.pid = ContainerPid::Pod,
            "the pod's PID namespace is not known, though the container needs it",
        ),
        (
            |g| g.container.security.pid = ContainerPid::Target("abc".into()),
            "the pod's PID namespace is not known, though the container needs it",
        ),
        (
            |g| g.pod.netns = None,
            "the pod's network namespace is not known, though the container needs it",
        ),
        (
            |g| g.pod.ipcns = None,
            "the pod's IPC namespace is not known, though the container needs it",
        ),
        (
            |g| g.pod.utsns = None,
            "the pod's UTS namespace is not known, though the container needs it",
        ),
        (
            |g| g.host.driver = Driver::Systemd,
            "cgroup \"/kubepods/burstable/podu-1\" is not a systemd slice, but the cgroup driver is systemd",
        ),
        (
            |g| g.container.resources.cpu_shares = 1,
            "resources.cpu_shares \"1\" is not between 2 and 262144",
        ),
        (
            |g| g.container.resources.cpu_shares = 262_145,
            "resources.cpu_shares \"262145\" is not between 2 and 262144",
        ),
        (
            |g| g.container.resources.cpu_period = 999,
            "resources.cpu_period \"999\" is not between 1000 and 1000000 microseconds",
        ),
        (
            |g| g.container.resources.cpu_quota = 999,
            "resources.cpu_quota \"999\" is neither -1 nor at least 1000 microseconds",
        ),
        (
            |g| g.container.resources.cpu_quota = -2,
            "resources.cpu_quota \"-2\" is neither -1 nor at least 1000 microseconds",
        ),
        (
            |g| g.container.resources.cpuset_cpus = "3-1".into(),
            "resources.cpuset_cpus \"3-1\" is not a list such as 0-3,7",
        ),
        (
            |g| g.container.resources.cpuset_mems = "0,\n".into(),
            "resources.cpuset_mems \"0,\\n\" is not a list such as 0-3,7",
        ),
        (|g| g.container.resources.memory_limit = -1, "resources.memory_limit \"-1\" is negative"),
        (
            |g| g.container.resources.memory_limit = 4096,
            "resources.memory_limit \"4096\" is less than the 524288 bytes that handler \"crun\" needs to start a process",
        ),
        (
            |g| {
                g.handler.kind = handlers::Kind::Runc;
                g.container.resources.memory_limit = 1 << 20;
            },
            "resources.memory_limit \"1048576\" is less than the 6291456 bytes that handler \"crun\" needs to start a process",
        ),
        (
            |g| g.container.resources.memory_swap_limit = 1,
            "resources.memory_swap_limit \"1\" needs a memory_limit",
        ),
        (
            |g| g.container.resources.memory_swap_limit = -2,
            "resources.memory_swap_limit \"-2\" is neither -1 nor a size",
        ),
        (
            |g| {
                g.container.resources.memory_limit = 2 << 20;
                g.container.resources.memory_swap_limit = 1 << 20;
            },
            "resources.memory_swap_limit \"1048576\" is less than memory_limit 2097152: it counts memory and swap together",
        ),
        (
            |g| g.container.resources.oom_score_adj = 1001,
            "resources.oom_score_adj \"1001\" is not between -1000 and 1000",
        ),
        (
            |g| g.container.resources.oom_score_adj = i64::MIN,
            "resources.oom_score_adj \"-9223372036854775808\" is not between -1000 and 1000",
        ),
        (
            |g| {
                g.container.resources.hugepage_limits =
                    vec![HugepageLimit { page_size: "2M".into(), limit: 1 }]
            },
            "resources.hugepage_limits.page_size \"2M\" is not a size such as 2MB or 1GB",
        ),
        (
            |g| g.container.resources.unified = [("cgroup.procs".into(), "1".into())].into(),
            "resources.unified \"cgroup.procs\" is not a file of a controller",
        ),
        (
            |g| g.container.resources.unified = [("../memory.max".into(), "1".into())].into(),
            "resources.unified \"../memory.max\" is not a file of a controller",
        ),
        (
            |g| g.container.resources.unified = [("memory.high".into(), String::new())].into(),
            "resources.unified \"memory.high=\" has no value that can be written",
        ),
        (
            |g| {
                g.host.cgroups = host(Version2::No).cgroups;
                g.container.resources.unified = [("memory.high".into(), "1".into())].into();
            },
            "resources.unified \"memory.high\" needs cgroup v2, and this host has v1",
        ),
    ];
    for (change, message) in refusals {
        let mut given = Given::new();
        change(&mut given);
        match given.build() {
            Err(error) => assert_eq!(error.to_string(), *message),
            Ok(_) => panic!("not refused: {message}"),
        }
    }
}

#[test]
fn an_image_is_bound_read_only_from_where_the_shim_mounts_it() {
    let mut given = Given::new();
    for readonly in [ReadOnly::Yes, ReadOnly::Recursive] {
        given.handler.features.recursive_read_only = false;
        let source = MountSource::Image { image: ImageRequest::default(), sub_path: "a".into() };
        let image = MountSpec { source, readonly, ..bind("", "/models") };
        given.container.mounts = vec![bind("/tmp", "/data"), image];
        let built = given.build().unwrap();
        let source = volume_target(Path::new("/run/davit/pods/p/volumes"), 1);
        assert_eq!(mount(&built, "/models").source().as_ref().unwrap(), &source);
        assert_eq!(options(&built, "/models"), ["rbind", "rprivate", "ro"]);
    }
}

#[test]
fn where_there_is_selinux_a_container_is_labelled_and_a_privileged_one_is_not() {
    let mut given = Given::new();
    let relabel = MountSpec { selinux_relabel: true, ..bind("/tmp", "/data") };
    given.container.mounts = vec![relabel, bind("/usr", "/usr-of-host")];
    given.container.security.selinux.level = "s0:c1,c2".to_owned();
    assert_eq!(given.build().unwrap().labels, None);
    given.host.selinux = Some(selinux::SelinuxHost::default());
    let built = given.build().unwrap();
    let process = built.spec.process().as_ref().unwrap().selinux_label().clone();
    assert_eq!(process.as_deref(), Some("system_u:system_r:container_t:s0:c1,c2"));
    let files = built.spec.linux().as_ref().unwrap().mount_label().clone();
    assert_eq!(files.as_deref(), Some("system_u:object_r:container_file_t:s0:c1,c2"));
    assert_eq!(built.relabel, [Path::new("/tmp")]);
    given.sandbox.security.privileged = true;
    given.container.security.privileged = true;
    let built = given.build().unwrap();
    assert_eq!(built.labels, None);
    assert_eq!(built.spec.process().as_ref().unwrap().selinux_label(), &None);
}

#[test]
fn mounts_come_parents_first_and_defaults_give_way() {
    let mut given = Given::new();
    given.container.mounts = vec![
        bind("/tmp", "/data/deep/er"),
        bind("/usr", "/data"),
        bind("/etc/passwd", "/etc/hostname"),
        bind("/dev", "/dev"),
        bind("/etc", "/etc"),
        bind("/var", "/data//./"),
    ];
    let built = given.build().unwrap();
    assert_eq!(
        destinations(&built),
        [
            "/proc",
            "/sys",
            "/sys/fs/cgroup",
            "/dev",
            "/etc",
            "/data",
            "/etc/hostname",
            "/etc/resolv.conf",
            "/data/deep/er"
        ]
    );
    assert_eq!(
        mount(&built, "/data").source().as_deref(),
        Some(Path::new("/var")),
        "the later of two is meant"
    );
    assert_eq!(mount(&built, "/etc/hostname").source().as_deref(), Some(Path::new("/etc/passwd")));
}

#[test]
fn a_source_is_resolved_and_one_that_is_missing_is_made_unless_configured_otherwise() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().canonicalize().unwrap();
    std::fs::create_dir(at.join("real")).unwrap();
    std::os::unix::fs::symlink("real", at.join("link")).unwrap();
    let mut given = Given::new();
    given.container.mounts = vec![bind(at.join("link"), "/data")];
    let built = given.build().unwrap();
    assert_eq!(mount(&built, "/data").source().as_ref().unwrap(), &at.join("real"));

    given.container.mounts = vec![bind(at.join("a/b"), "/data")];
    given.host.missing_sources = MissingSources::Refuse;
    let refused = given.build().unwrap_err().to_string();
    assert!(refused.contains("mounts[0].host_path") && refused.contains("a/b"), "{refused}");
    assert!(!at.join("a").exists(), "a refusal makes nothing");
    given.host.missing_sources = MissingSources::default();
    given.build().unwrap();
    for made in ["a", "a/b"] {
        let found = at.join(made).metadata().unwrap();
        assert!(found.is_dir() && found.permissions().mode() & 0o7777 == 0o755, "{found:?}");
    }
    // What leads nowhere is not made to lead somewhere.
    std::os::unix::fs::symlink("nowhere", at.join("dangling")).unwrap();
    given.container.mounts = vec![bind(at.join("dangling"), "/data")];
    given.build().unwrap_err();
    assert!(!at.join("nowhere").exists());
}

#[test]
fn davits_own_profile_confines_who_asks_for_no_other_where_it_is_loaded() {
    let mut given = Given::new();
    let profile = |given: &Given| -> Result<Option<String>, String> {
        let built = given.build().map_err(|error| error.to_string())?;
        Ok(built.spec.process().as_ref().unwrap().apparmor_profile().clone())
    };
    // A host without AppArmor.
    given.container.security.apparmor_required = true;
    assert_eq!(profile(&given), Ok(None));
    given.host.apparmor = true;
    assert_eq!(profile(&given), Ok(Some("davit-default".into())));
    given.host.apparmor_default = Err("no parser".into());
    let refused = "AppArmor profile \"davit-default\" (RuntimeDefault) is not loaded: no parser";
    assert_eq!(profile(&given), Err(refused.into()));
    given.container.security.apparmor_required = false;
    assert_eq!(profile(&given), Ok(None));
    given.host.apparmor_default = Ok(());
    assert_eq!(profile(&given), Ok(Some("davit-default".into())));
    given.container.security.apparmor = AppArmor::Unconfined;
    assert_eq!(profile(&given), Ok(None));
    given.container.security.apparmor = AppArmor::RuntimeDefault;
    (given.container.security.privileged, given.sandbox.security.privileged) = (true, true);
    assert_eq!(profile(&given), Ok(None));
}

/// Mounts of the kinds that propagate; gone with the test.
struct Peers(tempfile::TempDir);

impl Peers {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let script = "cd \"$0\" && mkdir top && mount -t tmpfs none top && mount --make-private top && mkdir top/shared top/slave top/private \
            && mount --bind top/shared top/shared && mount --make-shared top/shared \
            && mount --bind top/shared top/slave && mount --make-slave top/slave \
            && mount --bind top/private top/private && mount --make-private top/private";
        let done = std::process::Command::new("sh")
            .args(["-ec", script])
            .arg(directory.path())
            .status()
            .unwrap();
        assert!(done.success());
        Self(directory)
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        let top = self.0.path().join("top");
        std::process::Command::new("umount").arg("-R").arg(top).status().unwrap();
    }
}

#[test]
fn propagation_needs_a_mount_that_propagates() {
    let peers = Peers::new();
    let top = peers.0.path().canonicalize().unwrap().join("top");
    for (propagation, source, expected) in [
        (Propagation::Private, "private", Some(("rprivate", None))),
        (Propagation::Private, "shared", Some(("rprivate", None))),
        (Propagation::HostToContainer, "private", None),
        (Propagation::HostToContainer, "slave", Some(("rslave", Some("rslave")))),
        (Propagation::HostToContainer, "shared", Some(("rslave", Some("rslave")))),
        (Propagation::Bidirectional, "private", None),
        (Propagation::Bidirectional, "slave", None),
        (Propagation::Bidirectional, "shared", Some(("rshared", Some("rshared")))),
    ] {
        let mut given = Given::new();
        given.container.mounts = vec![MountSpec { propagation, ..bind(top.join(source), "/data") }];
        match (given.build(), expected) {
            (Ok(built), Some((option, root))) => {
                assert_eq!(options(&built, "/data"), ["rbind", option, "rw"]);
                let linux = built.spec.linux().as_ref().unwrap();
                assert_eq!(linux.rootfs_propagation().as_deref(), root, "{propagation:?} {source}");
            }
            (Err(error), None) => {
                let text = error.to_string();
                assert!(
                    text.contains(top.join(source).to_str().unwrap())
                        && text.contains("mounts[0].propagation"),
                    "{text}"
                );
            }
            other => panic!("{propagation:?} {source}: {other:?}"),
        }
    }
    let mut given = Given::new();
    let propagation = Propagation::HostToContainer;
    let recursive = MountSpec {
        propagation,
        readonly: ReadOnly::Recursive,
        ..bind(top.join("shared"), "/data")
    };
    given.container.mounts = vec![recursive];
    assert_eq!(
        given.build().unwrap_err().to_string(),
        "mounts[0].recursive_read_only needs private propagation"
    );
}

#[test]
fn read_only_comes_in_three_kinds() {
    let mut given = Given::new();
    for (readonly, option) in
        [(ReadOnly::No, "rw"), (ReadOnly::Yes, "ro"), (ReadOnly::Recursive, "rro")]
    {
        given.container.mounts = vec![MountSpec { readonly, ..bind("/tmp", "/data") }];
        assert_eq!(options(&given.build().unwrap(), "/data"), ["rbind", "rprivate", option]);
    }
}

#[test]
fn limits_are_those_asked_for_and_swap_is_none_unless_asked_for() {
    let memory = |given: &Given| {
        let built = given.build().unwrap();
        let memory = built.spec.linux().as_ref().unwrap().resources().as_ref().unwrap().memory();
        (memory.map(|memory| (memory.limit(), memory.swap())), built.warnings)
    };
    let mut given = Given::new();
    assert_eq!(memory(&given), (None, vec![]));
    for (limit, swap, expected) in [
        (64 << 20, 0, (Some(64 << 20), Some(64 << 20))),
        (64 << 20, 96 << 20, (Some(64 << 20), Some(96 << 20))),
        (64 << 20, -1, (Some(64 << 20), Some(-1))),
        (0, -1, (None, Some(-1))),
    ] {
        given.container.resources.memory_limit = limit;
        given.container.resources.memory_swap_limit = swap;
        assert_eq!(memory(&given), (Some(expected), vec![]), "{limit} {swap}");
    }
    given.host = host(Version2::No);
    given.container.resources.memory_limit = 64 << 20;
    given.container.resources.memory_swap_limit = 96 << 20;
    let (found, warnings) = memory(&given);
    assert_eq!(found, Some((Some(64 << 20), None)));
    assert_eq!(
        warnings,
        ["resources.memory_swap_limit 100663296 is not applied: this host can't limit swap"]
    );
}

#[test]
fn huge_pages_without_the_controller_are_no_reason_to_fail() {
    let mut given = Given::new();
    given.host = host(Version2::No);
    given.container.resources.hugepage_limits =
        vec![HugepageLimit { page_size: "2MB".into(), limit: 0 }];
    assert_eq!(given.build().unwrap().warnings, Vec::<String>::new());
    given.container.resources.hugepage_limits =
        vec![HugepageLimit { page_size: "1GB".into(), limit: 1 << 30 }];
    let built = given.build().unwrap();
    assert_eq!(built.warnings.len(), 1);
    assert!(
        built
            .spec
            .linux()
            .as_ref()
            .unwrap()
            .resources()
            .as_ref()
            .unwrap()
            .hugepage_limits()
            .is_none()
    );
}

#[test]
fn a_score_is_raised_to_what_can_be_set() {
    let mut given = Given::new();
    given.host.lowest_oom_score_adj = 0;
    for (asked, given_score) in [(-997, 0), (0, 0), (500, 500), (1000, 1000)] {
        given.container.resources.oom_score_adj = asked;
        let built = given.build().unwrap();
        assert_eq!(
            built.spec.process().as_ref().unwrap().oom_score_adj(),
            Some(given_score),
            "{asked}"
        );
    }
}

#[test]
fn an_exec_is_the_containers_process_with_another_command() {
    let mut given = kubelet();
    given.container.tty = true;
    let spec = given.build().unwrap().spec;
    let own = spec.process().clone().unwrap();
    let process = exec_plain(&spec, &["ls".into(), "-l".into()], Terminal::No).unwrap();
    assert_eq!(process.args().as_ref().unwrap(), &["ls", "-l"]);
    assert_eq!(process.terminal(), Some(false));
    let mut same = process.clone();
    same.set_args(own.args().clone()).set_terminal(own.terminal());
    assert_eq!(same, own);

    given.container.tty = false;
    let spec = given.build().unwrap().spec;
    let process = exec_plain(&spec, &["sh".into()], Terminal::Yes).unwrap();
    assert_eq!(process.terminal(), Some(true));
    assert_eq!(process.env().as_ref().unwrap().last().unwrap(), "TERM=xterm");
    for command in [vec![], vec![String::new()], vec!["sh".into(), "\0".into()]] {
        assert!(exec_plain(&spec, &command, Terminal::No).is_err(), "{command:?}");
    }
}

#[test]
fn an_images_volumes_are_made_where_nothing_else_is() {
    let mut given = Given::new();
    given.image.volumes =
        ["/data", "/data/", "/mounted/sub", "/proc", "/dev/x", "relative", "/a/../../etc", ""]
            .map(str::to_owned)
            .into();
    given.image.stop_signal = "SIGNOTHING".into();
    given.container.mounts = vec![bind("/tmp", "/mounted")];
    given.container.working_dir = Some("/mounted/app".into());
    let built = given.build().unwrap();
    let made: Vec<_> = built.make_dirs.iter().map(|one| one.path.to_str().unwrap()).collect();
    assert_eq!(made, ["/data"]);
    assert_eq!(built.stop_signal, Signal::TERM);
    assert_eq!(built.warnings.len(), 4, "{:?}", built.warnings);
}

#[test]
fn the_runtime_makes_the_cgroup_below_the_pods() {
    let mut given = Given::new();
    let path = |given: &Given| {
        let built = given.build().unwrap();
        built
            .spec
            .linux()
            .as_ref()
            .unwrap()
            .cgroups_path()
            .clone()
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    };
    let id = "c".repeat(64);
    assert_eq!(path(&given), format!("/kubepods/burstable/podu-1/{id}"));
    given.sandbox.cgroup_parent = None;
    assert_eq!(path(&given), format!("/davit-pods/{}/{id}", "d".repeat(64)));
    given.host.driver = Driver::Systemd;
    given.sandbox.cgroup_parent =
        Some(CgroupParent::try_from("/kubepods.slice/kubepods-podu1.slice".to_owned()).unwrap());
    assert_eq!(path(&given), format!("kubepods-podu1.slice:davit:{id}"));
}

#[test]
fn no_annotation_of_a_pod_reaches_the_oci_runtime() {
    let built = kubelet().build().unwrap();
    let annotations = built.spec.annotations().as_ref().unwrap();
    assert!(annotations.keys().all(|key| key.starts_with("io.kubernetes.cri.")), "{annotations:?}");
    assert_eq!(annotations.len(), 7);
}

#[test]
fn a_change_of_limits_tells_the_runtime_what_was_asked_for_and_what_belongs_to_it() {
    let json =
        |resources: &oci_spec::runtime::LinuxResources| serde_json::to_value(resources).unwrap();
    let host = host(Version2::Yes);
    let now = Resources { cpu_shares: 512, memory_limit: 64 << 20, ..Resources::default() };
    let asked = Resources { memory_limit: 96 << 20, cpu_quota: 20_000, ..Resources::default() };
    let change = super::limit_change(&now, &asked, &handler(), &host).unwrap();
    let mib = |count: i64| count << 20;
    assert_eq!(
        json(&change.apply),
        serde_json::json!({"memory": {"limit": mib(96), "swap": mib(96)}, "cpu": {"quota": 20_000}})
    );
    assert_eq!(change.all.cpu().as_ref().unwrap().shares(), Some(512), "what was there stays");
    assert_eq!(
        json(&change.revert),
        serde_json::json!({
            "memory": {"limit": mib(64), "swap": mib(64)},
            "cpu": {"quota": -1, "period": 100_000},
        })
    );
    let unlimited = Resources::default();
    let change = super::limit_change(&unlimited, &asked, &handler(), &host).unwrap();
    assert_eq!(json(&change.revert)["memory"], serde_json::json!({"limit": -1, "swap": -1}));
    let shares = Resources { cpu_shares: 1, ..Resources::default() };
    let error = super::limit_change(&now, &shares, &handler(), &host).unwrap_err();
    assert_eq!(error.to_string(), "resources.cpu_shares \"1\" is not between 2 and 262144");
}

#[test]
fn a_swap_limit_stays_until_the_memory_limit_outgrows_it() {
    let now = Resources { memory_limit: 64, memory_swap_limit: 100, ..Resources::default() };
    let changed = |memory_limit, memory_swap_limit| {
        let asked = Resources { memory_limit, memory_swap_limit, ..Resources::default() };
        let after = now.changed(&asked);
        (after.memory_limit, after.memory_swap_limit)
    };
    assert_eq!(changed(80, 0), (80, 100));
    assert_eq!(changed(128, 0), (128, 0));
    assert_eq!(changed(0, 70), (64, 70));
    assert_eq!(changed(0, -1), (64, -1));
    let unlimited = Resources { memory_swap_limit: -1, ..now.clone() };
    let asked = Resources { memory_limit: 128, oom_score_adj: 9, ..Resources::default() };
    assert_eq!(unlimited.changed(&asked).memory_swap_limit, -1);
    assert_eq!(unlimited.changed(&asked).oom_score_adj, 0, "a process keeps its score");
}

#[test]
fn huge_pages_and_files_of_version_2_are_changed_one_by_one() {
    let pages = |list: &[(&str, u64)]| -> Vec<HugepageLimit> {
        let one = |(size, limit): &(&str, u64)| HugepageLimit {
            page_size: (*size).to_owned(),
            limit: *limit,
        };
        list.iter().map(one).collect()
    };
    let unified = |list: &[(&str, &str)]| {
        list.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let now = Resources {
        hugepage_limits: pages(&[("2MB", 4), ("1GB", 0)]),
        unified: unified(&[("memory.high", "9"), ("memory.min", "1")]),
        ..Resources::default()
    };
    let asked = Resources {
        hugepage_limits: pages(&[("2MB", 8)]),
        unified: unified(&[("memory.high", "7")]),
        ..Resources::default()
    };
    let after = now.changed(&asked);
    assert_eq!(after.hugepage_limits, pages(&[("1GB", 0), ("2MB", 8)]));
    assert_eq!(after.unified, unified(&[("memory.high", "7"), ("memory.min", "1")]));
    let change = super::limit_change(&now, &asked, &handler(), &host(Version2::Yes)).unwrap();
    assert_eq!(change.apply.unified().as_ref().unwrap().len(), 1);
    assert_eq!(change.apply.hugepage_limits().as_ref().unwrap().len(), 1);
}

fn exec_plain(
    spec: &Spec,
    command: &[String],
    terminal: Terminal,
) -> Result<oci_spec::runtime::Process, ProcessError> {
    exec_process(spec, command, terminal, &ExecAs::default(), &UserFiles::default())
}

#[test]
fn an_exec_as_somebody_else_keeps_the_containers_rights() {
    let mut own = oci_spec::runtime::Process::default();
    own.set_env(Some(vec!["PATH=/bin".to_owned(), "A=container".to_owned()]));
    let mut spec = Spec::default();
    spec.set_process(Some(own.clone()));
    let users = UserFiles {
        passwd: Some(b"web:x:33:44::/srv:/bin/sh\n".to_vec()),
        group: Some(b"www:x:55:web\n".to_vec()),
    };
    let exec = |user: &str, cwd: &str, env: &[&str]| {
        let env = env.iter().map(|line| (*line).to_owned()).collect();
        let whom = ExecAs { user: user.to_owned(), cwd: cwd.to_owned(), env };
        exec_process(&spec, &["id".to_owned()], Terminal::No, &whom, &users)
    };
    let process = exec("web", "/tmp", &["A=command", "B="]).unwrap();
    let user = process.user();
    assert_eq!((user.uid(), user.gid()), (33, 44));
    assert_eq!(user.additional_gids().as_deref(), Some(&[44, 55][..]));
    assert_eq!(process.cwd().to_str(), Some("/tmp"));
    let env = process.env().clone().unwrap();
    assert_eq!(env, ["PATH=/bin", "A=command", "B=", "HOME=/srv"]);
    assert_eq!(process.capabilities(), own.capabilities());
    assert_eq!(process.no_new_privileges(), own.no_new_privileges());
    for (user, cwd, env) in [
        ("nobody", "", &[][..]),
        ("4294967296", "", &[]),
        ("web:", "", &[]),
        ("", "tmp", &[]),
        ("", "/proc/self/fd/3", &[]),
        ("", "", &["=x"]),
        ("", "", &["NOVALUE"]),
    ] {
        assert!(exec(user, cwd, env).is_err(), "{user:?} {cwd:?} {env:?}");
    }
}
