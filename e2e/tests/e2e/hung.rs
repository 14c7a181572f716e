//! Programs of others that never return: each is given up at its deadline, named with how long it was waited for; meanwhile all else goes on; nothing of it is
//! left, even of what has left its process group.

use davit_e2e::cni;
use davit_e2e::host::{self, names_in};
use davit_e2e::prelude::*;
use davit_proto::cri::{CdiDevice, CheckpointContainerRequest};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::Instant;
use tonic::Status;

/// What a program is given here, in seconds: enough for a busy machine to do something else meanwhile.
pub(crate) const LIMIT: u64 = 12;
/// What giving up may take besides.
pub(crate) const SLACK: Duration = Duration::from_secs(25);
pub(crate) const WITHIN: Duration = Duration::from_secs(40);

/// Writes a program into the test's directory.
/// Hangs, in two processes; one of them in a session of its own. Both are found by their last argument.
fn hang(dir: &Path) -> String {
    let hung = format!("sh -c 'sleep 4331; :' {}/hung", dir.display());
    format!("setsid {hung} & {hung}")
}

/// An OCI runtime that hangs in COMMAND while `DIR/hang-COMMAND` exists.
fn hanging_runtime(settings: &mut Settings) -> Result<()> {
    let dir = settings.dir.display();
    let script = format!(
        "for word in \"$@\"; do\n[ ! -e {dir}/hang-\"$word\" ] || {{ {}; }}\ndone",
        hang(&settings.dir),
    );
    settings.wrap_runtime(&script, LIMIT)
}

/// Processes that hang.
fn hung(t: &Test) -> Result<Vec<String>> {
    let mark = t.dir.join("hung").to_string_lossy().into_owned();
    let lines = names_in(Path::new("/proc"))?.into_iter().filter_map(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(&mark).then(|| format!("{pid} {line}"))
    });
    Ok(lines.collect())
}

fn nothing_hangs(t: &Test) -> Result<()> {
    let left =
        eventually(WITHIN, "nothing of it is left", || Ok(hung(t)?.is_empty().then_some(())));
    left.with_context(|| format!("{:?}", hung(t)))
}

/// Another pod comes and goes, with the host's network, and this one is told of.
pub(crate) fn others_go_on(t: &Test, pod: Option<&Pod>) -> Result<()> {
    if let Some(pod) = pod {
        t.cri.pod_status(&pod.id)?;
    }
    t.cri.containers(None)?;
    let another = t.pod("another", |p| namespaces(p).network = NamespaceMode::Node.into())?;
    t.cri.remove_pod(&another.id)?;
    Ok(())
}

/// Makes a call that hangs, does something else meanwhile, and answers how the call was refused.
fn refusal<T: Send>(
    t: &Test,
    call: impl FnOnce() -> Result<T, Status> + Send,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<Status> {
    let begun = Instant::now();
    let answer = std::thread::scope(|scope| {
        let call = scope.spawn(call);
        let looked = eventually(WITHIN, "the program hangs", || {
            Ok((!hung(t)?.is_empty() || call.is_finished()).then_some(()))
        });
        let done = looked.and_then(|()| meanwhile());
        let held_up = call.is_finished();
        let answer = call.join().unwrap();
        done?;
        ensure!(!held_up, "what else there was to do was held up, or the call did not hang");
        Ok(answer)
    })?;
    let took = begun.elapsed();
    let status = answer.err().context("it was not given up")?;
    ensure!(took >= Duration::from_secs(LIMIT), "given up after {took:?}: {status:?}");
    ensure!(took <= Duration::from_secs(LIMIT) + SLACK, "given up after {took:?}: {status:?}");
    nothing_hangs(t)?;
    Ok(status)
}

/// The refusal names the part and how long it was waited for.
pub(crate) fn names(status: &Status, code: Code, texts: &[&str]) -> Result<()> {
    ensure!(status.code() == code, "{status:?}");
    for text in texts {
        ensure!(status.message().contains(text), "no {text:?}: {status:?}");
    }
    Ok(())
}

fn runtime_hung() -> String {
    format!("the OCI runtime took longer than {LIMIT}000 ms")
}

on_both!(an_oci_runtime_that_hangs_in_create_is_given_up, setup: hanging_runtime, |t| {
    let (pod, id) = t.sleeper(|_| ())?;
    t.set_flag("hang-create")?;
    let status = refusal(
        t,
        || t.try_create(&pod, "hung", |_| ()),
        || {
            assert_eq!(t.exec(&id, "echo well")?, "well");
            others_go_on(t, Some(&pod))
        },
    )?;
    names(&status, Code::DeadlineExceeded, &["create container", &runtime_hung()])?;
    assert_eq!(t.cri.containers(None)?.len(), 1);
    assert_eq!(names_in(&t.settings().root().join("containers"))?, [id]);
    t.clear_flag("hang-create")?;
    t.run(&pod, "hung", |_| ())?;
    Ok(())
});

on_both!(an_oci_runtime_that_hangs_in_start_is_given_up, setup: hanging_runtime, |t| {
    let (pod, id) = t.sleeper(|_| ())?;
    let slow = t.create(&pod, "hung", |_| ())?;
    t.set_flag("hang-start")?;
    let status = refusal(
        t,
        || t.cri.start(&slow),
        || {
            assert_eq!(t.exec(&id, "echo well")?, "well");
            others_go_on(t, Some(&pod))
        },
    )?;
    names(&status, Code::DeadlineExceeded, &["start container", &runtime_hung()])?;
    let after = t.cri.status(&slow)?;
    assert_eq!((after.state(), after.exit_code), (ContainerState::ContainerExited, 128));
    t.clear_flag("hang-start")?;
    t.cri.remove(&slow)?;
    t.run(&pod, "hung", |_| ())?;
    Ok(())
});

/// One that waits in its create while `DIR/slow-create` exists, too. A start has the limit of the others here, and any other command ten times as long.
fn short_start(settings: &mut Settings) -> Result<()> {
    let dir = settings.dir.display();
    let script = format!(
        "for word in \"$@\"; do\nwhile [ -e {dir}/slow-\"$word\" ]; do sleep 0.1; done\n\
        [ ! -e {dir}/hang-\"$word\" ] || {{ {}; }}\ndone",
        hang(&settings.dir),
    );
    settings.wrap_runtime(&script, LIMIT * 10)?;
    let start = format!("[timeouts]\nstart = \"{LIMIT}s\"\n");
    settings.tables = settings.tables.replace("[timeouts]\n", &start);
    ensure!(settings.tables.contains(&start), "{}", settings.tables);
    Ok(())
}

on_both!(a_container_that_does_not_start_in_its_time_is_killed, setup: short_start, |t| {
    let (pod, id) = t.sleeper(|_| ())?;
    // What is no start has the other limit: this takes longer than a start may.
    t.set_flag("slow-create")?;
    let slow = std::thread::scope(|scope| {
        let created = scope.spawn(|| t.try_create(&pod, "slow", |_| ()));
        pause(Duration::from_secs(LIMIT + 2));
        let given_up = created.is_finished();
        t.clear_flag("slow-create")?;
        let created = created.join().unwrap();
        ensure!(!given_up, "a create was not held up, or given up like a start: {created:?}");
        Ok(created?)
    })?;
    let init = t.pid(&slow)?;
    t.set_flag("hang-start")?;
    let status = refusal(t, || t.cri.start(&slow), || others_go_on(t, Some(&pod)))?;
    names(&status, Code::DeadlineExceeded, &["start container", &slow, &runtime_hung()])?;
    ensure!(!Path::new(&format!("/proc/{init}")).exists(), "its init lives on");
    let after = t.cri.status(&slow)?;
    assert_eq!((after.state(), after.exit_code), (ContainerState::ContainerExited, 128));
    ensure!(after.message.contains(&runtime_hung()), "{}", after.message);
    assert_eq!(t.exec(&id, "echo well")?, "well");
    t.clear_flag("hang-start")?;
    t.cri.remove(&slow)?;
    t.run(&pod, "slow", |_| ())?;
    Ok(())
});

on_both!(an_oci_runtime_that_hangs_in_exec_is_given_up, setup: hanging_runtime, |t| {
    let (pod, id) = t.sleeper(|_| ())?;
    t.set_flag("hang-exec")?;
    let status = refusal(
        t,
        || t.cri.exec(&id, &["true"], 0),
        || {
            let another = t.run(&pod, "another", |_| ())?;
            t.cri.remove(&another)?;
            others_go_on(t, Some(&pod))
        },
    )?;
    // DeadlineExceeded is a probe's own deadline to the kubelet.
    names(&status, Code::Unavailable, &["exec container", &runtime_hung()])?;
    t.clear_flag("hang-exec")?;
    assert_eq!(t.exec(&id, "echo well")?, "well");
    Ok(())
});

on_both!(an_oci_runtime_that_hangs_in_delete_is_given_up, setup: hanging_runtime, |t| {
    let (pod, id) = t.sleeper(|_| ())?;
    let slow = t.run(&pod, "hung", |_| ())?;
    t.set_flag("hang-delete")?;
    t.cri.stop(&slow, 0)?;
    assert_eq!(t.cri.status(&slow)?.exit_code, 137);
    let status = refusal(
        t,
        || t.cri.remove(&slow),
        || {
            assert_eq!(t.exec(&id, "echo well")?, "well");
            others_go_on(t, None)
        },
    )?;
    names(&status, Code::DeadlineExceeded, &["delete container", &runtime_hung()])?;
    t.clear_flag("hang-delete")?;
    t.cri.remove(&slow)?;
    Ok(())
});

on_both!(no_stop_depends_on_the_oci_runtime, setup: hanging_runtime, |t| {
    let (pod, id) = t.sleeper(|_| ())?;
    let stubborn = t.run(&pod, "stubborn", |c| c.command = sh("trap '' TERM; sleep 1000 & wait; sleep 1000"))?;
    for verb in ["kill", "state", "delete", "ps", "list", "events"] {
        t.set_flag(&format!("hang-{verb}"))?;
    }
    t.cri.stop(&id, 20)?;
    assert_eq!(t.cri.status(&id)?.exit_code, 0);
    t.cri.stop(&stubborn, 1)?;
    assert_eq!(t.cri.status(&stubborn)?.exit_code, 137);
    t.cri.stop_pod(&pod.id)?;
    for verb in ["kill", "state", "delete", "ps", "list", "events"] {
        t.clear_flag(&format!("hang-{verb}"))?;
    }
    nothing_hangs(t)
});

/// Before it hangs, it puts a process into the container's cgroup that has nothing more to do with it, as an init has; and writes no pid anywhere.
fn forgetful_runtime(settings: &mut Settings) -> Result<()> {
    hanging_runtime(settings)?;
    let wrapper = settings.dir.join("runtime");
    let text = std::fs::read_to_string(&wrapper)?;
    let dir = settings.dir.display();
    let script = format!(
        r#"while [ $# -gt 0 ] && [ ! -e {dir}/done ]; do
[ "$1" != --bundle ] || bundle=$2
shift
done
group=$(sed -n 's/.*"cgroupsPath":"\([^"]*\)".*/\1/p' $bundle/config.json)
hierarchies=/sys/fs/cgroup
[ -e /sys/fs/cgroup/cgroup.controllers ] || hierarchies=$(for h in /sys/fs/cgroup/*; do [ -L $h ] || [ ! -e $h/cgroup.procs ] || echo $h; done)
(setsid sh -c 'for h in $2; do mkdir -p $h$1 && echo $$ > $h$1/cgroup.procs; done 2> /dev/null; : > {dir}/made; sleep 4331; :' {dir}/hung "$group" "$hierarchies" &)
while [ ! -e {dir}/made ]; do sleep 0.1; done
sh -c 'sleep 4331; :' {dir}/hung"#
    );
    let guard = format!(
        "if [ -e {dir}/hang-forgetful ]; then case \" $* \" in *\" create \"*) {script};; esac; fi\n"
    );
    let (first, rest) = text.split_once('\n').context("two lines")?;
    host::script(&wrapper, &format!("{guard}{rest}"))?;
    ensure!(first == "#!/bin/sh", "{first}");
    Ok(())
}

on_both!(what_a_killed_oci_runtime_had_begun_and_told_nobody_of_ends_too, setup: forgetful_runtime, |t| {
    let (pod, id) = t.sleeper(|_| ())?;
    t.set_flag("hang-forgetful")?;
    let status = refusal(t, || t.try_create(&pod, "hung", |_| ()), || {
        eventually(WITHIN, "it has begun", || Ok(t.dir.join("made").exists().then_some(())))
    })?;
    names(&status, Code::DeadlineExceeded, &["create container", &runtime_hung()])?;
    assert_eq!(t.cri.containers(None)?.len(), 1);
    t.clear_flag("hang-forgetful")?;
    assert_eq!(t.exec(&id, "echo well")?, "well");
    t.run(&pod, "hung", |_| ())?;
    Ok(())
});

/// A device whose users have a hook that hangs while `DIR/hang-hook` exists.
fn hooked(settings: &mut Settings) -> Result<()> {
    hanging_runtime(settings)?;
    let dir = settings.dir.join("cdi");
    std::fs::create_dir_all(&dir)?;
    settings.keys = format!("cdi_spec_dirs = [{dir:?}]\n");
    let script = format!(
        "cat > /dev/null; while [ -e {0}/hang-hook ]; do sleep 1; done",
        settings.dir.display()
    );
    let mark = settings.dir.join("hung");
    for hook in ["createRuntime", "poststart", "poststop"] {
        let text = format!(
            r#"{{"cdiVersion": "0.8.0", "kind": "vendor.com/{hook}", "containerEdits": {{"hooks": [
                {{"hookName": {hook:?}, "path": "/bin/sh", "args": ["sh", "-c", {script:?}, {mark:?}]}}]}},
                "devices": [{{"name": "one", "containerEdits": {{"env": ["A=B"]}}}}]}}"#
        );
        std::fs::File::create(dir.join(format!("{hook}.json")))?.write_all(text.as_bytes())?;
    }
    Ok(())
}

fn with_hook(t: &Test, pod: &Pod, hook: &str) -> Result<String, Status> {
    let name = format!("vendor.com/{hook}=one");
    let created = t.try_create_newer(pod, hook, |c| c.cdi_devices = vec![CdiDevice { name }]);
    created.unwrap_or_else(|error| Err(Status::unknown(format!("{error:#}"))))
}

on_both!(a_hook_that_hangs_is_given_up_with_what_it_holds_up, setup: hooked, |t| {
    let (pod, id) = t.sleeper(|_| ())?;
    let meanwhile = || -> Result<()> {
        assert_eq!(t.exec(&id, "echo well")?, "well");
        others_go_on(t, Some(&pod))
    };
    t.set_flag("hang-hook")?;
    let status = refusal(t, || with_hook(t, &pod, "createRuntime"), meanwhile)?;
    names(&status, Code::DeadlineExceeded, &["create container", &runtime_hung()])?;
    assert_eq!(t.cri.containers(None)?.len(), 1);
    // Some runtimes run this one when they create.
    let start = || with_hook(t, &pod, "poststart").and_then(|slow| t.cri.start(&slow));
    let status = refusal(t, start, meanwhile)?;
    names(&status, Code::DeadlineExceeded, &[" container ", &runtime_hung()])?;
    for left in t.cri.containers(None)?.iter().filter(|container| container.id != id) {
        t.cri.remove(&left.id)?;
    }
    let slow = with_hook(t, &pod, "poststop")?;
    t.cri.start(&slow)?;
    t.cri.stop(&slow, 0)?;
    // Some runtimes have let go of the container before its last hook runs.
    if let Err(status) = t.cri.remove(&slow) {
        names(&status, Code::DeadlineExceeded, &["delete container", &runtime_hung()])?;
    }
    t.clear_flag("hang-hook")?;
    t.cri.remove(&slow)?;
    nothing_hangs(t)
});

/// A CNI plugin that hangs in COMMAND while `DIR/hang-COMMAND` exists.
fn hanging_plugin(settings: &mut Settings) -> Result<()> {
    let answer =
        r#"{"cniVersion": "1.0.0", "ips": [{"address": "10.9.9.9/24"}], "interfaces": []}"#;
    let script = format!(
        "cat > /dev/null\n[ ! -e {}/hang-$CNI_COMMAND ] || {{ {}; }}\n[ $CNI_COMMAND != ADD ] || echo '{answer}'",
        settings.dir.display(),
        hang(&settings.dir)
    );
    host::script(&settings.dir.join("plugins/own"), &script)?;
    settings.cni_bin_dir = settings.dir.join("plugins");
    settings.tables = format!("[timeouts]\ncni = \"{LIMIT}s\"\n");
    cni::configure(settings, r#"{"type": "own"}"#)
}

fn plugin_hung() -> String {
    format!("did not end within {LIMIT}s")
}

on_one!(a_cni_plugin_that_hangs_in_add_is_given_up, setup: hanging_plugin, |t| {
    let (pod, id) = t.sleeper(|_| ())?;
    t.set_flag("hang-ADD")?;
    let status = refusal(
        t,
        || t.try_pod("hung", |_| ()),
        || {
            assert_eq!(t.exec(&id, "echo well")?, "well");
            others_go_on(t, Some(&pod))
        },
    )?;
    names(&status, Code::DeadlineExceeded, &["own", "ADD", &plugin_hung()])?;
    assert_eq!(t.cri.pods(None)?.len(), 1);
    t.clear_flag("hang-ADD")?;
    t.pod("hung", |_| ()).map(drop)
});

on_one!(a_cni_plugin_that_hangs_in_del_is_given_up, setup: hanging_plugin, |t| {
    let (_, id) = t.sleeper(|_| ())?;
    let pod = t.pod("hung", |_| ())?;
    t.set_flag("hang-DEL")?;
    let status = refusal(
        t,
        || t.cri.stop_pod(&pod.id),
        || {
            assert_eq!(t.exec(&id, "echo well")?, "well");
            others_go_on(t, Some(&pod))
        },
    )?;
    names(&status, Code::DeadlineExceeded, &["own", "DEL", &plugin_hung()])?;
    t.clear_flag("hang-DEL")?;
    t.cri.stop_pod(&pod.id)?;
    t.cri.remove_pod(&pod.id)?;
    Ok(())
});

fn impatient(settings: &mut Settings) -> Result<()> {
    settings.keys = format!("pull_progress_timeout = \"{LIMIT}s\"\n");
    Ok(())
}

fn registry_hung() -> String {
    format!(" for {LIMIT} s")
}

/// What a pull that hangs leaves alone, and how long it takes to be given up.
fn pull_refusal(t: &Test, reference: &str) -> Result<Status> {
    let (begun, most) = (Instant::now(), Duration::from_secs(4 * LIMIT) + SLACK);
    let answer = std::thread::scope(|scope| {
        let call = scope.spawn(|| t.cri.pull_within(reference, most));
        t.pull("davit-test/user:uid")?;
        others_go_on(t, None)?;
        ensure!(!call.is_finished(), "the pull did not hang: {:?}", call.join());
        Ok(call.join().unwrap())
    })?;
    let took = begun.elapsed();
    let status = answer.err().context("it was not given up")?;
    ensure!(took >= Duration::from_secs(LIMIT), "given up after {took:?}: {status:?}");
    ensure!(took <= most, "given up after {took:?}: {status:?}");
    assert_eq!(t.cri.list_images()?.len(), 1);
    Ok(status)
}

on_one!(a_registry_that_accepts_and_never_answers_is_given_up, setup: impatient, |t| {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let held = std::thread::spawn(move || {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept() {
            let mut first = [0];
            if stream.read(&mut first).is_ok_and(|read| read == 1) && first == *b"!" {
                break;
            }
            held.push(stream);
        }
    });
    let dir = t.settings().registry_config_dir().join(address.to_string());
    std::fs::create_dir_all(&dir)?;
    let server = format!("http://{address}");
    let hosts = format!("server = {server:?}\n[host.{server:?}]\ncapabilities = [\"pull\", \"resolve\"]\n");
    std::fs::File::create(dir.join("hosts.toml"))?.write_all(hosts.as_bytes())?;
    let status = pull_refusal(t, &format!("{address}/mute/app:1"));
    std::net::TcpStream::connect(address)?.write_all(b"!")?;
    held.join().unwrap();
    names(&status?, Code::Unavailable, &[&address.to_string(), &registry_hung()])
});

on_one!(a_registry_that_stalls_in_the_middle_is_given_up_and_nothing_stays, setup: impatient, |t| {
    let image = ImageBuilder::new().layer(|layer| {
        layer.file("large", vec![b'x'; 1 << 20]);
    });
    let reference = t.push("stalled/app", &image?)?;
    t.registry.fault("stalled/app", Fault::Stalled);
    let status = pull_refusal(t, &reference)?;
    names(&status, Code::Unavailable, &["stalled/app", &registry_hung()])?;
    let layers = names_in(&t.settings().root().join("layers"))?;
    assert!(layers.len() <= 2, "{layers:?}");
    t.registry.heal("stalled/app");
    t.cri.pull(&reference)?;
    Ok(())
});

/// A CRIU that hangs while `DIR/hang-criu` exists, and else claims to work.
fn hanging_criu(settings: &mut Settings) -> Result<()> {
    hanging_runtime(settings)?;
    let script = format!(
        "[ ! -e {0}/hang-criu ] || {{ {1}; }}",
        settings.dir.display(),
        hang(&settings.dir)
    );
    host::script(&settings.dir.join("bin/criu"), &script)?;
    let path = std::env::var("PATH").context("PATH")?;
    settings.env =
        vec![("PATH".to_owned(), format!("{}:{path}", settings.dir.join("bin").display()))];
    Ok(())
}

fn checkpoint(t: &Test, id: &str, timeout: u64) -> Result<(), Status> {
    let location = t.dir.join("checkpoint.tar").to_string_lossy().into_owned();
    let timeout = i64::try_from(timeout).unwrap_or(i64::MAX);
    let request = CheckpointContainerRequest { container_id: id.to_owned(), location, timeout };
    t.cri.wait(t.cri.newer().checkpoint_container(request)).map(drop)
}

/// On runc: Debian's crun is built without CRIU, and so it is not even asked.
#[test]
fn a_criu_that_hangs_is_given_up_and_the_container_goes_on() -> Result<()> {
    davit_e2e::test::run("runc", hanging_criu, |t| {
        let (pod, id) = t.sleeper(|_| ())?;
        let another = t.run(&pod, "another", |_| ())?;
        let meanwhile = || -> Result<()> {
            assert_eq!(t.exec(&another, "echo well")?, "well");
            others_go_on(t, Some(&pod))
        };
        t.set_flag("hang-criu")?;
        let status = refusal(t, || checkpoint(t, &id, 0), meanwhile)?;
        names(&status, Code::DeadlineExceeded, &["criu", &format!("{LIMIT}000 ms")])?;
        t.clear_flag("hang-criu")?;
        t.set_flag("hang-checkpoint")?;
        let status = refusal(t, || checkpoint(t, &id, LIMIT), meanwhile)?;
        names(&status, Code::DeadlineExceeded, &["checkpoint", &LIMIT.to_string()])?;
        t.clear_flag("hang-checkpoint")?;
        assert_eq!(t.exec(&id, "echo well")?, "well", "it is frozen still");
        assert!(!t.dir.join("checkpoint.tar").exists());
        let left = names_in(&t.settings().root().join("containers").join(&id))?;
        assert!(!left.contains(&"checkpoint".to_owned()), "{left:?}");
        Ok(())
    })
}
