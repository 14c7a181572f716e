//! What a pod costs, in what does not depend on how fast the machine is: processes, system calls that are no waiting, syncs, mounts.
//!
//! Each bound is what was counted when it was set and a little more, so what makes a pod dearer is noticed here and decided on: a bound that is raised needs a
//! reason. hack/profile shows them in detail.

use crate::shim_loss::shim;
use davit_e2e::footprint::Footprint;
use davit_e2e::prelude::*;
use davit_e2e::profile::report::SYNCS;
use davit_e2e::profile::{Calls, allocations, counted, settled};

/// System calls of one pod's start and of its end, at most: of davit, and of its shim with what that forks. Of davit's at a start 120
/// are glibc's, which looks at the handler of each signal before a program is begun without a fork; 8 set the two parameters of its network namespace that all
/// pods have: open the directory and, in it, each file.
const START: (u64, u64) = (649, 500);
/// And of the shim's so many for each mount that an OCI runtime is to see, of davit's one for each that is new to it: the host's to say, and what else is tested beside this mounts some.
const EACH_MOUNT: u64 = 4;
const MOUNT_COPIED: [&str; 1] = ["open_tree"];
/// By its name, and by the number that an older strace gives it.
const MOUNT_SEEN: [&str; 2] = ["statmount", "syscall_0x1c9"];
/// And so many whenever the kernel is kept ready for moves between cgroups, which is as often as time makes: under strace, more often.
const READY: u64 = 8;
const END: (u64, u64) = (330, 230);

/// What the daemon asks its heap for, for one pod's start and end, in bytes, at most; and what it holds for each pod with a container that is there, in KiB.
const ASKED: u64 = 900_000;
const HELD: u64 = 140;
/// Threads of the daemon when nothing is under way: its executor's, one for signals and the main one, and one or two that have just been used.
const THREADS: u64 = 8;
/// Of a shim with a container, KiB of memory of its own, in a build for tests: its code is shared.
const SHIM: u64 = 560;
/// And its share of files' pages, KiB: whatever else runs, the other shims of the test have mapped the same ones. A program of its own would be 7 MiB.
const SHARED: u64 = 2048;
const WITHIN: Duration = Duration::from_secs(30);

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

/// Events are stored in batches, as many as time makes, and what is made for the next pod is made at its own time.
fn without_stored_events(settings: &mut Settings) -> Result<()> {
    settings.keys = "events_retain_count = 0\n".to_owned();
    settings.tables = "[limits]\npods_ahead = 0\n".to_owned();
    Ok(())
}

on_both!(a_pod_costs_no_more_processes_calls_and_syncs_than_it_did, setup: without_stored_events, |t| {
    t.pull("davit-test/busybox:latest")?;
    settled(t)?;
    let warm = t.pod("warm", |_| ())?;
    t.run(&warm, "c", |_| ())?;
    t.cri.stop_pod(&warm.id)?;
    t.cri.remove_pod(&warm.id)?;
    // What is tested beside this, and a busy machine, add some: a thread, a list of mounts that has changed. What has come to cost more does so each time.
    let mut over = Ok(());
    for _ in 0..3 {
        let (_, start, end) = counted(t)?;
        over = start_is_bounded(&t.settings().handler, &start).and_then(|()| bounded("end", &end, END));
        let davit = end.role("davit");
        assert_eq!((davit.forks, davit.started.len()), (0, 0), "{davit:?}");
        let (shim, runtime) = (end.role("davit-shim"), t.settings().handler);
        assert_eq!((shim.forks, shim.started.as_slice()), (1, &[format!("{runtime} delete")][..]));
        if over.is_ok() {
            break;
        }
    }
    over
});

fn start_is_bounded(runtime: &str, start: &Calls) -> Result<()> {
    let davit = start.role("davit");
    assert_eq!((davit.forks, davit.started.as_slice()), (1, &["davit-shim".to_owned()][..]));
    // The wait for a move between cgroups is begun beside the rest, where there is such a wait.
    let favored = std::fs::read_to_string("/proc/self/mountinfo")?.contains("favordynmods");
    let ready = davit.of(&["pwrite64"]);
    ensure!(favored || ready > 0, "{davit:?}");
    // One moves it into its cgroup, the others become the OCI runtime.
    let shim = start.role("davit-shim");
    // crun's containers are started without a call of it.
    let runtimes = [format!("{runtime} create"), format!("{runtime} start")];
    let calls = if runtime == "crun" { 1 } else { 2 };
    assert_eq!((shim.forks, shim.started.as_slice()), (1 + calls as u64, &runtimes[..calls]));
    let mounts = (davit.of(&MOUNT_SEEN), shim.of(&MOUNT_COPIED));
    println!("{ready} times made ready, mounts looked at and copied: {mounts:?}");
    ensure!(mounts.1 <= host_mounts()?.len() as u64, "one is copied twice: {shim:?}");
    let most = (START.0 + ready * READY + mounts.0, START.1 + mounts.1 * EACH_MOUNT);
    bounded("start", start, most)
}

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
    // The directories of the pins and of shared memory are mounts of their own, once and for all pods.
    let tag = t.settings().tag();
    let left = host_mounts()?.into_iter().filter(|mount| mount.contains(&tag));
    let left: Vec<_> = left.filter(|mount| !before.contains(mount)).collect();
    ensure!(left.len() <= 2, "{left:?}");
    Ok(())
});

/// A pod on the host's network with a container that runs.
fn whole(t: &Test, name: &str) -> Result<Pod> {
    let network = NamespaceMode::Node.into();
    let options = NamespaceOption { network, ..NamespaceOption::default() };
    let pod = t.pod(name, |p| *namespaces(p) = options)?;
    t.run(&pod, "c", |_| ())?;
    Ok(pod)
}

fn away(t: &Test, pod: &Pod) -> Result<()> {
    t.cri.stop_pod(&pod.id)?;
    Ok(t.cri.remove_pod(&pod.id)?)
}

fn counting(settings: &mut Settings) -> Result<()> {
    without_stored_events(settings)?;
    allocations::count(settings)
}

on_one!(a_pod_asks_the_heap_for_no_more_than_it_did, setup: counting, |t| {
    t.pull("davit-test/busybox:latest")?;
    settled(t)?;
    away(t, &whole(t, "warm")?)?;
    let before = allocations::bytes(&t.settings())?;
    ensure!(before > 0, "nothing was counted");
    const PODS: u64 = 5;
    for number in 0..PODS {
        away(t, &whole(t, &format!("pod-{number}"))?)?;
    }
    let each = (allocations::bytes(&t.settings())? - before) / PODS;
    println!("a pod's start and end ask for {each} bytes");
    ensure!(each <= ASKED, "a pod's start and end ask for {each} bytes");
    Ok(())
});

/// The daemon's, when no thread of it waits for more to do.
fn at_rest(t: &Test) -> Result<Footprint> {
    let pid = t.daemon().pid().context("it runs")?;
    let mut last = None;
    eventually(WITHIN, "its threads have gone", || {
        let now = Footprint::of(pid)?;
        // Twice the same: what was given back was given back. Of what is its own: its share of a program's pages changes with each test beside this one.
        let own = (now.anonymous, now.threads, now.descriptors);
        let same = last.replace(own) == Some(own);
        pause(Duration::from_millis(500));
        Ok((now.threads <= THREADS && same).then_some(now))
    })
}

on_one!(a_pod_that_is_there_holds_little, setup: without_stored_events, |t| {
    t.pull("davit-test/busybox:latest")?;
    settled(t)?;
    const FIRST: u64 = 5;
    const MORE: u64 = 20;
    for number in 0..FIRST {
        whole(t, &format!("first-{number}"))?;
    }
    let before = at_rest(t)?;
    let pods: Result<Vec<_>> = (0..MORE).map(|number| whole(t, &format!("pod-{number}"))).collect();
    let after = at_rest(t)?;
    let each = after.anonymous.saturating_sub(before.anonymous) / MORE;
    println!("a pod holds {each} KiB of the daemon; {after}");
    ensure!(each <= HELD, "a pod holds {each} KiB of the daemon");
    for pod in pods? {
        let shim = Footprint::of(shim(t, &pod)?)?;
        println!("its shim: {shim}");
        ensure!(shim.threads == 1 && shim.anonymous <= SHIM, "{shim}");
        ensure!(shim.pss.saturating_sub(shim.anonymous) <= SHARED, "{shim}");
    }
    Ok(())
});
