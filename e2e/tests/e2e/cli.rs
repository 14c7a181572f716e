//! `davit` at a shell: what it prints and how it ends.

use davit_e2e::prelude::*;
use serde_json::Value;
use std::io::{BufRead as _, Read as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt as _;

fn code(t: &Test, arguments: &[&str]) -> Result<(i32, String, String)> {
    let output = t.davit(arguments)?;
    let code = output
        .status
        .code()
        .with_context(|| format!("ended by signal {:?}", output.status.signal()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((code, text(&output.stdout), text(&output.stderr)))
}

on_one!(version_names_both_sides, |t| {
    let text = t.davit_ok(&["version"])?;
    assert_eq!(text.matches(env!("CARGO_PKG_VERSION")).count(), 2, "{text}");
    assert_eq!(text.matches("cri v1 (Kubernetes 1.36), davit v1").count(), 2, "{text}");
    let json: Value = serde_json::from_str(&t.davit_ok(&["version", "--format", "json"])?)?;
    // One build, so one answer.
    assert_eq!(json["client"], json["server"], "{json}");
    let server = &json["server"];
    assert_eq!((&server["os"], &server["interfaces"][0]["name"]), (&"linux".into(), &"cri".into()));
    for part in ["commit", "rustc", "arch"] {
        assert!(server[part].as_str().is_some_and(|text| !text.is_empty()), "{part}: {json}");
    }
    let template = "{{ server.version }} {{ client.arch }}";
    let line = t.davit_ok(&["version", "--format", template])?;
    let arch = server["arch"].as_str().context("arch")?;
    assert_eq!(line.trim_end(), format!("{} {arch}", env!("CARGO_PKG_VERSION")));
    let (status, _, stderr) = code(t, &["version", "--format", "{{ daemon }}"])?;
    assert!(status == 1 && stderr.contains("client, server"), "{stderr}");
    Ok(())
});

on_one!(version_without_a_daemon_is_the_programs_own_and_a_failure, |t| {
    let address = format!("unix://{}/nobody.sock", t.dir.display());
    let version = |format: &str| code(t, &["--address", &address, "version", "--format", format]);
    for (format, shown) in [
        ("table", "Client:"),
        ("json", "\"server\": null"),
        ("{{ client.version }}", env!("CARGO_PKG_VERSION")),
        ("{{ server.version }}", ""),
    ] {
        let (status, stdout, stderr) = version(format)?;
        assert_eq!(status, 1, "{format}: {stdout}");
        assert!(stdout.contains(shown), "{format}: {stdout}");
        assert!(stderr.contains("nobody.sock"), "{format}: {stderr}");
    }
    Ok(())
});

on_one!(images_are_pulled_and_listed, |t| {
    t.davit_ok(&["pull", "busybox"])?;
    assert!(t.davit_ok(&["images"])?.contains("docker.io/library/busybox"));
    let json: serde_json::Value =
        serde_json::from_str(&t.davit_ok(&["images", "--format", "json"])?)?;
    assert_eq!(json.as_array().context("a list")?.len(), 1, "{json}");
    let (status, _, stderr) = code(t, &["pull", "no/such:image"])?;
    assert_ne!(status, 0);
    assert!(stderr.contains("no/such:image"), "{stderr}");
    Ok(())
});

on_both!(run_ends_as_its_command_does, |t| {
    t.davit_ok(&["pull", "busybox"])?;
    let run = |arguments: &[&str]| code(t, &[&["run", "--rm"], arguments].concat());
    let (status, stdout, stderr) = run(&["busybox", "sh", "-c", "echo out; echo err >&2; exit 3"])?;
    assert_eq!((status, stdout.as_str(), stderr.as_str()), (3, "out\n", "err\n"));
    assert_eq!(run(&["busybox", "true"])?.0, 0);
    assert_eq!(run(&["busybox", "sh", "-c", "sh -c 'kill -9 $$'; exit $?"])?.0, 137);
    let (status, _, stderr) = run(&["busybox", "/no/such"])?;
    assert_eq!(status, 127, "{stderr}");
    assert!(stderr.contains("/no/such"), "{stderr}");
    assert_eq!(run(&["busybox", "/etc/passwd"])?.0, 126);
    assert_eq!(run(&["no/such:image", "true"])?.0, 125);
    assert_eq!(run(&["--no-such-flag", "busybox"])?.0, 125);
    assert!(t.cri.pods(None)?.is_empty(), "--rm left a pod");
    Ok(())
});

on_both!(run_gives_the_container_what_its_flags_say, |t| {
    let data = t.dir.join("data");
    std::fs::create_dir(&data)?;
    std::fs::File::create(data.join("note"))?;
    let volume = format!("{}:/data:ro", data.display());
    let script =
        "echo $WORD; id -u; hostname; pwd; ls /data; touch /data/x 2>/dev/null || echo read-only";
    let text = t.davit_ok(&[
        "run",
        "--rm",
        "-e",
        "WORD=said",
        "-v",
        &volume,
        "--user",
        "1234",
        "--hostname",
        "anchor",
        "-w",
        "/tmp",
        "--memory",
        "64m",
        "--cpus",
        "0.5",
        "busybox",
        "sh",
        "-c",
        script,
    ])?;
    assert_eq!(
        text.lines().collect::<Vec<_>>(),
        ["said", "1234", "anchor", "/tmp", "note", "read-only"]
    );
    Ok(())
});

on_one!(a_detached_container_runs_on_and_is_listed_and_removed, |t| {
    let cidfile = t.dir.join("cid");
    let cid = cidfile.to_string_lossy().into_owned();
    let limits = ["--memory", "64m", "--cpus", "0.5"];
    let head = ["run", "-d", "--name", "sleeper", "--cidfile", &cid];
    let id = t.davit_ok(&[&head[..], &limits, &["busybox", "sleep", "1000"]].concat())?;
    assert_eq!(std::fs::read_to_string(&cidfile)?.trim(), id);
    assert_eq!(id.len(), 64);
    let pid = t.pid(&id)?;
    assert_eq!(
        cgroup_value(pid, "memory", "memory.limit_in_bytes", "memory.max")?,
        (64 << 20).to_string()
    );
    let quota = cgroup_value(pid, "cpu", "cpu.cfs_quota_us", "cpu.max")?;
    assert_eq!(quota.split(' ').next(), Some("50000"));
    assert!(t.davit_ok(&["ps"])?.contains("sleeper"));
    let json: serde_json::Value = serde_json::from_str(&t.davit_ok(&["ps", "--format", "json"])?)?;
    assert!(json.to_string().contains(&id), "{json}");
    assert!(t.davit_ok(&["pods"])?.contains("sleeper"));
    let (status, _, stderr) = code(t, &["run", "-d", "--cidfile", &cid, "busybox", "true"])?;
    assert_eq!(status, 125);
    assert!(stderr.contains(&cid), "{stderr}");
    let (status, _, stderr) = code(t, &["rm", "sleeper"])?;
    assert_ne!(status, 0, "a running container was removed without --force");
    assert!(stderr.contains("--force"), "{stderr}");
    t.davit_ok(&["rm", "-f", &id[..12]])?;
    assert!(t.cri.pods(None)?.is_empty());
    Ok(())
});

on_one!(a_published_port_leads_into_the_container, |t| {
    let port = free_port()?;
    let publish = format!("{port}:80");
    t.davit_ok(&[
        "run",
        "-d",
        "--name",
        "web",
        "-p",
        &publish,
        "registry.k8s.io/e2e-test-images/httpd:2.4.39-4",
    ])?;
    eventually(Duration::from_secs(30), "the server answers", || {
        let text = crate::network::fetch(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        Ok(text.is_ok_and(|text| text.contains("It works!")).then_some(()))
    })?;
    t.davit_ok(&["rm", "-f", "web"])?;
    Ok(())
});

on_one!(the_configuration_is_checked_and_shown, |t| {
    let file = t.dir.join("wrong.toml");
    std::io::Write::write_all(&mut std::fs::File::create(&file)?, b"cni_bin_dri = \"/opt\"\n")?;
    let (status, _, stderr) = code(t, &["config", "check", &file.to_string_lossy()])?;
    assert_ne!(status, 0);
    assert!(stderr.contains("cni_bin_dri") && stderr.contains("cni_bin_dir"), "{stderr}");
    t.davit_ok(&["config", "check", &t.settings().config().to_string_lossy()])?;
    assert!(t.davit_ok(&["config", "default"])?.contains("shim_cgroup"));
    let config = t.settings().config().to_string_lossy().into_owned();
    let dump = t.davit_ok(&["config", "dump", "--config", &config])?;
    assert!(dump.contains(&t.settings().tag()), "{dump}");
    Ok(())
});

on_one!(info_counts_what_there_is, |t| {
    t.pull("davit-test/busybox:latest")?;
    let pod = t.pod("web", |_| ())?;
    t.run(&pod, "running", |_| ())?;
    t.create(&pod, "created", |_| ())?;
    let ended = t.run(&pod, "ended", |c| c.command = sh("exit 0"))?;
    t.wait_for_exit(&ended)?;
    for round in ["before", "after a restart"] {
        let json: serde_json::Value =
            serde_json::from_str(&t.davit_ok(&["info", "--format", "json"])?)?;
        let counters = &json["counters"];
        for (name, count) in [
            ("/containers/created", 1),
            ("/containers/running", 1),
            ("/containers/stopped", 1),
            ("/sandboxes/ready", 1),
            ("/images", 1),
        ] {
            assert_eq!(
                counters.pointer(name).and_then(serde_json::Value::as_u64),
                Some(count),
                "{round}: {name} in {json}"
            );
        }
        t.daemon().kill()?;
        t.daemon().spawn()?;
    }
    Ok(())
});

on_one!(a_daemon_that_is_not_there_is_told_as_such, |t| {
    let nowhere = format!("unix://{}/nowhere.sock", t.dir.display());
    let (status, _, stderr) = code(t, &["--address", &nowhere, "ps"])?;
    assert_ne!(status, 0);
    assert!(stderr.contains("nowhere.sock"), "{stderr}");
    Ok(())
});

on_both!(a_signal_to_run_stops_the_container_and_its_end_is_runs_end, |t| {
    t.davit_ok(&["pull", "busybox"])?;
    let script = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done";
    let mut command = t.daemon().davit();
    command.args(["run", "--rm", "busybox", "sh", "-c", script]);
    let mut run = command.stdout(std::process::Stdio::piped()).spawn()?;
    let mut output = std::io::BufReader::new(run.stdout.take().context("its output")?);
    let mut line = String::new();
    output.read_line(&mut line)?;
    assert_eq!(line, "ready\n");
    let pid = rustix::process::Pid::from_child(&run);
    rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
    let mut rest = String::new();
    output.read_to_string(&mut rest)?;
    assert_eq!((run.wait()?.code(), rest.as_str()), (Some(7), "bye\n"));
    assert!(t.cri.pods(None)?.is_empty(), "--rm left a pod");
    Ok(())
});
