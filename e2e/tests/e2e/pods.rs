//! Pods: run, stopped, removed; what their containers share and what they don't.

use davit_e2e::prelude::*;
use k8s_cri::v1::{DnsConfig, Int64Value};
use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;

fn ns(pid: u32, kind: &str) -> Result<String> {
    let link = format!("/proc/{pid}/ns/{kind}");
    Ok(std::fs::read_link(&link)
        .with_context(|| format!("read {link}"))?
        .to_string_lossy()
        .into_owned())
}

on_both!(a_pod_runs_stops_and_goes_each_as_often_as_asked, |t| {
    let (pod, id) = t.sleeper(|_| ())?;
    assert_eq!(t.cri.pod_status(&pod.id)?.state(), PodSandboxState::SandboxReady);
    for _ in 0..2 {
        t.cri.stop_pod(&pod.id)?;
        assert_eq!(t.cri.pod_status(&pod.id)?.state(), PodSandboxState::SandboxNotready);
        assert_eq!(t.cri.status(&id)?.state(), ContainerState::ContainerExited);
    }
    for _ in 0..2 {
        t.cri.remove_pod(&pod.id)?;
        refused(t.cri.pod_status(&pod.id), Code::NotFound, &[&pod.id])?;
        refused(t.cri.status(&id), Code::NotFound, &[&id])?;
    }
    let unknown = "f".repeat(64);
    t.cri.stop_pod(&unknown)?;
    t.cri.remove_pod(&unknown)?;
    Ok(())
});

on_both!(a_running_pod_can_be_removed_at_once, |t| {
    let (pod, _) = t.sleeper(|_| ())?;
    t.cri.remove_pod(&pod.id)?;
    assert!(t.cri.containers(None)?.is_empty());
    Ok(())
});

on_one!(a_repeated_run_gets_the_same_pod, |t| {
    let first = t.pod("web", |_| ())?;
    assert_eq!(t.pod("web", |_| ())?.id, first.id);
    assert_eq!(t.cri.pods(None)?.len(), 1);
    Ok(())
});

on_one!(runs_at_the_same_time_join_and_get_the_same_pod, |t| {
    let config = t.pod_config("web");
    std::fs::create_dir_all(&config.log_directory)?;
    let ids = std::thread::scope(|scope| {
        let run = || t.cri.run_pod(&config, "");
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Result<BTreeSet<_>, _>>()
    })?;
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert_eq!(t.cri.pods(None)?.len(), 1);
    Ok(())
});

on_one!(the_next_attempt_is_another_pod, |t| {
    let first = t.pod("web", |_| ())?;
    t.cri.stop_pod(&first.id)?;
    let second = t.pod("web", |p| p.metadata.as_mut().unwrap().attempt = 1)?;
    assert_ne!(first.id, second.id);
    assert_eq!(t.cri.pods(None)?.len(), 2);
    Ok(())
});

on_one!(a_pods_names_can_be_used_again_once_it_is_removed, |t| {
    let first = t.pod("web", |_| ())?;
    t.cri.remove_pod(&first.id)?;
    assert_ne!(t.pod("web", |_| ())?.id, first.id);
    Ok(())
});

on_one!(labels_and_annotations_come_back_as_they_were, |t| {
    let labels =
        HashMap::from([("app".to_owned(), "web".to_owned()), ("empty".to_owned(), String::new())]);
    let annotations =
        HashMap::from([("note.example/x".to_owned(), "ünïcode\nand lines".to_owned())]);
    let pod = t.pod("web", |p| {
        p.labels.clone_from(&labels);
        p.annotations.clone_from(&annotations);
    })?;
    let status = t.cri.pod_status(&pod.id)?;
    assert_eq!((&status.labels, &status.annotations), (&labels, &annotations));
    assert_eq!(status.metadata, pod.config.metadata);
    assert!(status.created_at > 0);
    let listed = t.cri.pods(None)?;
    assert_eq!((&listed[0].labels, &listed[0].annotations), (&labels, &annotations));
    Ok(())
});

on_both!(the_host_name_is_the_pods, |t| {
    let pod = t.pod("web", |p| "anchor".clone_into(&mut p.hostname))?;
    let id = t.run(&pod, "main", |_| ())?;
    assert_eq!(t.exec(&id, "hostname")?, "anchor");
    assert_eq!(t.exec(&id, "cat /etc/hostname")?, "anchor");
    Ok(())
});

on_one!(dns_is_what_resolv_conf_says, |t| {
    let pod = t.pod("web", |p| {
        p.dns_config = Some(DnsConfig {
            servers: vec!["10.10.10.10".to_owned(), "fd00::1".to_owned()],
            searches: vec!["a.example".to_owned(), "b.example".to_owned()],
            options: vec!["ndots:8".to_owned(), "timeout:1".to_owned()],
        });
    })?;
    let id = t.run(&pod, "main", |_| ())?;
    let text = t.exec(&id, "cat /etc/resolv.conf")?;
    for line in [
        "nameserver 10.10.10.10",
        "nameserver fd00::1",
        "search a.example b.example",
        "options ndots:8 timeout:1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line:?} is not in {text:?}");
    }
    Ok(())
});

on_both!(sysctls_are_set_in_the_pods_namespaces_only, |t| {
    let host = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let pod = t.pod("web", |p| {
        p.linux.as_mut().unwrap().sysctls = HashMap::from([
            ("net.ipv4.ip_local_port_range".to_owned(), "40000 50000".to_owned()),
            ("kernel.shm_rmid_forced".to_owned(), "1".to_owned()),
        ]);
    })?;
    let id = t.run(&pod, "main", |_| ())?;
    assert_eq!(t.exec(&id, "cat /proc/sys/net/ipv4/ip_local_port_range")?, "40000\t50000");
    assert_eq!(t.exec(&id, "cat /proc/sys/kernel/shm_rmid_forced")?, "1");
    assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?, host);
    Ok(())
});

/// A user who may do nothing besides.
fn nobody_special(config: &mut ContainerConfig) {
    security(config).run_as_user = Some(Int64Value { value: 1000 });
    security(config).capabilities =
        Some(Capability { drop_capabilities: vec!["ALL".to_owned()], ..Capability::default() });
}

/// Pings in the network namespace of a process, as such a user does: busybox's ping wants more.
fn ping(pid: u32) -> Result<()> {
    use rustix::net::{
        AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, recv, sendto, socket,
    };
    use rustix::process::{Gid, Uid};
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    use rustix::thread::{set_thread_res_gid, set_thread_res_uid};
    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net"))?;
    let pinging = std::thread::spawn(move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        let (uid, gid) = (Uid::from_raw(1000), Gid::from_raw(1000));
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        let socket = socket(AddressFamily::INET, SocketType::DGRAM, Some(ipproto::ICMP))?;
        let (request, mut answer) = ([8, 0, 0, 0, 0, 0, 0, 1], [1; 8]);
        sendto(&socket, &request, SendFlags::empty(), &SocketAddr::from(([127, 0, 0, 1], 0)))?;
        recv(&socket, &mut answer, RecvFlags::empty())?;
        Ok::<_, rustix::io::Errno>(answer[0])
    });
    assert_eq!(pinging.join().unwrap()?, 0, "the answer to an echo");
    Ok(())
}

on_both!(any_user_listens_on_low_ports_and_pings, |t| {
    let host = || -> Result<[String; 2]> {
        let read = |name| std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}"));
        Ok([read("ip_unprivileged_port_start")?, read("ping_group_range")?])
    };
    let before = host()?;
    // The network namespace of the second is made by its shim.
    let other = ("net.ipv4.ip_local_port_range".to_owned(), "40000 50000".to_owned());
    for (name, sysctls) in [("plain", HashMap::new()), ("sysctls", [other].into())] {
        let pod = t.pod(name, |p| p.linux.as_mut().unwrap().sysctls = sysctls)?;
        let id = t.run(&pod, "main", nobody_special)?;
        let script = "echo heard > /tmp/said; nc -l -p 80 < /tmp/said > /dev/null & \
            for try in 1 2 3 4 5; do sleep 1; nc 127.0.0.1 80 < /dev/null && break; done";
        assert_eq!(t.exec(&id, script)?, "heard");
        ping(t.pid(&id)?)?;
    }
    assert_eq!(host()?, before);
    Ok(())
});

on_one!(a_pods_own_say_over_ports_and_pings_counts, |t| {
    let own = [("ip_unprivileged_port_start", "77"), ("ping_group_range", "5 7")];
    let pod = t.pod("web", |p| {
        let named = own.map(|(name, value)| (format!("net.ipv4.{name}"), value.to_owned()));
        p.linux.as_mut().unwrap().sysctls = named.into();
    })?;
    let id = t.run(&pod, "main", |_| ())?;
    for (name, value) in own {
        let read = t.exec(&id, &format!("cat /proc/sys/net/ipv4/{name}"))?;
        assert_eq!(read.replace('\t', " "), value, "{name}");
    }
    Ok(())
});

on_both!(containers_of_a_pod_share_shm_ipc_network_and_host_name, |t| {
    let pod = t.pod("web", |_| ())?;
    let (one, two) = (t.run(&pod, "one", |_| ())?, t.run(&pod, "two", |_| ())?);
    let other = t.pod("other", |_| ())?;
    let elsewhere = t.run(&other, "main", |_| ())?;
    t.exec(&one, "echo here > /dev/shm/note")?;
    assert_eq!(t.exec(&two, "cat /dev/shm/note")?, "here");
    assert_eq!(t.exec(&elsewhere, "ls -A /dev/shm")?, "");
    let pids = (t.pid(&one)?, t.pid(&two)?, t.pid(&elsewhere)?);
    for kind in ["net", "ipc", "uts"] {
        assert_eq!(ns(pids.0, kind)?, ns(pids.1, kind)?, "{kind}");
        assert_ne!(ns(pids.0, kind)?, ns(pids.2, kind)?, "{kind}");
        assert_ne!(ns(pids.0, kind)?, ns(std::process::id(), kind)?, "{kind}");
    }
    for kind in ["mnt", "pid"] {
        assert_ne!(ns(pids.0, kind)?, ns(pids.1, kind)?, "{kind}");
    }
    let size = t.exec(&one, "df -m /dev/shm | awk 'NR == 2 {print $2}'")?;
    assert_eq!(size, "64");
    Ok(())
});

on_both!(with_a_pid_namespace_of_their_own_containers_see_themselves_only, |t| {
    let pod = t.pod("web", |_| ())?;
    let one = t.run(&pod, "one", |_| ())?;
    t.run(&pod, "two", |c| c.command = sh("exec sleep 4321"))?;
    assert_eq!(t.exec(&one, "pgrep sleep | wc -l")?, "1");
    assert!(t.exec(&one, "cat /proc/1/cmdline | tr '\\0' ' '")?.starts_with("sh -c trap"));
    Ok(())
});

on_both!(a_container_sees_the_processes_of_the_one_that_it_targets, |t| {
    let (pod, target) = t.sleeper(|_| ())?;
    let wish = |config: &mut ContainerConfig| {
        let pid = NamespaceMode::Target.into();
        security(config).namespace_options =
            Some(NamespaceOption { pid, target_id: target.clone(), ..NamespaceOption::default() });
    };
    let debug = t.run(&pod, "debug", wish)?;
    assert_eq!(ns(t.pid(&debug)?, "pid")?, ns(t.pid(&target)?, "pid")?);
    assert_ne!(ns(t.pid(&debug)?, "mnt")?, ns(t.pid(&target)?, "mnt")?);
    t.cri.stop(&target, 0)?;
    let late = t.try_create(&pod, "late", wish);
    refused(late, Code::FailedPrecondition, &["target_id", &target, "is not running"])?;
    Ok(())
});

on_both!(with_a_shared_pid_namespace_containers_see_each_other, |t| {
    let pod = t.pod("web", |p| namespaces(p).pid = NamespaceMode::Pod.into())?;
    let share = |c: &mut ContainerConfig| {
        security(c).namespace_options = Some(NamespaceOption::default());
    };
    let one = t.run(&pod, "one", share)?;
    let two = t.run(&pod, "two", |c| {
        share(c);
        c.command = sh("exec sleep 4321");
    })?;
    eventually(Duration::from_secs(30), "the other container's process shows", || {
        Ok(t.exec(&one, "ps -o args")?.contains("sleep 4321").then_some(()))
    })?;
    assert_eq!(ns(t.pid(&one)?, "pid")?, ns(t.pid(&two)?, "pid")?);
    assert_ne!(t.exec(&one, "cat /proc/1/comm")?, "sh", "a container is PID 1 of all");
    // Whoever outlives its container in the shared namespace would keep it alive.
    t.exec(&one, "(sleep 4322 &) > /dev/null 2>&1")?;
    t.cri.stop(&one, 0)?;
    let left = t.exec(&two, "ps -o args")?;
    assert!(!left.contains("sleep 4322"), "{left}");
    Ok(())
});

on_both!(host_namespaces_are_the_hosts, |t| {
    let node = NamespaceMode::Node.into();
    let options =
        NamespaceOption { network: node, pid: node, ipc: node, ..NamespaceOption::default() };
    let pod = t.pod("web", |p| *namespaces(p) = options.clone())?;
    let id = t.run(&pod, "main", |c| security(c).namespace_options = Some(options.clone()))?;
    let pid = t.pid(&id)?;
    for kind in ["net", "pid", "ipc"] {
        assert_eq!(ns(pid, kind)?, ns(std::process::id(), kind)?, "{kind}");
    }
    assert_eq!(
        t.exec(&id, "hostname")?,
        std::fs::read_to_string("/proc/sys/kernel/hostname")?.trim()
    );
    let network = t.cri.pod_status(&pod.id)?.network;
    assert!(
        network.is_none_or(|network| network.ip.is_empty()),
        "a pod in the host's network has no address"
    );
    Ok(())
});

on_both!(a_pods_cgroup_parent_is_the_one_asked_for, |t| {
    let parent = format!("{}-pods/burstable/pod1", t.settings().tag());
    let pod = t.pod("web", |p| p.linux.as_mut().unwrap().cgroup_parent = format!("/{parent}"))?;
    let id = t.run(&pod, "main", |_| ())?;
    let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", t.pid(&id)?))?;
    assert!(groups.lines().any(|line| line.contains(&parent)), "{groups}");
    assert!(groups.contains(&id), "the container has no cgroup of its own: {groups}");
    t.cri.remove_pod(&pod.id)?;
    // The kubelet made the parents of a real pod and takes them away again; here davit made them, and nobody else will.
    Ok(())
});

on_one!(fifty_pods_at_once_all_come_and_go, |t| {
    t.pull("davit-test/busybox:latest")?;
    let pods = std::thread::scope(|scope| {
        let start = |number: usize| {
            let pod = t.pod(&format!("pod-{number}"), |_| ())?;
            t.run(&pod, "main", |_| ())?;
            Ok(pod)
        };
        let threads: Vec<_> = (0..10)
            .map(|thread| {
                scope.spawn(move || {
                    (0..5).map(|n| start(thread * 5 + n)).collect::<Result<Vec<Pod>>>()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Result<Vec<_>>>()
    })?;
    assert_eq!(t.cri.containers(None)?.len(), 50);
    std::thread::scope(|scope| {
        let end = |pods: &Vec<Pod>| -> Result<()> {
            pods.iter().try_for_each(|pod| Ok(t.cri.remove_pod(&pod.id)?))
        };
        let threads: Vec<_> = pods.iter().map(|pods| scope.spawn(move || end(pods))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap())
    })?;
    assert!(t.cri.pods(None)?.is_empty());
    Ok(())
});
