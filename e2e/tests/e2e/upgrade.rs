//! davit is upgraded, or put back, with pods running: what an older one has left is taken up, what it can't do is refused by name, and nothing is disturbed.
//!
//! The older shim, and the newer one, are today's in disguise ([`davit_e2e::old_shim`]); older and newer records are today's with fields taken out or put in.

use crate::stream::{Crictl, Frames, TRANSPORTS, stage};
use davit_e2e::prelude::*;
use davit_e2e::tools;
use k8s_cri::v1::{AttachRequest, IdMapping, UpdateContainerResourcesRequest, UserNamespace};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};

/// Fields of records that came after the first version, all of them with a meaning when they are missing.
const LATER: [&str; 5] = ["userns", "selinux", "cdi_devices", "id_mappings", "volume_layers"];
const WITHIN: Duration = Duration::from_secs(40);

/// A `davit-shim` of another age beside today's davit, in this directory.
fn disguise(directory: &Path, age: &str) -> Result<()> {
    let (own, shim) = (env!("CARGO_BIN_EXE_davit-old-shim"), tools::binaries()?.join("davit-shim"));
    let shim = shim.display();
    // It knows nothing of waiting, and finds no listening socket.
    let text = format!(
        "[ -z \"$DAVIT_SHIM_READY\" ] || exit 1\n[ \"$1\" = --pod-dir ] || exec {shim} \"$@\"\nexec {own} {age} {shim} \"$@\""
    );
    davit_e2e::host::script(&directory.join("davit-shim"), &text)
}

fn of_age(settings: &mut Settings, age: &str) -> Result<()> {
    let directory = settings.dir.join("bin");
    std::fs::create_dir(&directory)?;
    symlink(tools::binaries()?.join("davit"), directory.join("davit"))?;
    disguise(&directory, age)?;
    settings.binaries = Some(directory);
    Ok(())
}

fn older(settings: &mut Settings) -> Result<()> {
    of_age(settings, "old")
}

/// An older shim, and an OCI runtime that waits in its start while `DIR/slow-start` exists. A start has 3 s; a shim 10 s more to answer.
fn older_and_slow(settings: &mut Settings) -> Result<()> {
    older(settings)?;
    let dir = settings.dir.display();
    let script = format!(
        "for word in \"$@\"; do\nwhile [ -e {dir}/slow-\"$word\" ]; do sleep 0.1; done\ndone"
    );
    settings.wrap_runtime(&script, 60)?;
    settings.tables = settings.tables.replace("[timeouts]\n", "[timeouts]\nstart = \"3s\"\n");
    Ok(())
}

on_one!(a_start_that_hangs_below_an_older_shim_is_given_up_too, setup: older_and_slow, |t| {
    let (pod, id) = t.sleeper(|_| ())?;
    let slow = t.create(&pod, "slow", |_| ())?;
    let init = t.pid(&slow)?;
    t.set_flag("slow-start")?;
    let refused = t.cri.start(&slow).err().context("it was not given up")?;
    assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused:?}");
    let told = refused.message();
    ensure!(told.contains(&slow) && told.contains("within 13000 ms"), "{told}");
    ensure!(!Path::new(&format!("/proc/{init}")).exists(), "its init lives on");
    let after = t.cri.status(&slow)?;
    assert_eq!((after.state(), after.exit_code), (ContainerState::ContainerExited, 128));
    assert_eq!(t.exec(&id, "echo well")?, "well");
    t.clear_flag("slow-start")?;
    t.cri.remove(&slow)?;
    t.run(&pod, "slow", |_| ())?;
    Ok(())
});

fn newer(settings: &mut Settings) -> Result<()> {
    of_age(settings, "new")
}

/// Every JSON record of the daemon's, of pods, containers, images, layers and networks.
fn records(t: &Test) -> Result<Vec<PathBuf>> {
    let (settings, mut found) = (t.settings(), Vec::new());
    let mut waiting = vec![settings.state().join("pods")];
    waiting.extend(["images", "layers", "network"].map(|name| settings.root().join(name)));
    while let Some(directory) = waiting.pop() {
        for name in davit_e2e::host::names_in(&directory)? {
            let path = directory.join(&name);
            let is_directory = std::fs::symlink_metadata(&path)?.is_dir();
            if is_directory && !["fs", "shm", "rootfs"].contains(&name.as_str()) {
                waiting.push(path);
            } else if ["sandbox.json", "container.json", "exit.json", "image.json", "layer.json"]
                .contains(&name.as_str())
                || (directory.ends_with("network") && name.ends_with(".json"))
            {
                found.push(path);
            }
        }
    }
    Ok(found)
}

/// Changes a record and all objects in it.
fn rewrite(
    path: &Path,
    change: &impl Fn(&mut serde_json::Map<String, serde_json::Value>),
) -> Result<()> {
    fn walk(
        value: &mut serde_json::Value,
        change: &impl Fn(&mut serde_json::Map<String, serde_json::Value>),
    ) {
        if let serde_json::Value::Object(map) = value {
            map.values_mut().for_each(|value| walk(value, change));
            change(map);
        } else if let serde_json::Value::Array(values) = value {
            values.iter_mut().for_each(|value| walk(value, change));
        }
    }
    let mut json = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    walk(&mut json, change);
    Ok(std::fs::File::create(path)?.write_all(json.to_string().as_bytes())?)
}

/// Counts, a line every few milliseconds.
fn counting(c: &mut ContainerConfig) {
    c.command = sh("i=0; while :; do i=$((i+1)); echo $i; usleep 20000; done");
}

/// No line of a counting container's log is missing; answers how many there are.
fn gapless(path: &Path) -> Result<usize> {
    let text = std::fs::read_to_string(path)?;
    // The last line may be on its way.
    let lines = davit_e2e::test::parse_log(text.rsplit_once('\n').map_or("", |(whole, _)| whole))?;
    let missing = lines.iter().enumerate().find(|(at, line)| line.content != (at + 1).to_string());
    ensure!(missing.is_none(), "{}: {missing:?}", path.display());
    Ok(lines.len())
}

fn update(t: &Test, id: &str) -> Result<(), tonic::Status> {
    let linux = LinuxContainerResources { cpu_shares: 512, ..LinuxContainerResources::default() };
    let request = UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        linux: Some(linux),
        ..UpdateContainerResourcesRequest::default()
    };
    t.cri.wait(t.cri.runtime().update_container_resources(request)).map(drop)
}

/// What `crictl exec` says and how it ends, by way of a stream.
fn streamed(t: &Test, id: &str) -> Result<Vec<std::process::Output>> {
    let crictl = Crictl::new(t)?;
    let run = |way: &str| Ok(crictl.exec(way, id, &["echo", "streamed"]).output()?);
    TRANSPORTS.into_iter().map(run).collect()
}

/// What came later is refused by name, and nothing comes of it.
fn refuses_what_came_later(t: &Test, id: &str) -> Result<()> {
    for output in streamed(t, id)? {
        let said = tools::describe(&output);
        ensure!(!output.status.success() && said.contains("is older than streams"), "{said}");
    }
    let attach =
        AttachRequest { container_id: id.to_owned(), stdout: true, ..AttachRequest::default() };
    let attached = stage(t)
        .attach(attach)
        .context("Attach")
        .and_then(|url| Frames::open(&url, "v4.channel.k8s.io")?.rest());
    ensure!(format!("{attached:?}").contains("older than streams"), "{attached:?}");
    refused(update(t, id), Code::FailedPrecondition, &["older than this call"])?;
    Ok(())
}

on_both!(a_pod_of_the_previous_protocols_shim_is_taken_up_and_works, setup: older, |t| {
    let pod = t.pod("web", |_| ())?;
    let counts = t.run(&pod, "counts", counting)?;
    let gate = t.run(&pod, "gate", |c| {
        c.command = sh("while ! test -e /dev/shm/go; do sleep 0.05; done; echo bye; exit 42");
    })?;
    let ended = t.run(&pod, "ended", |c| c.command = sh("exit 3"))?;
    t.wait_for_exit(&ended)?;
    let created = t.create(&pod, "created", |_| ())?;
    let (pid, gate_pid) = (t.pid(&counts)?, t.pid(&gate)?);
    let before = (t.cri.pod_status(&pod.id)?, t.cri.status(&counts)?, t.cri.status(&ended)?);
    // The upgrade: today's shim from now on; the records lose what the older davit had not; meanwhile a container ends.
    t.daemon().kill()?;
    for path in records(t)? {
        rewrite(&path, &|map| map.retain(|key, _| !LATER.contains(&key.as_str())))?;
    }
    std::fs::File::create(format!("/proc/{gate_pid}/root/dev/shm/go"))?;
    eventually(WITHIN, "it ends without a daemon", || {
        Ok((!Path::new(&format!("/proc/{gate_pid}")).exists()).then_some(()))
    })?;
    t.daemon().use_binaries(&tools::binaries()?)?;
    t.daemon().spawn()?;
    // Everything is told as it was, and what happened since.
    assert_eq!(t.wait_for_exit(&gate)?.exit_code, 42);
    assert_eq!(
        (t.cri.pod_status(&pod.id)?, t.cri.status(&counts)?, t.cri.status(&ended)?),
        before
    );
    assert_eq!((t.pid(&counts)?, t.cri.containers(None)?.len()), (pid, 4));
    // Everything works that worked.
    assert_eq!(t.exec(&counts, "echo well")?, "well");
    t.cri.start(&created)?;
    assert_eq!(t.exec(&created, "echo well")?, "well");
    t.cri.reopen_log(&counts)?;
    let more = t.run(&pod, "more", |c| c.command = sh("exit 7"))?;
    assert_eq!(t.wait_for_exit(&more)?.exit_code, 7);
    refuses_what_came_later(t, &counts)?;
    assert_eq!(t.pid(&counts)?, pid);
    // A new pod has it all.
    let fresh = t.pod("fresh", |_| ())?;
    let main = t.run(&fresh, "main", |_| ())?;
    for output in streamed(t, &main)? {
        ensure!(output.stdout == b"streamed\n", "{}", tools::describe(&output));
    }
    update(t, &main)?;
    // Its end is as any other's.
    t.cri.stop(&created, 5)?;
    assert_eq!(t.cri.status(&created)?.exit_code, 0);
    t.cri.stop(&counts, 0)?;
    gapless(Path::new(&t.cri.status(&counts)?.log_path))?;
    t.cri.remove(&counts)?;
    t.cri.stop_pod(&pod.id)?;
    t.cri.remove_pod(&pod.id)?;
    Ok(())
});

on_one!(records_of_a_newer_davit_are_read_as_far_as_they_are_known, |t| {
    let (pod, id) = t.sleeper(|_| ())?;
    let gate = t.run(&pod, "gate", |c| {
        c.command = sh("while ! test -e /dev/shm/go; do sleep 0.05; done; exit 42");
    })?;
    let (pid, gate_pid) = (t.pid(&id)?, t.pid(&gate)?);
    let before = (t.cri.pods(None)?, t.cri.list_images()?, t.cri.pod_status(&pod.id)?);
    t.daemon().stop()?;
    std::fs::File::create(format!("/proc/{gate_pid}/root/dev/shm/go"))?;
    let exit = t.settings().state().join("pods").join(&pod.id);
    let exit = exit.join("containers").join(&gate).join("exit.json");
    eventually(WITHIN, "its end is written down", || Ok(exit.exists().then_some(())))?;
    let paths = records(t)?;
    ensure!(paths.len() >= 6, "{paths:?}");
    for path in paths {
        // At the top only: what lies deeper may be a map with keys of its own.
        let mut json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
        json["from_the_future"] = serde_json::json!({ "list": [1, null] });
        std::fs::File::create(&path)?.write_all(json.to_string().as_bytes())?;
    }
    t.daemon().spawn()?;
    assert_eq!(t.wait_for_exit(&gate)?.exit_code, 42);
    assert_eq!((t.cri.pods(None)?, t.cri.list_images()?, t.cri.pod_status(&pod.id)?), before);
    assert_eq!((t.pid(&id)?, t.exec(&id, "echo well")?), (pid, "well".to_owned()));
    Ok(())
});

on_both!(a_shim_that_is_newer_than_davit_works, setup: newer, |t| {
    let (pod, id) = t.sleeper(counting)?;
    let short = t.run(&pod, "short", |c| c.command = sh("exit 5"))?;
    assert_eq!(t.wait_for_exit(&short)?.exit_code, 5);
    for _ in 0..2 {
        assert_eq!(t.exec(&id, "echo well")?, "well");
        for output in streamed(t, &id)? {
            ensure!(output.stdout == b"streamed\n", "{}", tools::describe(&output));
        }
        update(t, &id)?;
        // As after a downgrade: the pods were there before the daemon.
        t.daemon().kill()?;
        t.daemon().spawn()?;
    }
    t.cri.stop(&id, 0)?;
    gapless(Path::new(&t.cri.status(&id)?.log_path))?;
    t.cri.remove_pod(&pod.id)?;
    Ok(())
});

fn with_own_programs(settings: &mut Settings) -> Result<()> {
    let directory = settings.dir.join("bin");
    std::fs::create_dir(&directory)?;
    for name in ["davit", "davit-shim"] {
        std::fs::copy(tools::binaries()?.join(name), directory.join(name))?;
    }
    settings.binaries = Some(directory);
    Ok(())
}

on_one!(an_older_shim_refuses_what_it_does_not_know_by_name, setup: with_own_programs, |t| {
    // Half an upgrade: davit is new, the shim was put back while it runs.
    disguise(&t.dir.join("bin"), "old")?;
    let range = IdMapping { host_id: 100_000, container_id: 0, length: 65536 };
    let failed = t.try_pod("users", |p| {
        namespaces(p).userns_options = Some(UserNamespace { mode: 0, uids: vec![range], gids: vec![range] });
    });
    let status = failed.err().context("an old shim made a user namespace")?;
    ensure!(status.message().contains("unknown field `userns"), "{status:?}");
    assert!(t.cri.pods(None)?.is_empty());
    // All that it knows, it does.
    let (_, id) = t.sleeper(|_| ())?;
    assert_eq!(t.exec(&id, "echo well")?, "well");
    Ok(())
});

/// Clients of streams of each kind.
fn streams_in_flight(t: &Test, pod: &str, id: &str) -> Result<Vec<Child>> {
    let crictl = Crictl::new(t)?;
    let script = "echo begun; exec sleep 4341";
    let mut commands = vec![crictl.command(&["port-forward", pod, ":80"])];
    for way in TRANSPORTS {
        commands.push(crictl.exec_with(&["-i"], way, id, &["sh", "-c", script]));
        commands.push(crictl.command(&["attach", "-i", "--transport", way, id]));
    }
    let start = |mut command: Command| {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(command.spawn()?)
    };
    commands.into_iter().map(start).collect()
}

/// As a package manager does it, while the old ones run.
fn replace_programs(t: &Test) -> Result<()> {
    let old = t.daemon().pid().context("a pid")?;
    for name in ["davit", "davit-shim"] {
        let path = t.dir.join("bin").join(name);
        let new = path.with_extension("new");
        std::fs::copy(&path, &new)?;
        std::fs::rename(new, path)?;
    }
    let runs = std::fs::read_link(format!("/proc/{old}/exe"))?;
    ensure!(runs.to_string_lossy().ends_with("(deleted)"), "{runs:?}");
    Ok(())
}

on_one!(twenty_pods_do_not_notice_that_the_programs_are_replaced, setup: with_own_programs, |t| {
    let mut before = Vec::new();
    for number in 0..20 {
        // Some have an init, which is the shim's own program.
        let pod = t.pod(&format!("pod-{number}"), |p| namespaces(p).pid = number % 2)?;
        let id = t.run(&pod, "main", |c| {
            counting(c);
            c.stdin = true;
        })?;
        before.push((pod.clone(), id.clone(), t.pid(&id)?, t.cri.status(&id)?));
    }
    let (pod, id, ..) = before.first().context("a pod")?;
    let mut clients = streams_in_flight(t, &pod.id, id)?;
    eventually(WITHIN, "both commands run", || {
        Ok((t.exec(id, "ps -o args")?.matches("sleep 4341").count() == 2).then_some(()))
    })?;
    replace_programs(t)?;
    // Also a pod that is made now, by the old daemon with the new shim.
    let between = t.pod("between", |p| namespaces(p).pid = 0)?;
    let main = t.run(&between, "main", counting)?;
    before.push((between, main.clone(), t.pid(&main)?, t.cri.status(&main)?));
    t.daemon().stop()?;
    for client in &mut clients {
        let what = "a stream's client hears of the end";
        let ended = eventually(WITHIN, what, || Ok(client.try_wait()?));
        client.kill()?;
        client.wait()?;
        ended?;
    }
    t.daemon().spawn()?;
    for (pod, id, pid, status) in &before {
        assert_eq!((t.pid(id)?, &t.cri.status(id)?), (*pid, status));
        assert_eq!(t.cri.pod_status(&pod.id)?.state(), PodSandboxState::SandboxReady);
        let log = Path::new(&status.log_path);
        let count = gapless(log)?;
        eventually(WITHIN, "it counts on", || Ok((gapless(log)? > count).then_some(())))?;
        assert_eq!(t.exec(id, "echo well")?, "well");
        // The shim's program is no longer where it was.
        let more = t.run(pod, "more", |c| {
            c.command = sh("exit 4");
            security(c).namespace_options = Some(namespaces(&mut pod.config.clone()).clone());
        })?;
        assert_eq!(t.wait_for_exit(&more)?.exit_code, 4);
    }
    eventually(WITHIN, "no command is left without its client", || {
        Ok((!t.exec(&before[0].1, "ps -o args")?.contains("sleep 4341")).then_some(()))
    })?;
    println!("{} pods, 0 disturbed", before.len());
    Ok(())
});
