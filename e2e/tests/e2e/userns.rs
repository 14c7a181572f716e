//! Pods with a user namespace of their own: root inside, nobody outside.

use davit_e2e::prelude::*;
use davit_proto::cri;
use k8s_cri::v1::{IdMapping, Int64Value, StatusRequest, UserNamespace};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};

const POD: i32 = NamespaceMode::Pod as i32;
const CONTAINER: i32 = NamespaceMode::Container as i32;
const NODE: i32 = NamespaceMode::Node as i32;
const TARGET: i32 = NamespaceMode::Target as i32;

fn range(container_id: u32, host_id: u32, length: u32) -> IdMapping {
    IdMapping { host_id, container_id, length }
}

fn userns(mode: i32, ranges: &[IdMapping]) -> Option<UserNamespace> {
    Some(UserNamespace { mode, uids: ranges.to_vec(), gids: ranges.to_vec() })
}

fn own() -> Option<UserNamespace> {
    userns(POD, &[range(0, 100_000, 65536)])
}

/// A pod with a user namespace, and whatever else it is to have.
fn pod(t: &Test, name: &str, change: impl FnOnce(&mut PodSandboxConfig)) -> Result<Pod> {
    t.pod(name, |p| {
        namespaces(p).userns_options = own();
        change(p);
    })
}

/// A container as the kubelet asks for it: with its pod's namespaces.
fn run(
    t: &Test,
    pod: &Pod,
    name: &str,
    change: impl FnOnce(&mut ContainerConfig),
) -> Result<String> {
    t.run(pod, name, |c| {
        security(c).namespace_options = Some(namespaces(&mut pod.config.clone()).clone());
        change(c);
    })
}

fn bind(host: &Path, container: &str, ranges: &[IdMapping]) -> Mount {
    Mount {
        container_path: container.to_owned(),
        host_path: host.to_string_lossy().into_owned(),
        uid_mappings: ranges.to_vec(),
        gid_mappings: ranges.to_vec(),
        ..Mount::default()
    }
}

fn upper(t: &Test, id: &str) -> PathBuf {
    t.settings().root().join("containers").join(id).join("fs")
}

fn owner(path: &Path) -> Result<(u32, u32)> {
    let metadata = std::fs::symlink_metadata(path).with_context(|| path.display().to_string())?;
    Ok((metadata.uid(), metadata.gid()))
}

fn namespace(pid: u32) -> Result<PathBuf> {
    Ok(std::fs::read_link(format!("/proc/{pid}/ns/user"))?)
}

on_both!(root_inside_is_nobody_outside, |t| {
    let pod = pod(t, "web", |_| ())?;
    let id = run(t, &pod, "main", |_| ())?;
    let words = "for map in uid gid; do set -- $(cat /proc/1/${map}_map); echo $*; done";
    assert_eq!(t.exec(&id, words)?, "0 100000 65536\n0 100000 65536");
    assert_eq!(t.exec(&id, "id -u; stat -c %u:%g / /bin/busybox /etc/passwd")?, "0\n0:0\n0:0\n0:0");
    // Files that davit makes are root's as well, and can be read.
    assert_eq!(
        t.exec(&id, "stat -c %u:%g /etc/hostname /etc/resolv.conf /dev/shm")?,
        "0:0\n0:0\n0:0"
    );
    t.exec(&id, "test -n \"$(cat /etc/hostname)\" && cat /etc/resolv.conf && echo x > /dev/shm/x")?;
    t.exec(&id, "cp /bin/busybox /new && chown 0:7 /new && chmod 4755 /new && touch /etc/passwd")?;
    t.exec(&id, "mkdir /of-user && chown 1000:1000 /of-user && echo out > /dev/stdout")?;
    let new = upper(t, &id).join("new");
    assert_eq!(owner(&new)?, (100_000, 100_007));
    assert_eq!(std::fs::metadata(&new)?.permissions().mode() & 0o7777, 0o4755);
    assert_eq!(owner(&upper(t, &id).join("of-user"))?, (101_000, 101_000));
    assert_eq!(owner(&upper(t, &id).join("etc/passwd"))?, (100_000, 100_000));

    let pid = t.pid(&id)?;
    assert_ne!(namespace(pid)?, std::fs::read_link("/proc/self/ns/user")?);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    assert!(status.contains("Uid:\t100000\t100000"), "{status}");
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let place = format!("{}/{id}", pod.id);
    assert!(groups.contains(&place), "not below its pod's: {groups}");
    // No device can be made, and the host's own are there.
    assert!(t.exec(&id, "mknod /tmp/null c 1 3").is_err());
    t.exec(&id, "echo gone > /dev/null && test $(head -c 5 /dev/zero | wc -c) = 5")?;

    let told = t.cri.pod_status(&pod.id)?.linux.and_then(|linux| linux.namespaces?.options);
    assert_eq!(told.context("options")?.userns_options, own());
    Ok(())
});

on_both!(users_are_those_of_the_namespace_and_no_others, |t| {
    let pod = pod(t, "web", |_| ())?;
    let id = run(t, &pod, "main", |c| {
        security(c).run_as_user = Some(Int64Value { value: 1000 });
        security(c).run_as_group = Some(Int64Value { value: 2000 });
        security(c).supplemental_groups = vec![3000];
        c.command = sh("echo out > /dev/stdout; echo err > /dev/stderr; sleep 1000");
    })?;
    assert_eq!(t.exec(&id, "id -u; id -g; id -G")?, "1000\n2000\n2000 3000");
    assert!(t.exec(&id, "touch /refused").is_err());
    let path = PathBuf::from(t.cri.status(&id)?.log_path);
    eventually(Duration::from_secs(30), "its own output can be opened anew", || {
        let lines = davit_e2e::test::parse_log(&std::fs::read_to_string(&path)?)?;
        Ok((lines.len() == 2).then_some(()))
    })?;
    let value = |value| Some(Int64Value { value });
    for (field, id, user, group, more) in [
        ("run_as_user", "65536", 65536, None, vec![]),
        ("run_as_group", "70000", 1, value(70000), vec![]),
        ("supplemental_groups", "65537", 1, None, vec![65537]),
    ] {
        let answer = t.try_create(&pod, "bad", |c| {
            security(c).run_as_user = value(user);
            security(c).run_as_group = group;
            security(c).supplemental_groups = more;
        });
        refused(answer, Code::InvalidArgument, &[field, id, "user namespace"])?;
    }
    Ok(())
});

on_both!(volumes_are_mapped_as_asked, |t| {
    let volume = t.dir.join("volume");
    std::fs::create_dir_all(volume.join("sub"))?;
    chown(volume.join("sub"), Some(33), Some(34))?;
    let file = t.dir.join("file");
    std::fs::File::create(&file)?;
    let memory = t.dir.join("memory");
    std::fs::create_dir_all(&memory)?;
    let flags = rustix::mount::MountFlags::NOSUID | rustix::mount::MountFlags::NODEV;
    rustix::mount::mount(c"tmpfs", &memory, c"tmpfs", flags, None)?;
    let pod = pod(t, "web", |_| ())?;
    let all = [range(0, 100_000, 65536)];
    let mounts = vec![
        bind(&volume, "/mapped", &all),
        bind(&volume, "/as-is", &[]),
        bind(&file, "/file", &all),
        Mount { readonly: true, ..bind(&memory, "/memory", &all) },
        Mount { readonly: true, ..bind(&memory, "/memory-as-is", &[]) },
    ];
    let id = run(t, &pod, "main", |c| c.mounts.clone_from(&mounts))?;
    let script = "stat -c %u:%g /mapped /mapped/sub /as-is /as-is/sub /file";
    assert_eq!(t.exec(&id, script)?, "0:0\n33:34\n65534:65534\n65534:65534\n0:0");
    t.exec(&id, "touch /mapped/new && chown 44:45 /mapped/new && echo x > /file")?;
    assert!(t.exec(&id, "touch /as-is/refused").is_err());
    assert!(t.exec(&id, "touch /memory/refused").is_err());
    assert!(t.exec(&id, "mount -o remount,rw,bind /memory").is_err());
    assert_eq!(owner(&volume.join("new"))?, (44, 45));
    assert_eq!((owner(&volume)?, std::fs::read_to_string(&file)?), ((0, 0), "x\n".to_owned()));
    assert_eq!(t.cri.status(&id)?.mounts, mounts, "told back as they came");

    // A file system that has no idea of it.
    let answer = t.try_create(&pod, "bad", |c| {
        c.mounts = vec![bind(Path::new("/proc/sys"), "/x", &all)];
    });
    refused(answer, Code::Internal, &["map the ids of /proc/sys"])?;
    t.cri.remove_pod(&pod.id)?;
    rustix::mount::unmount(&memory, rustix::mount::UnmountFlags::DETACH)?;
    Ok(())
});

on_both!(an_image_as_a_volume_is_its_roots_too, |t| {
    let image = t.pull("davit-test/busybox:latest")?;
    let pod = pod(t, "web", |_| ())?;
    let volume = |container: &str, sub_path: &str, ranges: &[cri::IdMapping]| cri::Mount {
        container_path: container.to_owned(),
        readonly: true,
        image: Some(cri::ImageSpec { image: image.clone(), ..cri::ImageSpec::default() }),
        image_sub_path: sub_path.to_owned(),
        uid_mappings: ranges.to_vec(),
        gid_mappings: ranges.to_vec(),
        ..cri::Mount::default()
    };
    let range = |host_id, length| cri::IdMapping { host_id, container_id: 0, length };
    let id = t.run_newer(&pod, "main", |c| {
        c.mounts =
            vec![volume("/whole", "", &[range(100_000, 65536)]), volume("/part", "etc", &[])];
    })?;
    assert_eq!(t.exec(&id, "stat -c %u:%g /whole/bin/busybox /part/passwd")?, "0:0\n0:0");
    assert!(t.exec(&id, "touch /whole/x || touch /part/x").is_err());
    let bad = volume("/x", "", &[range(1, 1)]);
    let answer = t.try_create_newer(&pod, "bad", |c| c.mounts = vec![bad])?;
    refused(answer, Code::InvalidArgument, &["mounts[0].uidMappings", "not the pod's own"])?;
    Ok(())
});

on_both!(containers_of_a_pod_share_its_user_namespace_and_may_share_its_processes, |t| {
    let pod = pod(t, "web", |p| {
        namespaces(p).pid = POD;
        let sysctls = [("net.ipv4.ip_unprivileged_port_start", "77"), ("kernel.shmmni", "123")];
        p.linux.as_mut().unwrap().sysctls =
            sysctls.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    })?;
    let (one, two) = (run(t, &pod, "one", |_| ())?, run(t, &pod, "two", |_| ())?);
    assert_eq!(namespace(t.pid(&one)?)?, namespace(t.pid(&two)?)?);
    t.exec(&one, "echo hello > /dev/shm/note && ps | grep -q '[d]avit-shim init'")?;
    assert_eq!(t.exec(&two, "cat /dev/shm/note; kill -0 1 && echo there")?, "hello\nthere");
    let script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmni";
    assert_eq!(t.exec(&two, script)?, "77\n123");
    t.cri.stop(&one, 0)?;
    t.exec(&two, "true")?;
    t.cri.remove(&one)?;
    let without = t.pod("without", |p| namespaces(p).userns_options = own())?;
    let four = run(t, &without, "four", |_| ())?;
    assert_eq!(t.exec(&four, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start")?, "0");
    // A network of its own, which its root may configure if it has the capability.
    let three = run(t, &pod, "three", |c| {
        security(c).capabilities = Some(Capability {
            add_capabilities: vec!["NET_ADMIN".to_owned()],
            ..Capability::default()
        });
    })?;
    t.exec(&three, "ip link set eth0 mtu 1400 && ip link | grep eth0 | grep -q 1400")?;
    Ok(())
});

on_both!(a_restart_of_the_daemon_changes_nothing, |t| {
    let pod = pod(t, "web", |_| ())?;
    let id = run(t, &pod, "main", |_| ())?;
    let pid = t.pid(&id)?;
    t.daemon().kill()?;
    // As a daemon leaves it that is killed in the midst of its trials.
    let trial = t.settings().state().join("trial-crun-userns-0");
    std::fs::create_dir_all(trial.join("below"))?;
    t.daemon().spawn()?;
    assert_eq!(t.pid(&id)?, pid);
    assert!(!trial.exists());
    assert_eq!(t.exec(&id, "set -- $(cat /proc/self/uid_map); echo $*")?, "0 100000 65536");
    let told = t.cri.pod_status(&pod.id)?.linux.and_then(|linux| linux.namespaces?.options);
    assert_eq!(told.context("options")?.userns_options, own());
    let later = run(t, &pod, "later", |_| ())?;
    assert_eq!(namespace(t.pid(&later)?)?, namespace(pid)?);
    assert_eq!(t.exec(&later, "stat -c %u /bin/busybox")?, "0");
    Ok(())
});

on_both!(the_hosts_network_does_not_bring_its_root_along, |t| {
    let pod = pod(t, "web", |p| namespaces(p).network = NODE)?;
    let id = run(t, &pod, "main", |_| ())?;
    let own = std::fs::read_link("/proc/self/ns/net")?;
    assert_eq!(std::fs::read_link(format!("/proc/{}/ns/net", t.pid(&id)?))?, own);
    assert_eq!(t.exec(&id, "set -- $(cat /proc/self/uid_map); echo $*")?, "0 100000 65536");
    t.exec(&id, "ls /sys/class/net/lo && ls /sys/fs/cgroup")?;
    assert!(t.exec(&id, "echo 1 > /proc/sys/net/ipv4/ip_forward").is_err());
    let groups = "for group in /sys/fs/cgroup /sys/fs/cgroup/*; do
        if test -e $group/cgroup.procs && mkdir $group/mine; then exit; fi; done; false";
    assert!(t.exec(&id, groups).is_err());
    assert!(t.exec(&id, "touch /sys/mine || mkdir /sys/mine").is_err());
    Ok(())
});

on_both!(privileged_is_privileged_in_its_namespace_only, |t| {
    let pod = pod(t, "web", |p| {
        p.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
    })?;
    let id = run(t, &pod, "main", |c| security(c).privileged = true)?;
    t.exec(&id, "mount -t tmpfs none /tmp && touch /tmp/x && hostname other")?;
    assert!(t.exec(&id, "echo 1 > /proc/sys/kernel/panic").is_err());
    assert_eq!(t.exec(&id, "set -- $(cat /proc/self/uid_map); echo $*")?, "0 100000 65536");
    Ok(())
});

on_one!(what_is_no_user_namespace_is_refused_by_its_field, |t| {
    let field = "linux.security_context.namespace_options.userns_options";
    let good = range(0, 100_000, 65536);
    for (texts, options) in [
        (["uids", "exactly one"], userns(POD, &[good, range(65536, 1_000_000, 1)])),
        (["uids", "exactly one"], userns(POD, &[])),
        (["uids[0].container_id", "1"], userns(POD, &[range(1, 100_000, 65536)])),
        (["uids[0].host_id", "host's root"], userns(POD, &[range(0, 0, 65536)])),
        (["uids[0].length", "0"], userns(POD, &[range(0, 100_000, 0)])),
        (["uids[0].length", "4294967295"], userns(POD, &[range(0, 100_000, u32::MAX)])),
        (["mode", "Container"], userns(CONTAINER, &[])),
        (["mode", "Target"], userns(TARGET, &[good])),
        (["NODE", "mappings"], userns(NODE, &[good])),
    ] {
        let answer = t.try_pod("bad", |p| namespaces(p).userns_options = options);
        refused(answer.map(|pod| pod.id), Code::InvalidArgument, &[field, texts[0], texts[1]])?;
    }
    for (name, pid, ipc) in [("pid", NODE, POD), ("ipc", CONTAINER, NODE)] {
        let answer = t.try_pod("bad", |p| {
            let options = namespaces(p);
            options.userns_options = own();
            (options.pid, options.ipc) = (pid, ipc);
        });
        let field = format!("namespace_options.{name}");
        refused(answer.map(|pod| pod.id), Code::InvalidArgument, &[&field, "user namespace"])?;
    }
    let pod = pod(t, "web", |_| ())?;
    for options in [userns(NODE, &[]), userns(POD, &[range(0, 200_000, 65536)])] {
        let answer = t.try_create(&pod, "bad", |c| {
            security(c).namespace_options.as_mut().unwrap().userns_options = options;
        });
        refused(answer, Code::InvalidArgument, &[field, "is not what the pod has"])?;
    }
    Ok(())
});

on_one!(what_can_be_done_is_announced_and_where_the_state_is_only_passed_through, |t| {
    let status = t.cri.wait(t.cri.runtime().status(StatusRequest { verbose: true }))?;
    for name in ["", "crun", "runc"] {
        let handler = status.runtime_handlers.iter().find(|one| one.name == name);
        let features = handler.and_then(|one| one.features).context(name.to_owned())?;
        assert!(features.user_namespaces && features.recursive_read_only_mounts, "{name:?}");
    }
    let info = t.crictl_json(&["info"])?;
    assert_eq!(info["features"]["user_namespaces_host_network"], true, "{info}");
    let config: serde_json::Value = serde_json::from_str(&status.info["config"])?;
    assert_eq!(config["stateDir"], t.settings().state().to_string_lossy().as_ref());

    // Another user gets as far as an empty directory.
    let mode = |path: &Path| Ok::<_, anyhow::Error>(std::fs::metadata(path)?.permissions().mode());
    let state = t.settings().state();
    assert_eq!(mode(&state)? & 0o777, 0o711);
    for entry in std::fs::read_dir(&state)? {
        let entry = entry?;
        let passed = entry.file_type()?.is_dir() && mode(&entry.path())? & 0o007 != 0;
        assert_eq!(passed, entry.file_name() == "rootfs", "{}", entry.path().display());
    }
    assert_eq!(std::fs::read_dir(state.join("rootfs"))?.count(), 0);
    let root = t.settings().root();
    assert_eq!(mode(&root)? & 0o077, 0, "images are nobody's business");
    Ok(())
});

on_one!(where_nobody_else_can_pass_it_is_not_announced_and_refused, setup: |settings| {
    std::fs::set_permissions(&settings.dir, std::fs::Permissions::from_mode(0o700))?;
    Ok(())
}, |t| {
    let answer = t.try_pod("bad", |p| namespaces(p).userns_options = own());
    let texts = ["userns_options.mode", "POD is not supported", "o+x"];
    refused(answer.map(|pod| pod.id), Code::InvalidArgument, &texts)?;
    let (_, id) = t.sleeper(|_| ())?;
    t.exec(&id, "true")?;
    Ok(())
});
