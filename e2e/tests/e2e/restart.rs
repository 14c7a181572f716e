//! The daemon goes and comes back: containers do not notice, and nothing that happened meanwhile is lost.

use davit_e2e::prelude::*;

/// How the daemon goes.
#[derive(Clone, Copy, Debug)]
enum Way {
    Stop,
    Kill,
}

const WAYS: [Way; 2] = [Way::Stop, Way::Kill];

fn go(t: &Test, way: Way) -> Result<()> {
    match way {
        Way::Stop => t.daemon().stop(),
        Way::Kill => t.daemon().kill(),
    }
}

fn last_number(path: &Path) -> Result<usize> {
    let lines = davit_e2e::test::parse_log(&std::fs::read_to_string(path)?)?;
    Ok(lines.last().and_then(|line| line.content.parse().ok()).unwrap_or(0))
}

on_both!(containers_go_on_and_their_logs_with_them, |t| {
    let (pod, id) =
        t.sleeper(|c| c.command = sh("i=0; while :; do i=$((i+1)); echo $i; usleep 5000; done"))?;
    let path = PathBuf::from(t.cri.status(&id)?.log_path);
    let (pid, before) = (t.pid(&id)?, t.cri.status(&id)?);
    let network = t.cri.pod_status(&pod.id)?.network;
    for way in WAYS {
        go(t, way)?;
        let seen = last_number(&path)?;
        eventually(Duration::from_secs(30), "the log grows without a daemon", || {
            Ok((last_number(&path)? > seen + 20).then_some(()))
        })?;
        t.daemon().spawn()?;
        let after = t.cri.status(&id)?;
        assert_eq!(
            (after.state(), t.pid(&id)?),
            (ContainerState::ContainerRunning, pid),
            "{way:?}"
        );
        assert_eq!((after.created_at, after.started_at), (before.created_at, before.started_at));
        assert_eq!(t.cri.pod_status(&pod.id)?.state(), PodSandboxState::SandboxReady);
        assert_eq!(t.cri.pod_status(&pod.id)?.network, network);
        assert_eq!(t.exec(&id, "echo well")?, "well");
    }
    t.cri.stop(&id, 0)?;
    let lines = davit_e2e::test::parse_log(&std::fs::read_to_string(&path)?)?;
    assert!(
        lines.iter().enumerate().all(|(at, line)| line.content == (at + 1).to_string()),
        "a line is missing"
    );
    Ok(())
});

on_one!(a_container_whose_image_was_removed_keeps_its_files, |t| {
    let (_, id) = t.sleeper(|_| ())?;
    let images = t.cri.list_images()?;
    for image in &images {
        t.cri.remove_image(&image.id)?;
    }
    assert!(!images.is_empty() && t.cri.list_images()?.is_empty());
    // What the first of them lets go of, the next one deletes.
    for way in [Way::Stop, Way::Kill, Way::Stop] {
        go(t, way)?;
        t.daemon().spawn()?;
        t.exec(&id, "grep -q ^root: /etc/passwd").with_context(|| format!("{way:?}"))?;
    }
    t.cri.stop(&id, 0)?;
    t.cri.remove(&id)?;
    let layers = t.settings().root().join("layers");
    eventually(Duration::from_secs(30), "its layers are gone", || {
        Ok(davit_e2e::host::names_in(&layers)?.is_empty().then_some(()))
    })
});

on_both!(an_end_that_nobody_saw_is_told_afterwards, |t| {
    let pod = t.pod("web", |_| ())?;
    for (number, way) in WAYS.into_iter().enumerate() {
        let gate = format!("/dev/shm/go-{number}");
        let id = t.run(&pod, &format!("c{number}"), |c| {
            c.command =
                sh(&format!("while ! test -e {gate}; do sleep 0.05; done; echo bye; exit 42"));
        })?;
        let pid = t.pid(&id)?;
        go(t, way)?;
        let inside = format!("/proc/{pid}/root{gate}");
        std::fs::File::create(&inside).with_context(|| format!("make {inside}"))?;
        eventually(Duration::from_secs(30), "the container ends without a daemon", || {
            Ok((!Path::new(&format!("/proc/{pid}")).exists()).then_some(()))
        })?;
        t.daemon().spawn()?;
        // Calls are answered before every shim was asked.
        let status = t.wait_for_exit(&id)?;
        assert_eq!(
            (status.state(), status.exit_code),
            (ContainerState::ContainerExited, 42),
            "{way:?}"
        );
        assert!(status.finished_at > status.started_at);
        assert_eq!(t.log(&status)?.last().map(|line| line.content.as_str()), Some("bye"));
    }
    Ok(())
});

on_both!(pods_and_containers_are_told_as_before, |t| {
    let (pod, _) = t.sleeper(|_| ())?;
    t.create(&pod, "created", |c| c.labels = [("a".to_owned(), "b".to_owned())].into())?;
    let ended = t.run(&pod, "ended", |c| c.command = sh("exit 3"))?;
    t.wait_for_exit(&ended)?;
    let stopped = t.pod("stopped", |_| ())?;
    t.cri.stop_pod(&stopped.id)?;
    let sorted = || -> Result<_> {
        let (mut pods, mut containers) = (t.cri.pods(None)?, t.cri.containers(None)?);
        pods.sort_by(|a, b| a.id.cmp(&b.id));
        containers.sort_by(|a, b| a.id.cmp(&b.id));
        Ok((pods, containers))
    };
    let before = sorted()?;
    for way in WAYS {
        go(t, way)?;
        t.daemon().spawn()?;
        assert_eq!(sorted()?, before, "{way:?}");
    }
    // Names are known too: the same request gets the same pod.
    assert_eq!(t.pod("pod", |_| ())?.id, pod.id);
    Ok(())
});

on_one!(fifty_pods_are_not_disturbed_by_a_restart, |t| {
    let mut before = Vec::new();
    for number in 0..50 {
        let pod = t.pod(&format!("pod-{number}"), |_| ())?;
        let id = t.run(&pod, "main", |_| ())?;
        before.push((id.clone(), t.pid(&id)?, t.cri.pod_status(&pod.id)?.network));
    }
    t.daemon().kill()?;
    let begun = std::time::Instant::now();
    t.daemon().spawn()?;
    assert_eq!(t.cri.pods(None)?.len(), 50);
    let took = begun.elapsed();
    let mut disturbed = Vec::new();
    for container in t.cri.containers(None)? {
        let network = t.cri.pod_status(&container.pod_sandbox_id)?.network;
        let now = (container.id.clone(), t.pid(&container.id)?, network);
        if container.state() != ContainerState::ContainerRunning || !before.contains(&now) {
            disturbed.push(container.id);
        }
    }
    println!(
        "50 pods: {} ms from exec to the first answer, {} disturbed",
        took.as_millis(),
        disturbed.len()
    );
    assert!(disturbed.is_empty(), "{disturbed:?}");
    // What hack/bench measures on a machine that does nothing else is 150 times less.
    ensure!(took < Duration::from_secs(15), "{took:?}");
    Ok(())
});

on_one!(everything_works_on_what_was_there_before, |t| {
    let (pod, id) = t.sleeper(|_| ())?;
    let created = t.create(&pod, "created", |_| ())?;
    t.daemon().kill()?;
    t.daemon().spawn()?;
    t.cri.start(&created)?;
    t.exec(&created, "true")?;
    t.cri.stop(&id, 5)?;
    assert_eq!(t.cri.status(&id)?.exit_code, 0);
    t.cri.remove(&id)?;
    t.run(&pod, "more", |_| ())?;
    t.cri.stop_pod(&pod.id)?;
    t.cri.remove_pod(&pod.id)?;
    Ok(())
});

on_one!(killed_at_any_moment_of_a_pods_life_it_finds_order_again, |t| {
    t.pull("davit-test/busybox:latest")?;
    for number in 0..12_u64 {
        let life = || -> Result<()> {
            let name = format!("pod-{number}");
            let pod = t.pod(&name, |_| ())?;
            t.run(&pod, "main", |_| ())?;
            t.cri.stop_pod(&pod.id)?;
            t.cri.remove_pod(&pod.id)?;
            Ok(())
        };
        std::thread::scope(|scope| {
            let thread = scope.spawn(life);
            pause(Duration::from_millis(4 + number * number));
            t.daemon().kill()?;
            // The call that was under way fails, or the life was over already.
            drop(thread.join().unwrap());
            anyhow::Ok(())
        })?;
        t.daemon().spawn()?;
        for pod in t.cri.pods(None)? {
            t.watch(&pod.id);
            t.cri.stop_pod(&pod.id)?;
            t.cri.remove_pod(&pod.id)?;
        }
        assert!(t.cri.containers(None)?.is_empty(), "round {number}");
    }
    Ok(())
});

on_one!(killed_during_a_pull_it_keeps_nothing_half_made, |t| {
    let reference = t.registry.reference("davit-test/busybox:one");
    t.registry.fault("davit-test/busybox", Fault::Slow(1 << 20));
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| t.cri.pull(&reference));
        t.registry
            .wait_for(Duration::from_secs(5), |request| request.target.contains("/blobs/"))?;
        pause(Duration::from_millis(300));
        t.daemon().kill()?;
        drop(thread.join().unwrap());
        anyhow::Ok(())
    })?;
    t.registry.heal("davit-test/busybox");
    t.daemon().spawn()?;
    assert!(t.cri.list_images()?.is_empty());
    t.cri.pull(&reference)?;
    let (_, id) = t.sleeper(|c| c.image = Some(davit_e2e::cri::spec(&reference)))?;
    t.exec(&id, "cat /bin/busybox > /dev/null")?;
    Ok(())
});

on_one!(a_broken_record_is_set_aside_and_spoils_nothing_else, |t| {
    t.allow_log("quarantine");
    t.allow_log("record");
    let (_, id) = t.sleeper(|_| ())?;
    let victim = t.pod("victim", |p| namespaces(p).network = 2)?;
    t.daemon().stop()?;
    let dir = t.settings().state().join("pods").join(&victim.id);
    let record = davit_e2e::host::names_in(&dir)?
        .into_iter()
        .find(|name| name.contains("sandbox") || name.contains("pod") || name.contains("record"))
        .context("the pod has a record")?;
    std::fs::File::create(dir.join(record))?;
    t.daemon().spawn()?;
    assert_eq!(t.exec(&id, "echo well")?, "well");
    let pods = t.cri.pods(None)?;
    assert!(
        pods.iter()
            .all(|pod| pod.id != victim.id || pod.state() == PodSandboxState::SandboxNotready),
        "{pods:?}"
    );
    assert!(t.daemon().log().contains(&victim.id), "the log does not name it");
    // Kept for whoever wants to know what was broken, and theirs to remove.
    std::fs::remove_dir_all(t.settings().state().join("quarantine").join(&victim.id))?;
    Ok(())
});

on_one!(a_second_daemon_on_the_same_state_is_refused, |t| {
    let settings = t.settings();
    let output = t.davit(&[
        "serve",
        "--config",
        &settings.config().to_string_lossy(),
        "--root",
        &settings.root().to_string_lossy(),
        "--state",
        &settings.state().to_string_lossy(),
        "--listen",
        &format!("unix://{}", t.dir.join("second.sock").display()),
    ])?;
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        text.contains(&format!("(pid {})", t.daemon().pid().context("a pid")?))
            && text.contains(&*settings.state().to_string_lossy())
            || text.contains(&*settings.root().to_string_lossy()),
        "{text}"
    );
    t.cri.pods(None)?;
    Ok(())
});
