//! What a pod costs, in what does not depend on how fast the machine is: processes, system calls that are no waiting, syncs, mounts.
//!
//! Each bound is what was counted when it was set and a little more, so what makes a pod dearer is noticed here and decided on: a bound that is raised needs a
//! reason. hack/profile shows them in detail.

use davit_e2e::prelude::*;
use davit_e2e::profile::report::SYNCS;
use davit_e2e::profile::{Calls, counted, settled};

/// System calls of one pod's start and of its end, at most: of davit, and of its shim with what that forks.
const START: (u64, u64) = (650, 520);
const END: (u64, u64) = (430, 240);

fn host_mounts() -> Result<Vec<String>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    Ok(points.map(str::to_owned).collect())
}

fn bounded(what: &str, calls: &Calls, (davit, shim): (u64, u64)) -> Result<()> {
    for (role, most) in [("davit", davit), ("davit-shim", shim)] {
        let asked = calls.role(role);
        println!("{what}: {role} makes {} system calls, {} forks", asked.work(), asked.forks);
        ensure!(asked.work() <= most, "{what}: {role} makes {} calls: {asked:?}", asked.work());
        assert_eq!(asked.of(&SYNCS), 0, "{what}: {role} waits for a disk: {asked:?}");
    }
    Ok(())
}

/// Events are stored in batches, as many as time makes.
fn without_stored_events(settings: &mut Settings) -> Result<()> {
    settings.keys = "events_retain_count = 0\n".to_owned();
    Ok(())
}

on_both!(a_pod_costs_no_more_processes_calls_and_syncs_than_it_did, setup: without_stored_events, |t| {
    let runtime = t.settings().handler;
    t.pull("davit-test/busybox:latest")?;
    settled(t)?;
    let warm = t.pod("warm", |_| ())?;
    t.run(&warm, "c", |_| ())?;
    t.cri.stop_pod(&warm.id)?;
    t.cri.remove_pod(&warm.id)?;
    let (_, start, end) = counted(t)?;
    let davit = start.role("davit");
    assert_eq!((davit.forks, davit.started.as_slice()), (1, &["davit-shim".to_owned()][..]));
    // One moves it into its cgroup, the others become the OCI runtime.
    let shim = start.role("davit-shim");
    let runtimes = [format!("{runtime} create"), format!("{runtime} start")];
    assert_eq!((shim.forks, shim.started.as_slice()), (3, &runtimes[..]));
    bounded("start", &start, START)?;
    let davit = end.role("davit");
    assert_eq!((davit.forks, davit.started.len()), (0, 0), "{davit:?}");
    let shim = end.role("davit-shim");
    assert_eq!((shim.forks, shim.started.as_slice()), (1, &[format!("{runtime} delete")][..]));
    bounded("end", &end, END)
});

on_one!(a_pod_is_two_mounts_on_the_host_and_a_container_none, |t| {
    t.pull("davit-test/busybox:latest")?;
    let before = host_mounts()?;
    let own = |mounts: Vec<String>, pod: &Pod| -> Vec<String> {
        mounts.into_iter().filter(|mount| mount.contains(&pod.id)).collect()
    };
    let pod = t.pod("web", |_| ())?;
    let with_pod = own(host_mounts()?, &pod);
    assert_eq!(with_pod.len(), 2, "{with_pod:?}");
    for name in ["a", "b"] {
        t.run(&pod, name, |_| ())?;
    }
    assert_eq!(own(host_mounts()?, &pod), with_pod);
    t.cri.stop_pod(&pod.id)?;
    t.cri.remove_pod(&pod.id)?;
    ensure!(own(host_mounts()?, &pod).is_empty());
    // The directory of the pins is a mount of its own, once and for all pods.
    let tag = t.settings().tag();
    let left = host_mounts()?.into_iter().filter(|mount| mount.contains(&tag));
    let left: Vec<_> = left.filter(|mount| !before.contains(mount)).collect();
    ensure!(left.len() <= 1, "{left:?}");
    Ok(())
});
