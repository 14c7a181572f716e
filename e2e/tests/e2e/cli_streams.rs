//! `davit exec`, `attach` and `run -it`: this side's terminal and the other's.

use davit_e2e::prelude::*;
use davit_e2e::pty::Pty;
use rustix::termios::LocalModes;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

fn davit(t: &Test, arguments: &[&str]) -> Command {
    let mut command = t.daemon().davit();
    command.args(arguments);
    command
}

/// Runs davit with this as its standard input, which then ends.
fn fed(t: &Test, arguments: &[&str], input: &str) -> Result<Output> {
    let mut command = davit(t, arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let (mut stdin, input) = (child.stdin.take().context("its input")?, input.to_owned());
    // Beside the reading: what it echoes fills its output while it is still fed. One that reads nothing is no error here.
    let feeder = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output()?;
    drop(feeder.join());
    Ok(output)
}

fn said(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

on_both!(a_command_ends_as_it_does_and_its_streams_are_apart, |t| {
    let (_, id) = t.sleeper(|_| {})?;
    let exec = |arguments: &[&str], input| fed(t, &[&["exec"], arguments].concat(), input);
    let out = exec(&[&id, "sh", "-c", "echo out; echo err >&2; exit 3"], "")?;
    let told = (out.status.code(), said(&out.stdout), said(&out.stderr));
    assert_eq!(told, (Some(3), "out\n".to_owned(), "err\n".to_owned()));
    // Its input ends with ours, or is none.
    let long = "a line of some length\n".repeat(20_000);
    let out = exec(&["-i", &id, "cat"], &long)?;
    assert_eq!((out.status.code(), out.stdout.len()), (Some(0), long.len()));
    let out = exec(&[&id, "cat"], "unread")?;
    assert_eq!((out.status.code(), out.stdout.len()), (Some(0), 0));
    assert_eq!(exec(&[&id, "/no/such"], "")?.status.code(), Some(127));
    assert_eq!(exec(&[&id, "/etc/passwd"], "")?.status.code(), Some(126));
    assert_eq!(exec(&["no-such", "true"], "")?.status.code(), Some(125));
    assert_eq!(exec(&["--no-such-flag", &id, "true"], "")?.status.code(), Some(125));
    Ok(())
});

on_both!(a_command_runs_as_whom_and_where_it_is_told, |t| {
    let (_, id) = t.sleeper(|_| {})?;
    let exec = |arguments: &[&str]| -> Result<String> {
        let out = fed(t, &[&["exec"], arguments].concat(), "")?;
        ensure!(out.status.success(), "{}", said(&out.stderr));
        Ok(said(&out.stdout))
    };
    let script = "id -u; id -g; pwd; echo $WORD";
    let flags = ["-u", "1234:567", "-w", "/tmp", "-e", "WORD=said", &id, "sh", "-c", script];
    assert_eq!(exec(&flags)?, "1234\n567\n/tmp\nsaid\n");
    t.exec(&id, "echo 'guest:x:77:88::/home/guest:/bin/sh' >> /etc/passwd")?;
    assert_eq!(
        exec(&["-u", "guest", &id, "sh", "-c", "id -u; id -g; echo $HOME"])?,
        "77\n88\n/home/guest\n"
    );
    for (flag, value, told) in [
        ("-u", "nobody-of-this-name", "has no such entry"),
        ("-u", "4294967296", "above"),
        ("-w", "relative", "not absolute"),
        ("-e", "=x", "environment variable"),
    ] {
        let out = fed(t, &["exec", flag, value, &id, "true"], "")?;
        assert_eq!(out.status.code(), Some(125), "{value}");
        assert!(said(&out.stderr).contains(told), "{value}: {}", said(&out.stderr));
    }
    // A link out of the container leads back into it.
    t.exec(
        &id,
        "ln -sf /../../../../etc/shadow /etc/passwd; ln -sf /proc/1/root/etc/group /etc/group",
    )?;
    let out = fed(t, &["exec", "-u", "daemon", &id, "true"], "")?;
    assert_eq!(out.status.code(), Some(125));
    Ok(())
});

on_both!(a_command_in_a_terminal_has_this_one, |t| {
    let (_, id) = t.sleeper(|_| {})?;
    let mut pty = Pty::start(&davit(t, &["exec", "-it", &id, "sh"]), (91, 33))?;
    let before = pty.modes()?.local_modes;
    pty.wait_for("#")?;
    ensure!(!pty.modes()?.local_modes.contains(LocalModes::ICANON), "the terminal is not raw");
    pty.type_in("tty; stty size\r")?;
    pty.wait_for("/dev/pts/")?;
    pty.wait_for("33 91")?;
    pty.resize(57, 21)?;
    // The size goes its own way, beside what is typed.
    eventually(Duration::from_secs(30), "the terminal changes its size", || {
        pty.type_in("stty size\r")?;
        pause(Duration::from_millis(200));
        Ok(pty.shown().contains("21 57").then_some(()))
    })?;
    pty.type_in("sleep 1000 || echo int$((1 + 1))\r")?;
    eventually(Duration::from_secs(20), "it sleeps", || {
        Ok(t.exec(&id, "pidof sleep").ok().filter(|pids| pids.split_whitespace().count() > 1))
    })?;
    pty.type_in("\x03")?;
    pty.type_in("echo after$((40 + 2))\r")?;
    pty.wait_for("after42")?;
    pty.type_in("exit 5\r")?;
    pty.ends_with(5)?;
    let after = pty.modes()?.local_modes;
    ensure!(after.contains(LocalModes::ICANON | LocalModes::ECHO), "{before:?} became {after:?}");
    Ok(())
});

on_one!(a_terminal_that_closes_ends_the_session, |t| {
    let (_, id) = t.sleeper(|_| {})?;
    let pty = Pty::start(
        &davit(t, &["exec", "-it", &id, "sh", "-c", "echo begun; sleep 4321"]),
        (80, 24),
    )?;
    pty.wait_for("begun")?;
    drop(pty);
    eventually(Duration::from_secs(20), "the command ends with its terminal", || {
        Ok(t.exec(&id, "pgrep -f 'sleep 4321' || echo none")?.contains("none").then_some(()))
    })?;
    let out = fed(t, &["exec", "-it", &id, "sh"], "")?;
    assert!(said(&out.stderr).contains("no terminal"), "{}", said(&out.stderr));
    Ok(())
});

on_both!(a_container_is_attached_to_left_and_come_back_to, |t| {
    let pod = t.pod("shell", |_| {})?;
    let id = t.run(&pod, "shell", |config| {
        config.tty = true;
        config.stdin = true;
        config.command = sh("stty -echo; echo ready; while read line; do echo got $line; [ \"$line\" = end ] && exit 9; done");
    })?;
    let mut pty = Pty::start(&davit(t, &["attach", "shell"]), (80, 24))?;
    eventually(Duration::from_secs(20), "it is attached", || {
        Ok((!pty.modes()?.local_modes.contains(LocalModes::ICANON)).then_some(()))
    })?;
    pty.type_in("one\r")?;
    pty.wait_for("got one")?;
    pty.type_in("\x10\x11")?;
    pty.ends_with(0)?;
    assert_eq!(t.cri.status(&id)?.state, 1, "it ended with its client");
    let mut pty = Pty::start(&davit(t, &["attach", "--detach-keys", "ctrl-x,q", &id]), (80, 24))?;
    eventually(Duration::from_secs(20), "it is attached", || {
        Ok((!pty.modes()?.local_modes.contains(LocalModes::ICANON)).then_some(()))
    })?;
    pty.type_in("two\r")?;
    pty.wait_for("got two")?;
    pty.type_in("\x18q")?;
    pty.ends_with(0)?;
    let mut pty = Pty::start(&davit(t, &["attach", &id]), (80, 24))?;
    eventually(Duration::from_secs(20), "it is attached", || {
        Ok((!pty.modes()?.local_modes.contains(LocalModes::ICANON)).then_some(()))
    })?;
    pty.type_in("end\r")?;
    pty.wait_for("got end")?;
    pty.ends_with(9)?;
    Ok(())
});

on_both!(a_signal_to_attach_is_the_containers, |t| {
    let pod = t.pod("trapper", |_| {})?;
    t.run(&pod, "trapper", |config| {
        let script = "trap 'echo hup; exit 6' HUP; while :; do echo tick; sleep 0.1; done";
        config.command = sh(script);
    })?;
    let mut command = davit(t, &["attach", "trapper"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let mut output = BufReader::new(child.stdout.take().context("its output")?);
    let mut told = String::new();
    // It is attached once it tells something.
    output.read_line(&mut told)?;
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::HUP)?;
    output.read_to_string(&mut told)?;
    assert_eq!((child.wait()?.code(), told.lines().next_back()), (Some(6), Some("hup")), "{told}");
    Ok(())
});

on_both!(run_gives_its_terminal_and_its_input, |t| {
    t.davit_ok(&["pull", "busybox"])?;
    let out = fed(
        t,
        &["run", "-i", "--rm", "busybox", "sh", "-c", "cat; echo err >&2; exit 4"],
        "word\n",
    )?;
    let told = (out.status.code(), said(&out.stdout), said(&out.stderr));
    assert_eq!(told, (Some(4), "word\n".to_owned(), "err\n".to_owned()));
    // Nothing of what it says at once is missed.
    for _ in 0..5 {
        let out = fed(t, &["run", "-i", "--rm", "busybox", "echo", "at once"], "")?;
        assert_eq!(said(&out.stdout), "at once\n");
    }
    let mut pty = Pty::start(&davit(t, &["run", "-it", "--rm", "busybox", "sh"]), (70, 20))?;
    pty.wait_for("#")?;
    pty.type_in("stty size; exit 8\r")?;
    pty.wait_for("20 70")?;
    pty.ends_with(8)?;
    eventually(Duration::from_secs(20), "it is removed", || {
        Ok(t.cri.pods(None)?.is_empty().then_some(()))
    })
});

on_one!(run_in_a_terminal_can_be_left_and_come_back_to, |t| {
    t.davit_ok(&["pull", "busybox"])?;
    let mut pty =
        Pty::start(&davit(t, &["run", "-it", "--name", "shell", "busybox", "sh"]), (80, 24))?;
    pty.wait_for("#")?;
    pty.type_in("\x10\x11")?;
    pty.ends_with(0)?;
    assert_eq!(t.davit_ok(&["ps", "--format", "{{ name }} {{ state }}"])?, "shell running");
    let mut pty = Pty::start(&davit(t, &["attach", "shell"]), (80, 24))?;
    eventually(Duration::from_secs(20), "it is attached", || {
        Ok((!pty.modes()?.local_modes.contains(LocalModes::ICANON)).then_some(()))
    })?;
    pty.type_in("exit 3\r")?;
    pty.ends_with(3)?;
    t.davit_ok(&["rm", "shell"])?;
    Ok(())
});
