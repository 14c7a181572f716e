//! GetContainerEvents: every change once, in order, with the statuses of its moment.

use davit_e2e::prelude::*;
use k8s_cri::v1::{ContainerEventResponse, ContainerEventType, GetEventsRequest, StatusRequest};
use std::time::Instant;
use tonic::Streaming;

const WAIT: Duration = Duration::from_secs(20);

fn listen(t: &Test) -> Result<Streaming<ContainerEventResponse>> {
    Ok(t.cri.wait(t.cri.runtime().get_container_events(GetEventsRequest {}))?)
}

/// Events up to and with the one that is asked for.
fn until(
    t: &Test,
    stream: &mut Streaming<ContainerEventResponse>,
    id: &str,
    kind: ContainerEventType,
) -> Result<Vec<ContainerEventResponse>> {
    let mut events = Vec::new();
    loop {
        let event = t.cri.block_on(async { tokio::time::timeout(WAIT, stream.message()).await });
        let event =
            event.with_context(|| format!("wait for {kind:?} of {id} after {events:?}"))??;
        let event = event.context("the stream has ended")?;
        let last = event.container_id == id && event.container_event_type() == kind;
        events.push(event);
        if last {
            return Ok(events);
        }
    }
}

fn kinds(events: &[ContainerEventResponse], id: &str) -> Vec<ContainerEventType> {
    let of_it = events.iter().filter(|event| event.container_id == id);
    of_it.map(ContainerEventResponse::container_event_type).collect()
}

fn listeners(t: &Test) -> Result<u64> {
    let status = t.cri.wait(t.cri.runtime().status(StatusRequest { verbose: true }))?;
    let counters: serde_json::Value =
        serde_json::from_str(status.info.get("counters").context("counters")?)?;
    counters["eventListeners"].as_u64().context("eventListeners")
}

on_both!(a_life_is_told_in_order_with_the_statuses_of_each_moment, |t| {
    use ContainerEventType::{
        ContainerCreatedEvent as Created, ContainerDeletedEvent as Deleted,
        ContainerStartedEvent as Started, ContainerStoppedEvent as Stopped,
    };
    let mut stream = listen(t)?;
    assert_eq!(listeners(t)?, 1);
    let (pod, id) = t.sleeper(|_| ())?;
    let short = t.run(&pod, "short", |c| c.command = sh("exit 3"))?;
    t.wait_for_exit(&short)?;
    let unborn = t.create(&pod, "unborn", |_| ())?;
    t.cri.remove(&unborn)?;
    t.cri.stop(&id, 0)?;
    t.cri.remove(&id)?;
    t.cri.stop_pod(&pod.id)?;
    t.cri.remove_pod(&pod.id)?;
    let events = until(t, &mut stream, &pod.id, Deleted)?;
    let whole = vec![Created, Started, Stopped, Deleted];
    for (told, what) in [(&pod.id, "the pod"), (&id, "main"), (&short, "short")] {
        assert_eq!(kinds(&events, told), whole, "{what}");
    }
    assert_eq!(kinds(&events, &unborn), [Created, Stopped, Deleted], "it never ran");
    assert!(
        events
            .windows(2)
            .all(|two| two[0].created_at <= two[1].created_at && two[0].created_at > 0)
    );
    for event in &events {
        let kind = event.container_event_type();
        let pod_status = event.pod_sandbox_status.as_ref().context("a pod's status")?;
        assert_eq!(pod_status.id, pod.id);
        let of_it = event.containers_statuses.iter().find(|one| one.id == event.container_id);
        let state = of_it.map(|status| status.state());
        match kind {
            _ if event.container_id == pod.id => {
                let ready = matches!(kind, Created | Started);
                assert_eq!(pod_status.state() == PodSandboxState::SandboxReady, ready, "{kind:?}");
            }
            Created => assert_eq!(state, Some(ContainerState::ContainerCreated)),
            Started => assert_eq!(state, Some(ContainerState::ContainerRunning)),
            Stopped => assert_eq!(state, Some(ContainerState::ContainerExited)),
            // One that went with its pod is told as it was last.
            Deleted => assert!(matches!(state, None | Some(ContainerState::ContainerExited))),
        }
        if event.container_id == short && kind == Stopped {
            assert_eq!(of_it.context("its status")?.exit_code, 3);
        }
    }
    Ok(())
});

on_both!(a_stream_holds_up_no_stop_and_a_new_one_tells_what_is_new, |t| {
    let mut stream = listen(t)?;
    let (pod, id) = t.sleeper(|_| ())?;
    until(t, &mut stream, &id, ContainerEventType::ContainerStartedEvent)?;
    let begun = Instant::now();
    t.daemon().stop()?;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let end = t.cri.block_on(async { tokio::time::timeout(WAIT, stream.message()).await });
    assert!(end.is_ok_and(|end| !matches!(end, Ok(Some(_)))), "the stream has ended");
    t.daemon().spawn()?;
    let mut stream = listen(t)?;
    t.cri.stop(&id, 0)?;
    let events = until(t, &mut stream, &id, ContainerEventType::ContainerStoppedEvent)?;
    assert_eq!(events.len(), 1, "what was there before has not happened now: {events:?}");
    drop(stream);
    eventually(WAIT, "the listener is gone", || Ok((listeners(t)? == 0).then_some(())))?;
    drop(pod);
    Ok(())
});

on_one!(crictl_shows_events, |t| {
    let log = t.dir.join("events");
    let mut command = std::process::Command::new(davit_e2e::tools::crictl()?);
    let endpoint = format!("unix://{}", t.settings().socket().display());
    command.args(["--config", "/dev/null", "--runtime-endpoint", &endpoint, "events"]);
    let mut shown = command.stdout(std::fs::File::create(&log)?).spawn()?;
    eventually(WAIT, "crictl listens", || Ok((listeners(t)? == 1).then_some(())))?;
    let (_, id) = t.sleeper(|_| ())?;
    let found = eventually(WAIT, "crictl shows the start", || {
        let text = std::fs::read_to_string(&log)?;
        let started = text.contains("CONTAINER_STARTED_EVENT") && text.contains(&id);
        Ok(started.then_some(()))
    });
    shown.kill()?;
    shown.wait()?;
    found
});
