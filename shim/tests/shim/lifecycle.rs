//! Create, start, signal, exit, delete, shut down.

use crate::harness::{Pod, RUNTIMES, alive, connect, eventually, sh};
use davit_proto::shim::{Directory, Exit, StartRequest, StateRequest};
use std::time::Duration;
use tonic::Code;

#[tokio::test]
async fn a_container_runs_to_its_exit_code_and_its_output_is_in_the_log() {
    for runtime in RUNTIMES {
        let mut pod = Pod::new(runtime).await;
        let container = sh("echo out; echo err >&2; exit 7");
        let pid = pod.create("c", &container).await.unwrap();
        assert!(alive(pid));
        let state = pod.client.state(StateRequest {}).await.unwrap().into_inner();
        assert_eq!((state.protocol, state.pid), (2, pod.shim.id()));
        assert_eq!((state.containers[0].pid, state.containers[0].started), (pid, false));
        let started_at = pod
            .client
            .start(StartRequest { id: "c".into(), timeout_ms: 0 })
            .await
            .unwrap()
            .into_inner()
            .started_at;
        let exit = pod.exit("c").await;
        assert_eq!((exit.code, exit.signal, exit.oom_killed), (7, 0, false));
        assert!(exit.finished_at >= started_at);
        // The end is told after the log is complete and the record is there.
        let mut log = pod.log("c");
        log.sort();
        assert_eq!(log, ["stderr F err", "stdout F out"]);
        let record = pod.record("c");
        assert_eq!((record.code, record.signal, record.finished_at), (7, None, exit.finished_at));
        let state = pod.client.state(StateRequest {}).await.unwrap().into_inner();
        assert_eq!((state.containers[0].pid, state.containers[0].exit), (0, Some(exit)));
        pod.delete("c").await;
        pod.delete("c").await;
        assert!(
            pod.client.state(StateRequest {}).await.unwrap().into_inner().containers.is_empty()
        );
        pod.finish().await;
    }
}

#[tokio::test]
async fn a_signal_reaches_the_init_and_kill_ends_it() {
    for runtime in RUNTIMES {
        let mut pod = Pod::new(runtime).await;
        pod.run("t", &sh("trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done")).await;
        eventually("the trap is set", || (!pod.log("t").is_empty()).then_some(())).await;
        pod.signal("t", 15).await.unwrap();
        assert_eq!(pod.exit("t").await.code, 3);
        pod.run("k", &sh("trap '' TERM; echo ready; sleep 1000")).await;
        eventually("the trap is set", || (!pod.log("k").is_empty()).then_some(())).await;
        pod.signal("k", 15).await.unwrap();
        pod.signal("k", 9).await.unwrap();
        let Exit { code, signal, .. } = pod.exit("k").await;
        assert_eq!((code, signal), (137, 9));
        assert_eq!(pod.signal("k", 9).await.unwrap_err().code(), Code::FailedPrecondition);
        assert_eq!(pod.signal("none", 9).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(pod.signal("k", 65).await.unwrap_err().code(), Code::InvalidArgument);
        // A real-time one, to everybody.
        pod.run("r", &sh("sleep 1000 & wait")).await;
        pod.signal_all("r", 37).await.unwrap();
        // That one ends the sleep, and so the shell that waits for it, which has been killed only if it was slower.
        if let Err(error) = pod.signal_all("r", 9).await {
            assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
        }
        assert!([0, 9].contains(&pod.exit("r").await.signal));
        pod.finish().await;
    }
}

#[tokio::test]
async fn the_oom_killers_work_is_told_with_the_end() {
    for runtime in RUNTIMES {
        let mut pod = Pod::new(runtime).await;
        let mut hog = sh("tail /dev/zero");
        hog.memory = Some(24 << 20);
        let exit = pod.run_to_end("hog", &hog).await;
        assert_eq!((exit.code, exit.oom_killed), (137, true), "{exit:?}");
        assert!(pod.record("hog").oom_killed);
        pod.finish().await;
    }
}

#[tokio::test]
async fn deleting_a_running_container_ends_it_and_its_end_is_told() {
    for runtime in RUNTIMES {
        let mut pod = Pod::new(runtime).await;
        let pid = pod.run("c", &sh("sleep 1000")).await;
        let created = pod.create("waits", &sh("true")).await.unwrap();
        pod.delete("c").await;
        pod.delete("waits").await;
        assert!(!alive(pid) && !alive(created));
        assert_eq!(pod.record("c").signal, Some(9));
        pod.finish().await;
    }
}

#[tokio::test]
async fn an_operation_that_the_state_does_not_allow_is_refused() {
    let mut pod = Pod::new(RUNTIMES[0]).await;
    pod.run("c", &sh("sleep 1000")).await;
    assert_eq!(pod.create("c", &sh("true")).await.unwrap_err().code(), Code::FailedPrecondition);
    let start = |id: &str| StartRequest { id: id.into(), timeout_ms: 0 };
    assert_eq!(pod.client.start(start("none")).await.unwrap_err().code(), Code::NotFound);
    let error = pod.client.shutdown(davit_proto::shim::ShutdownRequest {}).await.unwrap_err();
    assert_eq!(
        (error.code(), error.message()),
        (Code::FailedPrecondition, "container \"c\" lives")
    );
    pod.delete("c").await;
    pod.finish().await;
}

#[tokio::test]
async fn a_start_whose_answer_was_lost_can_be_asked_for_again() {
    for runtime in RUNTIMES {
        let mut pod = Pod::new(runtime).await;
        pod.create("c", &sh("sleep 0.2; exit 4")).await.unwrap();
        let start = || StartRequest { id: "c".into(), timeout_ms: 0 };
        let (mut one, mut two) = (pod.client.clone(), pod.client.clone());
        // The first caller goes away while the start is under way; the second joins it.
        let lost =
            tokio::time::timeout(std::time::Duration::from_millis(1), one.start(start())).await;
        assert!(lost.is_err(), "{lost:?}");
        let at = two.start(start()).await.unwrap().into_inner().started_at;
        assert_eq!(two.start(start()).await.unwrap().into_inner().started_at, at);
        assert_eq!(pod.exit("c").await.code, 4);
        assert_eq!(two.start(start()).await.unwrap().into_inner().started_at, at);
        let state = two.state(StateRequest {}).await.unwrap().into_inner();
        assert_eq!((state.containers[0].started_at, state.containers[0].starting), (at, false));
        pod.finish().await;
    }
}

#[tokio::test]
async fn output_is_logged_and_the_end_recorded_while_no_client_is_there() {
    let mut pod = Pod::new(RUNTIMES[0]).await;
    pod.run("c", &sh("for i in $(seq 20); do seq 1000; sleep 0.01; done; exit 5")).await;
    // The channel is lazy: once replaced, the old one's connection is closed.
    pod.client = connect(pod.dir.join("s")).await;
    let record = pod.bundle("c").join("exit.json");
    eventually("the record", || record.exists().then_some(())).await;
    assert_eq!(pod.log("c").len(), 20_000);
    assert_eq!(pod.exit("c").await.code, 5);
    pod.finish().await;
}

#[tokio::test]
async fn a_short_lived_container_is_never_missed() {
    let mut pod = Pod::new(RUNTIMES[0]).await;
    for n in 0..20 {
        let id = format!("c{n}");
        let exit = pod.run_to_end(&id, &sh(&format!("exit {n}"))).await;
        assert_eq!(exit.code, n);
        pod.delete(&id).await;
    }
    pod.finish().await;
}

#[tokio::test]
async fn directories_are_made_in_the_root_and_the_hosts_mounts_do_not_change() {
    let mut pod = Pod::new(RUNTIMES[0]).await;
    let mut container = sh("stat -c '%u %g %a' /work/dir; sleep 1000");
    let mut request = pod.prepare("c", &container);
    let rootfs = request.rootfs.as_mut().unwrap();
    rootfs.make_dirs = vec![Directory { path: "/work/dir".into(), uid: 7, gid: 8, mode: 0o750 }];
    container.request.rootfs = request.rootfs.clone();
    pod.run("c", &container).await;
    eventually("the owner is printed", || (pod.log("c") == ["stdout F 7 8 750"]).then_some(()))
        .await;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&pod.name), "{mounts}");
    pod.delete("c").await;
    pod.finish().await;
}

#[tokio::test]
async fn sigterm_ends_a_shim_without_containers_and_no_other() {
    let mut pod = Pod::new(RUNTIMES[0]).await;
    let shim = rustix::process::Pid::from_child(&pod.shim);
    pod.run("c", &sh("sleep 1000")).await;
    rustix::process::kill_process(shim, rustix::process::Signal::TERM).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(pod.shim.try_wait().unwrap().is_none());
    pod.delete("c").await;
    rustix::process::kill_process(shim, rustix::process::Signal::TERM).unwrap();
    let child = &mut pod.shim;
    assert!(eventually("the shim ends", || child.try_wait().unwrap()).await.success());
    pod.check_nothing_is_left();
}

#[tokio::test]
async fn limits_change_while_a_container_waits_and_while_it_runs() {
    use davit_proto::shim::UpdateRequest;
    for runtime in RUNTIMES {
        let mut pod = Pod::new(runtime).await;
        let pid = pod.create("c", &sh("sleep 1000")).await.unwrap();
        let ask = |resources: &str| UpdateRequest {
            id: "c".into(),
            resources: resources.as_bytes().to_vec(),
        };
        pod.client.update(ask(r#"{"cpu":{"shares":512}}"#)).await.unwrap();
        assert_eq!(cpu_share(pid), "512", "{runtime}");
        pod.client.start(StartRequest { id: "c".into(), timeout_ms: 0 }).await.unwrap();
        pod.client.update(ask(r#"{"cpu":{"shares":256}}"#)).await.unwrap();
        assert_eq!(cpu_share(pid), "256", "{runtime}");
        let refused = pod.client.update(ask("no JSON")).await.unwrap_err();
        assert_eq!(refused.code(), Code::Aborted, "{refused}");
        let unknown = UpdateRequest { id: "none".into(), resources: Vec::new() };
        assert_eq!(pod.client.update(unknown).await.unwrap_err().code(), Code::NotFound);
        pod.signal("c", 9).await.unwrap();
        pod.exit("c").await;
        let late = pod.client.update(ask("{}")).await.unwrap_err();
        assert_eq!(late.code(), Code::FailedPrecondition, "{late}");
        pod.delete("c").await;
        pod.finish().await;
    }
}

/// A process's cpu.shares, whichever version keeps them.
fn cpu_share(pid: u32) -> String {
    let table = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = |controllers: &str| {
        let mut lines = table.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
        lines.find(|(have, _)| have.split(',').any(|one| one == controllers)).unwrap()
    };
    if std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        let weight = format!("/sys/fs/cgroup{}/cpu.weight", path("").1);
        let weight = std::fs::read_to_string(weight).unwrap();
        // What the OCI runtimes make of 512 and 256, by the old formula or the new one.
        return if ["20", "59"].contains(&weight.trim()) { "512" } else { "256" }.to_owned();
    }
    let (controllers, path) = path("cpu");
    let file = format!("/sys/fs/cgroup/{controllers}{path}/cpu.shares");
    std::fs::read_to_string(file).unwrap().trim().to_owned()
}
