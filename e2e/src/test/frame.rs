//! Before and after a test's body.

use super::Test;
use crate::cri::Cri;
use crate::daemon::{Daemon, Settings};
use crate::images::catalog;
use crate::leaks;
use crate::registry::{Registry, Store, write_whole};
use crate::tools;
use anyhow::{Context, Result, bail};
use std::os::unix::fs::PermissionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// What is being taken away when a removal returns may need this long to be gone: a shim ends after it has answered.
const GRACE: Duration = Duration::from_secs(20);

/// Registries whose images the test's registry has.
const MIRRORED: [&str; 4] = ["docker.io", "registry.k8s.io", "gcr.io", "k8s.gcr.io"];

/// Runs a test's body on a daemon of its own, with this OCI runtime.
///
/// # Errors
/// The body's, and everything that is wrong afterwards.
pub fn run(
    runtime: &str,
    setup: impl FnOnce(&mut Settings) -> Result<()>,
    body: impl FnOnce(&Test) -> Result<()>,
) -> Result<()> {
    tools::oci_runtime(runtime)?;
    // Short, as the path of a shim's socket below it has to fit into 108 bytes.
    let dir = tempfile::Builder::new()
        .prefix("dt")
        .rand_bytes(6)
        .tempdir_in("/tmp")
        .context("make a directory")?;
    // As the directories above a node's are: users of a user namespace pass through.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711))
        .context("let others pass through the directory")?;
    let mut settings = Settings::new(dir.path(), runtime);
    let images = catalog::ensure(&catalog::cache())?;
    let store = Store::open_above(&dir.path().join("registry"), &images)?;
    let registry = Registry::start(store)?;
    write_hosts(&settings, &registry)?;
    std::fs::create_dir_all(&settings.cni_conf_dir).context("make the CNI directory")?;
    setup(&mut settings)?;
    let cri = Cri::new(&settings.socket())?;
    let daemon = match Daemon::start(settings.clone()) {
        Ok(daemon) => daemon,
        Err(error) => {
            leaks::sweep(&settings)?;
            return Err(error);
        }
    };
    let test = Test {
        cri,
        registry,
        dir: dir.path().to_owned(),
        images,
        daemon: Mutex::new(daemon),
        ids: Mutex::default(),
        allowed: Mutex::default(),
    };
    let mut problems = Vec::new();
    match catch_unwind(AssertUnwindSafe(|| body(&test))) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => problems.push(format!("{error:?}")),
        Err(_) => problems.push("the test panicked (above)".to_owned()),
    }
    finish(&test, &mut problems);
    if problems.is_empty() {
        return Ok(());
    }
    problems.push(test.daemon().log_tail());
    bail!("{}", problems.join("\n"))
}

/// Removes, searches, stops, looks and sweeps; each goes on where the one before failed.
fn finish(test: &Test, problems: &mut Vec<String>) {
    let mut note = |what: &str, result: Result<()>| {
        if let Err(error) = result {
            problems.push(format!("{what}: {error:#}"));
        }
    };
    if crate::daemon::peer().is_some() {
        note("remove the test's pods", remove_pods(test));
        note("sweep", leaks::sweep(&test.settings()));
        return;
    }
    if test.daemon().pid().is_none() {
        let started = test.daemon().spawn();
        note("start the daemon again to remove the test's pods", started);
    }
    note("remove the test's pods", remove_pods(test));
    note("nothing may be left", nothing_left(test));
    let stopped = test.daemon().stop();
    note("stop the daemon", stopped);
    note("nothing may run on", nothing_runs(test));
    let complaints = test.daemon().complaints(&test.allowed());
    if !complaints.is_empty() {
        note(
            "davit's log",
            Err(anyhow::anyhow!("complaints that were not expected:\n{}", complaints.join("\n"))),
        );
    }
    note("sweep", leaks::sweep(&test.settings()));
}

fn remove_pods(test: &Test) -> Result<()> {
    let shared = crate::daemon::peer().is_some();
    let own = test.watched();
    for container in test.cri.containers(None)? {
        test.watch(&container.id);
    }
    for pod in test.cri.pods(None)? {
        if shared && !own.contains(&pod.id) {
            continue;
        }
        test.watch(&pod.id);
        test.cri.stop_pod(&pod.id).with_context(|| format!("stop pod {}", pod.id))?;
        test.cri.remove_pod(&pod.id).with_context(|| format!("remove pod {}", pod.id))?;
    }
    Ok(())
}

fn nothing_left(test: &Test) -> Result<()> {
    let end = Instant::now() + GRACE;
    let settings = test.settings();
    let daemon = test.daemon().pid();
    loop {
        let found = leaks::find(&settings, daemon, &test.watched())?;
        if found.is_empty() {
            return Ok(());
        }
        if Instant::now() >= end {
            bail!("left behind:\n{}", found.join("\n"));
        }
        crate::host::pause(Duration::from_millis(20));
    }
}

/// What the daemon has kept ready ends with it.
fn nothing_runs(test: &Test) -> Result<()> {
    let mut left = Vec::new();
    let ended = crate::host::eventually(GRACE, "all has ended with the daemon", || {
        left = leaks::processes(&test.settings())?;
        Ok(left.is_empty().then_some(()))
    });
    ended.with_context(|| format!("processes {left:?}"))
}

/// Tells the daemon where the test's registry is.
pub(crate) fn write_hosts(settings: &Settings, registry: &Registry) -> Result<()> {
    let server = format!("http://{}", registry.address());
    let plain =
        format!("server = {server:?}\n[host.{server:?}]\ncapabilities = [\"pull\", \"resolve\"]\n");
    write_host(&settings.registry_config_dir().join(registry.address().to_string()), &plain)?;
    // Tests that share a runtime would overwrite each other's.
    let mirrored = if crate::daemon::peer().is_some() { &MIRRORED[..0] } else { &MIRRORED[..] };
    for name in mirrored {
        let text = format!(
            "server = \"https://{name}\"\n[host.{server:?}]\ncapabilities = [\"pull\", \"resolve\"]\n"
        );
        write_host(&settings.registry_config_dir().join(name), &text)?;
    }
    Ok(())
}

fn write_host(dir: &Path, text: &str) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    write_whole(&dir.join("hosts.toml"), text.as_bytes())
}
