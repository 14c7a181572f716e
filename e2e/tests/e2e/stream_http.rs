//! The streaming server as strangers and bad clients meet it.

use crate::stream::{Frames, SPDY, ask, connect, stage};
use davit_e2e::prelude::*;
use k8s_cri::v1::ExecRequest;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

fn status(stream: &mut TcpStream, line: &str, headers: &str) -> Result<String> {
    Ok(ask(stream, line, headers)?.get(9..12).unwrap_or("the end").to_owned())
}

on_one!(calls_that_make_no_sense_are_refused, |t| {
    let (pod, id) = t.sleeper(|_| ())?;
    let whole = ExecRequest {
        container_id: id.clone(),
        cmd: vec!["true".to_owned()],
        stdout: true,
        ..ExecRequest::default()
    };
    let stage = stage(t);
    let invalid = Code::InvalidArgument;
    let both = ExecRequest { tty: true, stderr: true, ..whole.clone() };
    refused(stage.exec_as(both), invalid, &["tty", "stderr"])?;
    let none = ExecRequest { stdout: false, ..whole.clone() };
    refused(stage.exec_as(none), invalid, &["stdin", "stdout", "stderr"])?;
    refused(stage.exec_as(ExecRequest { cmd: Vec::new(), ..whole.clone() }), invalid, &["cmd"])?;
    let nobody = ExecRequest { container_id: String::new(), ..whole };
    refused(stage.exec_as(nobody), invalid, &["container_id"])?;
    for port in [0, -1, 65536] {
        refused(stage.forward(&pod.id, &[80, port]), invalid, &["port[1]", &port.to_string()])?;
    }
    refused(stage.forward("", &[]), invalid, &["pod_sandbox_id"])?;
    refused(stage.forward("no-such-pod", &[]), Code::NotFound, &["no-such-pod"])?;
    t.cri.stop_pod(&pod.id)?;
    refused(stage.forward(&pod.id, &[80]), Code::FailedPrecondition, &[&pod.id])?;
    Ok(())
});

on_one!(a_url_is_good_once_and_for_its_own_kind, |t| {
    let (_, id) = t.sleeper(|_| ())?;
    let url = stage(t).exec(&id, &["echo", "said"])?;
    ensure!(url.starts_with("http://127.0.0.1:"), "{url}");
    let token = url.rsplit('/').next().context("a token")?;
    assert_eq!(token.len(), 32);
    let [_, stdout, _, end] = Frames::open(&url, "v4.channel.k8s.io")?.rest()?;
    assert_eq!((stdout.as_str(), end.as_str()), ("said\n", "{\"status\":\"Success\"}"));
    let bad = |url: &str| -> Result<String> {
        let (mut stream, path) = connect(url)?;
        status(&mut stream, &format!("POST {path}"), SPDY)
    };
    assert_eq!(bad(&url)?, "404", "it was used");
    let other = stage(t).exec(&id, &["true"])?;
    assert_eq!(bad(&other.replace("/exec/", "/attach/"))?, "404", "it is of another kind");
    assert_eq!(bad(&other)?, "404", "it was shown");
    assert_eq!(bad(&url.replace(token, &"0".repeat(32)))?, "404");
    let (mut stream, path) = connect(&stage(t).exec(&id, &["true"])?)?;
    let head = ask(&mut stream, &format!("POST {path}"), &SPDY.replace("v4", "v7"))?;
    assert!(head.starts_with("HTTP/1.1 403 ") && head.contains("v4.channel.k8s.io"), "{head}");
    Ok(())
});

on_one!(calls_that_nobody_comes_for_are_bounded, |t| {
    let (_, id) = t.sleeper(|_| ())?;
    let stage = stage(t);
    for _ in 0..1000 {
        stage.exec(&id, &["true"])?;
    }
    refused(stage.exec(&id, &["true"]), Code::ResourceExhausted, &["1000"])?;
    // Their minute passes.
    let url = eventually(Duration::from_secs(70), "there is room again", || {
        Ok(stage.exec(&id, &["echo", "late"]).ok())
    })?;
    assert_eq!(Frames::open(&url, "v4.channel.k8s.io")?.rest()?[1], "late\n");
    Ok(())
});

on_one!(bombs_and_lies_cost_only_their_connection, |t| {
    let (_, id) = t.sleeper(|_| ())?;
    let stage = stage(t);
    let before = stage.descriptors()?;
    let url = stage.exec(&id, &["true"])?;
    let (mut stream, path) = connect(&url)?;
    let bomb = format!("{SPDY}X: {}\r\n", "a".repeat(200 << 10));
    // Whoever is cut off while he still writes may not get to read why.
    match status(&mut stream, &format!("POST {path}"), &bomb) {
        Ok(code) => assert_eq!(code, "431"),
        Err(error) => {
            use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
            let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            ensure!(matches!(kind, Some(BrokenPipe | ConnectionReset)), "{error:#}");
        }
    }
    let input = || {
        let request = ExecRequest {
            container_id: id.clone(),
            cmd: vec!["cat".to_owned()],
            stdin: true,
            stdout: true,
            ..ExecRequest::default()
        };
        stage.exec_as(request)
    };
    // Frames that lie about their length, break the masking rule, or come in pieces without end.
    let lies: [&[u8]; 5] = [
        &[0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0],
        &[0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0],
        &[0x82, 0x05, 0, 1, 2, 3, 4],
        &[0xf2, 0x80, 0, 0, 0, 0],
        &[0x89, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0],
    ];
    for lie in lies {
        let mut frames = Frames::open(&input()?, "v5.channel.k8s.io")?;
        frames.0.write_all(lie)?;
        let mut rest = Vec::new();
        // Closed, with or without a word.
        frames.0.read_to_end(&mut rest).ok();
    }
    let (mut stream, path) = connect(&input()?)?;
    assert_eq!(status(&mut stream, &format!("POST {path}"), SPDY)?, "101");
    // SYN_STREAM and SETTINGS of 16 MiB.
    stream.write_all(&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff])?;
    stream.read_to_end(&mut Vec::new()).ok();
    eventually(Duration::from_secs(20), "every connection is closed", || {
        Ok((stage.descriptors()? <= before + 2).then_some(()))
    })?;
    let own = stage.own_memory()? >> 10;
    ensure!(own < 100, "the daemon has {own} MiB of its own");
    assert!(!t.exec(&id, "ps -o args")?.contains("cat"), "a command is left");
    Ok(())
});

on_one!(slow_strangers_do_not_keep_others_out, |t| {
    let (_, id) = t.sleeper(|_| ())?;
    let url = stage(t).exec(&id, &["echo", "said"])?;
    let mut slow = Vec::new();
    for _ in 0..100 {
        let (mut stream, path) = connect(&url)?;
        write!(stream, "POST {path} HTTP/1.1\r\nHost: ")?;
        slow.push(stream);
    }
    assert_eq!(Frames::open(&url, "v4.channel.k8s.io")?.rest()?[1], "said\n");
    // Each is closed without having been answered in full.
    for stream in &mut slow {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok();
        assert!(!answer.contains(" 101 "), "{answer}");
    }
    Ok(())
});

on_one!(an_idle_stream_costs_nothing, |t| {
    let (_, id) = t.sleeper(|_| ())?;
    let stage = stage(t);
    let streams = (0..50)
        .map(|_| Frames::open(&stage.exec(&id, &["sleep", "4343"])?, "v5.channel.k8s.io"))
        .collect::<Result<Vec<_>>>()?;
    pause(Duration::from_secs(2));
    let before = stage.ticks()?;
    pause(Duration::from_secs(5));
    let ticks = stage.ticks()? - before;
    println!("50 idle streams: {ticks} ticks of CPU time in 5 s");
    ensure!(ticks <= 2, "{ticks} ticks in 5 s");
    drop(streams);
    eventually(Duration::from_secs(30), "the commands are gone", || {
        Ok((!t.exec(&id, "ps -o args")?.contains("sleep 4343")).then_some(()))
    })
});

on_one!(a_daemon_that_stops_ends_streams_and_says_so, |t| {
    let (_, id) = t.sleeper(|_| ())?;
    let url = stage(t).exec(&id, &["sleep", "4343"])?;
    let frames = Frames::open(&url, "v5.channel.k8s.io")?;
    pause(Duration::from_millis(300));
    let client = std::thread::spawn(move || frames.rest());
    let begun = std::time::Instant::now();
    t.daemon().stop()?;
    ensure!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
    let [.., end] = client.join().unwrap()?;
    assert!(end.contains("davit stops"), "{end}");
    t.daemon().spawn()?;
    eventually(Duration::from_secs(30), "the command is gone", || {
        Ok((!t.exec(&id, "ps -o args")?.contains("sleep 4343")).then_some(()))
    })
});

on_one!(
    all_addresses_become_loopback_in_urls,
    setup: |settings| {
        settings.keys.push_str("streaming_listen = \"0.0.0.0:0\"\n");
        Ok(())
    },
    |t| {
        t.allow_log("unencrypted");
        let (_, id) = t.sleeper(|_| ())?;
        let url = stage(t).exec(&id, &["echo", "said"])?;
        ensure!(url.starts_with("http://127.0.0.1:"), "{url}");
        assert_eq!(Frames::open(&url, "v4.channel.k8s.io")?.rest()?[1], "said\n");
        Ok(())
    }
);
