//! Each step of each operation fails once, and once davit is killed there: the call errors, the retry works, nothing is left.
//!
//! The steps are those that the sources name: `reach("OPERATION.STEP")`. One whose operation has no row in [`row`] fails the test, and so does one that its
//! row never comes to.

use davit_e2e::prelude::*;
use davit_e2e::{leaks, tools};
use k8s_cri::v1::UpdateContainerResourcesRequest;
use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt as _;
use tonic::Status;

const WITHIN: Duration = Duration::from_secs(40);
const IMAGE: &str = "davit-test/busybox:latest";
const PULLED: &str = "davit-test/busybox:one";

/// What is to happen at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Error,
    Kill,
}

/// An operation: what must be there before it, the call, and the call again.
struct Row {
    before: fn(&Test) -> Result<Scene>,
    call: fn(&Test, &Scene) -> Result<(), Status>,
    /// The kubelet's way on after a failure; the same call, mostly.
    again: fn(&Test, &Scene) -> Result<(), Status>,
}

/// What is there when the operation comes.
#[derive(Default)]
struct Scene {
    pod: Option<Pod>,
    container: String,
}

impl Scene {
    fn pod(&self) -> &Pod {
        self.pod.as_ref().unwrap()
    }
}

fn nothing(_: &Test) -> Result<Scene> {
    Ok(Scene::default())
}

fn pod(t: &Test) -> Result<Scene> {
    Ok(Scene { pod: Some(t.pod("web", |_| ())?), ..Scene::default() })
}

fn created(t: &Test) -> Result<Scene> {
    let pod = t.pod("web", |_| ())?;
    let container = t.create(&pod, "main", |_| ())?;
    Ok(Scene { pod: Some(pod), container })
}

fn running(t: &Test) -> Result<Scene> {
    let scene = created(t)?;
    t.cri.start(&scene.container)?;
    Ok(scene)
}

/// One whom only SIGKILL ends.
fn deaf(t: &Test) -> Result<Scene> {
    let pod = t.pod("web", |_| ())?;
    let container = t.run(&pod, "main", |c| {
        c.command = sh("trap '' TERM; echo deaf; while :; do sleep 0.1; done")
    })?;
    let log = PathBuf::from(t.cri.status(&container)?.log_path);
    eventually(WITHIN, "it is deaf", || Ok((log.metadata()?.len() > 0).then_some(())))?;
    Ok(Scene { pod: Some(pod), container })
}

fn run_pod(t: &Test, _: &Scene) -> Result<(), Status> {
    t.try_pod("web", |_| ()).map(drop)
}

fn create(t: &Test, scene: &Scene) -> Result<(), Status> {
    t.try_create(scene.pod(), "main", |_| ()).map(drop)
}

/// Whatever became of the first container, the next attempt runs.
fn start_another(t: &Test, scene: &Scene) -> Result<(), Status> {
    let state = t.cri.status(&scene.container)?.state();
    if state == ContainerState::ContainerRunning {
        return Ok(());
    }
    if state == ContainerState::ContainerCreated {
        return t.cri.start(&scene.container);
    }
    t.cri.remove(&scene.container)?;
    let id = t.try_create(scene.pod(), "main", |_| ())?;
    t.cri.start(&id)
}

/// What `davit checkpoint restore` asks; its own undo would hide the daemon's.
fn restore(t: &Test, scene: &Scene) -> Result<(), Status> {
    let archive = davit_proto::admin::Archive { name: "one".to_owned(), ..Default::default() };
    let request = davit_proto::admin::RestoreCheckpointRequest {
        archive: Some(archive),
        pod_sandbox_id: scene.pod().id.clone(),
        ..Default::default()
    };
    t.cri.wait(t.cri.admin().restore_checkpoint(request)).map(drop)
}

fn update(t: &Test, scene: &Scene) -> Result<(), Status> {
    let linux = LinuxContainerResources { cpu_shares: 512, ..LinuxContainerResources::default() };
    let request = UpdateContainerResourcesRequest {
        container_id: scene.container.clone(),
        linux: Some(linux),
        ..UpdateContainerResourcesRequest::default()
    };
    t.cri.wait(t.cri.runtime().update_container_resources(request)).map(drop)
}

/// A daemon that finds this must come up: there is a running container, one that waits, and a pod that was stopped.
fn much(t: &Test) -> Result<Scene> {
    let scene = running(t)?;
    t.create(scene.pod(), "waits", |_| ())?;
    let stopped = t.pod("stopped", |_| ())?;
    t.cri.stop_pod(&stopped.id)?;
    Ok(scene)
}

fn look(t: &Test, scene: &Scene) -> Result<(), Status> {
    assert_eq!(t.cri.containers(None)?.len(), 2);
    assert_eq!(t.cri.pods(None)?.len(), 2);
    assert_eq!(t.cri.status(&scene.container)?.state(), ContainerState::ContainerRunning);
    Ok(())
}

/// The row of an operation; the test fails where there is none.
fn row(operation: &str) -> Option<Row> {
    let same = |before, call| Row { before, call, again: call };
    Some(match operation {
        "run" => same(nothing, run_pod),
        "create" => same(pod, create),
        // A shim that was killed takes its pod along.
        "shim_create" => Row {
            before: pod,
            call: create,
            again: |t, scene| {
                if t.cri.pod_status(&scene.pod().id)?.state() == PodSandboxState::SandboxReady {
                    return create(t, scene);
                }
                t.cri.remove_pod(&scene.pod().id)?;
                create(t, &pod(t).map_err(|error| Status::internal(format!("{error:#}")))?)
            },
        },
        "restore" => Row {
            before: |t| {
                if !t.settings().root().join("checkpoints/one.tar").exists() {
                    crate::restore::checkpointed(t)?;
                }
                pod(t)
            },
            call: restore,
            // One that was committed runs, and a restoration joins none: its name is taken.
            again: |t, scene| match t.cri.containers(None)?.first() {
                Some(known) if known.pod_sandbox_id == scene.pod().id => {
                    assert_eq!(t.cri.status(&known.id)?.state(), ContainerState::ContainerRunning);
                    Ok(())
                }
                Some(_) | None => restore(t, scene),
            },
        },
        "start" => Row {
            before: created,
            call: |t, scene| t.cri.start(&scene.container),
            again: start_another,
        },
        "stop" => same(deaf, |t, scene| t.cri.stop(&scene.container, 1)),
        "remove" => same(running, |t, scene| t.cri.remove(&scene.container)),
        "update" => same(running, update),
        "stop_pod" => same(running, |t, scene| t.cri.stop_pod(&scene.pod().id)),
        "remove_pod" => same(running, |t, scene| t.cri.remove_pod(&scene.pod().id)),
        "pull" => same(nothing, |t, _| t.cri.pull(&t.registry.reference(PULLED)).map(drop)),
        "remove_image" => Row {
            before: |t| t.pull(PULLED).map(|_| Scene::default()),
            call: |t, _| t.cri.remove_image(&t.registry.reference(PULLED)),
            again: |t, _| t.cri.remove_image(&t.registry.reference(PULLED)),
        },
        "recover" => same(much, look),
        _ => return None,
    })
}

/// The names in `reach("…")` in these sources.
pub(crate) fn steps() -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for sources in ["runtime/src", "shim/src", "cri/src"] {
        search(&top.join(sources), &mut found)?;
    }
    Ok(found)
}

fn search(dir: &Path, found: &mut BTreeSet<String>) -> Result<()> {
    for name in davit_e2e::host::names_in(dir)? {
        let path = dir.join(name);
        if path.is_dir() {
            search(&path, found)?;
        } else {
            let text = std::fs::read_to_string(&path)?;
            let after = text.split("reach(\"").skip(1);
            found.extend(after.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
        }
    }
    Ok(())
}

fn restart(t: &Test, failpoint: Option<(&str, Way)>) -> Result<()> {
    let mut daemon = t.daemon();
    if daemon.pid().is_some() {
        daemon.kill()?;
    }
    let action = |way| if way == Way::Error { "error" } else { "kill" };
    let asked = failpoint
        .map(|(step, way)| ("DAVIT_FAILPOINT".to_owned(), format!("{step}={}", action(way))));
    let waits = !failpoint.is_some_and(|(step, _)| step.starts_with("recover."));
    let kept =
        daemon.settings().env.clone().into_iter().filter(|(name, _)| name != "DAVIT_FAILPOINT");
    let env = kept.chain(asked).collect();
    daemon.set_env(env);
    if waits { daemon.spawn() } else { daemon.launch() }
}

/// The step in one way: the call errors, or davit dies; then the call works; then all is removed, and nothing is left.
fn fail_once(t: &Test, step: &str, way: Way) -> Result<()> {
    let operation = step.split_once('.').context("a step has an operation")?.0;
    let row = row(operation).context("it has no row")?;
    let in_shim = operation == "shim_create";
    // A shim is told at its start, and the pod is there before.
    if in_shim {
        restart(t, Some((step, way)))?;
    }
    let scene = (row.before)(t).context("before it")?;
    if !in_shim {
        restart(t, Some((step, way)))?;
    }
    let answer = if operation == "recover" { Ok(()) } else { (row.call)(t, &scene) };
    match (operation, way) {
        ("recover", _) | (_, Way::Kill) if !in_shim => {
            let ended = t.daemon().wait(WITHIN).context("it never came to the step")?;
            let as_asked =
                if way == Way::Kill { ended.signal() == Some(9) } else { ended.code() == Some(1) };
            ensure!(as_asked, "davit ended with {ended}");
        }
        (_, _) => {
            let status = answer.err().context("it did not fail")?;
            let told = status.message().contains(step);
            ensure!(told || (in_shim && way == Way::Kill), "it failed otherwise: {status}");
        }
    }
    restart(t, None)?;
    (row.again)(t, &scene).map_err(|status| anyhow::anyhow!("the retry failed: {status}"))?;
    clean(t)
}

fn clean(t: &Test) -> Result<()> {
    for container in t.cri.containers(None)? {
        t.watch(&container.id);
    }
    for pod in t.cri.pods(None)? {
        t.watch(&pod.id);
        t.cri.remove_pod(&pod.id).context("remove the pod")?;
    }
    t.cri.remove_image(&t.registry.reference(PULLED)).context("remove the image")?;
    let mut left = Vec::new();
    let looked = eventually(Duration::from_secs(5), "nothing is left", || {
        left = leaks::find(&t.settings(), t.daemon().pid(), &[])?;
        for (dir, few) in [("containers", 0), ("images", 1)] {
            let names = davit_e2e::host::names_in(&t.settings().root().join(dir))?;
            left.extend(names.into_iter().skip(few).map(|name| format!("{dir}/{name}")));
        }
        Ok(left.is_empty().then_some(()))
    });
    looked.with_context(|| format!("left behind: {left:#?}"))
}

fn each_step(t: &Test, way: Way) -> Result<()> {
    // The daemon may have died in the middle, or was told to fail.
    for text in ["failpoint", "left behind", "the pod's shim", "could not be", "recover"] {
        t.allow_log(text);
    }
    t.pull(IMAGE)?;
    let (mut problems, mut operations) = (Vec::new(), BTreeSet::new());
    let steps = steps()?;
    ensure!(steps.len() > 40, "the steps were not found: {steps:?}");
    for step in &steps {
        operations.insert(step.split('.').next().unwrap());
        if let Err(error) = fail_once(t, step, way) {
            problems.push(format!("{step}: {error:#}"));
            restart(t, None)?;
            drop(clean(t));
        }
    }
    crate::restore::forgotten(t)?;
    println!("{way:?}: {} steps of {} operations", steps.len(), operations.len());
    ensure!(
        problems.is_empty(),
        "{} of {} steps:\n{}",
        problems.len(),
        steps.len(),
        problems.join("\n")
    );
    Ok(())
}

pub(crate) fn with_failpoints(settings: &mut Settings) -> Result<()> {
    settings.binaries = Some(tools::failpoint_binaries()?);
    Ok(())
}

/// With a stand-in for CRIU, so that there is something to restore.
fn with_checkpoints(settings: &mut Settings) -> Result<()> {
    crate::restore::with_stand_ins(settings)?;
    with_failpoints(settings)
}

on_one!(a_step_that_fails_once_is_undone_and_works_the_next_time, setup: with_checkpoints, |t| {
    each_step(t, Way::Error)
});

on_one!(killed_at_a_step_it_finds_order_again_and_the_retry_works, setup: with_checkpoints, |t| {
    each_step(t, Way::Kill)
});

#[test]
fn only_programs_built_for_it_have_failpoints() -> Result<()> {
    let has = |dir: PathBuf, name: &str| -> Result<bool> {
        let bytes = std::fs::read(dir.join(name))?;
        Ok(bytes.windows(15).any(|window| window == b"DAVIT_FAILPOINT"))
    };
    for name in ["davit", "davit-shim"] {
        assert!(!has(tools::binaries()?, name)?, "{name} has failpoints");
        assert!(has(tools::failpoint_binaries()?, name)?, "{name} has none");
    }
    Ok(())
}
