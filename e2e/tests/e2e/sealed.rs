//! The OCI runtime from memory: used, kept from containers, and given up for the file when that is replaced.

use crate::shim_loss::shim;
use davit_e2e::prelude::*;
use davit_e2e::{host, tools};

/// A handler whose executable is the test's to replace.
fn own_runtime(settings: &mut Settings) -> Result<()> {
    let (real, own) = (tools::oci_runtime(&settings.handler)?, settings.dir.join("oci-runtime"));
    std::fs::copy(real, &own).context("copy the OCI runtime")?;
    settings.tables = format!("[handlers.own]\npath = {own:?}\n");
    "own".clone_into(&mut settings.handler);
    Ok(())
}

/// What a shim holds under the number at which it is passed.
fn passed(t: &Test, pod: &Pod) -> Result<Option<PathBuf>> {
    let link = std::fs::read_link(format!("/proc/{}/fd/4", shim(t, pod)?)).ok();
    Ok(link.filter(|link| link.to_string_lossy().contains("memfd:oci-runtime")))
}

on_both!(a_runtime_in_memory_is_passed_to_shims_and_to_no_container, setup: own_runtime, |t| {
    t.pull("davit-test/busybox:latest")?;
    let pod = t.pod("web", |_| ())?;
    ensure!(passed(t, &pod)?.is_some(), "the shim has no copy of the OCI runtime");
    let id = t.run(&pod, "c", |c| {
        c.command = sh("ls -l /proc/self/fd; echo end; sleep 1000");
    })?;
    let begun = eventually(Duration::from_secs(30), "it has looked at its descriptors", || {
        let lines = t.log(&t.cri.status(&id)?)?;
        let lines: Vec<String> = lines.into_iter().map(|line| line.content).collect();
        Ok(lines.iter().any(|line| line == "end").then_some(lines.join("\n")))
    })?;
    let of_command = t.exec(&id, "ls -l /proc/self/fd")?;
    for seen in [begun, of_command] {
        ensure!(seen.contains("->") && !seen.contains("memfd"), "{seen}");
    }
    Ok(())
});

on_both!(a_runtime_that_was_replaced_is_used_from_the_next_call_on, setup: own_runtime, |t| {
    t.pull("davit-test/busybox:latest")?;
    let pod = t.pod("web", |_| ())?;
    let id = t.run(&pod, "c", |_| ())?;
    ensure!(passed(t, &pod)?.is_some(), "the shim has no copy of the OCI runtime");
    let (own, marker) = (t.dir.join("oci-runtime"), t.dir.join("called"));
    let real = t.dir.join("moved");
    std::fs::rename(&own, &real)?;
    host::script(&own, &format!("touch {}; exec {} \"$@\"", marker.display(), real.display()))?;
    assert_eq!(t.exec(&id, "echo well")?, "well");
    ensure!(marker.exists(), "the pod that was there starts the old one");
    std::fs::remove_file(&marker)?;
    let next = t.pod("next", |_| ())?;
    ensure!(passed(t, &next)?.is_none(), "a script was copied");
    t.run(&next, "c", |_| ())?;
    ensure!(marker.exists(), "the next pod starts the old one");
    Ok(())
});
