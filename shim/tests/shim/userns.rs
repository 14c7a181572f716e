//! Pods with a user namespace of their own.

use crate::harness::{Container, Pod, RUNTIMES, Setup, alive, eventually, plain_config, sh};
use davit_proto::disk::{IdMapping, IdMappings, ShimConfig};
use davit_proto::shim::{Directory, MappedMount, StartRequest, StateRequest, StateResponse};
use serde_json::json;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

fn mappings(host: u32, length: u32) -> IdMappings {
    let range = IdMapping { inside: 0, host, length };
    IdMappings { uids: vec![range], gids: vec![range] }
}

fn own(config: &mut ShimConfig, dir: &Path) {
    config.userns = Some(mappings(100_000, 65536));
    config.userns_rootfs = Some(dir.join("userns-rootfs"));
    config.hostname = Some("a-pod".into());
    config.netns = Some(dir.join("netns/it"));
    config.ipc = true;
    config.shm = Some(dir.join("shm"));
    config.shm_size = 1 << 20;
}

async fn state(pod: &mut Pod) -> StateResponse {
    pod.client.state(StateRequest {}).await.unwrap().into_inner()
}

/// A container in all of the pod's namespaces.
fn inside(script: &str, state: &StateResponse) -> Container {
    let mut container = sh(script);
    let paths = [
        ("network", &state.netns_path),
        ("ipc", &state.ipcns_path),
        ("uts", &state.utsns_path),
        ("pid", &state.pidns_path),
        ("user", &state.userns_path),
    ];
    for (kind, path) in paths.into_iter().filter(|(_, path)| !path.is_empty()) {
        container.namespaces.retain(|(known, _)| *known != kind);
        container.namespaces.push((kind, Some(path.clone())));
    }
    container.request.own_pid_namespace = state.pidns_path.is_empty();
    container
}

#[tokio::test]
async fn a_containers_root_is_the_images_and_none_of_the_hosts() {
    for runtime in RUNTIMES {
        let mut pod = Pod::with(runtime, own).await;
        let state = state(&mut pod).await;
        let script = "cat /proc/self/uid_map | busybox tr -s ' '; busybox stat -c '%u:%g' /bin/busybox / /made; \
            busybox touch /new && busybox chown 5:6 /new && busybox stat -c '%u:%g' /new; \
            busybox mknod /node c 1 3 2>/dev/null || echo no device; echo to the pipe > /proc/self/fd/1";
        let mut request = pod.prepare("c", &inside(script, &state));
        let made = |path: &str| Directory { path: path.into(), uid: 7, gid: 8, mode: 0o700 };
        request.rootfs.as_mut().unwrap().make_dirs = vec![made("/deep/made"), made("/made")];
        pod.client.create(request).await.unwrap();
        pod.client.start(StartRequest { id: "c".into(), timeout_ms: 0 }).await.unwrap();
        assert_eq!(pod.exit("c").await.code, 0);
        let expected = [" 0 100000 65536", "0:0", "0:0", "7:8", "5:6", "no device", "to the pipe"];
        assert_eq!(pod.log("c"), expected.map(|line| format!("stdout F {line}")), "{runtime}");
        let owner = |path: &str| {
            let metadata = fs::symlink_metadata(pod.bundle("c").join("upper").join(path)).unwrap();
            (metadata.uid(), metadata.gid())
        };
        assert_eq!(owner("new"), (100_005, 100_006));
        assert_eq!((owner("deep"), owner("deep/made")), ((100_000, 100_000), (100_007, 100_008)));
        assert_eq!(fs::metadata(pod.dir.join("layer/bin/busybox")).unwrap().uid(), 0);
        pod.delete("c").await;
        pod.finish().await;
    }
}

#[tokio::test]
async fn on_a_host_whose_mounts_are_shared_no_mapped_layer_or_root_is_seen() {
    for runtime in RUNTIMES {
        // As davit has it: the roots below a private mount, the layers on the host's own.
        let before = "mount --make-rshared / && mkdir -p DIR/userns-rootfs && \
                      mount --bind DIR/userns-rootfs DIR/userns-rootfs && mount --make-private DIR/userns-rootfs &&";
        let mut pod = Pod::start(runtime, own, before).await;
        let state = state(&mut pod).await;
        let mounts = |pod: &Pod| -> Vec<String> {
            let all = fs::read_to_string(format!("/proc/{}/mountinfo", pod.shim.id())).unwrap();
            // Others mount on this host meanwhile.
            all.lines().filter(|line| line.contains(&pod.name)).map(str::to_owned).collect()
        };
        let before = mounts(&pod);
        pod.run("c", &inside("sleep 1000", &state)).await;
        assert_eq!(mounts(&pod), before, "{runtime}");
        pod.delete("c").await;
        pod.finish().await;
    }
}

#[tokio::test]
async fn the_pods_other_namespaces_are_owned_by_it() {
    for runtime in RUNTIMES {
        let mut pod = Pod::with(runtime, |config, dir| {
            own(config, dir);
            let sysctls = [("net.ipv4.ip_unprivileged_port_start", "77"), ("kernel.shmmni", "123")];
            config.sysctls = sysctls.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        })
        .await;
        let state = state(&mut pod).await;
        let script = "cd /proc/sys; hostname; cat net/ipv4/ip_unprivileged_port_start kernel/shmmni; \
            echo 78 > net/ipv4/ip_unprivileged_port_start; echo 9 > kernel/shmmni; \
            cat net/ipv4/ip_unprivileged_port_start kernel/shmmni; busybox touch /dev/shm/it && echo written; sleep 1000";
        let mut container = inside(script, &state);
        container.mounts =
            vec![json!({"destination": "/dev/shm", "type": "bind", "source": pod.dir.join("shm"),
            "options": ["rbind", "nosuid", "nodev", "noexec"]})];
        pod.run("c", &container).await;
        let expected = ["a-pod", "77", "123", "78", "9", "written"];
        let expected = expected.map(|line| format!("stdout F {line}"));
        eventually("all is said", || (pod.log("c") == expected).then_some(())).await;
        let shm = fs::metadata(pod.dir.join("shm")).unwrap();
        assert_eq!((shm.uid(), shm.gid(), shm.mode() & 0o7777), (100_000, 100_000, 0o1777));

        let script = "cat /proc/self/gid_map | busybox tr -s ' '; echo x > /proc/self/fd/1";
        let (stdout, stderr, end) =
            pod.exec(pod.exec_request("c", &["sh", "-c", script])).await.unwrap();
        let text = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(text, [" 0 100000 65536\nx\n", ""], "{runtime}");
        assert_eq!(end.exit.unwrap().code, 0);
        pod.delete("c").await;
        pod.finish().await;
    }
}

#[tokio::test]
async fn containers_of_a_pod_share_its_user_namespace_and_its_processes() {
    for runtime in RUNTIMES {
        let mut pod = Pod::with(runtime, |config, dir| {
            own(config, dir);
            config.shared_pid = true;
        })
        .await;
        let state = state(&mut pod).await;
        let init = state.init.as_ref().unwrap().pid;
        let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
        let one = pod.run("one", &inside("sleep 1000", &state)).await;
        let two = pod.run("two", &inside("sleep 1000", &state)).await;
        assert_ne!(namespace(one), fs::read_link("/proc/self/ns/user").unwrap());
        assert_eq!([namespace(one), namespace(init)], [namespace(two), namespace(two)]);
        let status = fs::read_to_string(format!("/proc/{init}/status")).unwrap();
        assert!(
            status.contains("CapEff:\t0000000000000000") && status.contains("Uid:\t165535"),
            "{status}"
        );
        assert_eq!(fs::read_dir(format!("/proc/{init}/root/")).unwrap().count(), 0);
        let look = "busybox ps -o pid,args | busybox grep -c '[s]leep 1000'; kill -KILL 1 2>/dev/null; ls /proc/1/root/ 2>&1 | busybox grep -c etc";
        pod.run_to_end("three", &inside(look, &state)).await;
        assert_eq!(pod.log("three"), ["stdout F 2", "stdout F 0"], "{runtime}");
        assert!(alive(init));
        for id in ["one", "two", "three"] {
            pod.delete(id).await;
        }
        pod.finish().await;
        assert!(!alive(init));
    }
}

#[tokio::test]
async fn a_volumes_owners_are_mapped_as_asked_and_its_file_systems_stay_as_they_are() {
    for runtime in RUNTIMES {
        let mut pod = Pod::with(runtime, own).await;
        let state = state(&mut pod).await;
        let volume = pod.dir.join("volume");
        fs::create_dir_all(volume.join("sub")).unwrap();
        std::os::unix::fs::chown(volume.join("sub"), Some(33), Some(34)).unwrap();
        let source = |n: u32| pod.bundle("c").join(format!("mounts-{n}"));
        // The pod's own mappings, and others, for which a namespace is made.
        let script = "busybox stat -c '%u:%g' /v /v/sub /w/sub; busybox touch /v/f; busybox chown 44:45 /v/f";
        let mut container = inside(script, &state);
        let bind = |to: &str, n| json!({"destination": to, "type": "bind", "source": source(n), "options": ["rbind", "rprivate"]});
        container.mounts = vec![bind("/v", 0), bind("/w", 1)];
        for (n, range) in [(0, mappings(100_000, 65536)), (1, mappings(100_010, 100))] {
            fs::create_dir_all(source(n)).unwrap();
            let wire = |range: &IdMapping| davit_proto::shim::IdMapping {
                inside: range.inside,
                host: range.host,
                length: range.length,
            };
            container.request.mapped_mounts.push(MappedMount {
                source: volume.to_string_lossy().into_owned(),
                target: source(n).to_string_lossy().into_owned(),
                uids: range.uids.iter().map(wire).collect(),
                gids: range.gids.iter().map(wire).collect(),
            });
        }
        pod.run_to_end("c", &container).await;
        assert_eq!(pod.log("c"), ["stdout F 0:0", "stdout F 33:34", "stdout F 43:44"], "{runtime}");
        let made = fs::metadata(volume.join("f")).unwrap();
        assert_eq!((made.uid(), made.gid()), (44, 45));

        let mut refused = container.clone();
        refused.request.mapped_mounts[0].source = "/proc".into();
        let error = pod.create("d", &refused).await.unwrap_err();
        assert!(error.message().contains("map the ids of /proc"), "{error}");
        pod.delete("c").await;
        pod.finish().await;
    }
}

#[tokio::test]
async fn the_hosts_network_can_be_had_without_its_root() {
    for runtime in RUNTIMES {
        let mut pod = Pod::with(runtime, |config, dir| {
            own(config, dir);
            (config.netns, config.hostname) = (None, None);
        })
        .await;
        let state = state(&mut pod).await;
        let script = "ls /sys/class/net > /dev/null && echo seen; echo 1 2>/dev/null > /proc/sys/net/ipv4/ip_forward || echo kept";
        let mut container = inside(script, &state);
        container.namespaces.retain(|(kind, _)| !["network", "uts"].contains(kind));
        container.mounts = vec![json!({"destination": "/sys", "type": "bind", "source": "/sys",
            "options": ["rbind", "rro", "nosuid", "nodev", "noexec"]})];
        assert_eq!(pod.run_to_end("c", &container).await.code, 0);
        assert_eq!(pod.log("c"), ["stdout F seen", "stdout F kept"], "{runtime}");
        pod.delete("c").await;
        pod.finish().await;
    }
}

#[tokio::test]
async fn a_namespace_that_cannot_be_is_told_and_nothing_is_left() {
    let setup = Setup::new();
    let mut config = plain_config(&setup.name);
    own(&mut config, &setup.dir);
    // Two ranges that overlap: the kernel's to refuse.
    config.userns.as_mut().unwrap().uids.push(IdMapping { inside: 5, host: 5, length: 1 });
    let status = setup.spawn(&config, "").wait().unwrap();
    assert!(!status.success());
    let log = setup.log();
    assert!(log.contains("into a user namespace by its uid_map"), "{log}");
    assert!(!setup.dir.join("netns/it").exists());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&setup.name), "{mounts}");
}
