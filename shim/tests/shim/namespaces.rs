//! The pod's namespaces and mounts.

use crate::harness::{Container, PATIENCE, Pod, RUNTIMES, alive, eventually, sh};
use davit_proto::shim::{EventsRequest, Init, StateRequest, event};
use serde_json::json;
use std::fs;

fn join(container: &mut Container, kind: &'static str, path: &str) {
    container.namespaces.retain(|(k, _)| *k != kind);
    container.namespaces.push((kind, Some(path.to_owned())));
}

#[tokio::test]
async fn the_pods_namespaces_are_made_pinned_used_and_released() {
    let mut pod = Pod::with(RUNTIMES[0], |config, dir| {
        config.hostname = Some("a-pod".into());
        config.netns = Some(dir.join("netns/it"));
        config.ipc = true;
        config.shm = Some(dir.join("shm"));
        config.shm_size = 3 << 20;
        config.sysctls = [("net.ipv4.ip_unprivileged_port_start", "77"), ("kernel.shmmni", "123")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        // The host's, and refused; it is done without. The other one has been said otherwise.
        let optional = [("vm.swappiness", "1"), ("net/ipv4/ip_unprivileged_port_start", "5")];
        config.optional_sysctls = optional.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    })
    .await;
    let state = pod.client.state(StateRequest {}).await.unwrap().into_inner();
    assert_eq!(state.netns_path, pod.dir.join("netns/it").to_string_lossy());
    let host = |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
    let shims = |kind: &str| fs::read_link(format!("/proc/{}/ns/{kind}", pod.shim.id())).unwrap();
    assert_eq!(shims("net"), host("net"));
    assert_ne!(shims("ipc"), host("ipc"));
    assert_ne!(shims("uts"), host("uts"));
    let mut container =
        sh("hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmni");
    join(&mut container, "network", &state.netns_path);
    join(&mut container, "ipc", &state.ipcns_path);
    join(&mut container, "uts", &state.utsns_path);
    assert_eq!(pod.run_to_end("c", &container).await.code, 0);
    assert_eq!(pod.log("c"), ["stdout F a-pod", "stdout F 77", "stdout F 123"]);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let shm = mounts.lines().find(|l| l.contains(&format!("{}/shm ", pod.name))).unwrap();
    for option in ["nosuid", "nodev", "noexec", "size=3072k"] {
        assert!(shm.contains(option), "{shm}");
    }
    let netns = pod.dir.join("netns/it");
    pod.delete("c").await;
    assert!(mounts.contains(&format!("{}/netns/it ", pod.name)), "{mounts}");
    pod.finish().await;
    assert!(!netns.exists());
}

#[tokio::test]
async fn a_shared_pid_namespace_has_an_init_that_reaps_and_shows_nothing_of_the_host() {
    for runtime in RUNTIMES {
        let mut pod = Pod::with(runtime, |config, _| config.shared_pid = true).await;
        let state = pod.client.state(StateRequest {}).await.unwrap().into_inner();
        let init = state.init.as_ref().unwrap().pid;
        let shared = |script: &str| {
            let mut container = sh(script);
            join(&mut container, "pid", &state.pidns_path);
            container.request.own_pid_namespace = false;
            container
        };
        // An orphan, two look at the init, and the init must outlive what its pod's processes do to it.
        let script = "(sleep 0.05 &) ; kill -TERM 1; kill -KILL 1; ls /proc/1/root/ 2>&1; ls /proc/1/root/etc 2>/dev/null; \
                      cat /proc/1/cmdline | busybox tr '\\0' ' '; sleep 0.2; busybox ps | busybox grep -c '[Z]ombie'";
        pod.run_to_end("look", &shared(script)).await;
        let log = pod.log("look").join("\n");
        assert!(log.contains("init"), "{log}");
        assert!(!log.contains("passwd"), "{log}");
        assert!(alive(init));
        assert_eq!(fs::read_link(format!("/proc/{init}/root")).unwrap().to_string_lossy(), "/");
        assert_eq!(fs::read_dir(format!("/proc/{init}/root/")).unwrap().count(), 0);
        let status = fs::read_to_string(format!("/proc/{init}/status")).unwrap();
        assert!(
            status.contains("CapEff:\t0000000000000000") && status.contains("Uid:\t65535"),
            "{status}"
        );
        // What a container leaves behind ends with it, and its neighbour lives on.
        let neighbour = pod.run("neighbour", &shared("sleep 1000")).await;
        pod.run_to_end("leaves", &shared("sleep 444 & sleep 445 & exit 0")).await;
        let left = |pod: &Pod| {
            let line =
                |pid: &i32| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            pod.processes().iter().filter(|p| line(p).contains("44")).count()
        };
        assert_eq!(left(&pod), 0);
        assert!(alive(neighbour));
        pod.delete("neighbour").await;
        pod.finish().await;
        assert!(!alive(init));
    }
}

#[tokio::test]
async fn the_end_of_a_shared_pid_namespaces_init_is_told_and_nothing_begins_there_any_more() {
    for runtime in RUNTIMES {
        let mut pod = Pod::with(runtime, |config, _| config.shared_pid = true).await;
        let state = pod.client.state(StateRequest {}).await.unwrap().into_inner();
        let init = state.init.unwrap();
        assert_eq!(init.exit, None);
        // Whoever gets the init's pid next has another namespace.
        assert!(!state.pidns_path.contains(&format!("/{}/", init.pid)), "{}", state.pidns_path);
        let mut container = sh("sleep 1000");
        join(&mut container, "pid", &state.pidns_path);
        container.request.own_pid_namespace = false;
        pod.run("c", &container).await;
        let mut events = pod.client.events(EventsRequest {}).await.unwrap().into_inner();
        signal_process(init.pid, rustix::process::Signal::KILL);
        assert_eq!(pod.exit("c").await.code, 137, "{runtime}");
        let told = async {
            loop {
                let event = events.message().await.unwrap().unwrap();
                if let Some(event::Kind::InitExited(exit)) = event.kind {
                    return (event.id, exit);
                }
            }
        };
        let (id, exit) = tokio::time::timeout(PATIENCE, told).await.unwrap();
        assert_eq!((id.as_str(), exit.code, exit.signal), ("", 137, 9));
        // Who comes later hears it too.
        let state = pod.client.state(StateRequest {}).await.unwrap().into_inner();
        assert_eq!(state.init.unwrap(), Init { pid: 0, exit: Some(exit) });
        let mut late = pod.client.events(EventsRequest {}).await.unwrap().into_inner();
        let kinds = [late.message().await, late.message().await].map(|e| e.unwrap().unwrap().kind);
        assert!(kinds.contains(&Some(event::Kind::InitExited(exit))), "{kinds:?}");
        let refused = pod.create("more", &container).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
        assert!(refused.message().contains("init"), "{refused:?}");
        drop((events, late));
        pod.delete("c").await;
        pod.finish().await;
    }
}

fn signal_process(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[tokio::test]
async fn orphans_of_a_container_in_the_hosts_pid_namespace_are_reaped() {
    let mut pod = Pod::new(RUNTIMES[0]).await;
    let mut container = sh("(sleep 0.01 &); (sleep 0.01 &); sleep 1000");
    container.namespaces.retain(|(kind, _)| *kind != "pid");
    container.request.own_pid_namespace = false;
    pod.run("c", &container).await;
    let shim = pod.shim.id();
    let children = || fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap();
    eventually("only the init is left", || {
        (children().split_whitespace().count() == 1).then_some(())
    })
    .await;
    pod.delete("c").await;
    pod.finish().await;
}

#[tokio::test]
async fn on_a_host_whose_mounts_are_shared_the_root_stays_inside_and_volumes_propagate() {
    for runtime in RUNTIMES {
        let before = "mount --make-rshared / && mount --bind DIR DIR && mount --make-private DIR && \
                      mkdir DIR/../volume && mount -t tmpfs v DIR/../volume && mount --make-shared DIR/../volume &&";
        let mut pod = Pod::start(runtime, |_, _| {}, before).await;
        let volume = pod.dir.parent().unwrap().join("volume");
        let mut container =
            sh("while ! test -e /v/sub/late; do sleep 0.02; done; echo seen; sleep 1000");
        container.mounts = vec![json!({
            "destination": "/v", "type": "bind", "source": volume, "options": ["rbind", "rslave"]
        })];
        pod.run("c", &container).await;
        let inside = |script: String| {
            let shim = pod.shim.id().to_string();
            let output = std::process::Command::new("nsenter")
                .args(["-t", &shim, "-m", "sh", "-c", &script])
                .output();
            let output = output.unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        let mounts = inside("cat /proc/self/mountinfo".into());
        assert!(!mounts.contains("containers/c/rootfs"), "{mounts}");
        let v = volume.display();
        inside(format!("mkdir {v}/sub && mount -t tmpfs s {v}/sub && : > {v}/sub/late"));
        eventually("the volume's new mount is seen", || {
            (pod.log("c") == ["stdout F seen"]).then_some(())
        })
        .await;
        pod.delete("c").await;
        pod.finish().await;
    }
}
