//! Containers that stand still: what stands still, who is told, and how they end.

use davit_e2e::prelude::*;
use serde_json::Value;
use std::time::Duration;
use tonic::Code;

/// A container that counts in its log, ten times a second.
fn counter(t: &Test) -> Result<String> {
    let pod = t.pod("counter", |_| {})?;
    let script = "trap 'exit 7' TERM; i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done";
    let id = t.run(&pod, "counter", |config| config.command = sh(script))?;
    eventually(Duration::from_secs(20), "it counts", || Ok((count(t, &id)? > 2).then_some(())))?;
    Ok(id)
}

fn count(t: &Test, id: &str) -> Result<usize> {
    Ok(t.davit_ok(&["logs", "--tail", "1", id])?.trim().parse().unwrap_or(0))
}

fn counters(t: &Test) -> Result<(u64, u64)> {
    let info: Value = serde_json::from_str(&t.davit_ok(&["info", "--format", "json"])?)?;
    let of = |name: &str| info["counters"]["containers"][name].as_u64().context("a count");
    Ok((of("running")?, of("paused")?))
}

fn state(t: &Test, id: &str) -> Result<String> {
    t.davit_ok(&["inspect", "-f", "{{ state }}", id])
}

on_both!(a_paused_container_stands_still_and_goes_on, |t| {
    let id = counter(t)?;
    assert_eq!(counters(t)?, (1, 0));
    t.davit_ok(&["pause", &id])?;
    assert_eq!((counters(t)?, state(t, &id)?.as_str()), ((0, 1), "paused"));
    let stands = count(t, &id)?;
    pause(Duration::from_secs(1));
    assert_eq!(count(t, &id)?, stands, "it goes on");
    // To CRI it runs.
    assert_eq!(t.cri.status(&id)?.state, 1);
    assert_eq!(t.davit_ok(&["ps", "--filter", "state=paused", "-q", "--no-trunc"])?, id);
    let refused = t.davit(&["pause", "no-such"])?;
    assert!(!refused.status.success());
    // Asked for twice, it is done once.
    t.davit_ok(&["pause", &id])?;
    t.davit_ok(&["resume", &id])?;
    assert_eq!((counters(t)?, state(t, &id)?.as_str()), ((1, 0), "running"));
    eventually(Duration::from_secs(20), "it counts on", || {
        Ok((count(t, &id)? > stands + 2).then_some(()))
    })?;
    t.davit_ok(&["resume", &id])?;
    Ok(())
});

on_both!(nothing_begins_in_a_paused_container, |t| {
    let id = counter(t)?;
    t.davit_ok(&["pause", &id])?;
    refused(t.cri.exec(&id, &["true"], 10), Code::FailedPrecondition, &["paused"])?;
    t.davit_ok(&["resume", &id])?;
    assert_eq!(t.exec(&id, "echo yes")?.trim(), "yes");
    Ok(())
});

on_both!(a_paused_container_can_be_stopped_killed_and_removed, |t| {
    let id = counter(t)?;
    t.davit_ok(&["pause", &id])?;
    t.davit_ok(&["stop", "-t", "20", &id])?;
    assert_eq!(t.cri.status(&id)?.exit_code, 7, "its handler did not run");
    assert_eq!(counters(t)?, (0, 0));
    t.davit_ok(&["rm", &id])?;
    let pods: Vec<String> = t.davit_ok(&["pods", "-q"])?.lines().map(str::to_owned).collect();
    t.davit_ok(&["rm", &pods[0]])?;
    for (name, end) in
        [("stop", &["stop", "-t", "0"][..]), ("kill", &["kill"]), ("rm", &["rm", "-f"])]
    {
        let pod = t.pod(name, |_| {})?;
        let id = t.run(&pod, name, |_| {})?;
        t.davit_ok(&["pause", &id])?;
        t.davit_ok(&[end, &[&id]].concat())?;
        if name != "rm" {
            assert_eq!(t.davit_ok(&["wait", &id])?, "137", "{name}");
        }
        t.davit_ok(&["rm", "-f", &pod.id])?;
    }
    assert_eq!(counters(t)?, (0, 0));
    Ok(())
});

on_both!(a_pause_outlives_davit, |t| {
    let id = counter(t)?;
    t.davit_ok(&["pause", &id])?;
    let stands = count(t, &id)?;
    t.daemon().kill()?;
    t.daemon().spawn()?;
    assert_eq!((counters(t)?, state(t, &id)?.as_str()), ((0, 1), "paused"));
    assert_eq!(count(t, &id)?, stands, "it goes on");
    t.davit_ok(&["resume", &id])?;
    assert_eq!(counters(t)?, (1, 0));
    t.davit_ok(&["pause", &id])?;
    t.davit_ok(&["stop", "-t", "0", &id])?;
    Ok(())
});
