//! `crictl attach`.

use crate::stream::{Crictl, Frames, TRANSPORTS, stage};
use davit_e2e::prelude::*;
use k8s_cri::v1::AttachRequest;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;

fn shell(c: &mut ContainerConfig) {
    c.command = vec!["sh".to_owned()];
    (c.stdin, c.stdin_once) = (true, true);
}

on_both!(a_shell_hears_its_first_client_and_ends_with_it, |t| {
    for (at, transport) in TRANSPORTS.into_iter().enumerate() {
        let pod = t.pod(&format!("pod{at}"), |_| ())?;
        let id = t.run(&pod, "main", shell)?;
        let mut child = Crictl::new(t)?.command(&["attach", "-i", "--transport", transport, &id]);
        let mut child =
            child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().context("stdin")?;
        let mut stdout = BufReader::new(child.stdout.take().context("stdout")?);
        let mut line = String::new();
        for number in 0..3 {
            writeln!(stdin, "echo said-{number}; echo err-{number} >&2")?;
            line.clear();
            stdout.read_line(&mut line)?;
            assert_eq!(line, format!("said-{number}\n"), "{transport}");
        }
        drop(stdin);
        let said = child.wait_with_output()?;
        assert!(said.status.success(), "{said:?}");
        assert_eq!(String::from_utf8_lossy(&said.stderr), "err-0\nerr-1\nerr-2\n");
        assert_eq!(t.wait_for_exit(&id)?.exit_code, 0);
    }
    Ok(())
});

on_both!(the_end_of_its_input_lets_a_client_go_where_the_containers_goes_on, |t| {
    let (_, id) = t.sleeper(|c| {
        c.command = sh("while read -r line; do echo got-$line; done");
        c.stdin = true;
    })?;
    let path = PathBuf::from(t.cri.status(&id)?.log_path);
    for transport in TRANSPORTS {
        let mut child = Crictl::new(t)?.command(&["attach", "-i", "--transport", transport, &id]);
        let child = child.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = child.spawn()?;
        writeln!(child.stdin.take().context("stdin")?, "{transport}")?;
        let ended = eventually(Duration::from_secs(30), "crictl returns", || Ok(child.try_wait()?));
        if ended.is_err() {
            child.kill()?;
            child.wait()?;
        }
        assert!(ended?.success(), "{transport}");
        // What it had said is heard, and nobody's input has ended.
        eventually(Duration::from_secs(30), "it is heard", || {
            let log = std::fs::read_to_string(&path)?;
            Ok(log.contains(&format!("got-{transport}\n")).then_some(()))
        })?;
        assert_eq!(t.cri.status(&id)?.state(), ContainerState::ContainerRunning);
    }
    Ok(())
});

on_both!(everybody_who_is_attached_hears_everything, |t| {
    let (_, id) = t.sleeper(|c| {
        c.command = sh(
            "until read -t 1 -r go; do echo here; done; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo $i; done",
        );
        c.stdin = true;
    })?;
    let attach = |stdin: bool| {
        let request = AttachRequest {
            container_id: id.clone(),
            stdin,
            stdout: true,
            ..AttachRequest::default()
        };
        Frames::open(&stage(t).attach(request)?, "v5.channel.k8s.io")
    };
    let mut clients = vec![attach(true)?, attach(false)?, attach(false)?];
    for client in &mut clients {
        // The first messages say that the connection stands; being attached takes a moment more: until something is heard.
        assert_eq!(client.next()?, (2, vec![1]));
        let (kind, heard) = loop {
            let (kind, heard) = client.next()?;
            if heard.len() > 1 {
                break (kind, heard);
            }
        };
        ensure!(kind == 2 && heard.starts_with(b"\x01here\n"), "a frame of kind {kind}: {heard:?}");
    }
    clients[0].send(0, b"go\n")?;
    let expected: String = (1..=20000).map(|number| format!("{number}\n")).collect();
    for client in clients {
        let [_, stdout, _, end] = client.rest()?;
        // Each has waited for the next one.
        let stdout = stdout.trim_start_matches("here\n");
        assert!(stdout == expected, "{} bytes, {end}", stdout.len());
        assert!(end.contains("Success"), "{end}");
    }
    Ok(())
});

on_both!(a_terminal_can_be_left_and_come_back_to, |t| {
    let (_, id) = t.sleeper(|c| {
        c.command = vec!["sh".to_owned()];
        (c.stdin, c.tty) = (true, true);
    })?;
    for transport in TRANSPORTS {
        let mut terminal = Crictl::new(t)?
            .on_terminal(&["attach", "-i", "-t", "--transport", transport, &id], (90, 40))?;
        eventually(Duration::from_secs(30), "the terminal has the size", || {
            terminal.say("stty size\n")?;
            terminal.listen(Duration::from_millis(200))?;
            Ok(terminal.said().contains("40 90").then_some(()))
        })?;
        terminal.say("echo here-$((1+1))\n")?;
        terminal.expect("here-2")?;
        // Ctrl-P Ctrl-Q: crictl takes them for the wish to go.
        terminal.say("\u{10}\u{11}")?;
        let (_, said) = terminal.end()?;
        assert!(!said.contains("Internal error"), "{said}");
        assert_eq!(t.cri.status(&id)?.state(), ContainerState::ContainerRunning);
    }
    Ok(())
});

on_both!(a_terminal_is_attached_to_by_clients_that_have_none, |t| {
    let (_, id) = t.sleeper(|c| {
        c.command = sh("while read -r line; do echo got-$line; done");
        (c.stdin, c.tty) = (true, true);
    })?;
    for transport in TRANSPORTS {
        let mut child = Crictl::new(t)?.command(&["attach", "-i", "--transport", transport, &id]);
        let child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child.spawn()?;
        let mut stdin = child.stdin.take().context("stdin")?;
        writeln!(stdin, "{transport}")?;
        let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
        let wanted = format!("got-{transport}");
        let heard = lines.any(|line| line.is_ok_and(|line| line.trim_end() == wanted));
        drop(stdin);
        let said = child.wait_with_output()?;
        assert!(heard && said.status.success(), "{transport}: {said:?}");
        assert_eq!(String::from_utf8_lossy(&said.stderr), "", "{transport}");
    }
    // Who wants errors alone waits for the container's end.
    let request =
        AttachRequest { container_id: id.clone(), stderr: true, ..AttachRequest::default() };
    let mut client = Frames::open(&stage(t).attach(request)?, "v5.channel.k8s.io")?;
    assert_eq!([client.next()?, client.next()?], [(2, vec![2]), (2, vec![2])]);
    t.cri.stop(&id, 0)?;
    let [_, stdout, stderr, end] = client.rest()?;
    assert_eq!((stdout.as_str(), stderr.as_str()), ("", ""));
    assert!(end.contains("Success"), "{end}");
    Ok(())
});

on_both!(a_daemon_that_is_killed_takes_nothing_of_the_container_with_it, |t| {
    let (_, id) = t.sleeper(|c| {
        c.command = sh("i=0; while :; do i=$((i+1)); echo $i; usleep 5000; done");
        c.stdin = true;
    })?;
    let pid = t.pid(&id)?;
    let mut child = Crictl::new(t)?.command(&["attach", "-i", &id]);
    let mut child =
        child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
    let first: usize = lines.next().context("a line")??.parse()?;
    t.daemon().kill()?;
    let heard: Vec<usize> = std::iter::once(Ok(first))
        .chain(lines.map(|line| Ok(line?.parse()?)))
        .collect::<Result<_>>()?;
    child.wait()?;
    assert!(heard.windows(2).all(|two| two[1] == two[0] + 1), "{heard:?}");
    t.daemon().spawn()?;
    assert_eq!((t.cri.status(&id)?.state(), t.pid(&id)?), (ContainerState::ContainerRunning, pid));
    // The log has every line, the unwatched ones too.
    let path = PathBuf::from(t.cri.status(&id)?.log_path);
    t.cri.stop(&id, 0)?;
    let log = davit_e2e::test::parse_log(&std::fs::read_to_string(path)?)?;
    assert!(log.iter().enumerate().all(|(at, line)| line.content == (at + 1).to_string()));
    Ok(())
});

on_both!(a_client_that_does_not_read_holds_up_nobody, |t| {
    let (_, id) = t.sleeper(|c| c.command = sh("while :; do echo 0123456789abcdef; done"))?;
    let request =
        AttachRequest { container_id: id.clone(), stdout: true, ..AttachRequest::default() };
    let stuck = Frames::open(&stage(t).attach(request)?, "v5.channel.k8s.io")?;
    let path = PathBuf::from(t.cri.status(&id)?.log_path);
    let size = |path: &Path| -> Result<u64> { Ok(std::fs::metadata(path)?.len()) };
    let mut before = size(&path)?;
    for _ in 0..5 {
        eventually(Duration::from_secs(30), "the log goes on", || {
            Ok((size(&path)? > before + (1 << 20)).then_some(()))
        })?;
        before = size(&path)?;
    }
    let own = stage(t).own_memory()? >> 10;
    ensure!(own < 100, "the daemon has {own} MiB of its own");
    t.cri.stop(&id, 0)?;
    drop(stuck);
    Ok(())
});
