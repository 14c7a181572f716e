//! A start without a call of the OCI runtime: it gives what the runtime's own gives, and is not taken where that does more.

use davit_e2e::prelude::*;
use davit_proto::cri::CdiDevice;
use k8s_cri::v1::Int64Value;
use serde_json::Value;
use std::io::Write as _;
use std::process::Command;

/// crun twice: as it is, and with its own `start` asked for.
fn beside_its_own(settings: &mut Settings) -> Result<()> {
    let crun = davit_e2e::tools::oci_runtime("crun")?;
    settings.tables =
        format!("[handlers.called]\nkind = \"oci\"\npath = {crun:?}\nstart_fifo = false\n");
    settings.keys = format!("cdi_spec_dirs = [{:?}]\n", settings.dir.join("cdi"));
    Ok(std::fs::create_dir_all(settings.dir.join("cdi"))?)
}

fn crun(t: &Test, handler: &str, words: &[&str]) -> Result<String> {
    let mut command = Command::new(davit_e2e::tools::oci_runtime("crun")?);
    let root = t.settings().state().join("oci").join(handler);
    let said = command.arg("--root").arg(root).args(words).output()?;
    ensure!(said.status.success(), "crun {words:?}: {said:?}");
    Ok(String::from_utf8(said.stdout)?)
}

/// What a process is in the kernel's words: all of its status that does not count time or memory, its limits, its label and its cgroups.
fn process(pid: u32, id: &str) -> Result<Vec<String>> {
    const OWN: [&str; 12] = [
        "Pid", "Tgid", "Ngid", "PPid", "NSpid", "NSpgid", "NSsid", "NStgid", "State", "Vm", "Rss",
        "Hugetlb",
    ];
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}"));
    let mut lines = Vec::new();
    let status = read("status")?;
    let own = |line: &&str| OWN.iter().any(|name| line.starts_with(name)) || line.contains("ctxt");
    lines.extend(status.lines().filter(|line| !own(line)).map(str::to_owned));
    let of_parent = |line: &str| line.replace(id, "ID");
    lines.extend(read("limits")?.lines().map(str::to_owned));
    lines.extend(read("cgroup")?.lines().map(of_parent));
    for file in ["oom_score_adj", "environ", "cmdline"] {
        lines.push(format!("{file}: {}", read(file)?));
    }
    let links = ["cwd", "root", "exe"].map(|name| {
        std::fs::read_link(format!("/proc/{pid}/{name}")).map(|at| format!("{name}: {at:?}"))
    });
    lines.extend(links.into_iter().collect::<std::io::Result<Vec<_>>>()?);
    let mut open = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        open.push(entry?.file_name().to_string_lossy().into_owned());
    }
    open.sort();
    lines.push(format!("open: {open:?}"));
    Ok(lines)
}

fn wanted(c: &mut ContainerConfig) {
    resources(c).oom_score_adj = 300;
    let context = security(c);
    context.no_new_privs = true;
    context.run_as_user = Some(Int64Value { value: 1234 });
    context.run_as_group = Some(Int64Value { value: 77 });
    context.supplemental_groups = vec![4444];
    context.readonly_rootfs = true;
}

/// A container's status without what differs between two of them.
fn state(t: &Test, handler: &str, id: &str) -> Result<Value> {
    let mut state: Value = serde_json::from_str(&crun(t, handler, &["state", id])?)?;
    let all = state.as_object_mut().context("an object")?;
    for own in ["id", "pid", "bundle", "rootfs", "created", "annotations"] {
        ensure!(all.remove(own).is_some(), "no {own}: {all:?}");
    }
    Ok(state)
}

/// A pod of this handler, which sees no difference to one of another.
fn pod_of(t: &Test, handler: &str) -> Result<Pod> {
    let mut config = t.pod_config(handler);
    "same".clone_into(&mut config.hostname);
    std::fs::create_dir_all(&config.log_directory)?;
    let id = t.cri.run_pod(&config, handler)?;
    Ok(Pod { id, config })
}

fn processes_of(t: &Test, handler: &str) -> Result<(Vec<String>, Value)> {
    let pod = pod_of(t, handler)?;
    let id = t.run(&pod, "c", wanted)?;
    let pid = t.pid(&id)?;
    // The shell has set its handlers, and so is past what it does at first.
    eventually(Duration::from_secs(10), "it has begun", || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        Ok(caught.is_some_and(|bits| !bits.trim().trim_matches('0').is_empty()).then_some(()))
    })?;
    let told = (process(pid, &pod.id)?, state(t, handler, &id)?);
    // And all that is asked of a container that runs.
    assert_eq!(t.exec(&id, "id -u")?, "1234");
    crun(t, handler, &["pause", &id])?;
    // On cgroup v1 crun does not wait until the kernel has frozen all of it.
    eventually(Duration::from_secs(20), "it is paused", || {
        Ok((state(t, handler, &id)?["status"] == "paused").then_some(()))
    })?;
    crun(t, handler, &["resume", &id])?;
    t.cri.stop(&id, 0)?;
    t.cri.remove(&id)?;
    Ok((told.0.iter().map(|line| line.replace(&id, "CONTAINER")).collect(), told.1))
}

on_one!(a_start_without_a_call_gives_what_the_runtimes_own_gives, setup: beside_its_own, |t| {
    let info: Value = serde_json::from_str(&t.davit_ok(&["info", "--debug", "--format", "json"])?)?;
    let announced = |name: &str| {
        let handlers = info["handlers"].as_array().into_iter().flatten();
        let mut named = handlers.filter(|one| one["name"] == name);
        named.next().map(|one| one["features"]["start_fifo"].clone())
    };
    assert_eq!(announced("crun"), Some(true.into()), "{info}");
    assert_eq!(announced("called"), Some(false.into()), "{info}");
    assert_eq!(announced("runc"), Some(false.into()), "{info}");
    let (short, short_state) = processes_of(t, "crun")?;
    let (own, own_state) = processes_of(t, "called")?;
    assert_eq!(short, own);
    assert_eq!(short_state, own_state);
    assert_eq!(short_state["status"], "running");
    Ok(())
});

/// The file in which the init of a container waits.
fn fifo(t: &Test, id: &str) -> PathBuf {
    t.settings().state().join("oci/crun").join(id).join("exec.fifo")
}

on_one!(where_nobody_waits_the_runtime_is_asked_and_says_why, setup: beside_its_own, |t| {
    let pod = pod_of(t, "crun")?;
    let id = t.create(&pod, "c", |_| ())?;
    assert!(fifo(t, &id).exists());
    // Somebody has started it by hand: there is nothing to wait for any more.
    crun(t, "crun", &["start", &id])?;
    assert!(!fifo(t, &id).exists());
    let refusal = refused(t.cri.start(&id), Code::Internal, &[&id, "exec.fifo"])?;
    ensure!(!refusal.message().is_empty());
    Ok(())
});

fn hook(dir: &Path) -> String {
    let file = dir.join("hooked");
    format!(
        r#"{{"cdiVersion": "0.8.0", "kind": "vendor.com/x", "devices": [{{"name": "one", "containerEdits": {{"hooks": [
            {{"hookName": "poststart", "path": "/bin/sh", "args": ["sh", "-c", "cat > {}"]}}]}}}}]}}"#,
        file.display()
    )
}

on_one!(what_runs_at_a_start_is_run, setup: beside_its_own, |t| {
    std::fs::File::create(t.dir.join("cdi/vendor.json"))?.write_all(hook(&t.dir).as_bytes())?;
    let pod = pod_of(t, "crun")?;
    let id = t.run_newer(&pod, "c", |c| {
        c.cdi_devices = vec![CdiDevice { name: "vendor.com/x=one".to_owned() }];
    })?;
    assert!(std::fs::read_to_string(t.dir.join("hooked"))?.contains(&id));
    Ok(())
});
