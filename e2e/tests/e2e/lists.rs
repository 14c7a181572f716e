//! Lists: every filter of every list, and the streamed lists, which say the same in messages of bounded size.

use davit_e2e::prelude::*;
use davit_proto::cri;
use std::collections::BTreeMap;

/// The ids that a list and its streamed twin tell, which have to be the same.
macro_rules! listed {
    ($t:expr, $client:ident, $list:ident($request:ident).$items:ident, $stream:ident($streamed:ident).$chunk:ident, $filter:expr, $id:expr) => {{
        let filter = $filter;
        let request = cri::$request { filter: filter.clone() };
        let list = $t.cri.wait($t.cri.$client().$list(request))?.$items;
        let request = cri::$streamed { filter };
        let chunks = $t.cri.all($t.cri.$client().$stream(request))?;
        let sorted = |items: Vec<_>| {
            let mut ids: Vec<String> = items.into_iter().filter_map($id).collect();
            ids.sort();
            ids
        };
        let streamed = chunks.into_iter().flat_map(|message| message.$chunk).collect();
        let (list, streamed) = (sorted(list), sorted(streamed));
        ensure!(list == streamed, "the list tells {list:?}, its stream {streamed:?}");
        list
    }};
}

fn pods(t: &Test, filter: Option<cri::PodSandboxFilter>) -> Result<Vec<String>> {
    Ok(listed!(
        t,
        newer,
        list_pod_sandbox(ListPodSandboxRequest).items,
        stream_pod_sandboxes(StreamPodSandboxesRequest).pod_sandboxes,
        filter,
        |pod: cri::PodSandbox| Some(pod.id)
    ))
}

fn containers(t: &Test, filter: Option<cri::ContainerFilter>) -> Result<Vec<String>> {
    Ok(listed!(
        t,
        newer,
        list_containers(ListContainersRequest).containers,
        stream_containers(StreamContainersRequest).containers,
        filter,
        |container: cri::Container| Some(container.id)
    ))
}

fn container_stats(t: &Test, filter: Option<cri::ContainerStatsFilter>) -> Result<Vec<String>> {
    Ok(listed!(
        t,
        newer,
        list_container_stats(ListContainerStatsRequest).stats,
        stream_container_stats(StreamContainerStatsRequest).container_stats,
        filter,
        |stats: cri::ContainerStats| Some(stats.attributes?.id)
    ))
}

fn pod_stats(t: &Test, filter: Option<cri::PodSandboxStatsFilter>) -> Result<Vec<String>> {
    Ok(listed!(
        t,
        newer,
        list_pod_sandbox_stats(ListPodSandboxStatsRequest).stats,
        stream_pod_sandbox_stats(StreamPodSandboxStatsRequest).pod_sandbox_stats,
        filter,
        |stats: cri::PodSandboxStats| Some(stats.attributes?.id)
    ))
}

fn images(t: &Test, name: &str) -> Result<Vec<String>> {
    let image = cri::ImageSpec { image: name.to_owned(), ..Default::default() };
    Ok(listed!(
        t,
        newer_images,
        list_images(ListImagesRequest).images,
        stream_images(StreamImagesRequest).images,
        Some(cri::ImageFilter { image: Some(image) }),
        |image: cri::Image| Some(image.id)
    ))
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn sorted(ids: &[&String]) -> Vec<String> {
    let mut ids: Vec<String> = ids.iter().map(|id| (*id).clone()).collect();
    ids.sort();
    ids
}

/// Two pods, `web` with the label and stopped `old`.
fn two_pods(t: &Test) -> Result<(Pod, Pod)> {
    let web = t.pod("web", |p| {
        p.labels = labels(&[("app", "web"), ("tier", "1")]).into_iter().collect()
    })?;
    let old = t.pod("old", |p| {
        p.labels = labels(&[("app", "old"), ("tier", "1")]).into_iter().collect()
    })?;
    t.cri.stop_pod(&old.id)?;
    Ok((web, old))
}

on_one!(every_filter_of_pods, |t| {
    let (web, old) = two_pods(t)?;
    let state =
        |state: cri::PodSandboxState| Some(cri::PodSandboxStateValue { state: state.into() });
    let any = cri::PodSandboxFilter::default;
    let (ready, not_ready) =
        (cri::PodSandboxState::SandboxReady, cri::PodSandboxState::SandboxNotready);
    let short = web.id.get(..12).context("a long id")?.to_owned();
    for (filter, wanted) in [
        (None, vec![&web.id, &old.id]),
        (Some(any()), vec![&web.id, &old.id]),
        (Some(cri::PodSandboxFilter { id: web.id.clone(), ..any() }), vec![&web.id]),
        (Some(cri::PodSandboxFilter { id: short, ..any() }), vec![&web.id]),
        (Some(cri::PodSandboxFilter { id: "no-such".to_owned(), ..any() }), vec![]),
        (Some(cri::PodSandboxFilter { state: state(ready), ..any() }), vec![&web.id]),
        (Some(cri::PodSandboxFilter { state: state(not_ready), ..any() }), vec![&old.id]),
        (
            Some(cri::PodSandboxFilter {
                state: Some(cri::PodSandboxStateValue { state: 99 }),
                ..any()
            }),
            vec![],
        ),
        (
            Some(cri::PodSandboxFilter { label_selector: labels(&[("tier", "1")]), ..any() }),
            vec![&web.id, &old.id],
        ),
        (
            Some(cri::PodSandboxFilter {
                label_selector: labels(&[("tier", "1"), ("app", "web")]),
                ..any()
            }),
            vec![&web.id],
        ),
        (Some(cri::PodSandboxFilter { label_selector: labels(&[("app", "")]), ..any() }), vec![]),
        (
            Some(cri::PodSandboxFilter {
                state: state(not_ready),
                label_selector: labels(&[("app", "web")]),
                ..any()
            }),
            vec![],
        ),
    ] {
        assert_eq!(pods(t, filter.clone())?, sorted(&wanted), "{filter:?}");
    }
    Ok(())
});

on_one!(every_filter_of_containers, |t| {
    let (web, other) = (t.pod("web", |_| ())?, t.pod("other", |_| ())?);
    let app = |c: &mut ContainerConfig| c.labels = labels(&[("app", "x")]).into_iter().collect();
    let first = t.run(&web, "first", app)?;
    let second = t.create(&other, "second", app)?;
    let third = t.run(&other, "third", |c| c.command = sh("exit 3"))?;
    t.wait_for_exit(&third)?;
    let state = |state: cri::ContainerState| Some(cri::ContainerStateValue { state: state.into() });
    let any = cri::ContainerFilter::default;
    for (filter, wanted) in [
        (None, vec![&first, &second, &third]),
        (Some(any()), vec![&first, &second, &third]),
        (Some(cri::ContainerFilter { id: first.clone(), ..any() }), vec![&first]),
        (Some(cri::ContainerFilter { id: "no-such".to_owned(), ..any() }), vec![]),
        (
            Some(cri::ContainerFilter { pod_sandbox_id: other.id.clone(), ..any() }),
            vec![&second, &third],
        ),
        (Some(cri::ContainerFilter { pod_sandbox_id: "no-such".to_owned(), ..any() }), vec![]),
        (
            Some(cri::ContainerFilter {
                state: state(cri::ContainerState::ContainerRunning),
                ..any()
            }),
            vec![&first],
        ),
        (
            Some(cri::ContainerFilter {
                state: state(cri::ContainerState::ContainerCreated),
                ..any()
            }),
            vec![&second],
        ),
        (
            Some(cri::ContainerFilter {
                state: state(cri::ContainerState::ContainerExited),
                ..any()
            }),
            vec![&third],
        ),
        (
            Some(cri::ContainerFilter {
                state: state(cri::ContainerState::ContainerUnknown),
                ..any()
            }),
            vec![],
        ),
        (
            Some(cri::ContainerFilter { label_selector: labels(&[("app", "x")]), ..any() }),
            vec![&first, &second],
        ),
        (
            Some(cri::ContainerFilter {
                label_selector: labels(&[("app", "x")]),
                pod_sandbox_id: other.id.clone(),
                ..any()
            }),
            vec![&second],
        ),
    ] {
        assert_eq!(containers(t, filter.clone())?, sorted(&wanted), "{filter:?}");
    }
    let any = cri::ContainerStatsFilter::default;
    for (filter, wanted) in [
        (None, vec![&first]),
        (Some(any()), vec![&first]),
        (Some(cri::ContainerStatsFilter { id: first.clone(), ..any() }), vec![&first]),
        (Some(cri::ContainerStatsFilter { id: second.clone(), ..any() }), vec![]),
        (Some(cri::ContainerStatsFilter { pod_sandbox_id: web.id.clone(), ..any() }), vec![&first]),
        (Some(cri::ContainerStatsFilter { pod_sandbox_id: other.id.clone(), ..any() }), vec![]),
        (
            Some(cri::ContainerStatsFilter { label_selector: labels(&[("app", "x")]), ..any() }),
            vec![&first],
        ),
        (
            Some(cri::ContainerStatsFilter { label_selector: labels(&[("app", "y")]), ..any() }),
            vec![],
        ),
    ] {
        assert_eq!(container_stats(t, filter.clone())?, sorted(&wanted), "{filter:?}");
    }
    Ok(())
});

on_one!(every_filter_of_pods_statistics_and_metrics, |t| {
    let (web, old) = two_pods(t)?;
    let any = cri::PodSandboxStatsFilter::default;
    for (filter, wanted) in [
        (None, vec![&web.id]),
        (Some(any()), vec![&web.id]),
        (Some(cri::PodSandboxStatsFilter { id: web.id.clone(), ..any() }), vec![&web.id]),
        (Some(cri::PodSandboxStatsFilter { id: old.id.clone(), ..any() }), vec![]),
        (
            Some(cri::PodSandboxStatsFilter { label_selector: labels(&[("tier", "1")]), ..any() }),
            vec![&web.id],
        ),
        (
            Some(cri::PodSandboxStatsFilter { label_selector: labels(&[("app", "old")]), ..any() }),
            vec![],
        ),
    ] {
        assert_eq!(pod_stats(t, filter.clone())?, sorted(&wanted), "{filter:?}");
    }
    let list =
        t.cri.wait(t.cri.newer().list_pod_sandbox_metrics(cri::ListPodSandboxMetricsRequest {}))?;
    let request = cri::StreamPodSandboxMetricsRequest {};
    let streamed = t.cri.all(t.cri.newer().stream_pod_sandbox_metrics(request))?;
    let streamed: Vec<_> =
        streamed.into_iter().flat_map(|message| message.pod_sandbox_metrics).collect();
    let id = |metrics: &cri::PodSandboxMetrics| metrics.pod_sandbox_id.clone();
    assert_eq!(list.pod_metrics.iter().map(id).collect::<Vec<_>>(), sorted(&[&web.id]));
    assert_eq!(streamed.iter().map(id).collect::<Vec<_>>(), sorted(&[&web.id]));
    Ok(())
});

on_one!(images_are_listed_by_every_kind_of_reference, |t| {
    let name = t.pull("davit-test/busybox:one")?;
    let other = t.pull("davit-test/user:uid")?;
    let id = t.cri.image(&name)?.context("it is there")?.id;
    let digest = t.cri.image(&name)?.and_then(|image| image.repo_digests.first().cloned());
    let digest = digest.context("it has a digest")?;
    for reference in [name.as_str(), &id, id.trim_start_matches("sha256:"), &digest] {
        assert_eq!(images(t, reference)?, std::slice::from_ref(&id), "{reference}");
    }
    assert_eq!(images(t, &t.registry.reference("davit-test/busybox:two"))?, Vec::<String>::new());
    assert_eq!(images(t, "")?.len(), 2, "{other}");
    Ok(())
});

on_one!(a_list_that_no_message_holds_is_refused_and_its_stream_tells_it_all, |t| {
    let mut ids = Vec::new();
    for number in 0..40 {
        // Nearly as long as a pod's may be in all.
        let note = || ("note".to_owned(), "x".repeat(500 << 10));
        let pod = t.pod(&format!("pod-{number}"), |p| {
            namespaces(p).network = 2;
            p.annotations = [note()].into();
        })?;
        ids.push(pod.id);
    }
    let list = t.cri.wait(t.cri.newer().list_pod_sandbox(cri::ListPodSandboxRequest::default()));
    let status =
        list.map(|answer| answer.items.len()).err().context("20 MiB came in one message")?;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("StreamPodSandboxes"), "{status:?}");
    let messages =
        t.cri.all(t.cri.newer().stream_pod_sandboxes(cri::StreamPodSandboxesRequest::default()))?;
    assert!(messages.len() > 1, "{}", messages.len());
    let told = messages.into_iter().flat_map(|message| message.pod_sandboxes).map(|pod| pod.id);
    assert_eq!(
        sorted(&told.collect::<Vec<_>>().iter().collect::<Vec<_>>()),
        sorted(&ids.iter().collect::<Vec<_>>())
    );
    // One pod of them alone is told as ever.
    assert_eq!(t.cri.pod_status(&ids[0])?.id, ids[0]);
    // The list is what the frame looks for them with.
    ids.iter().try_for_each(|id| t.cri.remove_pod(id))?;
    Ok(())
});
