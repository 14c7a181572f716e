//! Ids: every call takes the beginning of one, tells an unknown one as such, and does nothing for one that could be several.

use davit_e2e::prelude::*;
use davit_proto::cri;
use tonic::Status;

/// What is asked of a call whose id names nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unknown {
    /// It says so.
    NotFound,
    /// Nothing is left to do.
    Fine,
}

/// A call that takes an id.
struct Call {
    name: &'static str,
    unknown: Unknown,
    send: fn(&Test, &str) -> Result<(), Status>,
}

/// `call!(name, method, Request { field })`
macro_rules! call {
    ($unknown:ident, $method:ident, $request:ident, $field:ident $(, $other:ident: $value:expr)*) => {
        Call {
            name: stringify!($method),
            unknown: Unknown::$unknown,
            send: |t, id| {
                let mut request = cri::$request::default();
                request.$field = id.to_owned();
                $(request.$other = $value;)*
                t.cri.wait(t.cri.newer().$method(request)).map(drop)
            },
        }
    };
}

fn limits() -> Option<cri::LinuxContainerResources> {
    Some(cri::LinuxContainerResources { cpu_shares: 512, ..Default::default() })
}

fn words() -> Vec<String> {
    vec!["true".to_owned()]
}

/// Those about a container that runs; the last ones end it.
fn of_containers() -> Vec<Call> {
    vec![
        call!(NotFound, container_status, ContainerStatusRequest, container_id),
        call!(NotFound, container_stats, ContainerStatsRequest, container_id),
        call!(NotFound, update_container_resources, UpdateContainerResourcesRequest, container_id, linux: limits()),
        call!(NotFound, reopen_container_log, ReopenContainerLogRequest, container_id),
        call!(NotFound, exec_sync, ExecSyncRequest, container_id, cmd: words(), timeout: 10),
        call!(NotFound, exec, ExecRequest, container_id, cmd: words(), stdout: true),
        call!(NotFound, attach, AttachRequest, container_id, stdout: true),
        call!(Fine, stop_container, StopContainerRequest, container_id),
        call!(Fine, remove_container, RemoveContainerRequest, container_id),
    ]
}

/// Those about a pod; the last ones end it.
fn of_pods() -> Vec<Call> {
    vec![
        call!(NotFound, pod_sandbox_status, PodSandboxStatusRequest, pod_sandbox_id),
        call!(NotFound, pod_sandbox_stats, PodSandboxStatsRequest, pod_sandbox_id),
        call!(NotFound, update_pod_sandbox_resources, UpdatePodSandboxResourcesRequest, pod_sandbox_id, resources: limits()),
        call!(NotFound, port_forward, PortForwardRequest, pod_sandbox_id, port: vec![80]),
        call!(Fine, stop_pod_sandbox, StopPodSandboxRequest, pod_sandbox_id),
        call!(Fine, remove_pod_sandbox, RemovePodSandboxRequest, pod_sandbox_id),
    ]
}

/// A beginning of the id that no other one shares, as people type it.
fn beginning(id: &str) -> &str {
    id.get(..20).unwrap_or(id)
}

on_both!(every_call_takes_the_beginning_of_an_id, |t| {
    let pod = t.pod("web", |_| ())?;
    // Started by the beginning of its id, in a pod that is named by the beginning of its own.
    let short = Pod { id: beginning(&pod.id).to_owned(), config: pod.config.clone() };
    let id = t.create(&short, "main", |_| ())?;
    t.cri.start(beginning(&id))?;
    for call in of_containers() {
        (call.send)(t, beginning(&id)).with_context(|| call.name)?;
    }
    assert!(t.cri.status(&id).is_err(), "the last call removed it");
    for call in of_pods() {
        (call.send)(t, beginning(&pod.id)).with_context(|| call.name)?;
    }
    assert!(t.cri.pods(None)?.is_empty(), "the last call removed it");
    Ok(())
});

/// Those that could not be tried with a container that runs.
fn others() -> Vec<Call> {
    vec![
        call!(NotFound, start_container, StartContainerRequest, container_id),
        call!(NotFound, checkpoint_container, CheckpointContainerRequest, container_id, location: "/nowhere/x.tar".to_owned()),
        Call {
            name: "create_container",
            unknown: Unknown::NotFound,
            send: |t, id| {
                t.cri.create(id, &t.container_config("bad"), &t.pod_config("bad")).map(drop)
            },
        },
    ]
}

fn all() -> Vec<Call> {
    of_containers().into_iter().chain(of_pods()).chain(others()).collect()
}

on_one!(an_id_that_names_nothing_is_told_as_such_or_is_fine, |t| {
    for call in all() {
        for id in ["no-such-id", "../../etc/passwd", &"0".repeat(64), &"f".repeat(10_000)] {
            let answer = (call.send)(t, id);
            match call.unknown {
                Unknown::Fine => answer.with_context(|| format!("{} {id}", call.name))?,
                Unknown::NotFound => {
                    let named = id.get(..64).unwrap_or(id);
                    refused(answer, Code::NotFound, &[named])
                        .with_context(|| format!("{} {id}", call.name))
                        .map(drop)?;
                }
            }
        }
        // An empty id names nothing either, but nobody can mean it.
        let empty = (call.send)(t, "").err().with_context(|| format!("{} took \"\"", call.name))?;
        ensure!(
            matches!(empty.code(), Code::NotFound | Code::InvalidArgument),
            "{}: {empty:?}",
            call.name
        );
    }
    assert!(t.cri.pods(None)?.is_empty() && t.cri.containers(None)?.is_empty());
    Ok(())
});

/// The first digit that two of them share: 17 ids have one.
fn shared(ids: &[String]) -> Result<&str> {
    let first = |id: &'_ String| id.get(..1).map(str::to_owned).unwrap_or_default();
    let twice = |digit: &str| ids.iter().filter(|id| first(id) == digit).count() > 1;
    let found = ids.iter().find(|id| twice(&first(id)));
    found.and_then(|id| id.get(..1)).context("two begin so")
}

on_one!(an_id_that_could_be_several_is_refused_and_nothing_is_done, |t| {
    let pods = (0..17)
        .map(|number| t.pod(&format!("pod-{number}"), |p| namespaces(p).network = 2))
        .collect::<Result<Vec<_>>>()?;
    let first = pods.first().context("a pod")?;
    let containers = (0..17)
        .map(|number| t.create(first, &format!("c{number}"), |_| ()))
        .collect::<Result<Vec<_>>>()?;
    let pods: Vec<String> = pods.iter().map(|pod| pod.id.clone()).collect();
    let (pod, container) = (shared(&pods)?, shared(&containers)?);
    for call in all() {
        let of_pod = call.name.contains("sandbox")
            || matches!(call.name, "port_forward" | "create_container");
        let id = if of_pod { pod } else { container };
        refused((call.send)(t, id), Code::InvalidArgument, &["ambiguous", id])
            .with_context(|| call.name)?;
    }
    assert_eq!((t.cri.pods(None)?.len(), t.cri.containers(None)?.len()), (17, 17));
    let ready = |pod: &k8s_cri::v1::PodSandbox| pod.state() == PodSandboxState::SandboxReady;
    assert!(t.cri.pods(None)?.iter().all(ready));
    Ok(())
});
