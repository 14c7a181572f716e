//! `davit check`, `davit repair`, `davit wipe`: what has rotted or was left is found, put right, taken away.

use davit_e2e::prelude::*;
use std::io::Write as _;
use std::process::Stdio;

/// The files of the only layer of an image.
fn layer_of(t: &Test, image: &str) -> Result<PathBuf> {
    let status: serde_json::Value = t.crictl_json(&["inspecti", image])?;
    let diff_id = status
        .pointer("/info/imageSpec/rootfs/diff_ids/0")
        .and_then(serde_json::Value::as_str)
        .with_context(|| format!("no diff id in {status}"))?;
    let hex = diff_id.strip_prefix("sha256:").context("no sha256")?;
    Ok(t.settings().root().join("layers").join(hex).join("fs"))
}

/// Changes one byte and nothing that a directory shows.
fn rot(file: &Path) -> Result<()> {
    let modified = std::fs::metadata(file)?.modified()?;
    let mut content = std::fs::read(file)?;
    *content.first_mut().context("the file is empty")? ^= 1;
    let mut file = std::fs::File::options().write(true).open(file)?;
    file.write_all(&content)?;
    file.set_modified(modified)?;
    Ok(())
}

/// What `davit check` or `davit repair` prints, and whether all is well, once every layer can be compared.
fn look(t: &Test, command: &str) -> Result<(bool, String)> {
    eventually(Duration::from_secs(20), "all layers can be compared", || {
        let output = t.davit(&[command])?;
        let text = String::from_utf8(output.stdout)?;
        Ok((!text.contains("too new")).then(|| (output.status.success(), text)))
    })
}

on_one!(a_layer_that_rots_is_found_and_repaired, |t| {
    let (_, id) = t.sleeper(|_| ())?;
    let (well, text) = look(t, "check")?;
    assert!(well, "{text}");
    assert_eq!(text, "1 images and 1 layers looked at: nothing is wrong\n");
    t.allow_log("let go of an image");
    let image = t.cri.status(&id)?.image.context("an image")?.image;
    let layer = layer_of(t, &image)?;
    rot(&layer.join("etc/passwd"))?;
    let (well, text) = look(t, "check")?;
    assert!(!well && text.contains("its files are not what they were"), "{text}");
    assert!(text.contains("busybox") && text.contains(&id) && text.contains("1 problem"), "{text}");
    let (well, text) = look(t, "repair")?;
    assert!(!well && text.contains("is in use"), "{text}");
    assert_eq!(t.exec(&id, "echo well")?, "well", "the container goes on");
    t.cri.remove(&id)?;
    let (well, text) = look(t, "repair")?;
    assert!(well && text.contains("pulled") && text.contains("1 repaired"), "{text}");
    let (well, text) = look(t, "check")?;
    assert!(well, "{text}");
    t.davit_ok(&["run", "--rm", "busybox", "grep", "-q", "^root:", "/etc/passwd"])?;
    Ok(())
});

on_one!(what_belongs_to_nobody_is_found_and_removed, |t| {
    let (_, id) = t.sleeper(|_| ())?;
    let stray = t.settings().root().join("containers").join("f".repeat(64));
    std::fs::create_dir_all(stray.join("fs/deep"))?;
    let (well, text) = look(t, "check")?;
    assert!(!well && text.contains(&format!("writable layer {}", stray.display())), "{text}");
    assert!(stray.exists(), "check removes nothing");
    let (well, text) = look(t, "repair")?;
    assert!(well && text.contains("removed"), "{text}");
    assert!(!stray.exists());
    assert_eq!(t.exec(&id, "echo well")?, "well");
    Ok(())
});

fn wipe(t: &Test, answer: &str) -> Result<(bool, String)> {
    let settings = t.settings();
    let mut command = t.daemon().davit();
    command.arg("wipe").arg("--config").arg(settings.config());
    command.arg("--root").arg(settings.root()).arg("--state").arg(settings.state());
    command.arg("--cni-conf-dir").arg(&settings.cni_conf_dir);
    command.arg("--listen").arg(format!("unix://{}", settings.socket().display()));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("start davit wipe")?;
    let mut stdin = child.stdin.take().context("its standard input")?;
    // One that refuses without asking has closed it.
    drop(stdin.write_all(answer.as_bytes()));
    drop(stdin);
    let output = child.wait_with_output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8(text)?))
}

on_both!(wipe_leaves_nothing, |t| {
    let (pod, _) = t.sleeper(|_| ())?;
    t.run(&pod, "short", |c| c.command = sh("exit 3"))?;
    let pid = t.daemon().pid().context("a pid")?;
    let (done, text) = wipe(t, "yes\n")?;
    assert!(!done && text.contains(&format!("pid {pid}")), "{text}");
    t.daemon().stop()?;
    let (done, text) = wipe(t, "no\n")?;
    assert!(!done && text.contains("nothing was done"), "{text}");
    let (done, text) = wipe(t, "yes\n")?;
    assert!(done && text.contains("removed 1 pods"), "{text}");
    let settings = t.settings();
    for directory in [settings.root(), settings.state()] {
        // The test's own, which it would have outside of a test.
        let left = std::fs::read_dir(&directory).map(|entries| entries.flatten().map(|e| e.path()));
        let left: Vec<_> = left.map(Iterator::collect).unwrap_or_default();
        assert!(left.is_empty(), "{left:?}");
    }
    assert!(!Path::new("/sys/class/net").join(settings.tag()).exists(), "the bridge is left");
    let (done, text) = wipe(t, "")?;
    assert!(done && text.contains("nothing to wipe"), "{text}");
    t.daemon().spawn()?;
    assert!(t.cri.pods(None)?.is_empty());
    Ok(())
});
