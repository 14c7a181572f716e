//! A shim dies: its pod and containers are told as what they are then, nothing of them runs on, and the node gets all of it back.

use davit_e2e::prelude::*;
use rustix::process::{Pid, Signal, kill_process};
use std::time::Instant;

/// What a shim's end may take to be told.
const PROMISED: Duration = Duration::from_secs(1);

pub(super) fn kill(pid: u32) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a pid")?;
    Ok(kill_process(pid, Signal::KILL)?)
}

pub(super) fn record(t: &Test, pod: &Pod) -> Result<serde_json::Value> {
    let path = t.settings().state().join("pods").join(&pod.id).join("sandbox.json");
    Ok(serde_json::from_str(&std::fs::read_to_string(path)?)?)
}

/// The pid of a pod's shim.
pub(super) fn shim(t: &Test, pod: &Pod) -> Result<u32> {
    let pid = record(t, pod)?.pointer("/shim/pid").and_then(serde_json::Value::as_u64);
    Ok(u32::try_from(pid.context("the record names the shim")?)?)
}

/// Waits for the pod to be told as not ready and for all that is asked to be true.
pub(super) fn told(t: &Test, pod: &Pod, ids: &[&String]) -> Result<()> {
    eventually(PROMISED, "the shim's end is told", || {
        let pod = t.cri.pod_status(&pod.id)?.state() == PodSandboxState::SandboxNotready;
        let mut ended = true;
        for id in ids {
            ended &= t.cri.status(id)?.state() == ContainerState::ContainerExited;
        }
        Ok((pod && ended).then_some(()))
    })
}

/// No process of the test is there but the daemon.
pub(super) fn alone(t: &Test) -> Result<()> {
    let daemon = t.daemon().pid();
    eventually(PROMISED, "no process of the pod runs on", || {
        let others = davit_e2e::leaks::others(&t.settings(), daemon)?;
        Ok(others.is_empty().then_some(()))
    })
}

fn end(t: &Test, pod: &Pod) -> Result<()> {
    let netns = record(t, pod)?["netns"].as_str().map(PathBuf::from);
    t.cri.stop_pod(&pod.id)?;
    // The network is given back by the stop already.
    assert!(netns.is_none_or(|netns| !netns.exists()));
    t.cri.remove_pod(&pod.id)?;
    Ok(())
}

on_both!(a_shim_that_dies_takes_its_containers_along_and_says_so, |t| {
    t.allow_log("the pod's shim has ended");
    let pod = t.pod("web", |_| ())?;
    // One with children that ignore signals, one that has ended, one that was never started.
    let busy =
        sh("trap '' TERM HUP INT; (sleep 4321 &); setsid sleep 4322 & while :; do sleep 0.1; done");
    let runs = t.run(&pod, "runs", |c| c.command = busy)?;
    let ended = t.run(&pod, "ended", |c| c.command = sh("exit 5"))?;
    t.wait_for_exit(&ended)?;
    let created = t.create(&pod, "created", |_| ())?;
    kill(shim(t, &pod)?)?;
    told(t, &pod, &[&runs, &created])?;
    alone(t)?;
    let status = t.cri.status(&runs)?;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "ShimLost"), "{status:?}");
    assert!(status.message.contains("shim"), "{status:?}");
    let info = t.cri.pod_info(&pod.id)?;
    assert!(info["reason"].as_str().is_some_and(|why| why.contains("shim has ended")), "{info}");
    assert_eq!(t.cri.status(&created)?.reason, "ShimLost");
    let before = t.cri.status(&ended)?;
    assert_eq!(
        (before.exit_code, before.reason.as_str()),
        (5, "Error"),
        "what is known stays known"
    );
    let refusal = t.try_create(&pod, "more", |_| ()).err().context("a pod without a shim")?;
    assert!(refusal.message().contains("not ready"), "{refusal:?}");
    end(t, &pod)?;
    // The kubelet makes it anew, under the same name.
    let again = t.pod("web", |_| ())?;
    let id = t.run(&again, "runs", |_| ())?;
    assert_eq!(t.exec(&id, "echo well")?, "well");
    Ok(())
});

on_both!(with_a_shared_pid_namespace_its_init_goes_too, |t| {
    t.allow_log("the pod's shim has ended");
    let pod = t.pod("web", |p| namespaces(p).pid = 0)?;
    let shared = |c: &mut ContainerConfig| {
        security(c).namespace_options = Some(NamespaceOption::default());
        c.command = sh("trap '' TERM; while :; do sleep 0.1; done");
    };
    let ids = [t.run(&pod, "one", shared)?, t.run(&pod, "two", shared)?];
    kill(shim(t, &pod)?)?;
    told(t, &pod, &[&ids[0], &ids[1]])?;
    alone(t)?;
    for id in &ids {
        let status = t.cri.status(id)?;
        // The kernel ends them with their namespace; who of both came first is not known.
        assert!(matches!(status.exit_code, 137 | 255), "{status:?}");
        assert_eq!(status.reason, "ShimLost");
    }
    end(t, &pod)
});

on_both!(a_shim_that_died_while_no_daemon_was_there_is_found_out, |t| {
    t.allow_log("the pod's shim");
    let pod = t.pod("web", |_| ())?;
    let runs = t.run(&pod, "runs", |_| ())?;
    let quick = t.run(&pod, "quick", |c| c.command = sh("sleep 0.3; exit 6"))?;
    let (shim, quick_pid) = (shim(t, &pod)?, t.pid(&quick)?);
    t.daemon().kill()?;
    let exit = t.settings().state().join("pods").join(&pod.id);
    let exit = exit.join("containers").join(&quick).join("exit.json");
    eventually(Duration::from_secs(30), "the shim writes an exit down", || {
        Ok((exit.exists() && !Path::new(&format!("/proc/{quick_pid}")).exists()).then_some(()))
    })?;
    kill(shim)?;
    t.daemon().spawn()?;
    told(t, &pod, &[&runs, &quick])?;
    alone(t)?;
    assert_eq!(t.cri.status(&runs)?.exit_code, 137);
    assert_eq!(t.cri.status(&quick)?.exit_code, 6, "the shim had written it down");
    end(t, &pod)
});

on_both!(a_shims_end_that_was_noted_and_not_dealt_with_is_dealt_with_by_the_next_daemon, |t| {
    t.allow_log("the pod's shim");
    let pod = t.pod("web", |_| ())?;
    let deaf = sh("trap '' TERM; while :; do sleep 0.1; done");
    let ids = [t.run(&pod, "one", |c| c.command = deaf.clone())?, t.run(&pod, "two", |_| ())?];
    let shim = shim(t, &pod)?;
    t.daemon().kill()?;
    kill(shim)?;
    // As a daemon leaves it that is killed right after it has noted the end.
    let path = t.settings().state().join("pods").join(&pod.id).join("sandbox.json");
    crate::records::edit(&path, |json| json["shim"] = serde_json::Value::Null)?;
    t.daemon().spawn()?;
    told(t, &pod, &[&ids[0], &ids[1]])?;
    alone(t)?;
    for id in &ids {
        let status = t.cri.status(id)?;
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "ShimLost"), "{status:?}");
    }
    end(t, &pod)
});

on_one!(a_shim_that_dies_during_a_create_leaves_nothing_of_it, |t| {
    t.allow_log("the pod's shim");
    t.allow_log("left behind");
    t.pull("davit-test/busybox:latest")?;
    for round in 0..6_u64 {
        let pod = t.pod(&format!("web-{round}"), |_| ())?;
        let shim = shim(t, &pod)?;
        std::thread::scope(|scope| {
            let creates = scope.spawn(|| t.try_create(&pod, "main", |_| ()));
            pause(Duration::from_millis(2 + round * 4));
            kill(shim)?;
            drop(creates.join().unwrap());
            anyhow::Ok(())
        })?;
        told(t, &pod, &[])?;
        end(t, &pod)?;
    }
    alone(t)
});

on_one!(a_stop_that_waits_for_a_container_ends_with_its_shim, |t| {
    t.allow_log("the pod's shim has ended");
    let pod = t.pod("web", |_| ())?;
    let deaf = sh("trap '' TERM; while :; do sleep 0.1; done");
    let id = t.run(&pod, "main", |c| c.command = deaf)?;
    let shim = shim(t, &pod)?;
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let stop = scope.spawn(|| t.cri.stop(&id, 50));
        pause(Duration::from_millis(300));
        kill(shim)?;
        stop.join().unwrap().context("StopContainer")
    })?;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    end(t, &pod)
});
