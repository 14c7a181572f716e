//! What fails leaves nothing.

use crate::harness::{Pod, RUNTIMES, Setup, command, plain_config, put, sh};
use davit_proto::disk::ShimConfig;
use davit_proto::shim::OciRuntime;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};
use tonic::Code;

#[tokio::test]
async fn a_create_that_the_runtime_refuses_leaves_nothing() {
    for runtime in RUNTIMES {
        let mut pod = Pod::new(runtime).await;
        let before = pod.descriptors();
        for terminal in [false, true] {
            let mut container = command(&["/no/such/command"]);
            container.request.terminal = terminal;
            let error = pod.create("c", &container).await.unwrap_err();
            assert_eq!(error.code(), Code::Aborted, "{error}");
            assert!(error.message().contains("/no/such/command"), "{error}");
            assert!(!pod.log_path("c").exists());
        }
        assert_eq!(pod.descriptors(), before);
        // The id is free again.
        assert_eq!(pod.run_to_end("c", &sh("exit 2")).await.code, 2);
        pod.finish().await;
    }
}

#[tokio::test]
async fn a_root_that_cannot_be_mounted_is_named_and_leaves_nothing() {
    let mut pod = Pod::new(RUNTIMES[0]).await;
    let mut container = sh("true");
    let mut request = pod.prepare("c", &container);
    request.rootfs.as_mut().unwrap().lower.push("/no/such/layer".into());
    container.request.rootfs = request.rootfs;
    let error = pod.create("c", &container).await.unwrap_err();
    assert_eq!(error.code(), Code::Internal);
    assert!(error.message().contains("add layer /no/such/layer: No such file"), "{error}");
    pod.finish().await;
}

#[tokio::test]
async fn a_runtime_that_takes_too_long_is_killed_and_what_it_left_deleted() {
    let mut pod = Pod::new(RUNTIMES[0]).await;
    let script = pod.dir.join("slow");
    // Creates, and then does not come back; everything else works.
    let text = format!(
        "#!/bin/sh\ncase \"$*\" in *' create '*) {0} \"$@\"; sleep 555;; *) exec {0} \"$@\";; esac\n",
        RUNTIMES[0]
    );
    put(&script, &text);
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o700)).unwrap();
    let mut container = sh("sleep 1000");
    let path = script.to_string_lossy().into_owned();
    container.request.runtime = Some(OciRuntime { path, timeout_ms: 400, ..pod.runtime.clone() });
    let begun = Instant::now();
    let error = pod.create("c", &container).await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(pod.processes(), Vec::<i32>::new());
    pod.finish().await;
}

#[test]
fn a_shim_that_cannot_be_in_its_cgroup_ends_and_says_why() {
    let setup = Setup::new();
    let mut config = plain_config(&setup.name);
    config.netns = Some(setup.dir.join("netns/it"));
    config.cgroup_procs = vec!["/no/such/cgroup.procs".into()];
    setup.spawn(&config, "").wait().unwrap();
    let log = setup.log();
    assert!(log.contains("/no/such/cgroup.procs: No such file"), "{log}");
    assert!(!setup.dir.join("netns/it").exists());
    rustix::mount::unmount(setup.dir.join("netns"), rustix::mount::UnmountFlags::DETACH).unwrap();
}

#[tokio::test]
async fn a_shim_is_in_its_cgroup_when_there_is_a_container() {
    let name = format!("davit-test-{}", crate::harness::random());
    let hierarchies = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup/memory", "/sys/fs/cgroup"];
    let there = |hierarchy: &&&str| Path::new(hierarchy).join("cgroup.procs").exists();
    let cgroups: Vec<_> = hierarchies
        .iter()
        .filter(there)
        .map(|hierarchy| Path::new(hierarchy).join(&name))
        .collect();
    assert!(!cgroups.is_empty());
    cgroups.iter().for_each(|cgroup| std::fs::create_dir(cgroup).unwrap());
    let own = |config: &mut ShimConfig, _: &Path| {
        config.cgroup_procs = cgroups.iter().map(|cgroup| cgroup.join("cgroup.procs")).collect();
    };
    let mut pod = Pod::with(RUNTIMES[0], own).await;
    assert_eq!(pod.run_to_end("c", &sh("exit 3")).await.code, 3);
    for cgroup in &cgroups {
        let inside = || std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap();
        // The end is told before the OCI runtime has tidied up.
        let deadline = Instant::now() + Duration::from_secs(20);
        while inside().lines().count() > 1 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(inside(), format!("{}\n", pod.shim.id()), "{}", cgroup.display());
    }
    pod.finish().await;
    for cgroup in &cgroups {
        std::fs::remove_dir(cgroup).unwrap();
    }
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_by_field() {
    let mut pod = Pod::new(RUNTIMES[0]).await;
    let good = pod.prepare("c", &sh("true"));
    let mut cases = Vec::new();
    for (field, value) in [("id", "../x"), ("bundle", "relative"), ("log_path", "/a/../b")] {
        let mut request = good.clone();
        match field {
            "id" => request.id = value.into(),
            "bundle" => request.bundle = value.into(),
            _ => request.log_path = value.into(),
        }
        cases.push((field, request));
    }
    cases.push(("runtime", davit_proto::shim::CreateRequest { runtime: None, ..good.clone() }));
    for (field, request) in cases {
        let error = pod.client.create(request).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        assert!(error.message().starts_with(field), "{error}");
    }
    pod.finish().await;
}

#[test]
fn a_shim_that_cannot_start_says_why_and_leaves_nothing() {
    let setup = Setup::new();
    let netns = setup.dir.join("netns/it");
    let mut config = plain_config(&setup.name);
    config.netns = Some(netns.clone());
    config.shm = Some(setup.dir.join("shm"));
    config.shm_size = 1 << 20;
    config.ipc = true;
    config.shared_pid = true;
    config.pod_cgroup_procs = vec!["/no/such/cgroup.procs".into()];
    let status = setup.spawn(&config, "").wait().unwrap();
    assert_eq!(status.code(), Some(1));
    let log = setup.log();
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.contains("/no/such/cgroup.procs: No such file"), "{log}");
    assert!(!netns.exists());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let left: Vec<_> = mounts.lines().filter(|l| l.contains(&setup.name)).collect();
    // The directory of pins is shared with other pods: it stays a mount.
    assert!(left.iter().all(|l| l.contains("/netns ")), "{left:?}");
    rustix::mount::unmount(setup.dir.join("netns"), rustix::mount::UnmountFlags::DETACH).unwrap();
    drop(setup.temporary);
}

#[test]
fn one_that_no_daemon_started_says_so() {
    let said = std::process::Command::new(crate::harness::executable())
        .args(["--pod-dir", "/no/such/pod"])
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert!(!said.status.success());
    let words = String::from_utf8(said.stderr).unwrap();
    assert!(words.contains("standard input is no socket that listens"), "{words}");
}
