//! Records that are damaged, false or somebody else's: each is named and put aside; what it was of ends, and nothing else is harmed.

use davit_e2e::prelude::*;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::process::Stdio;

/// What is done to a record: its path, and the one of another that is whole.
type Damage = fn(&Path, &Path) -> Result<()>;

fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    Ok(std::fs::File::create(path)?.write_all(bytes)?)
}

fn replace(path: &Path, text: &str) -> Result<()> {
    write_whole(path, text.as_bytes())
}

pub(super) fn edit(path: &Path, change: impl FnOnce(&mut serde_json::Value)) -> Result<()> {
    let mut json = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    change(&mut json);
    replace(path, &json.to_string())
}

const DAMAGES: [(&str, Damage); 8] = [
    ("empty", |path, _| replace(path, "")),
    ("truncated", |path, _| {
        let text = std::fs::read_to_string(path)?;
        replace(path, &text[..text.len() / 2])
    }),
    ("of a newer version", |path, _| edit(path, |json| json["version"] = 99.into())),
    ("of another", |path, other| replace(path, &std::fs::read_to_string(other)?)),
    ("with an id that climbs out", |path, _| edit(path, |json| json["id"] = "../../../etc".into())),
    ("a link", |path, _| {
        let real = path.with_extension("real");
        std::fs::rename(path, &real)?;
        Ok(symlink(real, path)?)
    }),
    ("a directory", |path, _| {
        std::fs::remove_file(path)?;
        Ok(std::fs::create_dir(path)?)
    }),
    ("not text", |path, _| write_whole(path, &[0xff; 4096])),
];

struct Scene {
    bystander: String,
    victim: Pod,
    container: String,
    pid: u32,
}

fn scene(t: &Test, round: usize) -> Result<Scene> {
    let (_, bystander) = t.sleeper(|_| ())?;
    let victim = t.pod(&format!("victim-{round}"), |_| ())?;
    let container = t.run(&victim, "main", |_| ())?;
    let pid = t.pid(&container)?;
    Ok(Scene { bystander, victim, container, pid })
}

fn pod_dir(t: &Test, id: &str) -> PathBuf {
    t.settings().state().join("pods").join(id)
}

/// The bystander runs, the process of the victim does not, the log names `id`.
fn check(t: &Test, scene: &Scene, id: &str, what: &str) -> Result<()> {
    assert_eq!(t.exec(&scene.bystander, "echo well")?, "well", "{what}");
    eventually(Duration::from_secs(30), what, || {
        Ok((!Path::new(&format!("/proc/{}", scene.pid)).exists()).then_some(()))
    })?;
    let log = t.daemon().log();
    let named = log.lines().any(|line| line.contains("put aside") && line.contains(id));
    ensure!(named, "{what}: the log does not name it\n{log}");
    let aside = davit_e2e::host::names_in(&t.settings().state().join("quarantine"))?;
    ensure!(aside.iter().any(|name| name.contains(id)), "{what}: {aside:?}");
    // Kept for whoever wants to know what was broken, and theirs to remove.
    Ok(std::fs::remove_dir_all(t.settings().state().join("quarantine"))?)
}

/// The next test begins with one pod fewer.
fn end(t: &Test) -> Result<()> {
    for pod in t.cri.pods(None)? {
        t.cri.remove_pod(&pod.id)?;
    }
    Ok(())
}

on_one!(a_pods_record_that_makes_no_sense_costs_that_pod_and_no_other, |t| {
    t.allow_log("put aside");
    for (round, (what, damage)) in DAMAGES.into_iter().enumerate() {
        let scene = scene(t, round)?;
        let other = t.cri.status(&scene.bystander)?;
        let other = t.cri.containers(None)?.into_iter().find(|one| one.id == other.id);
        let other = pod_dir(t, &other.context("the bystander")?.pod_sandbox_id);
        t.daemon().kill()?;
        let dir = pod_dir(t, &scene.victim.id);
        damage(&dir.join("sandbox.json"), &other.join("sandbox.json")).context(what)?;
        t.daemon().spawn().context(what)?;
        ensure!(t.cri.pods(None)?.iter().all(|pod| pod.id != scene.victim.id), "{what}");
        check(t, &scene, &scene.victim.id, what)?;
        // Its name is free.
        t.pod(&format!("victim-{round}"), |_| ())?;
        end(t)?;
    }
    Ok(())
});

on_one!(a_containers_record_that_makes_no_sense_costs_that_container_and_no_other, |t| {
    t.allow_log("put aside");
    for (round, (what, damage)) in DAMAGES.into_iter().enumerate() {
        let scene = scene(t, round)?;
        let sibling = t.run(&scene.victim, "sibling", |_| ())?;
        t.daemon().kill()?;
        let containers = pod_dir(t, &scene.victim.id).join("containers");
        let record = |id: &str| containers.join(id).join("container.json");
        damage(&record(&scene.container), &record(&sibling)).context(what)?;
        t.daemon().spawn().context(what)?;
        check(t, &scene, &scene.container, what)?;
        assert_eq!(t.exec(&sibling, "echo well")?, "well", "{what}");
        let ids: Vec<_> = t.cri.containers(None)?.into_iter().map(|one| one.id).collect();
        ensure!(!ids.contains(&scene.container) && ids.len() == 2, "{what}: {ids:?}");
        // Its name is free.
        t.run(&scene.victim, "main", |_| ())?;
        end(t)?;
    }
    Ok(())
});

on_one!(what_a_false_record_names_is_not_touched, |t| {
    t.allow_log("put aside");
    let outside = t.dir.join("outside");
    std::fs::create_dir(&outside)?;
    write_whole(&outside.join("precious"), b"x")?;
    let scene = scene(t, 0)?;
    let linked = t.pod("linked", |_| ())?;
    t.daemon().kill()?;
    edit(&pod_dir(t, &scene.victim.id).join("sandbox.json"), |json| {
        json["netns"] = outside.join("precious").to_string_lossy().into();
    })?;
    // A pod's directory that is elsewhere.
    let dir = pod_dir(t, &linked.id);
    let shim: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(dir.join("sandbox.json"))?)?;
    std::fs::rename(&dir, t.dir.join("moved"))?;
    symlink(t.dir.join("moved"), &dir)?;
    let climbing = t.settings().state().join("pods/..climbs..");
    symlink(&outside, &climbing)?;
    t.daemon().spawn()?;
    assert!(outside.join("precious").exists());
    assert!(t.dir.join("moved/sandbox.json").exists(), "what a link leads to is left alone");
    assert_eq!(t.exec(&scene.bystander, "echo well")?, "well");
    let known: Vec<_> = t.cri.pods(None)?.into_iter().map(|pod| pod.id).collect();
    assert!(!known.contains(&scene.victim.id) && !known.contains(&linked.id));
    // Whoever has moved it is to put it back.
    let pid = shim["shim"]["pid"].as_i64().context("its shim")?;
    t.daemon().kill()?;
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    std::fs::rename(t.dir.join("moved"), &dir)?;
    std::fs::remove_dir_all(t.settings().state().join("quarantine"))?;
    t.daemon().spawn()?;
    assert_eq!(t.cri.pod_status(&linked.id)?.state(), PodSandboxState::SandboxReady);
    Ok(())
});

on_one!(
    a_socket_that_is_not_the_shims_makes_its_pod_not_ready_and_hangs_nobody,
    setup: |s| {
        s.tables = "[timeouts]\nshim = \"1s\"\n".to_owned();
        Ok(())
    },
    |t| {
        t.allow_log("the pod's shim");
        let scene = scene(t, 0)?;
        t.daemon().kill()?;
        let dir = pod_dir(t, &scene.victim.id);
        std::fs::remove_file(dir.join("shim.sock"))?;
        // This test's own: it takes connections and says nothing.
        let listener = std::os::unix::net::UnixListener::bind(dir.join("shim.sock"))?;
        let begun = std::time::Instant::now();
        t.daemon().spawn()?;
        assert_eq!(t.exec(&scene.bystander, "echo well")?, "well");
        ensure!(begun.elapsed() < Duration::from_secs(5), "others waited {:?}", begun.elapsed());
        eventually(Duration::from_secs(30), "the pod is not ready", || {
            let state = t.cri.pod_status(&scene.victim.id)?.state();
            Ok((state == PodSandboxState::SandboxNotready).then_some(()))
        })?;
        // Who is silent may answer yet, and the container is well.
        assert_eq!(t.cri.status(&scene.container)?.state(), ContainerState::ContainerRunning);
        t.cri.remove_pod(&scene.victim.id)?;
        drop(listener);
        Ok(())
    }
);

on_one!(a_pid_that_was_given_to_another_process_is_not_taken_for_the_shim, |t| {
    t.allow_log("the pod's shim");
    let scene = scene(t, 0)?;
    let mut stranger = std::process::Command::new("sleep").arg("4329").current_dir("/").spawn()?;
    t.daemon().kill()?;
    let dir = pod_dir(t, &scene.victim.id);
    let mut shim = 0;
    edit(&dir.join("sandbox.json"), |json| {
        shim = json["shim"]["pid"].as_i64().unwrap_or_default();
        json["shim"]["pid"] = stranger.id().into();
    })?;
    let shim = rustix::process::Pid::from_raw(i32::try_from(shim)?).context("the shim's pid")?;
    rustix::process::kill_process(shim, rustix::process::Signal::KILL)?;
    t.daemon().spawn()?;
    eventually(Duration::from_secs(30), "the pod is not ready", || {
        let state = t.cri.pod_status(&scene.victim.id)?.state();
        Ok((state == PodSandboxState::SandboxNotready).then_some(()))
    })?;
    t.cri.remove_pod(&scene.victim.id)?;
    assert!(stranger.try_wait()?.is_none(), "the stranger was killed");
    stranger.kill()?;
    stranger.wait()?;
    Ok(())
});

/// What another `davit serve` with these directories and this socket says when it ends, which it has to do at once.
fn refusal(t: &Test, root: &Path, state: &Path, socket: &Path) -> Result<String> {
    let mut command = t.daemon().davit();
    command.arg("serve").arg("--config").arg(t.settings().config());
    command.arg("--root").arg(root).arg("--state").arg(state);
    command.arg("--listen").arg(format!("unix://{}", socket.display()));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let ended = eventually(Duration::from_secs(20), "it is refused", || Ok(child.try_wait()?));
    child.kill()?;
    let said = String::from_utf8(child.wait_with_output()?.stderr)?;
    ensure!(!ended.with_context(|| said.clone())?.success(), "{said}");
    Ok(said)
}

on_one!(two_daemons_on_one_root_or_one_state_are_one_too_many, |t| {
    let (_, id) = t.sleeper(|_| ())?;
    let (settings, own) = (t.settings(), t.dir.join("second"));
    let owner = format!("(pid {})", t.daemon().pid().context("a pid")?);
    let socket = own.join("davit.sock");
    for (root, state, which) in [
        (settings.root(), own.join("run"), settings.root()),
        (own.join("root"), settings.state(), settings.state()),
    ] {
        let said = refusal(t, &root, &state, &socket)?;
        let named = said.contains(&owner) && said.contains(&*which.to_string_lossy());
        ensure!(named, "{said}");
        assert_eq!(t.exec(&id, "echo well")?, "well");
    }
    Ok(())
});

on_one!(a_listening_socket_that_is_somebody_elses_is_left_to_him, |t| {
    let own = t.dir.join("second");
    std::fs::create_dir(&own)?;
    let (taken, file) = (own.join("taken.sock"), own.join("file"));
    let stranger = std::os::unix::net::UnixListener::bind(&taken)?;
    write_whole(&file, b"precious")?;
    for path in [&taken, &file] {
        let said = refusal(t, &own.join("root"), &own.join("run"), path)?;
        ensure!(said.contains(&*path.to_string_lossy()), "{said}");
    }
    // Both are as they were.
    let _connected = std::os::unix::net::UnixStream::connect(&taken)?;
    stranger.accept()?;
    assert_eq!(std::fs::read(&file)?, b"precious");
    Ok(())
});

on_one!(a_state_directory_that_lacks_what_it_takes_is_named, |t| {
    let own = t.dir.join("second");
    let state = own.join("run");
    std::fs::create_dir_all(&state)?;
    // One takes no data in its files, the other takes nothing.
    for (kind, options) in [("hugetlbfs", "mode=0700"), ("tmpfs", "ro")] {
        let mut mount = std::process::Command::new("mount");
        davit_e2e::tools::run(mount.args(["-t", kind, "-o", options, kind]).arg(&state))?;
        let said = refusal(t, &own.join("root"), &state, &own.join("davit.sock"));
        rustix::mount::unmount(&state, rustix::mount::UnmountFlags::DETACH)?;
        let said = said?;
        ensure!(said.contains(&*state.to_string_lossy()), "{kind}: {said}");
        println!("{kind}: {}", said.trim());
    }
    Ok(())
});
