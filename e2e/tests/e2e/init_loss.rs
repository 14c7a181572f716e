//! The init of a shared PID namespace dies: the kernel ends all in there with it, and the pod is told as what it is then.

use crate::shim_loss::{alone, kill, record, shim, told};
use davit_e2e::prelude::*;

/// What the pod's end may take to be told.
const PROMISED: Duration = Duration::from_secs(1);

/// The first process of the pod's shared PID namespace.
fn init(t: &Test, pod: &Pod) -> Result<u32> {
    let shim = shim(t, pod)?;
    let children = std::fs::read_to_string(format!("/proc/{shim}/task/{shim}/children"))?;
    for pid in children.split_whitespace() {
        let line = std::fs::read(format!("/proc/{pid}/cmdline"))?;
        if line.split(|byte| *byte == 0).nth(1) == Some(b"init") {
            return Ok(pid.parse()?);
        }
    }
    bail!("none of the shim's children is an init: {children}")
}

fn shared(t: &Test) -> Result<(Pod, [String; 2])> {
    let pod = t.pod("web", |p| namespaces(p).pid = 0)?;
    let inside = |c: &mut ContainerConfig| {
        security(c).namespace_options = Some(NamespaceOption::default());
        c.command = sh("trap '' TERM; while :; do sleep 0.1; done");
    };
    let ids = [t.run(&pod, "one", inside)?, t.run(&pod, "two", inside)?];
    Ok((pod, ids))
}

/// All that is promised of a pod whose init has died.
fn is_told(t: &Test, pod: &Pod, ids: &[String; 2]) -> Result<()> {
    told(t, pod, &[&ids[0], &ids[1]])?;
    for id in ids {
        let status = t.cri.status(id)?;
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"), "{status:?}");
    }
    let info = t.cri.pod_info(&pod.id)?;
    let reason = info["reason"].as_str().context("the pod's info has a reason")?;
    assert!(reason.contains("init of the pod's shared PID namespace"), "{reason}");
    assert_eq!(record(t, pod)?["trouble"]["kind"], "init_gone");
    let refusal = t.try_create(pod, "more", |_| ()).err().context("a pod without an init")?;
    assert!(refusal.message().contains("not ready"), "{refusal:?}");
    Ok(())
}

/// The kubelet stops it, makes the next attempt, and removes the old one.
fn is_replaced(t: &Test, pod: &Pod) -> Result<()> {
    t.cri.stop_pod(&pod.id)?;
    alone(t)?;
    let next = t.pod("web", |p| {
        namespaces(p).pid = 0;
        p.metadata.get_or_insert_default().attempt = 1;
    })?;
    t.cri.remove_pod(&pod.id)?;
    let id = t.run(&next, "one", |c| {
        security(c).namespace_options = Some(NamespaceOption::default());
    })?;
    assert_eq!(t.exec(&id, "echo well")?, "well");
    assert!(t.cri.pod_info(&next.id)?["reason"].is_null());
    Ok(())
}

on_both!(an_init_that_dies_ends_its_pod_which_says_so, |t| {
    t.allow_log("the init of the pod's shared PID namespace has ended");
    let (pod, ids) = shared(t)?;
    kill(init(t, &pod)?)?;
    is_told(t, &pod, &ids)?;
    // The shim is well, and the next daemon is told the same.
    t.daemon().kill()?;
    t.daemon().spawn()?;
    is_told(t, &pod, &ids)?;
    is_replaced(t, &pod)
});

on_both!(an_init_that_died_while_no_daemon_was_there_is_found_out, |t| {
    t.allow_log("the init of the pod's shared PID namespace has ended");
    let (pod, ids) = shared(t)?;
    let (init, pid) = (init(t, &pod)?, t.pid(&ids[0])?);
    t.daemon().kill()?;
    kill(init)?;
    eventually(PROMISED, "the kernel ends what was in there", || {
        let there = |pid: u32| Path::new(&format!("/proc/{pid}")).exists();
        Ok((!there(init) && !there(pid)).then_some(()))
    })?;
    t.daemon().spawn()?;
    is_told(t, &pod, &ids)?;
    is_replaced(t, &pod)
});
