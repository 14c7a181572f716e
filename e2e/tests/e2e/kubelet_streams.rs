//! A kubelet's exec, attach and port forward: what kubectl asks for, through the kubelet to davit.
//!
//! A client that speaks the protocol's version 5 is translated by the kubelet, which speaks SPDY to davit; one that speaks version 4 is
//! passed through, so that davit speaks WebSocket to it.

use davit_e2e::kubelet::{self, Kubelet, Socket, shell};
use davit_e2e::live::Live;
use davit_e2e::prelude::*;
use serde_json::json;
use std::io::{Read as _, Write as _};
use std::process::Command;

const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

fn exec(k: &Kubelet<'_>, protocol: &str, options: &str, script: &str) -> Result<Socket> {
    let script: String = script.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let path = k.path("exec", "shell", "main");
    k.api.socket(&format!("{path}?command=sh&command=-c&command={script}&{options}"), protocol)
}

fn commands(k: &Kubelet<'_>, protocol: &str) -> Result<()> {
    let mut told = exec(k, protocol, "output=1&error=1", "echo out; echo err >&2; exit 3")?;
    let [out, err, end] = told.read_to_end()?;
    assert_eq!((out.as_str(), err.as_str()), ("out\n", "err\n"), "{protocol}: {end}");
    let end: serde_json::Value = serde_json::from_str(&end)?;
    assert_eq!(end["status"], "Failure", "{end}");
    assert_eq!(end["details"]["causes"][0]["message"], "3", "{end}");
    let mut told = exec(k, protocol, "output=1&error=1", "seq 100000")?;
    let [out, _, end] = told.read_to_end()?;
    assert!(out.lines().eq((1..=100_000).map(|number| number.to_string())), "{}", out.len());
    assert!(end.contains("Success"), "{end}");
    let mut session = exec(
        k,
        protocol,
        "input=1&output=1&error=1&tty=1",
        "read line; echo got $line; until size=$(stty size 2>/dev/null) && [ -n \"$size\" ]; do sleep 0.1; done; echo $size",
    )?;
    // The kubelet passes sizes on beside the input, so the command waits for one.
    session.write(4, br#"{"Width":100,"Height":40}"#)?;
    session.write(0, b"word\n")?;
    let text = session.read_until(1, |text| text.contains("40 100"))?;
    assert!(text.contains("got word"), "{text:?}");
    Ok(())
}

/// Only version 5 can tell that there is no more input.
fn input_ends(k: &Kubelet<'_>) -> Result<()> {
    let mut session = exec(k, PROTOCOLS[0], "input=1&output=1&error=1", "sort; echo sorted")?;
    session.write(0, b"b\na\n")?;
    session.close(0)?;
    let [out, _, end] = session.read_to_end()?;
    assert_eq!(out, "a\nb\nsorted\n");
    assert!(end.contains("Success"), "{end}");
    Ok(())
}

fn attach(k: &Kubelet<'_>, protocol: &str) -> Result<()> {
    let path = k.path("attach", "shell", "echo");
    let mut session = k.api.socket(&format!("{path}?input=1&output=1&error=1"), protocol)?;
    session.write(0, format!("for {protocol}\n").as_bytes())?;
    let wanted = format!("got for {protocol}\n");
    session.read_until(1, |text| text.contains(&wanted))?;
    Ok(())
}

/// A container whose own process is on a terminal.
fn attach_terminal(k: &Kubelet<'_>, protocol: &str) -> Result<()> {
    let path = k.path("attach", "shell", "terminal");
    let mut session = k.api.socket(&format!("{path}?input=1&output=1&tty=1"), protocol)?;
    session.write(4, br#"{"Width":90,"Height":33}"#)?;
    // The size comes beside the input, so it is asked for until it is there.
    let mut text = String::new();
    for _ in 0..50 {
        session.write(0, b"size\n")?;
        text = session.read_until(1, |text| text.contains("said size\r\n"))?;
        if text.contains("33 90") {
            break;
        }
        pause(Duration::from_millis(100));
    }
    assert!(text.contains("33 90"), "{protocol}: {text:?}");
    session.write(0, format!("for {protocol}\n").as_bytes())?;
    let wanted = format!("said for {protocol}\r\n");
    session.read_until(1, |text| text.contains(&wanted))?;
    Ok(())
}

/// By client-go, as `kubectl port-forward` does it: SPDY, or SPDY in a WebSocket (`v2.portforward.k8s.io`).
fn forward_by_client(k: &Kubelet<'_>, kind: &str) -> Result<()> {
    let url = k.api.url(&format!("/portForward/{}/{}", kubelet::NAMESPACE, k.full_name("shell")));
    let mut command = Command::new(davit_e2e::tools::streampeer()?);
    let client = Live::start(command.args(["ports", kind, &url, "8080"]))?;
    let port: u16 = eventually(Duration::from_secs(20), "client-go listens", || {
        Ok(client.printed().lines().next().and_then(|line| line.trim().parse().ok()))
    })
    .with_context(|| format!("{kind}: it says {:?}", client.printed()))?;
    for _ in 0..3 {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        assert!(text.ends_with("forwarded\n"), "{kind}: {text:?}");
    }
    client.finish().with_context(|| kind.to_owned()).map(drop)
}

fn forward(k: &Kubelet<'_>) -> Result<()> {
    let path = format!("/portForward/{}/{}?port=8080", kubelet::NAMESPACE, k.full_name("shell"));
    let mut session = k.api.socket(&path, PROTOCOLS[1])?;
    // Both streams begin with the port's number, that of the data first.
    let begun = [session.read()?, session.read()?].map(|frame| frame.map(|f| (f.stream, f.data)));
    assert_eq!(begun, [0, 1].map(|stream| Some((stream, 8080_u16.to_le_bytes().to_vec()))));
    session.write(0, b"GET /index.html HTTP/1.0\r\n\r\n")?;
    let text = session.read_until(0, |text| text.ends_with("forwarded\n"))?;
    assert!(text.starts_with("HTTP/1."), "{text:?}");
    Ok(())
}

on_both!(commands_attached_clients_and_ports_go_through_the_kubelet, |t| {
    kubelet::run(
        t,
        |_config| (),
        |k| {
            let image = k.image();
            let serve =
                "mkdir /www; echo forwarded >/www/index.html; exec httpd -f -p 8080 -h /www";
            let echo = "while read line; do echo got $line; done; sleep 1000";
            let terminal = "while read line; do stty size; echo said $line; done; sleep 1000";
            k.put(
                "shell",
                json!({"containers": [
                    shell("main", &image, serve, json!({})),
                    shell("echo", &image, echo, json!({"stdin": true})),
                    shell("terminal", &image, terminal, json!({"stdin": true, "tty": true})),
                ]}),
            )?;
            let before = k.ready("shell")?;
            for protocol in PROTOCOLS {
                commands(k, protocol)?;
                attach(k, protocol)?;
                attach_terminal(k, protocol)?;
            }
            input_ends(k)?;
            forward(k)?;
            for kind in ["spdy", "tunnel"] {
                forward_by_client(k, kind)?;
            }
            let after = k.ready("shell")?;
            for name in ["main", "echo", "terminal"] {
                assert_eq!((after.id(name), after.restarts(name)), (before.id(name), 0));
            }
            Ok(())
        },
    )
});
