//! `davit stats`, `top` and `rmi`.

use davit_e2e::prelude::*;
use davit_e2e::pty::Pty;
use serde_json::Value;
use std::process::Command;

/// A pod with one container that works hard and one that rests.
fn busy(t: &Test) -> Result<(String, String)> {
    let pod = t.pod("load", |_| {})?;
    let spin = t.run(&pod, "spin", |config| config.command = sh("while :; do :; done"))?;
    let rest = t.run(&pod, "rest", |config| {
        config.command = sh("while :; do sleep 1; done");
        resources(config).memory_limit_in_bytes = 64 << 20;
    })?;
    Ok((spin, rest))
}

fn davit(t: &Test, arguments: &[&str]) -> Command {
    let mut command = t.daemon().davit();
    command.args(arguments);
    command
}

on_both!(what_containers_use_is_told, |t| {
    let (spin, rest) = busy(t)?;
    let cpu = |one: &Value| one["cpu_percent"].as_f64().context("no CPU");
    // A container that has just begun has worked for that, and a busy machine gives to each as it likes.
    let what = "the one that works has more of the CPU";
    let (json, spin_use, rest_use) = eventually(Duration::from_secs(30), what, || {
        let json = t.davit_ok(&["stats", "--no-stream", "--format", "json"])?;
        let json: Value = serde_json::from_str(&json)?;
        let of = |id: &str| {
            let all = json.as_array().into_iter().flatten();
            all.into_iter().find(|one| one["id"] == id).cloned().context("not measured")
        };
        let (spin_use, rest_use) = (of(&spin)?, of(&rest)?);
        let told = cpu(&spin_use)? > 5.0 && cpu(&rest_use)? < 5.0;
        Ok(told.then_some((json, spin_use, rest_use)))
    })?;
    assert_eq!(rest_use["memory_limit"], 64 << 20);
    assert!(
        spin_use["pids"].as_u64() >= Some(1) && spin_use["memory"].as_u64() > Some(0),
        "{json}"
    );
    assert_eq!(spin_use["pod_name"], "load");
    let names = t.davit_ok(&["stats", "--no-stream", "--format", "{{ name }}", "rest"])?;
    assert_eq!(names, "rest");
    // Where there is no terminal, a table and no more.
    let text = t.davit_ok(&["top"])?;
    assert!(text.contains("spin") && !text.contains('\x1b'), "{text:?}");
    let pods = t.davit_ok(&["top", "--pods"])?;
    assert_eq!(pods.lines().count(), 2, "{pods}");
    Ok(())
});

on_one!(top_is_live_and_quits, |t| {
    busy(t)?;
    let mut pty = Pty::start(&davit(t, &["top", "-i", "1"]), (160, 30))?;
    // Spaces are jumped over.
    pty.wait_for("containers,")?;
    pty.wait_for("spin")?;
    // What has changed is drawn, and nothing else.
    let before = pty.shown().len();
    pty.type_in("t")?;
    eventually(std::time::Duration::from_secs(20), "pods are drawn", || {
        Ok((pty.shown().len() > before + 20).then_some(()))
    })?;
    pty.type_in("q")?;
    pty.ends_with(0)?;
    // The screen is as it was.
    pty.wait_for("\x1b[?1049l")?;
    let mut plain = davit(t, &["top"]);
    plain.env("NO_COLOR", "1");
    let mut pty = Pty::start(&plain, (160, 30))?;
    pty.wait_for("rest")?;
    pty.type_in("\x03")?;
    pty.ends_with(0)?;
    for colour in ["\x1b[31m", "\x1b[34m", "\x1b[38;5;1m", "\x1b[38;5;4m"] {
        assert!(!pty.shown().contains(colour), "{:?}", pty.shown());
    }
    Ok(())
});

on_one!(a_terminal_that_closes_in_the_middle_of_top_ends_it, |t| {
    busy(t)?;
    // Without its session's leader nobody sends it SIGHUP: it has to find out by itself.
    let marker = t.dir.join("ended");
    let program = davit(t, &[]).get_program().to_string_lossy().into_owned();
    let socket = t.settings().socket();
    let script = format!(
        "trap '' HUP; {program} --address unix://{} top -i 1; echo ended > {}",
        socket.display(),
        marker.display()
    );
    for ignores in [true, false] {
        let script =
            if ignores { script.clone() } else { script.replace("trap '' HUP", "trap : HUP") };
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]);
        let pty = Pty::start(&shell, (120, 20))?;
        // Spaces are jumped over.
        pty.wait_for("containers,")?;
        pty.hang_up();
        eventually(std::time::Duration::from_secs(20), "top ends", || {
            Ok(marker.exists().then_some(()))
        })?;
        std::fs::remove_file(&marker)?;
    }
    Ok(())
});

on_one!(images_are_removed_unless_something_needs_them, |t| {
    let (pod, _) = t.sleeper(|_| {})?;
    let used = t.davit_ok(&["images", "--format", "{{ repo_tags[0] }}"])?;
    let refused = t.davit(&["rmi", &used])?;
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("in use"));
    let other =
        t.push("davit-test/other", &t.busybox()?.set("Labels", serde_json::json!({"a": "b"})))?;
    t.cri.pull(&other)?;
    let ids = t.davit_ok(&["rmi", "--prune"])?;
    assert_eq!(ids.lines().count(), 1, "{ids}");
    assert!(t.cri.image(&other)?.is_none(), "it is still there");
    assert!(t.cri.image(&used)?.is_some(), "one that is used was removed");
    let refused = t.davit(&["rmi", "no/such:image"])?;
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no image"));
    t.davit_ok(&["rm", "-f", &pod.id])?;
    t.davit_ok(&["rmi", &used])?;
    assert_eq!(t.davit_ok(&["images", "-q"])?, "");
    Ok(())
});
