//! `davit login`, `logout`, `search`, `image explain` and `checkpoint`, and what is made from the command line's definitions.

use davit_e2e::prelude::*;
use davit_e2e::pty::Pty;
use serde_json::Value;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn guarded(t: &Test) -> Result<String> {
    let name = t.push("davit-test/guarded", &t.busybox()?)?;
    t.registry.require(Auth::Token { user: "me".to_owned(), password: "pass:word".to_owned() });
    Ok(name)
}

/// The registry's host and port.
fn host(name: &str) -> &str {
    name.split('/').next().unwrap_or(name)
}

fn file(t: &Test) -> PathBuf {
    t.dir.join("home/.config/containers/auth.json")
}

/// davit with a home of the test's own.
fn davit(t: &Test, arguments: &[&str]) -> Command {
    let mut command = t.daemon().davit();
    command.args(arguments).env("HOME", t.dir.join("home"));
    command.env_remove("REGISTRY_AUTH_FILE").env_remove("XDG_CONFIG_HOME");
    command
}

fn fed(mut command: Command, input: &str) -> Result<Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    child.stdin.take().context("its input")?.write_all(input.as_bytes())?;
    Ok(child.wait_with_output()?)
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

on_one!(credentials_are_proved_kept_used_and_forgotten, |t| {
    let image = guarded(t)?;
    let login = ["login", "-u", "me", "--password-stdin", host(&image)];
    let refused = fed(davit(t, &["pull", &image]), "")?;
    ensure!(!refused.status.success(), "it was pulled without credentials");
    let wrong = fed(davit(t, &login), "wrong\n")?;
    assert_eq!(wrong.status.code(), Some(1), "{}", errors(&wrong));
    ensure!(!file(t).exists(), "credentials were kept that nobody takes");
    let right = fed(davit(t, &login), "pass:word\n")?;
    ensure!(right.status.success(), "{}", errors(&right));
    assert_eq!(std::fs::metadata(file(t))?.permissions().mode() & 0o777, 0o600);
    let pulled = fed(davit(t, &["pull", &image]), "")?;
    ensure!(pulled.status.success(), "{}", errors(&pulled));
    let log = t.daemon().log();
    ensure!(!log.contains("pass:word") && !log.contains("wrong"), "the log has a password in it");
    let told = davit(t, &["image", "explain", &image]).output()?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    ensure!(
        told.contains("as user me") && told.contains("hosts.toml") | told.contains("no file"),
        "{told}"
    );
    let out = davit(t, &["logout", host(&image)]).output()?;
    ensure!(out.status.success(), "{}", errors(&out));
    let again = davit(t, &["logout", host(&image)]).output()?;
    assert_eq!(again.status.code(), Some(1));
    t.davit_ok(&["rmi", &image])?;
    let refused = davit(t, &["pull", &image]).output()?;
    ensure!(!refused.status.success(), "it was pulled by who had logged out");
    Ok(())
});

on_one!(a_password_is_asked_for_without_being_shown, |t| {
    let image = guarded(t)?;
    let mut pty = Pty::start(&davit(t, &["login", host(&image)]), (80, 24))?;
    pty.wait_for("Username: ")?;
    pty.type_in("me\r")?;
    pty.wait_for("Password: ")?;
    pty.type_in("pass:word\r")?;
    pty.wait_for("logged in")?;
    pty.ends_with(0)?;
    ensure!(!pty.shown().contains("pass:word"), "{:?}", pty.shown());
    let refused = fed(davit(t, &["login", host(&image)]), "")?;
    ensure!(errors(&refused).contains("--password-stdin"), "{}", errors(&refused));
    Ok(())
});

on_one!(
    the_daemon_pulls_with_its_own_file_what_comes_without_credentials,
    setup: |settings| {
        settings.keys.push_str(&format!(
            "registry_auth_file = \"{}\"
",
            settings.dir.join("keys.json").display()
        ));
        Ok(())
    },
    |t| {
        let image = guarded(t)?;
        refused(t.cri.pull(&image), Code::PermissionDenied, &[])?;
        let keys = t.dir.join("keys.json").to_string_lossy().into_owned();
        let login = ["login", "-u", "me", "--password-stdin", "--authfile", &keys, host(&image)];
        let out = fed(davit(t, &login), "pass:word")?;
        ensure!(out.status.success(), "{}", errors(&out));
        t.cri.pull(&image)?;
        std::fs::File::create(&keys)?.write_all(b"{ hush")?;
        let status = refused(t.cri.pull(&image), Code::FailedPrecondition, &["keys.json"])?;
        ensure!(!status.message().contains("hush"), "{status:?}");
        Ok(())
    }
);

on_one!(a_pull_is_explained_and_nobody_asked, |t| {
    let image = t.registry.reference("davit-test/busybox:latest");
    let json = t.davit_ok(&["image", "explain", "--format", "json", &image])?;
    let json: Value = serde_json::from_str(&json)?;
    assert_eq!(json["repository"], "davit-test/busybox");
    assert_eq!(json["registry"], host(&image));
    let endpoints = json["endpoints"].as_array().context("endpoints")?;
    ensure!(!endpoints.is_empty() && endpoints.iter().all(|one| one["user"] == ""), "{json}");
    let refused = t.davit(&["image", "explain", "no/SUCH"])?;
    ensure!(errors(&refused).contains("no/SUCH"), "{}", errors(&refused));
    let found = t.davit_ok(&["search", host(&image), "test/busy"])?;
    assert_eq!(found, format!("{}/davit-test/busybox", host(&image)));
    assert_eq!(t.davit_ok(&["search", host(&image), "no-such-word"])?, "");
    for registry in ["localhost:1", "no-dot", "a b.c"] {
        let refused = t.davit(&["search", registry])?;
        ensure!(!refused.status.success() && errors(&refused).contains(registry), "{registry}");
    }
    Ok(())
});

on_both!(a_checkpoint_is_refused_before_anything_is_touched_where_criu_does_not_work, |t| {
    let (_, id) = t.sleeper(|_| {})?;
    let works = crate::checkpoint::criu_works(t)?;
    let made = t.davit(&["checkpoint", "create", "--name", "first", &id])?;
    if works {
        ensure!(made.status.success(), "{}", errors(&made));
        assert_eq!(t.davit_ok(&["checkpoint", "list", "-q"])?, "first");
        t.davit_ok(&["checkpoint", "delete", "first"])?;
    } else {
        assert_eq!(made.status.code(), Some(1));
        ensure!(errors(&made).contains("criu"), "{}", errors(&made));
    }
    assert_eq!(t.davit_ok(&["checkpoint", "list", "-q"])?, "");
    assert_eq!(t.exec(&id, "echo well")?, "well");
    for name in ["../x", "a/b", "-a"] {
        let refused = t.davit(&["checkpoint", "delete", "--", name])?;
        ensure!(errors(&refused).contains("is none"), "{name}: {}", errors(&refused));
    }
    let refused = t.davit(&["checkpoint", "delete", "none"])?;
    ensure!(errors(&refused).contains("no checkpoint"), "{}", errors(&refused));
    Ok(())
});

on_one!(archives_are_listed_and_deleted, |t| {
    let directory = t.settings().root().join("checkpoints");
    std::fs::create_dir_all(&directory)?;
    for name in ["b.tar", "a.tar", "a.tar.davit-tmp", ".hidden.tar"] {
        std::fs::File::create(directory.join(name))?.write_all(b"12345")?;
    }
    assert_eq!(t.davit_ok(&["checkpoint", "ls", "--format", "{{ name }} {{ size }}"])?, "a 5\nb 5");
    t.davit_ok(&["checkpoint", "rm", "a"])?;
    assert_eq!(t.davit_ok(&["checkpoint", "ls", "-q"])?, "b");
    ensure!(Path::new(&directory).join(".hidden.tar").exists(), "more was removed");
    Ok(())
});

on_one!(completions_are_what_the_shells_take, |t| {
    let script = t.davit_ok(&["completion", "bash"])?;
    let path = t.dir.join("davit.bash");
    std::fs::File::create(&path)?.write_all(script.as_bytes())?;
    let asked = format!(
        "source {}; COMP_WORDS=(davit chec); COMP_CWORD=1; _davit davit chec davit; echo \"${{COMPREPLY[@]}}\"",
        path.display()
    );
    let out = Command::new("bash").args(["-c", &asked]).output()?;
    assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), "checkpoint check", "{}", errors(&out));
    let pages = t.dir.join("man");
    std::fs::create_dir(&pages)?;
    t.davit_ok(&["man", &pages.to_string_lossy()])?;
    ensure!(davit_e2e::host::names_in(&pages)?.len() > 30, "few pages");
    Ok(())
});
