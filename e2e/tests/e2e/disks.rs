//! Disks that are full or fail, and memory that has run out: what runs goes on, what is refused is refused by name and leaves nothing, and
//! everything works again when there is room.

use crate::network::fetch_path;
use davit_e2e::host::names_in;
use davit_e2e::prelude::*;
use davit_e2e::test::{Line, parse_log};
use davit_e2e::tools;
use rustix::mount::{MountFlags, mount};
use std::fs::File;
use std::io::Write as _;

pub(crate) const WITHIN: Duration = Duration::from_secs(40);
pub(crate) const FULL: &str = "No space left on device";

/// A small disk of the test's own at this place.
fn disk(settings: &mut Settings, path: PathBuf, options: &str) -> Result<()> {
    std::fs::create_dir_all(&path)?;
    let options = std::ffi::CString::new(format!("mode=0711,{options}"))?;
    mount("davit-test", &path, "tmpfs", MountFlags::empty(), Some(options.as_c_str()))
        .with_context(|| format!("mount a disk at {}", path.display()))?;
    settings.disks.push(path);
    Ok(())
}

/// Takes all space of a disk, but leaves names.
fn fill_space(disk: &Path) -> Result<()> {
    let mut file = File::create(disk.join("fill"))?;
    let zeros = vec![0; 4096];
    loop {
        if let Err(error) = file.write_all(&zeros) {
            ensure!(error.kind() == std::io::ErrorKind::StorageFull, "filled: {error}");
            return Ok(());
        }
    }
}

/// Takes all space and all names.
pub(crate) fn fill(disk: &Path) -> Result<()> {
    let names = disk.join("fill.d");
    std::fs::create_dir(&names)?;
    for number in 0..100_000 {
        // The last name is for the file that takes the space.
        if File::create(names.join(number.to_string())).is_err() {
            std::fs::remove_file(names.join("0"))?;
            return fill_space(disk);
        }
    }
    bail!("{} has too many names to be filled", disk.display());
}

pub(crate) fn free(disk: &Path) -> Result<()> {
    std::fs::remove_file(disk.join("fill"))?;
    davit_e2e::host::remove_tree(&disk.join("fill.d"))
}

fn length(path: &str) -> Result<u64> {
    Ok(std::fs::metadata(path)?.len())
}

/// What a container says arrives in its log.
pub(crate) fn goes_on(t: &Test, id: &str) -> Result<()> {
    let path = t.cri.status(id)?.log_path;
    let before = length(&path)?;
    eventually(WITHIN, "the container goes on and its log with it", || {
        Ok((length(&path)? > before + 100).then_some(()))
    })
}

pub(crate) fn speaker(t: &Test, pod: &Pod) -> Result<String> {
    t.run(pod, "speaker", |c| {
        c.command = sh("i=0; while :; do i=$((i+1)); echo line $i; usleep 5000; done");
    })
}

/// A container that ends with 7 as soon as [`end`] is called.
pub(crate) fn ending(t: &Test, pod: &Pod) -> Result<(String, u32)> {
    let id = t.run(pod, "ending", |c| {
        c.command = sh("while ! test -e /go; do usleep 20000; done; exit 7");
    })?;
    let pid = t.pid(&id)?;
    Ok((id, pid))
}

pub(crate) fn end(pid: u32) -> Result<()> {
    File::create(format!("/proc/{pid}/root/go")).map(drop).context("tell the container to end")
}

/// The refusal names the disk and the cause.
fn refused_by<T: std::fmt::Debug>(
    answer: std::result::Result<T, tonic::Status>,
    path: &Path,
    cause: &str,
) -> Result<()> {
    let status = answer.err().context("it was not refused")?;
    let message = status.message();
    ensure!(message.contains(cause), "no cause: {status:?}");
    ensure!(message.contains(&*path.to_string_lossy()), "no path: {status:?}");
    Ok(())
}

/// Files that only a write that was broken off leaves.
fn temporary_files(dir: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for name in names_in(dir)? {
        let path = dir.join(&name);
        if path.is_dir() && !path.is_symlink() && name != "shm" && name != "rootfs" {
            found.extend(temporary_files(&path)?);
        } else if name.ends_with(".tmp") {
            found.push(path.to_string_lossy().into_owned());
        }
    }
    Ok(found)
}

pub(crate) fn small_state(settings: &mut Settings) -> Result<()> {
    disk(settings, settings.state(), "size=8m,nr_inodes=3000")
}

pub(crate) fn restart(t: &Test) -> Result<()> {
    let mut daemon = t.daemon();
    daemon.kill()?;
    daemon.spawn()
}

on_both!(
    while_the_state_directory_is_full_containers_go_on_and_no_exit_is_lost,
    setup: small_state,
    |t| {
        t.allow_log(FULL);
        let state = t.settings().state();
        let pod = t.pod("web", |_| ())?;
        let speaker = speaker(t, &pod)?;
        let (id, pid) = ending(t, &pod)?;
        let before = t.cri.containers(None)?.len();
        fill(&state)?;
        refused_by(t.try_pod("another", |_| ()), &state, FULL)?;
        refused_by(t.try_create(&pod, "another", |_| ()), &state, FULL)?;
        refused_by(t.cri.exec(&speaker, &["true"], 10), &state, FULL)?;
        assert_eq!((t.cri.pods(None)?.len(), t.cri.containers(None)?.len()), (1, before));
        goes_on(t, &speaker)?;
        end(pid)?;
        let ended = t.wait_for_exit(&id)?;
        assert_eq!((ended.exit_code, ended.reason.as_str()), (7, "Error"));
        // Nothing of it could be written down: the shim is asked.
        restart(t)?;
        assert_eq!(t.wait_for_exit(&id)?.exit_code, 7);
        goes_on(t, &speaker)?;
        free(&state)?;
        let bundle = state.join("pods").join(&pod.id).join("containers").join(&id);
        eventually(WITHIN, "both records of the end are written", || {
            let text = |name: &str| std::fs::read_to_string(bundle.join(name)).unwrap_or_default();
            Ok((bundle.join("exit.json").exists() && text("container.json").contains("\"exited\""))
                .then_some(()))
        })?;
        restart(t)?;
        let again = t.cri.status(&id)?;
        assert_eq!((again.exit_code, again.finished_at), (7, ended.finished_at));
        assert_eq!(temporary_files(&state)?, [""; 0]);
        assert_eq!(t.exec(&speaker, "echo well")?, "well");
        t.run(&pod, "after", |_| ())?;
        t.pod("after", |_| ())?;
        goes_on(t, &speaker)
    }
);

on_both!(
    a_full_state_directory_keeps_no_pod_from_being_stopped_and_removed,
    setup: small_state,
    |t| {
        t.allow_log(FULL);
        let state = t.settings().state();
        let pod = t.pod("web", |_| ())?;
        let running = t.run(&pod, "running", |_| ())?;
        let created = t.create(&pod, "created", |_| ())?;
        fill(&state)?;
        // The OCI runtime may have something to write, davit needs not.
        match t.cri.start(&created) {
            Ok(()) => assert_eq!(t.cri.status(&created)?.state(), ContainerState::ContainerRunning),
            Err(status) => {
                ensure!(status.message().to_lowercase().contains("no space left"), "{status:?}");
                assert_eq!(t.cri.status(&created)?.state(), ContainerState::ContainerExited);
            }
        }
        t.cri.stop(&running, 5)?;
        assert_eq!(t.cri.status(&running)?.exit_code, 0);
        t.cri.remove(&running)?;
        t.cri.stop_pod(&pod.id)?;
        assert_eq!(t.cri.pod_status(&pod.id)?.state(), PodSandboxState::SandboxNotready);
        restart(t)?;
        assert_eq!(t.cri.pod_status(&pod.id)?.state(), PodSandboxState::SandboxNotready);
        t.cri.remove_pod(&pod.id)?;
        assert!(t.cri.pods(None)?.is_empty());
        free(&state)?;
        t.sleeper(|_| ()).map(drop)
    }
);

pub(crate) fn small_root(settings: &mut Settings) -> Result<()> {
    disk(settings, settings.root(), "size=64m,nr_inodes=6000")
}

on_one!(a_pull_to_a_full_disk_leaves_nothing_and_works_when_there_is_room, setup: small_root, |t| {
    t.allow_log(FULL);
    let root = t.settings().root();
    let held = || -> Result<Vec<String>> {
        let dirs = ["layers", "images", "containers"].map(|dir| names_in(&root.join(dir)));
        Ok(dirs.into_iter().collect::<Result<Vec<_>>>()?.concat())
    };
    t.pull("davit-test/user:uid")?;
    let layer = ImageBuilder::new().layer(|layer| {
        layer.file("large", vec![b'x'; 8 << 20]);
    });
    let reference = t.push("large/app", &layer?)?;
    let before = eventually(WITHIN, "the first image is at rest", || {
        let before = held()?;
        pause(Duration::from_millis(200));
        Ok((before == held()?).then_some(before))
    })?;
    type Filling = fn(&Path) -> Result<()>;
    for (filling, what) in [(fill_space as Filling, "space"), (fill, "names")] {
        filling(&root)?;
        let refused = t.cri.pull(&reference);
        let code = refused.as_ref().err().map(tonic::Status::code);
        refused_by(refused, &root, FULL).with_context(|| what.to_owned())?;
        assert_eq!(code, Some(Code::ResourceExhausted), "{what}");
        assert_eq!(t.cri.list_images()?.len(), 1, "{what}");
        eventually(WITHIN, "nothing of it is left", || Ok((held()? == before).then_some(())))
            .with_context(|| format!("{what}: {:?} is more than {before:?}", held()))?;
        std::fs::remove_file(root.join("fill"))?;
        davit_e2e::host::remove_tree(&root.join("fill.d"))?;
    }
    t.cri.pull(&reference)?;
    Ok(())
});

on_both!(while_the_root_is_full_containers_go_on_and_none_is_half_made, setup: small_root, |t| {
    t.allow_log(FULL);
    let root = t.settings().root();
    let pod = t.pod("web", |_| ())?;
    let speaker = speaker(t, &pod)?;
    let layers = names_in(&root.join("containers"))?;
    let image = t.cri.status(&speaker)?.image_id;
    fill(&root)?;
    // By its id, as nothing is pulled then.
    let create = || t.try_create(&pod, "another", |c| c.image = Some(davit_e2e::cri::spec(&image)));
    refused_by(create(), &root, FULL)?;
    refused_by(t.try_pod("another", |_| ()), &root, FULL)?;
    assert_eq!(t.cri.containers(None)?.len(), 1);
    assert_eq!(names_in(&root.join("containers"))?, layers);
    goes_on(t, &speaker)?;
    let answer = t.exec(&speaker, "echo well; ! (echo x > /file) 2> /dev/null")?;
    assert_eq!(answer, "well");
    restart(t)?;
    goes_on(t, &speaker)?;
    free(&root)?;
    let id = t.run(&pod, "another", |_| ())?;
    assert_eq!(t.exec(&id, "echo text > /file && cat /file")?, "text");
    // A pod that is to go goes, full or not.
    fill(&root)?;
    t.cri.stop_pod(&pod.id)?;
    t.cri.remove_pod(&pod.id)?;
    assert!(t.cri.pods(None)?.is_empty());
    free(&root)
});

/// The number that a line of the loud container has.
fn number(line: &Line) -> Option<u64> {
    line.content.strip_prefix("line ")?.split(' ').next()?.parse().ok()
}

/// A container that says numbered lines of one length, and keeps the number in a file of its root.
fn loud(t: &Test, pod: &Pod) -> Result<(String, PathBuf)> {
    let script = "i=0; while :; do i=$((i+1)); printf 'line %07d %0900d\\n' $i 0; echo $i > /n; usleep 2000; done";
    let id = t.run(pod, "loud", |c| c.command = sh(script))?;
    let said = PathBuf::from(format!("/proc/{}/root/n", t.pid(&id)?));
    Ok((id, said))
}

fn said(file: &Path) -> Result<u64> {
    // Between its being emptied and written it is neither.
    eventually(WITHIN, "the container counts", || {
        Ok(std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok()))
    })
}

fn dropped(t: &Test, id: &str) -> Result<u64> {
    let info = t.cri.container_info(id)?;
    let info: serde_json::Value = serde_json::from_str(info.get("info").context("info")?)?;
    info["logDroppedBytes"].as_u64().context("logDroppedBytes is told")
}

fn small_logs(settings: &mut Settings) -> Result<()> {
    settings.keys = format!("metrics_listen = \"127.0.0.1:{}\"\n", free_port()?);
    disk(settings, settings.dir.join("logs"), "size=1m,nr_inodes=100")
}

/// What the metrics say was dropped.
fn counted(t: &Test) -> Result<u64> {
    let settings = t.settings();
    let address = settings.keys.split('"').nth(1).context("an address")?;
    let text = fetch_path(address.parse()?, "/metrics")?;
    let line = text.lines().find_map(|line| line.strip_prefix("davit_log_dropped_bytes_total "));
    line.and_then(|value| value.parse().ok()).context("the counter is there")
}

on_both!(a_full_log_disk_holds_nobody_up_and_what_is_lost_is_counted_and_said, setup: small_logs, |t| {
    t.allow_log("the container's log can't be written");
    let disk = t.dir.join("logs");
    let pod = t.pod("web", |_| ())?;
    let (id, file) = loud(t, &pod)?;
    eventually(WITHIN, "it speaks", || Ok((said(&file)? > 20).then_some(())))?;
    assert_eq!((dropped(t, &id)?, counted(t)?), (0, 0));
    fill_space(&disk)?;
    eventually(WITHIN, "something is lost", || Ok((dropped(t, &id)? > 0).then_some(())))?;
    let before = said(&file)?;
    eventually(WITHIN, "it is not held up", || Ok((said(&file)? > before + 200).then_some(())))?;
    // What was lost is known to the shim: a new daemon learns it.
    restart(t)?;
    eventually(WITHIN, "a new daemon knows", || Ok((dropped(t, &id)? > 0).then_some(())))?;
    std::fs::remove_file(disk.join("fill"))?;
    let path = t.cri.status(&id)?.log_path;
    let notices = || -> Result<Vec<Line>> {
        let lines = parse_log(&std::fs::read_to_string(&path)?)?;
        Ok(lines.into_iter().filter(|line| line.content.starts_with("davit: ")).collect())
    };
    eventually(WITHIN, "the loss is said in the log", || Ok((!notices()?.is_empty()).then_some(())))?;
    let after = said(&file)?;
    eventually(WITHIN, "it speaks again", || Ok((said(&file)? > after + 20).then_some(())))?;
    t.cri.stop(&id, 0)?;
    let notices = notices()?;
    assert_eq!((notices.len(), notices[0].stream.as_str()), (1, "stderr"), "{notices:?}");
    assert!(notices[0].content.ends_with(&format!("{FULL} (os error 28)")), "{notices:?}");
    let told: u64 = notices[0].content.split(' ').nth(1).context("a number")?.parse()?;
    let lines = parse_log(&std::fs::read_to_string(&path)?)?;
    let kept: Vec<u64> = lines.iter().filter(|line| !line.partial).filter_map(number).collect();
    assert!(kept.is_sorted() && kept[0] == 1, "{kept:?}");
    assert!(lines.iter().filter_map(|line| number(line).map(|_| line)).all(|line| line.partial || line.content.len() == 913));
    let missing = kept.last().unwrap() - kept.len() as u64;
    // Time, stream and tag take 40 bytes, the end of the line one.
    assert_eq!(told, missing * (40 + 913 + 1), "{missing} lines are missing");
    eventually(WITHIN, "the statuses say so too", || {
        Ok((dropped(t, &id)? == told && counted(t)? == told).then_some(()))
    })?;
    let complaints = t.daemon().log().matches("log can't be written").count();
    assert_eq!(complaints, 2, "once by each daemon");
    Ok(())
});

on_one!(a_quiet_container_learns_of_the_room_too, setup: small_logs, |t| {
    t.allow_log("the container's log can't be written");
    let disk = t.dir.join("logs");
    let pod = t.pod("web", |_| ())?;
    let id = t.run(&pod, "quiet", |c| {
        c.command = sh("while ! test -e /go; do usleep 20000; done; seq 2000; sleep 1000");
    })?;
    fill_space(&disk)?;
    end(t.pid(&id)?)?;
    eventually(WITHIN, "something is lost", || Ok((dropped(t, &id)? > 0).then_some(())))?;
    std::fs::remove_file(disk.join("fill"))?;
    let path = t.cri.status(&id)?.log_path;
    eventually(WITHIN, "the loss is said in the log", || {
        let lines = parse_log(&std::fs::read_to_string(&path)?)?;
        Ok(lines.iter().any(|line| line.content.contains("bytes of the log lost")).then_some(()))
    })
});

on_one!(a_log_that_cannot_be_made_is_refused_by_its_path, setup: small_logs, |t| {
    let disk = t.dir.join("logs");
    let pod = t.pod("web", |_| ())?;
    fill(&disk)?;
    let names = names_in(&disk.join("web"))?;
    refused_by(t.try_create(&pod, "main", |_| ()), &disk.join("web/main.log"), FULL)?;
    assert_eq!((t.cri.containers(None)?.len(), names_in(&disk.join("web"))?), (0, names));
    assert!(names_in(&t.settings().root().join("containers"))?.is_empty());
    free(&disk)?;
    let id = t.run(&pod, "main", |c| c.command = sh("echo well; sleep 1000"))?;
    let status = t.cri.status(&id)?;
    eventually(WITHIN, "it is in the log", || Ok((t.log(&status)?.len() == 1).then_some(())))
});

/// A disk with a file system that can be made to fail: its own name in the kernel.
fn device(settings: &mut Settings) -> Result<()> {
    let (image, at) = (settings.dir.join("device"), settings.dir.join("logs"));
    File::create(&image)?.set_len(16 << 20)?;
    tools::run(std::process::Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image))?;
    std::fs::create_dir_all(&at)?;
    settings.disks.push(at);
    attach(settings)
}

fn attach(settings: &Settings) -> Result<()> {
    let options = ["-o", "loop,errors=remount-ro"];
    let mut command = std::process::Command::new("mount");
    command.args(options).arg(settings.dir.join("device")).arg(settings.dir.join("logs"));
    tools::run(&mut command).map(drop)
}

fn fail(settings: &Settings) -> Result<()> {
    let table = std::fs::read_to_string("/proc/self/mounts")?;
    let at = settings.dir.join("logs").to_string_lossy().into_owned();
    let line = table.lines().find(|line| line.split(' ').nth(1) == Some(&at)).context("mounted")?;
    let name =
        line.split(' ').next().and_then(|path| path.strip_prefix("/dev/")).context("name")?;
    let mut trigger = std::fs::OpenOptions::new()
        .write(true)
        .open(format!("/sys/fs/ext4/{name}/trigger_fs_error"))?;
    Ok(trigger.write_all(b"on purpose")?)
}

on_one!(a_log_on_a_device_that_fails_holds_nobody_up_and_goes_on_on_another, setup: device, |t| {
    t.allow_log("the container's log can't be written");
    let settings = t.settings();
    let pod = t.pod("web", |_| ())?;
    let (id, file) = loud(t, &pod)?;
    goes_on(t, &id)?;
    fail(&settings)?;
    eventually(WITHIN, "something is lost", || Ok((dropped(t, &id)? > 0).then_some(())))?;
    let before = said(&file)?;
    eventually(WITHIN, "it is not held up", || Ok((said(&file)? > before + 100).then_some(())))?;
    ensure!(t.daemon().log().contains("Read-only file system"), "the cause is not told");
    let refused = t.try_create(&pod, "another", |_| ());
    refused_by(refused, &settings.dir.join("logs/web/another.log"), "Read-only file system")?;
    assert_eq!(t.cri.containers(None)?.len(), 1);
    // Another device takes its place.
    rustix::mount::unmount(settings.dir.join("logs"), rustix::mount::UnmountFlags::DETACH)?;
    std::fs::remove_file(settings.dir.join("device"))?;
    File::create(settings.dir.join("device"))?.set_len(16 << 20)?;
    tools::run(std::process::Command::new("mkfs.ext4").args(["-q", "-F"]).arg(settings.dir.join("device")))?;
    attach(&settings)?;
    std::fs::create_dir_all(&pod.config.log_directory)?;
    t.cri.reopen_log(&id)?;
    goes_on(t, &id)?;
    let lines = t.log(&t.cri.status(&id)?)?;
    assert!(lines[0].content.contains("bytes of the log lost: Read-only file system"), "{lines:?}");
    t.run(&pod, "another", |_| ())?;
    Ok(())
});

on_one!(
    an_input_error_or_a_want_of_memory_is_told_and_undone,
    setup: |s| {
        s.binaries = Some(tools::failpoint_binaries()?);
        Ok(())
    },
    |t| {
        t.allow_log("os error");
        t.pull("davit-test/busybox:latest")?;
        let restart_with = |step: Option<String>| -> Result<()> {
            let mut daemon = t.daemon();
            daemon.set_env(step.map(|step| ("DAVIT_FAILPOINT".to_owned(), step)).into_iter().collect());
            daemon.kill()?;
            daemon.spawn()
        };
        for (number, cause) in [(5, "Input/output error"), (12, "Cannot allocate memory")] {
            for step in ["run.record", "run.shim", "run.attached"] {
                restart_with(Some(format!("{step}={number}")))?;
                refused_by(t.try_pod("pod", |_| ()), Path::new(step), cause)?;
                assert!(t.cri.pods(None)?.is_empty());
                let pod = t.pod("pod", |_| ()).with_context(|| format!("after {step}"))?;
                t.cri.remove_pod(&pod.id)?;
            }
            restart_with(None)?;
            let pod = t.pod("pod", |_| ())?;
            for step in ["create.record", "create.rootfs", "create.made"] {
                restart_with(Some(format!("{step}={number}")))?;
                refused_by(t.try_create(&pod, "main", |_| ()), Path::new(step), cause)?;
                assert!(t.cri.containers(None)?.is_empty());
                let id = t.run(&pod, "main", |_| ()).with_context(|| format!("after {step}"))?;
                t.cri.remove(&id)?;
            }
            t.cri.remove_pod(&pod.id)?;
        }
        restart_with(None)
    }
);
