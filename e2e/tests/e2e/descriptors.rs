//! Descriptors that have run out, or nearly: what runs goes on, what is refused is refused by name and leaves nothing, and everything works again when there are some.

use crate::disks::{WITHIN, end, ending, goes_on, restart, speaker};
use davit_e2e::host::names_in;
use davit_e2e::prelude::*;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::fs::symlink;

const NO_DESCRIPTORS: &str = "Too many open files";

/// Lets a process have only few descriptors more than it has now, until this is dropped.
struct Few {
    pid: Pid,
    before: Rlimit,
}

impl Few {
    fn left(pid: u32, count: usize) -> Result<Self> {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
        let line = limits.lines().find(|line| line.starts_with("Max open files")).context("one")?;
        let maximum = line.split_whitespace().nth(4).and_then(|number| number.parse().ok());
        // Of the numbers below the limit so many are not taken: what was closed meanwhile has left gaps.
        let taken = names_in(Path::new(&format!("/proc/{pid}/fd")))?;
        let mut free = (0..).filter(|number: &u64| !taken.contains(&number.to_string()));
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a pid")?;
        let few = Rlimit { current: free.nth(count), maximum };
        Ok(Self { pid, before: prlimit(Some(pid), Resource::Nofile, few)? })
    }
}

impl Drop for Few {
    fn drop(&mut self) {
        let _ = prlimit(Some(self.pid), Resource::Nofile, self.before);
    }
}

/// Waits until the daemon gives back no more: what is being made for pods to come has some, and what keeps the kernel ready for a moment after a container was made
/// has one.
fn settled(t: &Test) -> Result<()> {
    crate::ahead::as_many(t, 2)?;
    eventually(WITHIN, "nothing is kept ready", || {
        let open = PathBuf::from(format!("/proc/{}/fd", t.daemon().pid().context("it runs")?));
        let names = names_in(&open)?;
        let files = names.iter().filter_map(|name| std::fs::read_link(open.join(name)).ok());
        let mut files = files.filter(|file| file.ends_with("cgroup.procs"));
        Ok(files.next().is_none().then_some(()))
    })
}

on_one!(without_descriptors_calls_are_refused_by_name_and_containers_go_on, |t| {
    for text in [NO_DESCRIPTORS, "could not be", "os error 24"] {
        t.allow_log(text);
    }
    let pod = t.pod("web", |_| ())?;
    let speaker = speaker(t, &pod)?;
    let (id, pid) = ending(t, &pod)?;
    let another = davit_e2e::cri::Cri::new(&t.settings().socket())?;
    settled(t)?;
    let few = Few::left(t.daemon().pid().context("it runs")?, 0)?;
    let answer = t.try_pod("another", |_| ());
    let status = answer.err().context("it was not refused")?;
    assert!(status.message().contains(NO_DESCRIPTORS), "{status:?}");
    // It may find the one that the refusal has given back.
    if let Err(status) = t.cri.exec(&speaker, &["true"], 10) {
        assert!(status.message().contains(NO_DESCRIPTORS), "{status:?}");
    }
    assert_eq!(t.cri.pods(None)?.len(), 1);
    goes_on(t, &speaker)?;
    end(pid)?;
    assert_eq!(t.wait_for_exit(&id)?.exit_code, 7);
    std::thread::scope(|scope| {
        // A new connection waits until there are descriptors.
        let waiting = scope.spawn(|| another.pods(None));
        pause(Duration::from_millis(500));
        drop(few);
        let pods = waiting.join().unwrap()?;
        ensure!(pods.len() == 1, "{pods:?}");
        Ok(())
    })?;
    let state = t.settings().state();
    eventually(WITHIN, "nothing of the other is left", || {
        Ok((names_in(&state.join("pods"))? == [pod.id.clone()]).then_some(()))
    })?;
    restart(t)?;
    assert_eq!(t.cri.status(&id)?.exit_code, 7);
    assert_eq!(t.exec(&speaker, "echo well")?, "well");
    t.pod("another", |_| ()).map(drop)
});

on_one!(a_shim_without_descriptors_refuses_and_its_containers_go_on, |t| {
    let pod = t.pod("web", |_| ())?;
    let speaker = speaker(t, &pod)?;
    let (id, pid) = ending(t, &pod)?;
    let few = Few::left(crate::shim_loss::shim(t, &pod)?, 0)?;
    let status = t.cri.exec(&speaker, &["true"], 10).err().context("it was not refused")?;
    assert!(status.message().contains(NO_DESCRIPTORS), "{status:?}");
    let status = t.try_create(&pod, "another", |_| ()).err().context("it was not refused")?;
    assert!(status.message().contains(NO_DESCRIPTORS), "{status:?}");
    assert_eq!(t.cri.containers(None)?.len(), 2);
    goes_on(t, &speaker)?;
    end(pid)?;
    assert_eq!(t.wait_for_exit(&id)?.exit_code, 7);
    drop(few);
    assert_eq!(t.exec(&speaker, "echo well")?, "well");
    t.run(&pod, "another", |_| ())?;
    let exit = t.settings().state().join("pods").join(&pod.id).join("containers").join(&id);
    eventually(WITHIN, "the end is written down", || {
        Ok(exit.join("exit.json").exists().then_some(()))
    })
});

/// All that is done with a container.
fn container_life(t: &Test, pod: &Pod) -> std::result::Result<(), tonic::Status> {
    let id = t.try_create(pod, "brief", |_| ())?;
    t.cri.start(&id)?;
    t.cri.exec(&id, &["true"], 10)?;
    t.cri.stop(&id, 0)?;
    t.cri.remove(&id)
}

/// All that is done with a pod and a container.
fn life(t: &Test) -> std::result::Result<(), tonic::Status> {
    let pod = t.try_pod("brief", |_| ())?;
    container_life(t, &pod)?;
    t.cri.stop_pod(&pod.id)?;
    t.cri.remove_pod(&pod.id)
}

/// Lets `live` with none left of what `few` takes away, then one, two and so on, until it lives five times in a row. Each other time it has to say what it lacked, in one of these `words`, and
/// `settle` has to find everything in order.
fn with_ever_more(
    words: &[&str],
    few: impl Fn(usize) -> Result<Few>,
    live: impl Fn() -> std::result::Result<(), tonic::Status>,
    settle: impl Fn() -> Result<()>,
) -> Result<()> {
    let (mut lived, mut refused) = (0, 0);
    for count in 0..80 {
        // Everything works.
        live().with_context(|| format!("before {count} left"))?;
        let few = few(count)?;
        let lives = live();
        drop(few);
        match lives {
            Ok(()) => lived += 1,
            Err(status) => {
                println!("{count} left: {}", status.message());
                (lived, refused) = (0, refused + 1);
                let named = words.iter().any(|words| status.message().contains(words));
                ensure!(named, "{count} left: {status:?}");
            }
        }
        settle().with_context(|| format!("{count} left"))?;
        if lived == 5 {
            ensure!(refused > 0, "there never were too few");
            return Ok(());
        }
    }
    bail!("so many do not suffice")
}

fn allow_shortages(t: &Test) {
    for text in [NO_DESCRIPTORS, "os error 24", "left behind", "could not be", "cannot"] {
        t.allow_log(text);
    }
}

// However many there are, down to none, a call works or says what it lacked: nothing is taken for ended, done or gone that could only not be looked at.
on_one!(with_few_descriptors_a_pod_lives_or_is_refused_by_name, |t| {
    allow_shortages(t);
    let pod = t.pod("web", |_| ())?;
    let speaker = speaker(t, &pod)?;
    let state = t.settings().state();
    let few = |count| {
        // What is made ahead is made anew when something of it is taken.
        settled(t)?;
        Few::left(t.daemon().pid().context("it runs")?, count)
    };
    let settle = || {
        for other in t.cri.pods(None)?.iter().filter(|other| other.id != pod.id) {
            t.cri.stop_pod(&other.id)?;
            t.cri.remove_pod(&other.id)?;
        }
        eventually(WITHIN, "nothing of the other is left", || {
            Ok((names_in(&state.join("pods"))? == [pod.id.clone()]).then_some(()))
        })?;
        goes_on(t, &speaker)
    };
    with_ever_more(&[NO_DESCRIPTORS], few, || life(t), settle)
});

// The same of a shim, and of the OCI runtime, which has as many as its shim.
on_both!(with_few_descriptors_of_its_shim_a_container_lives_or_is_refused_by_name, |t| {
    allow_shortages(t);
    let pod = t.pod("web", |_| ())?;
    let speaker = speaker(t, &pod)?;
    let shim = crate::shim_loss::shim(t, &pod)?;
    let settle = || {
        for other in t.cri.containers(None)?.iter().filter(|other| other.id != speaker) {
            t.cri.remove(&other.id)?;
        }
        goes_on(t, &speaker)
    };
    // runc says it in small letters.
    let words = [NO_DESCRIPTORS, "too many open files"];
    with_ever_more(&words, |count| Few::left(shim, count), || container_life(t, &pod), settle)?;
    assert_eq!(t.cri.pod_status(&pod.id)?.state(), PodSandboxState::SandboxReady);
    Ok(())
});

// A daemon that can't reach a shim for want of descriptors of its own does not take it for gone.
on_one!(a_daemon_that_starts_with_few_descriptors_loses_no_container, |t| {
    allow_shortages(t);
    let pods: Vec<Pod> =
        (0..4).map(|number| t.pod(&format!("web-{number}"), |_| ())).collect::<Result<_>>()?;
    let speakers: Vec<String> = pods.iter().map(|pod| speaker(t, pod)).collect::<Result<_>>()?;
    let own = davit_e2e::tools::binaries()?;
    let few = t.dir.join("few");
    std::fs::create_dir(&few)?;
    symlink(own.join("davit-shim"), few.join("davit-shim"))?;
    for limit in (12..100).step_by(8) {
        t.daemon().kill()?;
        let script =
            format!("#!/bin/sh\nulimit -n {limit}\nexec {} \"$@\"\n", own.join("davit").display());
        let mut file = std::fs::OpenOptions::new();
        let file = file.write(true).create(true).truncate(true).mode(0o755).open(few.join("davit"));
        std::io::Write::write_all(&mut file?, script.as_bytes())?;
        t.daemon().use_binaries(&few)?;
        // It may end at once, and say why; or serve and be able to do nothing.
        t.daemon().launch()?;
        pause(Duration::from_millis(500));
        drop(t.daemon().kill());
        t.daemon().use_binaries(&own)?;
        t.daemon().spawn()?;
        for pod in &pods {
            let state = t.cri.pod_status(&pod.id)?.state();
            ensure!(state == PodSandboxState::SandboxReady, "{limit}: {state:?}");
        }
        assert_eq!(t.cri.list_images()?.len(), 1, "{limit}");
        for id in &speakers {
            let status = t.cri.status(id)?;
            ensure!(status.state() == ContainerState::ContainerRunning, "{limit}: {status:?}");
            goes_on(t, id).with_context(|| format!("{limit}"))?;
        }
    }
    let log = t.daemon().log();
    ensure!(
        log.contains(NO_DESCRIPTORS) || log.contains("os error 24"),
        "there never were too few"
    );
    Ok(())
});
