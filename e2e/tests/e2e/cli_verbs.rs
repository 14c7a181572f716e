//! `davit logs`, `wait`, `start`, `stop`, `kill` and `update`.

use davit_e2e::prelude::*;
use std::time::{Duration, Instant};

fn text(t: &Test, arguments: &[&str]) -> Result<(String, String)> {
    let output = t.davit(arguments)?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((text(output.stdout), text(output.stderr)))
}

on_one!(logs_are_told_in_part_and_with_their_times, |t| {
    let pod = t.pod("talker", |_| {})?;
    let script = "for i in 1 2 3 4 5; do echo line $i; done; echo oops >&2; sleep 1; printf late";
    let id = t.run(&pod, "talker", |config| config.command = sh(script))?;
    t.wait_for_exit(&id)?;
    let (out, err) = text(t, &["logs", "talker"])?;
    assert_eq!((out.lines().count(), err.as_str()), (6, "oops\n"));
    assert!(out.ends_with("late"), "{out:?}");
    assert_eq!(text(t, &["logs", "--tail", "1", &id])?.0, "late");
    assert_eq!(
        text(t, &["logs", "--tail", "3", &id])?,
        ("line 5\nlate".to_owned(), "oops\n".to_owned())
    );
    assert_eq!(text(t, &["logs", "--tail", "0", &id])?.0, "");
    let (out, _) = text(t, &["logs", "-t", &id])?;
    let first = out.lines().next().context("a line")?;
    let (time, rest) = first.split_once(' ').context("a time")?;
    assert_eq!(rest, "line 1");
    assert_eq!(text(t, &["logs", "--since", "2100-01-01", &id])?.0, "");
    assert_eq!(text(t, &["logs", "--until", "2000-01-01", &id])?.0, "");
    assert_eq!(
        text(t, &["logs", "--since", time, "--until", time, &id])?.0.lines().next(),
        Some("line 1")
    );
    assert_eq!(text(t, &["logs", "--since", "10m", &id])?.0.lines().count(), 6);
    Ok(())
});

on_one!(a_follower_of_a_log_is_told_all_and_then_let_go, |t| {
    let pod = t.pod("talker", |_| {})?;
    let script = "echo first; sleep 1; echo second";
    t.run(&pod, "talker", |config| config.command = sh(script))?;
    assert_eq!(text(t, &["logs", "-f", "talker"])?.0, "first\nsecond\n");
    Ok(())
});

on_one!(waiting_tells_the_exit_code, |t| {
    let pod = t.pod("short", |_| {})?;
    let run = |name: &str, script: &str| t.run(&pod, name, |config| config.command = sh(script));
    run("three", "sleep 0.5; exit 3")?;
    run("none", "exit 0")?;
    assert_eq!(text(t, &["wait", "three", "none"])?.0, "3\n0\n");
    Ok(())
});

on_both!(containers_are_started_signalled_and_stopped, |t| {
    let pod = t.pod("verbs", |_| {})?;
    let script =
        "trap 'echo hup' HUP; trap 'echo term' TERM; while :; do sleep 1000 & wait $!; done";
    let id = t.create(&pod, "stubborn", |config| config.command = sh(script))?;
    assert_eq!(text(t, &["start", "stubborn"])?.0, "stubborn\n");
    let heard = |word: &str| {
        eventually(Duration::from_secs(20), word, || {
            Ok(text(t, &["logs", &id])?.0.contains(word).then_some(()))
        })
    };
    // The traps are set once it sleeps.
    eventually(Duration::from_secs(20), "it sleeps", || Ok(t.exec(&id, "pidof sleep").ok()))?;
    text(t, &["kill", "-s", "SIGHUP", &id[..12]])?;
    heard("hup")?;
    let begun = Instant::now();
    text(t, &["stop", "-t", "1", &id])?;
    ensure!(begun.elapsed() >= Duration::from_secs(1), "it was stopped without its second");
    heard("term")?;
    assert_eq!(t.cri.status(&id)?.exit_code, 137);
    let refused = t.davit(&["kill", &id])?;
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("exited"));
    let refused = t.davit(&["start", &id])?;
    assert!(!refused.status.success());
    Ok(())
});

on_both!(limits_are_changed_by_hand, |t| {
    let (_, id) = t.sleeper(|_| {})?;
    text(t, &["update", "--memory", "128m", "--cpus", "0.25", &id])?;
    let pid = t.pid(&id)?;
    let memory = cgroup_value(pid, "memory", "memory.limit_in_bytes", "memory.max")?;
    assert_eq!(memory, (128 << 20).to_string());
    let quota = cgroup_value(pid, "cpu", "cpu.cfs_quota_us", "cpu.max")?;
    assert_eq!(quota.split(' ').next(), Some("25000"));
    Ok(())
});
