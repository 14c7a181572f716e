//! `crictl exec`, over SPDY and over WebSocket.

use crate::stream::{Crictl, Frames, TRANSPORTS, stage};
use davit_e2e::prelude::*;
use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::time::Instant;

on_both!(output_errors_and_exit_codes_arrive, |t| {
    let (_, id) = t.sleeper(|_| ())?;
    for transport in TRANSPORTS {
        let script = "echo out; echo err >&2; exit 5";
        let said = Crictl::new(t)?.exec(transport, &id, &["sh", "-c", script]).output()?;
        assert_eq!(String::from_utf8_lossy(&said.stdout), "out\n", "{transport}");
        let errors = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(errors.starts_with("err\n"), "{transport}: {errors}");
        assert!(errors.contains("command terminated with exit code 5"), "{transport}: {errors}");
        assert!(!said.status.success());
        let silent = Crictl::new(t)?.exec(transport, &id, &["true"]).output()?;
        assert!(silent.status.success() && silent.stdout.is_empty(), "{silent:?}");
        let killed = Crictl::new(t)?.exec(transport, &id, &["sh", "-c", "kill -9 $$"]).output()?;
        let errors = String::from_utf8_lossy(&killed.stderr).into_owned();
        assert!(errors.contains("exit code 137"), "{transport}: {errors}");
    }
    Ok(())
});

on_both!(a_command_that_is_not_there_is_named, |t| {
    let (_, id) = t.sleeper(|_| ())?;
    for transport in TRANSPORTS {
        let begun = Instant::now();
        let said = Crictl::new(t)?.exec(transport, &id, &["no-such-program"]).output()?;
        let errors = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(!said.status.success());
        assert!(errors.contains("no-such-program"), "{transport}: {errors}");
        ensure!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
    }
    Ok(())
});

on_both!(a_gigabyte_goes_in_and_out_whole, |t| {
    let (_, id) = t.sleeper(|_| ())?;
    let (size, zeros): (u64, _) = (1 << 30, vec![0; 1 << 18]);
    for transport in TRANSPORTS {
        // Out: the zeros are counted, and what follows them ends the stream.
        let script = "dd if=/dev/zero bs=1M count=1024 2>/dev/null; echo end";
        let mut child = Crictl::new(t)?.exec(transport, &id, &["sh", "-c", script]);
        let mut child = child.stdout(Stdio::piped()).spawn()?;
        let begun = Instant::now();
        let (mut stdout, mut buffer, mut count) =
            (child.stdout.take().context("stdout")?, vec![0; 1 << 18], 0_u64);
        let mut last = Vec::new();
        loop {
            let read = stdout.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            if buffer[..read] == zeros[..read] {
                count += u64::try_from(read)?;
                continue;
            }
            let first = buffer[..read].iter().take_while(|byte| **byte == 0).count();
            last.extend_from_slice(&buffer[first..read]);
            count += u64::try_from(first)?;
        }
        let took = begun.elapsed();
        assert!(child.wait()?.success());
        assert_eq!((count, last.as_slice()), (size, &b"end\n"[..]), "{transport}");
        let rate = |took: Duration| 1.073_741_824 / took.as_secs_f64();
        println!("{transport}: 1 GiB out of a container: {:.2} GB/s", rate(took));
        // In: dd counts what arrives, and is fast, unlike busybox's wc and head.
        let mut child = Crictl::new(t)?.exec_with(
            &["-i"],
            transport,
            &id,
            &["dd", "of=/dev/null", "bs=1M", "iflag=fullblock"],
        );
        let mut child = child.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().context("stdin")?;
        let begun = Instant::now();
        for _ in 0..size / (1 << 18) {
            stdin.write_all(&zeros)?;
        }
        drop(stdin);
        let said = child.wait_with_output()?;
        let took = begun.elapsed();
        let counted = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(counted.starts_with("1024+0 records in\n"), "{transport}: {counted}");
        println!("{transport}: 1 GiB into a container: {:.2} GB/s", rate(took));
        let own = stage(t).own_memory()? >> 10;
        ensure!(own < 100, "the daemon has {own} MiB of its own");
    }
    Ok(())
});

on_both!(input_arrives_as_it_was, |t| {
    let (_, id) = t.sleeper(|_| ())?;
    let path = t.dir.join("input");
    let mut seed = 12345_u64;
    let mut bytes = vec![0_u8; 32 << 20];
    for chunk in bytes.chunks_mut(8) {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        chunk.copy_from_slice(&(seed ^ (seed >> 29)).to_le_bytes());
    }
    std::fs::File::create(&path)?.write_all(&bytes)?;
    let sum = davit_e2e::registry::Digest::of(&bytes);
    for transport in TRANSPORTS {
        let said = Crictl::new(t)?
            .exec_with(&["-i"], transport, &id, &["sha256sum"])
            .stdin(std::fs::File::open(&path)?)
            .output()?;
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(text.starts_with(sum.hex()), "{transport}: {said:?}");
        let back = Crictl::new(t)?
            .exec_with(&["-i"], transport, &id, &["cat"])
            .stdin(std::fs::File::open(&path)?)
            .output()?;
        assert!(back.stdout == bytes, "{transport}: {} bytes came back", back.stdout.len());
    }
    std::fs::remove_file(&path)?;
    Ok(())
});

on_both!(a_terminal_has_the_size_of_the_clients, |t| {
    let (_, id) = t.sleeper(|_| ())?;
    for transport in TRANSPORTS {
        let mut terminal = Crictl::new(t)?
            .on_terminal(&["exec", "-i", "-t", "--transport", transport, &id, "sh"], (100, 30))?;
        terminal.say("tty; stty size; echo ready-$((1+1))\n")?;
        terminal.expect("ready-2")?;
        assert!(terminal.said().contains("/dev/pts/"), "{}", terminal.said());
        eventually(Duration::from_secs(30), "the terminal has the size", || {
            terminal.say("stty size\n")?;
            terminal.listen(Duration::from_millis(200))?;
            Ok(terminal.said().contains("30 100").then_some(()))
        })?;
        terminal.resize((77, 22))?;
        eventually(Duration::from_secs(30), "the terminal changes its size", || {
            terminal.say("stty size\n")?;
            terminal.listen(Duration::from_millis(200))?;
            Ok(terminal.said().contains("22 77").then_some(()))
        })?;
        terminal.say("exit 3\n")?;
        let (code, said) = terminal.end()?;
        assert!(code != 0 && said.contains("exit code 3"), "{said}");
    }
    Ok(())
});

on_both!(a_client_that_is_killed_takes_its_command_with_it, |t| {
    let (_, id) = t.sleeper(|_| ())?;
    let before = stage(t).descriptors()?;
    for transport in TRANSPORTS {
        for script in [
            "exec sleep 4242",
            "cat /dev/zero & exec sleep 4242",
            "trap '' HUP TERM; sleep 4242 & wait",
        ] {
            let mut child =
                Crictl::new(t)?.exec_with(&["-i"], transport, &id, &["sh", "-c", script]);
            let mut child = child.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
            eventually(Duration::from_secs(30), "the command runs", || {
                Ok(t.exec(&id, "ps -o args")?.contains("sleep 4242").then_some(()))
            })?;
            child.kill()?;
            child.wait()?;
            eventually(Duration::from_secs(20), "the command is gone", || {
                let left = t.exec(&id, "ps -o args")?;
                let gone = !left.contains("sleep 4242") && !left.contains("cat /dev/zero");
                Ok(gone.then_some(()))
            })
            .with_context(|| format!("{transport}: {script}"))?;
        }
    }
    eventually(Duration::from_secs(30), "no descriptor is left", || {
        Ok((stage(t).descriptors()? <= before + 2).then_some(()))
    })
});

on_both!(a_hundred_at_once_all_answer, |t| {
    let (_, id) = t.sleeper(|_| ())?;
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let id = id.as_str();
        let run = |number: usize| -> Result<()> {
            let transport = TRANSPORTS[number % TRANSPORTS.len()];
            let command = ["sh", "-c", &format!("echo {number}; exit 0")];
            let said = Crictl::new(t)?.exec(transport, id, &command).output()?;
            ensure!(said.stdout == format!("{number}\n").as_bytes(), "{said:?}");
            Ok(())
        };
        // crictl is what takes the time, so not all hundred clients start at the same moment.
        let threads: Vec<_> = (0..100).map(|number| scope.spawn(move || run(number))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap())
    })?;
    println!("100 execs at once took {:?}", begun.elapsed());
    Ok(())
});

on_one!(only_a_running_container_is_entered, |t| {
    let pod = t.pod("web", |_| ())?;
    let id = t.create(&pod, "main", |_| ())?;
    let stage = stage(t);
    let refused = |id: &str| stage.exec(id, &["true"]).unwrap_err();
    assert_eq!(refused(&id).code(), Code::FailedPrecondition);
    assert!(refused(&id).message().contains(&id));
    assert_eq!(refused("no-such-container").code(), Code::NotFound);
    t.cri.start(&id)?;
    // One that ends between the call and the client's coming is told of in the stream.
    let url = stage.exec(&id, &["true"])?;
    t.cri.stop(&id, 0)?;
    assert_eq!(refused(&id).code(), Code::FailedPrecondition);
    let [.., said] = Frames::open(&url, "v4.channel.k8s.io")?.rest()?;
    assert!(said.contains("only one that is running can be entered"), "{said}");
    for command in
        [&["exec", &id, "true"][..], &["exec", "no-such-container", "true"], &["attach", &id]]
    {
        assert!(t.crictl(command).is_err(), "{command:?}");
    }
    Ok(())
});
