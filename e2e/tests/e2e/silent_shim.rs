//! A shim lives and does not answer: its pod says so, nobody else waits, and it is well again or ended.

use crate::shim_loss::{alone, shim};
use davit_e2e::prelude::*;
use rustix::process::{Pid as Process, Signal, kill_process};
use std::time::Instant;

/// What the daemons here give a shim to answer, in seconds: where it has to be silent for nine times as long to be told as silent.
const SHORT: u64 = 1;
/// And where a busy machine is to start a daemon and make some calls before it is over.
const LONG: u64 = 5;

fn given(settings: &mut Settings, seconds: u64) -> Result<()> {
    settings.tables = format!("[timeouts]\nshim = \"{seconds}s\"\n");
    Ok(())
}

fn impatient(settings: &mut Settings) -> Result<()> {
    given(settings, SHORT)
}

/// One that nobody asks anything is asked once in three times as long, and then six times; the rest is for a busy machine.
const NOTICED: Duration = Duration::from_secs(30);

fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Process::from_raw).context("a pid")?;
    Ok(kill_process(pid, signal)?)
}

struct Scene {
    victim: Pod,
    container: String,
    shim: u32,
    bystander: String,
}

fn scene(t: &Test) -> Result<Scene> {
    t.allow_log("the pod's shim");
    let other = t.pod("bystander", |_| ())?;
    let bystander = t.run(&other, "main", |_| ())?;
    let victim = t.pod("victim", |_| ())?;
    let container = t.run(&victim, "main", |_| ())?;
    let shim = shim(t, &victim)?;
    Ok(Scene { victim, container, shim, bystander })
}

impl Scene {
    fn is(&self, t: &Test, state: PodSandboxState) -> Result<()> {
        eventually(NOTICED, &format!("the pod is {state:?}"), || {
            Ok((t.cri.pod_status(&self.victim.id)?.state() == state).then_some(()))
        })
    }

    /// The pod says what is wrong and how many seconds its shim was given; its container is well as far as anybody knows.
    fn is_silent(&self, t: &Test, given: u64) -> Result<()> {
        self.is(t, PodSandboxState::SandboxNotready)?;
        let info = t.cri.pod_info(&self.victim.id)?;
        let reason = info["reason"].as_str().context("the pod's info has a reason")?;
        assert!(reason.contains(&format!("has not answered for {given}000 ms")), "{reason}");
        let state = t.cri.status(&self.container)?.state();
        assert_eq!(state, ContainerState::ContainerRunning);
        assert_eq!(t.exec(&self.bystander, "echo well")?, "well");
        Ok(())
    }

    fn is_well(&self, t: &Test) -> Result<()> {
        self.is(t, PodSandboxState::SandboxReady)?;
        assert!(t.cri.pod_info(&self.victim.id)?["reason"].is_null());
        assert_eq!(t.exec(&self.container, "echo well")?, "well");
        t.run(&self.victim, "more", |_| ())?;
        Ok(())
    }
}

on_one!(a_shim_that_falls_silent_makes_its_pod_not_ready_until_it_answers, setup: impatient, |t| {
    let scene = scene(t)?;
    signal(scene.shim, Signal::STOP)?;
    scene.is_silent(t, SHORT)?;
    signal(scene.shim, Signal::CONT)?;
    scene.is_well(t)
});

on_one!(a_start_with_a_silent_shim_is_not_held_up_by_it, setup: |s| given(s, LONG), |t| {
    let scene = scene(t)?;
    t.daemon().kill()?;
    signal(scene.shim, Signal::STOP)?;
    let begun = Instant::now();
    t.daemon().spawn()?;
    // From the records, before the shim's time is over.
    assert_eq!(t.cri.pod_status(&scene.victim.id)?.state(), PodSandboxState::SandboxReady);
    assert_eq!(t.cri.pods(None)?.len(), 2);
    assert_eq!(t.cri.status(&scene.container)?.state(), ContainerState::ContainerRunning);
    ensure!(begun.elapsed() < Duration::from_secs(LONG), "it took {:?}", begun.elapsed());
    scene.is_silent(t, LONG)?;
    // Nobody is told that it was stopped.
    let refused = t.cri.stop(&scene.container, 10).err().context("it was not stopped")?;
    assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused:?}");
    signal(scene.shim, Signal::CONT)?;
    scene.is_well(t)?;
    // What ends from now on is told as ever.
    t.cri.stop(&scene.container, 10)?;
    assert_eq!(t.cri.status(&scene.container)?.exit_code, 0);
    Ok(())
});

on_one!(a_container_that_ended_behind_a_silent_shim_is_told_when_it_answers, setup: impatient, |t| {
    let scene = scene(t)?;
    let pid = t.pid(&scene.container)?;
    t.daemon().kill()?;
    signal(scene.shim, Signal::STOP)?;
    t.daemon().spawn()?;
    scene.is_silent(t, SHORT)?;
    signal(pid, Signal::KILL)?;
    signal(scene.shim, Signal::CONT)?;
    let status = t.wait_for_exit(&scene.container)?;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"), "{status:?}");
    scene.is(t, PodSandboxState::SandboxReady)
});

on_one!(a_pod_with_a_silent_shim_can_be_ended, setup: impatient, |t| {
    for noticed in [true, false] {
        let scene = scene(t)?;
        signal(scene.shim, Signal::STOP)?;
        if noticed {
            scene.is_silent(t, SHORT)?;
        }
        let begun = Instant::now();
        t.cri.stop_pod(&scene.victim.id)?;
        ensure!(begun.elapsed() < Duration::from_secs(10), "it took {:?}", begun.elapsed());
        let status = t.cri.status(&scene.container)?;
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "ShimLost"), "{status:?}");
        t.cri.remove_pod(&scene.victim.id)?;
        let bystander = t.cri.status(&scene.bystander)?;
        assert_eq!(bystander.state(), ContainerState::ContainerRunning);
        for pod in t.cri.pods(None)? {
            t.cri.remove_pod(&pod.id)?;
        }
        alone(t)?;
    }
    Ok(())
});
