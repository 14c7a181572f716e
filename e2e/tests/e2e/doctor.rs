//! `davit doctor`: what it finds, by the daemon's own means, with and without one; and that it leaves nothing behind.

use davit_e2e::host::{names_in, script};
use davit_e2e::prelude::*;
use davit_e2e::tools;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

/// The flags of the test's daemon, but for those that are among these.
fn command(t: &Test, more: &[&str]) -> Command {
    let settings = t.settings();
    let mut davit = t.daemon().davit();
    davit.args(["doctor", "--format", "json"]);
    for (flag, value) in [
        ("--config", settings.config()),
        ("--root", settings.root()),
        ("--state", settings.state()),
        ("--cni-conf-dir", settings.cni_conf_dir.clone()),
        ("--cni-bin-dir", settings.cni_bin_dir.clone()),
        ("--registry-config-dir", settings.registry_config_dir()),
    ] {
        if !more.contains(&flag) {
            davit.arg(flag).arg(value);
        }
    }
    davit.args(more);
    davit
}

/// What it exits with, and its findings. Whatever it finds, nothing new is there afterwards.
fn doctor(t: &Test, more: &[&str]) -> Result<(i32, Vec<Value>)> {
    let before = everything(t)?;
    let output = command(t, more).output()?;
    assert_eq!(everything(t)?, before, "something is left");
    read(&output)
}

fn read(output: &Output) -> Result<(i32, Vec<Value>)> {
    let found: Value =
        serde_json::from_slice(&output.stdout).with_context(|| tools::describe(output))?;
    let code = output.status.code().context("a code")?;
    Ok((code, found.as_array().context("a list")?.clone()))
}

/// What doctor could leave behind: files beside davit's, cgroups, links.
fn everything(t: &Test) -> Result<Vec<String>> {
    let settings = t.settings();
    // One that starts makes files, too.
    let runs = t.daemon().pid().is_some();
    if runs {
        t.davit_ok(&["ps"])?;
    }
    let mut all = Vec::new();
    for dir in [&settings.dir, &settings.root(), &settings.state()] {
        all.extend(names_in(dir)?);
    }
    let cgroups = names_in(Path::new("/sys/fs/cgroup/memory"))?;
    let cgroups = if cgroups.is_empty() { names_in(Path::new("/sys/fs/cgroup"))? } else { cgroups };
    // Other tests' daemons try OCI runtimes meanwhile, in cgroups whose names tell nobody whose they are.
    all.extend(cgroups.into_iter().filter(|name| name.contains(&settings.tag())));
    all.extend(names_in(Path::new("/sys/class/net"))?.into_iter().filter(|name| name == "dvtrial"));
    Ok(all)
}

/// The findings of this subject and verdict, as one text each.
fn said(found: &[Value], subject: &str, verdict: &str) -> Vec<String> {
    let fits = |one: &&Value| one["subject"] == subject && one["verdict"] == verdict;
    let text = |one: &Value| format!("{}; {}", one["text"], one["advice"]);
    found.iter().filter(fits).map(text).collect()
}

fn one(found: &[Value], subject: &str, verdict: &str, parts: &[&str]) -> Result<()> {
    let said = said(found, subject, verdict);
    let fits = |text: &&String| parts.iter().all(|part| text.contains(part));
    ensure!(
        said.iter().any(|text| fits(&text)),
        "no {verdict} of {subject} has {parts:?}: {found:?}"
    );
    Ok(())
}

on_both!(a_good_machine_has_no_problem_with_a_daemon_and_without, |t| {
    let handler = t.settings().handler;
    let (code, found) = doctor(t, &[])?;
    let problems: Vec<&Value> = found.iter().filter(|one| one["verdict"] == "problem").collect();
    assert!(code == 0 && problems.is_empty(), "{code}: {problems:?}");
    one(&found, "sockets", "ok", &["a daemon listens on", "davit.sock"])?;
    one(&found, "OCI runtimes", "ok", &[&handler, "made a trial container"])?;
    one(&found, "network", "ok", &["built-in bridge", &t.settings().tag()])?;
    one(&found, "firewall", "ok", &[&t.settings().tag()])?;
    one(&found, "file system of root", "ok", &["overlay"])?;
    for subject in ["configuration", "kernel", "security", "file system of state"] {
        one(&found, subject, "ok", &[])?;
    }
    for subject in
        ["capabilities", "cgroups", "sysctls", "clock", "criu", "disk of root", "disk of state"]
    {
        assert!(found.iter().any(|one| one["subject"] == subject), "{subject}: {found:?}");
    }
    // Whoever is not well is told what to do.
    for one in found.iter().filter(|one| one["verdict"] != "ok") {
        assert!(one["advice"].as_str().is_some_and(|advice| !advice.is_empty()), "{one}");
    }
    t.daemon().stop()?;
    let (code, found) = doctor(t, &[])?;
    assert_eq!(code, 0, "{found:?}");
    one(&found, "sockets", "ok", &["is free: davit serve does not run"])?;
    // Where there is no davit yet there is none afterwards.
    let path = |name: &str| t.dir.join("new").join(name).to_string_lossy().into_owned();
    let (code, found) = doctor(t, &["--root", &path("root"), "--state", &path("state")])?;
    assert_eq!(code, 0, "{found:?}");
    assert!(!t.dir.join("new").exists());
    t.daemon().spawn()
});

fn write(path: &Path, text: &str) -> Result<()> {
    Ok(std::fs::File::create(path)?.write_all(text.as_bytes())?)
}

on_one!(a_cni_file_or_plugin_that_is_wrong_is_a_problem_by_its_name, |t| {
    let conf_dir = t.dir.join("conf");
    std::fs::create_dir(&conf_dir)?;
    let dir = conf_dir.to_string_lossy().into_owned();
    let file = conf_dir.join("10-net.conflist");
    write(&file, "{\"name\": \"x\",")?;
    let (code, found) = doctor(t, &["--cni-conf-dir", &dir])?;
    assert_eq!(code, 1, "{found:?}");
    one(&found, "network", "problem", &["10-net.conflist", "parse it", "correct the file"])?;
    let conf = |plugin: &str| {
        let text = format!(
            "{{\"cniVersion\": \"1.0.0\", \"name\": \"net\", \"plugins\": [{{\"type\": \"{plugin}\"}}]}}"
        );
        write(&file, &text)
    };
    conf("no-such-plugin")?;
    let (code, found) = doctor(t, &["--cni-conf-dir", &dir])?;
    assert_eq!(code, 1, "{found:?}");
    one(&found, "CNI plugins", "problem", &["no-such-plugin", "no such program"])?;
    let bin_dir = t.dir.join("bin");
    let bin = bin_dir.to_string_lossy().into_owned();
    script(
        &bin_dir.join("old"),
        "[ $CNI_COMMAND = VERSION ] && echo '{\"cniVersion\":\"0.4.0\",\"supportedVersions\":[\"0.3.1\",\"0.4.0\"]}'",
    )?;
    script(&bin_dir.join("bad"), "echo 'no such symbol' >&2; exit 127")?;
    conf("old")?;
    let (code, found) = doctor(t, &["--cni-conf-dir", &dir, "--cni-bin-dir", &bin])?;
    assert_eq!(code, 1, "{found:?}");
    one(&found, "CNI plugins", "problem", &["old speaks [0.3.1, 0.4.0]", "asks for 1.0.0"])?;
    conf("bad")?;
    let (code, found) = doctor(t, &["--cni-conf-dir", &dir, "--cni-bin-dir", &bin])?;
    assert_eq!(code, 1, "{found:?}");
    one(&found, "CNI plugins", "problem", &["bad", "no such symbol"])?;
    conf("bridge")?;
    let (code, found) = doctor(t, &["--cni-conf-dir", &dir])?;
    assert_eq!(code, 0, "{found:?}");
    one(&found, "CNI plugins", "ok", &["bridge speaks 1.0.0"])?;
    // One that is passed over is no problem while another counts.
    write(&conf_dir.join("00-broken.conf"), "[]")?;
    let (code, found) = doctor(t, &["--cni-conf-dir", &dir])?;
    assert_eq!(code, 0, "{found:?}");
    one(&found, "network", "warning", &["passed over", "00-broken.conf"])
});

on_one!(an_oci_runtime_that_does_not_work_is_told_with_its_own_words, |t| {
    let broken = t.dir.join("broken");
    script(
        &broken,
        "[ $1 = --version ] && { echo broken version 7; exit; }; echo 'it says no' >&2; exit 1",
    )?;
    let flag = format!("odd.path={}", broken.display());
    let (code, found) = doctor(t, &["--handler", &flag])?;
    assert_eq!(code, 0, "others work: {found:?}");
    one(&found, "OCI runtimes", "warning", &["odd 7", "does not work here: it says no"])?;
    let (code, found) = doctor(t, &["--handler", &flag, "--default-handler", "odd"])?;
    assert_eq!(code, 1, "{found:?}");
    one(&found, "OCI runtimes", "problem", &["no pod can be run", "odd", "it says no"])
});

on_one!(what_is_wrong_with_the_files_is_found_before_a_daemon_stumbles, |t| {
    let path = |name: &str| t.dir.join(name).to_string_lossy().into_owned();
    write(&t.dir.join("wrong.toml"), "log_levle = 'debug'\n")?;
    let (code, found) = doctor(t, &["--log-level", "info"])?;
    assert_eq!(code, 0, "{found:?}");
    let mut davit = t.daemon().davit();
    let output =
        davit.args(["doctor", "--format", "json", "--config", &path("wrong.toml")]).output()?;
    let (code, found) = read(&output)?;
    assert_eq!(code, 1, "{found:?}");
    one(&found, "configuration", "problem", &["wrong.toml", "log_levle", "log_level"])?;
    one(&found, "kernel", "ok", &[])?;
    std::fs::create_dir_all(t.dir.join("hosts/r.example"))?;
    write(&t.dir.join("hosts/r.example/hosts.toml"), "colour = 'red'\n")?;
    let (code, found) = doctor(t, &["--registry-config-dir", &path("hosts")])?;
    assert_eq!(code, 0, "{found:?}");
    one(&found, "registries", "warning", &["r.example", "colour"])?;
    let (code, found) = doctor(t, &["--shim", &path("nowhere")])?;
    assert_eq!(code, 1, "{found:?}");
    one(&found, "shim", "problem", &["nowhere"])?;
    let (code, found) = doctor(t, &["--socket-group", "no-such-group"])?;
    assert_eq!(code, 1, "{found:?}");
    one(&found, "sockets", "problem", &["no-such-group"])?;
    let files =
        ["cert", "key", "client-ca"].map(|name| format!("--tls-{name}={}", path("none.pem")));
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let (code, found) = doctor(t, &files)?;
    assert_eq!(code, 1, "{found:?}");
    one(&found, "certificates", "problem", &["none.pem"])
});

on_one!(a_signal_ends_it_once_its_trials_are_gone, |t| {
    let (began, real) = (t.dir.join("began"), tools::oci_runtime("crun")?);
    let slow = t.dir.join("slow");
    script(&slow, &format!("touch {}; sleep 1; exec {} \"$@\"", began.display(), real.display()))?;
    let before = everything(t)?;
    let mut davit = command(t, &["--handler", &format!("slow.path={}", slow.display())]);
    let child = davit.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    eventually(Duration::from_secs(20), "its trials have begun", || {
        Ok(began.exists().then_some(()))
    })?;
    let pid = Pid::from_raw(i32::try_from(child.id())?).context("a pid")?;
    kill_process(pid, Signal::INT)?;
    let output = child.wait_with_output()?;
    assert_eq!(output.status.code(), Some(130), "{}", tools::describe(&output));
    assert!(output.stdout.is_empty());
    t.clear_flag("began")?;
    assert_eq!(everything(t)?, before, "something is left");
    Ok(())
});
