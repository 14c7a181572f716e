//! How a container ended: never lost, never guessed, whoever was away, slow or asleep at that moment.

use crate::shim_loss::shim;
use davit_e2e::prelude::*;
use k8s_cri::v1::ContainerStatus;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

const MIB: i64 = 1 << 20;
const WAIT: Duration = Duration::from_secs(30);

/// Nanoseconds since the epoch, by the clock that the shim reads too.
fn now() -> Result<i64> {
    Ok(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?)
}

/// Waits until the container's own command runs: before, a signal would meet the OCI runtime's init.
fn running_as(pid: u32, name: &str) -> Result<()> {
    eventually(WAIT, "its own command runs", || {
        let command = std::fs::read_to_string(format!("/proc/{pid}/comm"))?;
        Ok((command.trim() == name).then_some(()))
    })
}

on_both!(every_signal_is_told_as_128_and_its_number, |t| {
    // Those that end a process by default, the first and the last real-time one among them.
    let signals =
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 24, 25, 26, 27, 29, 30, 31, 34, 64];
    // PID 1 of a namespace of its own would not be ended by most of them.
    let pod = t.pod("web", |p| namespaces(p).pid = 0)?;
    for signal in signals {
        let id = t.run(&pod, &format!("c{signal}"), |c| {
            security(c).namespace_options.get_or_insert_default().pid = 0;
            c.command = ["sleep", "1000"].map(str::to_owned).to_vec();
        })?;
        let pid = t.pid(&id)?;
        running_as(pid, "sleep")?;
        let before = now()?;
        let sent = Command::new("kill").args([format!("-{signal}"), pid.to_string()]).status()?;
        ensure!(sent.success(), "signal {signal} could not be sent");
        let status = t.wait_for_exit(&id)?;
        let told = (status.exit_code, status.reason.as_str());
        assert_eq!(told, (128 + signal, "Error"), "signal {signal}");
        ensure!((before..=now()?).contains(&status.finished_at), "signal {signal}: {status:?}");
        t.cri.remove(&id)?;
    }
    Ok(())
});

/// A container with little memory.
fn greedy(script: &str) -> impl FnOnce(&mut ContainerConfig) {
    let command = sh(script);
    move |c| {
        resources(c).memory_limit_in_bytes = 24 * MIB;
        resources(c).memory_swap_limit_in_bytes = 24 * MIB;
        c.command = command;
    }
}

on_both!(out_of_memory_is_told_of_a_child_as_of_the_first_process, |t| {
    let pod = t.pod("web", |_| ())?;
    for (name, script, code, reason) in [
        ("first", "exec tail /dev/zero", 137, "OOMKilled"),
        ("child", "tail /dev/zero; exit $?", 137, "OOMKilled"),
        ("code", "tail /dev/zero; exit 5", 5, "OOMKilled"),
        ("grandchild", "sh -c 'tail /dev/zero; exit 6'; exit 7", 7, "OOMKilled"),
        // It lost a child and was none the worse.
        ("unharmed", "tail /dev/zero; exit 0", 0, "Completed"),
        // It lost a child and was stopped later: not for want of memory.
        ("stopped", "tail /dev/zero; kill -TERM $$; sleep 10; exit 143", 143, "Error"),
        ("other", "exit 137", 137, "Error"),
    ] {
        let (status, _) = t.output(&pod, name, greedy(script))?;
        assert_eq!((status.exit_code, status.reason.as_str()), (code, reason), "{name}");
    }
    Ok(())
});

on_both!(out_of_memory_and_the_moment_of_the_end_are_told_though_the_daemon_was_away, |t| {
    let pod = t.pod("web", |_| ())?;
    let wait = "while ! test -e /dev/shm/go; do sleep 0.05; done";
    let id = t.run(&pod, "main", greedy(&format!("{wait}; tail /dev/zero; exit 9")))?;
    let pid = t.pid(&id)?;
    t.daemon().kill()?;
    let before = now()?;
    File::create(format!("/proc/{pid}/root/dev/shm/go"))?;
    eventually(WAIT, "it ends without a daemon", || {
        Ok((!Path::new(&format!("/proc/{pid}")).exists()).then_some(()))
    })?;
    let after = now()?;
    // Long enough to tell the end from the daemon's return.
    pause(Duration::from_secs(2));
    t.daemon().spawn()?;
    let status = t.wait_for_exit(&id)?;
    assert_eq!((status.exit_code, status.reason.as_str()), (9, "OOMKilled"));
    ensure!(status.finished_at > before && status.finished_at <= after, "{status:?}");
    Ok(())
});

on_both!(a_shim_that_is_slow_to_tell_tells_the_truth, |t| {
    let (pod, id) = t.sleeper(|c| {
        c.command = sh("trap 'exit 23' TERM; echo begun; while :; do sleep 0.05; done")
    })?;
    let (log, pid) = (t.cri.status(&id)?.log_path, t.pid(&id)?);
    eventually(WAIT, "it has begun", || {
        Ok(std::fs::metadata(&log).is_ok_and(|log| log.len() > 0).then_some(()))
    })?;
    let shim = shim(t, &pod)?;
    let signal = |pid: u32, name: &str| -> Result<()> {
        ensure!(Command::new("kill").args([name, &pid.to_string()]).status()?.success());
        Ok(())
    };
    signal(shim, "-STOP")?;
    signal(pid, "-TERM")?;
    eventually(WAIT, "it has ended, and nobody has looked", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        Ok(stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")).then_some(()))
    })?;
    // What can't be known is not told.
    let told = t.cri.status(&id)?;
    assert_eq!((told.state(), told.exit_code), (ContainerState::ContainerRunning, 0));
    pause(Duration::from_millis(500));
    signal(shim, "-CONT")?;
    let status = t.wait_for_exit(&id)?;
    assert_eq!((status.exit_code, status.reason.as_str()), (23, "Error"));
    Ok(())
});

on_both!(one_that_ends_before_its_start_is_answered_is_told_in_full, |t| {
    let pod = t.pod("web", |_| ())?;
    for code in 0..20 {
        let before = now()?;
        let id = t.run(&pod, &format!("c{code}"), |c| c.command = sh(&format!("exit {code}")))?;
        let status = t.wait_for_exit(&id)?;
        assert_eq!(status.exit_code, code);
        let times = [before, status.created_at, status.started_at, status.finished_at, now()?];
        ensure!(times.is_sorted(), "{times:?}");
        t.cri.remove(&id)?;
    }
    Ok(())
});

/// How many: more than wait for one listener of a shim, so that it is cut off and has to ask again.
const CROWD: usize = 100;

/// Containers that all end when somebody opens the pipe: each with a code of its own, after a line of its own.
fn crowd(t: &Test, pod: &Pod, gate: &Path) -> Result<Vec<String>> {
    std::fs::create_dir_all(gate)?;
    let pipe = gate.join("pipe");
    if !pipe.exists() {
        ensure!(Command::new("mkfifo").arg(&pipe).status()?.success());
    }
    let directory = gate.to_string_lossy().into_owned();
    let ids: Vec<String> = (0..CROWD)
        .map(|code| {
            t.run(pod, &format!("c{code}"), |c| {
                c.command = sh(&format!("echo begun; read -r word < /gate/pipe; exit {code}"));
                c.mounts.push(Mount {
                    host_path: directory.clone(),
                    container_path: "/gate".to_owned(),
                    ..Mount::default()
                });
            })
        })
        .collect::<Result<_>>()?;
    for id in &ids {
        let log = t.cri.status(id)?.log_path;
        eventually(WAIT, "it waits at the gate", || {
            Ok(std::fs::metadata(&log).is_ok_and(|log| log.len() > 0).then_some(()))
        })?;
    }
    Ok(ids)
}

/// Opens the gate until all of these have ended: between the line of one and its opening of the pipe there are some instructions, so it may come too late.
fn open_gate(gate: &Path, pids: &[u32]) -> Result<()> {
    let (pipe, flags) = (gate.join("pipe"), OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC);
    eventually(WAIT, "they end", || {
        // The end of the only writer ends every reader's wait.
        match rustix::fs::open(&pipe, flags, Mode::empty()) {
            Ok(_) | Err(Errno::NXIO) => {}
            Err(error) => return Err(error.into()),
        }
        let gone = |pid: &u32| !Path::new(&format!("/proc/{pid}")).exists();
        Ok(pids.iter().all(gone).then_some(()))
    })
}

fn all_told(t: &Test, ids: &[String]) -> Result<Vec<ContainerStatus>> {
    let mut ends = Vec::new();
    for (code, id) in ids.iter().enumerate() {
        let status = t.wait_for_exit(id)?;
        assert_eq!(usize::try_from(status.exit_code)?, code);
        let reason = if code == 0 { "Completed" } else { "Error" };
        assert_eq!(status.reason, reason);
        ends.push(status);
    }
    Ok(ends)
}

on_both!(a_hundred_that_end_at_the_same_moment_are_all_told, |t| {
    let pod = t.pod("crowd", |_| ())?;
    let gate = t.dir.join("gate");
    let ids = crowd(t, &pod, &gate)?;
    let pids: Vec<u32> = ids.iter().map(|id| t.pid(id)).collect::<Result<_>>()?;
    let before = now()?;
    open_gate(&gate, &pids)?;
    let ends = all_told(t, &ids)?;
    let after = now()?;
    for status in ends {
        ensure!((before..=after).contains(&status.finished_at), "{status:?}");
    }
    Ok(())
});

on_one!(a_hundred_that_end_while_the_daemon_is_away_are_all_told, |t| {
    let pod = t.pod("crowd", |_| ())?;
    let gate = t.dir.join("gate");
    let ids = crowd(t, &pod, &gate)?;
    let pids: Vec<u32> = ids.iter().map(|id| t.pid(id)).collect::<Result<_>>()?;
    t.daemon().kill()?;
    open_gate(&gate, &pids)?;
    let after = now()?;
    t.daemon().spawn()?;
    for status in all_told(t, &ids)? {
        ensure!(status.finished_at <= after, "{status:?}");
    }
    Ok(())
});
