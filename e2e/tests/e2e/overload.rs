//! More at once than anybody asks for: everything is done, in the order of asking, in bounded memory, and nobody waits for somebody else's burst.

use davit_e2e::footprint::Footprint;
use davit_e2e::prelude::*;
use futures_util::future::join_all;
use hyper_util::rt::TokioIo;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{
    ContainerEventResponse, ContainerEventType, CreateContainerRequest, ExecSyncRequest,
    GetEventsRequest, ListContainersRequest, ListPodSandboxRequest, RemovePodSandboxRequest,
    RunPodSandboxRequest, StatusRequest, StopPodSandboxRequest, VersionRequest,
};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

/// The kubelet gives RunPodSandbox four minutes and other calls two; nothing here may come near.
const PATIENCE: Duration = Duration::from_secs(60);
/// In KiB.
const MIB: u64 = 1024;

/// A connection of its own. With a `window`, a client that lets no more than so many bytes come before it has read them.
async fn connect(socket: PathBuf, window: Option<u32>) -> Result<Channel, tonic::transport::Error> {
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://localhost")
        .initial_stream_window_size(window)
        .initial_connection_window_size(window);
    endpoint.connect_with_connector(connector).await
}

/// So many connections, all open at once.
async fn connections(t: &Test, count: usize, window: Option<u32>) -> Result<Vec<Channel>> {
    let socket = t.settings().socket();
    let all = join_all((0..count).map(|_| connect(socket.clone(), window))).await;
    Ok(all.into_iter().collect::<Result<_, _>>()?)
}

/// The daemon's, with what it keeps ready.
fn footprint(t: &Test) -> Result<Footprint> {
    crate::ahead::as_many(t, 2)?;
    Footprint::of(t.daemon().pid().context("the daemon runs")?)
}

/// The time below which 99 of 100 are.
fn p99(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times
        .get((times.len() * 99 / 100).min(times.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}

/// How many of those asked for in the second burst were before the last one of the first.
fn overtakers<T: Ord>(values: &[T]) -> usize {
    let (first, second) = values.split_at(values.len() / 2);
    let last = first.iter().max();
    second.iter().filter(|value| Some(*value) < last).count()
}

/// Asks the same again and again until it is over: how long each answer took.
async fn ask<T, F: Future<Output = Result<T, Status>>>(
    over: &AtomicBool,
    call: impl Fn() -> F,
) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    while !over.load(Ordering::SeqCst) {
        let begun = Instant::now();
        call().await?;
        times.push(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(times)
}

/// Between the bursts: more than it takes to hand out so many calls on a busy machine, much less than it takes to make the pods.
const BETWEEN: Duration = Duration::from_millis(500);

/// Pods that are asked for in two bursts, each half of them at once: id and when each was answered.
async fn run_all(t: &Test, configs: &[PodSandboxConfig]) -> Result<Vec<(String, Duration)>> {
    let begun = Instant::now();
    let calls = configs.iter().enumerate().map(|(index, config)| {
        let mut client = t.cri.runtime();
        let later = if index < configs.len() / 2 { Duration::ZERO } else { BETWEEN };
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
            ..RunPodSandboxRequest::default()
        };
        async move {
            tokio::time::sleep(later).await;
            let answer = tokio::time::timeout(PATIENCE, client.run_pod_sandbox(request)).await;
            let id = answer.context("no pod within the time")??.into_inner().pod_sandbox_id;
            anyhow::Ok((id, begun.elapsed()))
        }
    });
    join_all(calls).await.into_iter().collect()
}

/// Ends pods, all at once.
async fn end_all(t: &Test, ids: &[String]) -> Result<()> {
    let calls = ids.iter().map(|id| {
        let mut client = t.cri.runtime();
        async move {
            let pod_sandbox_id = id.clone();
            client.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id }).await?;
            let pod_sandbox_id = id.clone();
            client.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id }).await
        }
    });
    let ended = tokio::time::timeout(PATIENCE, join_all(calls)).await;
    for answer in ended.context("the pods have not ended within the time")? {
        answer?;
    }
    Ok(())
}

fn pod_configs(t: &Test, count: usize) -> Result<Vec<PodSandboxConfig>> {
    let configs = (0..count).map(|number| t.pod_config(&format!("pod-{number:03}")));
    configs
        .map(|config| {
            std::fs::create_dir_all(&config.log_directory)?;
            Ok(config)
        })
        .collect()
}

on_one!(two_hundred_pods_at_once_all_come_in_order_and_nobody_else_waits,
    setup: |settings| {
        settings.keys.push_str("sweep_interval = \"2s\"\n");
        Ok(())
    },
    |t| {
    let (_, bystander) = t.sleeper(|_| ())?;
    let configs = pod_configs(t, 200)?;
    let before = footprint(t)?;
    let over = AtomicBool::new(false);
    let exec = || async {
        let request = ExecSyncRequest {
            container_id: bystander.clone(),
            cmd: vec!["true".to_owned()],
            timeout: 30,
        };
        t.cri.runtime().exec_sync(request).await.map(drop)
    };
    let list = || async {
        t.cri.runtime().list_pod_sandbox(ListPodSandboxRequest::default()).await.map(drop)
    };
    let status =
        || async { t.cri.runtime().status(StatusRequest { verbose: false }).await.map(drop) };
    let (made, execs, lists, statuses) = t.cri.block_on(async {
        let made = async {
            let made = run_all(t, &configs).await;
            over.store(true, Ordering::SeqCst);
            made
        };
        tokio::join!(made, ask(&over, exec), ask(&over, list), ask(&over, status))
    });
    let made = made?;
    let peak = footprint(t)?;
    let created: Vec<i64> = made
        .iter()
        .map(|(id, _)| {
            t.watch(id);
            Ok(t.cri.pod_status(id)?.created_at)
        })
        .collect::<Result<_>>()?;
    let answered: Vec<Duration> = made.iter().map(|(_, at)| *at).collect();
    let last = answered.iter().max().copied().unwrap_or_default();
    let (mut execs, mut lists, mut statuses) = (execs?, lists?, statuses?);
    let waits = [p99(&mut execs), p99(&mut lists), p99(&mut statuses)];
    println!(
        "200 pods in {last:?}; {} of the second half were begun and {} were answered before the last of the first; p99 of {} ExecSync, {} ListPodSandbox, {} Status meanwhile: {waits:?}",
        overtakers(&created),
        overtakers(&answered),
        execs.len(),
        lists.len(),
        statuses.len(),
    );
    let begun = Instant::now();
    t.cri.block_on(end_all(t, &made.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>()))?;
    let took = begun.elapsed();
    // What the next sweep gives back, and threads that have nothing to do any more.
    println!("ended in {took:?}\nbefore: {before}\nthen:   {peak}");
    let mut after = before;
    let small = eventually(PATIENCE, "davit is small again", || {
        after = footprint(t)?;
        let little = after.anonymous < before.anonymous + 16 * MIB;
        Ok((little && after.descriptors <= before.descriptors + 8).then_some(()))
    });
    println!("after:  {after}");
    small?;
    // Those who have a place at the same time take more or less time: as many as there are places may overtake one, or a few of them more.
    ensure!(overtakers(&created) <= 16, "begun out of order: {created:?}");
    ensure!(overtakers(&answered) <= 48, "answered out of order: {answered:?}");
    // Milliseconds where there is a core to spare; the tests' machines have two, and other tests.
    ensure!(waits.iter().all(|wait| *wait < Duration::from_secs(5)), "{waits:?}");
    // A pod's record, its view, its connection to the shim: 100 KiB are plenty for each, also where nothing is optimized.
    ensure!(peak.own_peak() < before.anonymous + 40 * MIB, "{peak}");
    Ok(())
});

/// The OCI runtime's processes that make a container, by the bundle that they are given.
fn creations_under_way(t: &Test) -> Result<usize> {
    let state = t.settings().state().to_string_lossy().into_owned();
    let mut bundles = std::collections::BTreeSet::new();
    for pid in davit_e2e::host::names_in(Path::new("/proc"))? {
        if pid.parse::<u32>().is_err() {
            continue;
        }
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        // The init that waits to be started is the same program with the same words, in a PID namespace of its own.
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
        if line.contains("\0create\0")
            && line.contains(&state)
            && pids.split_whitespace().count() == 1
        {
            bundles.insert(line.rsplit('\0').find(|word| word.len() == 64).map(str::to_owned));
        }
    }
    Ok(bundles.len())
}

on_one!(
    no_more_containers_are_made_at_once_than_the_configuration_says,
    setup: |settings| {
        settings.tables.push_str("[limits]\ncreations = 3\n");
        Ok(())
    },
    |t| {
        let pod = t.pod("web", |_| ())?;
        t.pull("davit-test/busybox:latest")?;
        let (over, most) = (AtomicBool::new(false), AtomicUsize::new(0));
        let created = std::thread::scope(|scope| {
            let watch = scope.spawn(|| -> Result<()> {
                while !over.load(Ordering::SeqCst) {
                    most.fetch_max(creations_under_way(t)?, Ordering::SeqCst);
                }
                Ok(())
            });
            let calls = (0..60).map(|number| {
                let mut client = t.cri.runtime();
                let request = CreateContainerRequest {
                    pod_sandbox_id: pod.id.clone(),
                    config: Some(t.container_config(&format!("c{number}"))),
                    sandbox_config: Some(pod.config.clone()),
                };
                async move { client.create_container(request).await }
            });
            let created = t.cri.block_on(async {
                tokio::time::timeout(PATIENCE, join_all(calls)).await
            });
            over.store(true, Ordering::SeqCst);
            watch.join().map_err(|_panic| anyhow::anyhow!("the watch panicked"))??;
            created.context("not all were made within the time")
        })?;
        for answer in created {
            t.watch(&answer?.into_inner().container_id);
        }
        let most = most.into_inner();
        println!("at most {most} OCI runtimes made containers at a time");
        ensure!((1..=3).contains(&most), "{most}");
        Ok(())
    }
);

/// A CNI plugin whose ADD says that it has begun and waits until it may go on.
fn waiting_plugin(settings: &Settings) -> Result<()> {
    davit_e2e::cni::configure(settings, r#"{"type": "waits"}"#)?;
    let dir = settings.cni_bin_dir.display();
    let script = format!(
        "if [ \"$CNI_COMMAND\" = ADD ]; then\n  touch {dir}/hangs\n  while ! test -e {dir}/go-on; do sleep 0.05; done\nfi\n\
         echo '{{\"cniVersion\": \"1.0.0\", \"ips\": [{{\"address\": \"10.99.0.2/24\"}}]}}'"
    );
    davit_e2e::host::script(&settings.cni_bin_dir.join("waits"), &script)
}

on_one!(a_plugin_that_hangs_holds_up_no_other_pod_for_long,
    setup: |settings| {
        settings.tables.push_str("[limits]\ncreations = 1\n[timeouts]\ncni = \"20s\"\n");
        settings.cni_bin_dir = settings.dir.join("plugins");
        waiting_plugin(settings)
    },
    |t| {
        t.allow_log("network");
        let hung = t.pod_config("hung");
        std::fs::create_dir_all(&hung.log_directory)?;
        std::thread::scope(|scope| {
            let hung = scope.spawn(|| t.cri.run_pod(&hung, ""));
            eventually(PATIENCE, "the plugin hangs", || {
                Ok(t.dir.join("plugins/hangs").exists().then_some(()))
            })?;
            let begun = Instant::now();
            // Needs no plugin, only a turn.
            t.pod("quick", |p| namespaces(p).network = 2)?;
            ensure!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
            std::fs::File::create(t.dir.join("plugins/go-on"))?;
            t.watch(&hung.join().map_err(|_panic| anyhow::anyhow!("a thread panicked"))??);
            Ok(())
        })
    }
);

on_one!(a_thousand_connections_are_served_at_once, |t| {
    let (_, id) = t.sleeper(|_| ())?;
    let before = footprint(t)?;
    let (answered, during) = t.cri.block_on(async {
        let channels = connections(t, 1000, None).await?;
        let begun = Instant::now();
        let calls = channels.iter().map(|channel| async {
            let mut client = RuntimeServiceClient::new(channel.clone());
            client.version(VersionRequest::default()).await?;
            let list = client.list_containers(ListContainersRequest::default()).await?;
            Ok::<_, Status>(list.into_inner().containers)
        });
        for answer in tokio::time::timeout(PATIENCE, join_all(calls)).await? {
            let containers = answer?;
            ensure!(containers.len() == 1 && containers[0].id == id, "{containers:?}");
        }
        let answered = begun.elapsed();
        anyhow::Ok((answered, footprint(t)?))
    })?;
    println!("2000 calls on 1000 connections in {answered:?}\nbefore: {before}\nthen:   {during}");
    ensure!(during.descriptors >= 1000, "{during}");
    // HTTP/2's tables and buffers.
    ensure!(during.anonymous < before.anonymous + 64 * MIB, "{during}");
    eventually(PATIENCE, "the connections are gone", || {
        Ok((footprint(t)?.descriptors <= before.descriptors + 2).then_some(()))
    })
});

on_one!(what_is_beyond_the_limits_waits_or_is_refused_as_documented,
    setup: |settings| {
        settings.tables.push_str("[limits]\nconnections = 4\ncalls = 5\n");
        Ok(())
    },
    |t| {
        t.cri.block_on(async {
            let first = connect(t.settings().socket(), None).await?;
            let mut first = RuntimeServiceClient::new(first);
            let mut listening = Vec::new();
            for _ in 0..5 {
                listening.push(first.get_container_events(GetEventsRequest {}).await?.into_inner());
            }
            let refused = first.version(VersionRequest::default()).await;
            refused_with(refused, Code::ResourceExhausted, "limits.calls")?;
            drop(listening.pop());
            let again = async {
                while first.version(VersionRequest::default()).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(PATIENCE, again).await.context("there is no room again")?;
            drop(listening);
            let mut held = connections(t, 3, None).await?;
            // The kernel takes it, davit does not.
            let fifth = connect(t.settings().socket(), None).await?;
            let mut fifth = RuntimeServiceClient::new(fifth);
            let mut call = std::pin::pin!(fifth.version(VersionRequest::default()));
            let early = tokio::time::timeout(Duration::from_millis(300), call.as_mut()).await;
            ensure!(early.is_err(), "answered beyond the limit: {early:?}");
            drop(held.pop());
            tokio::time::timeout(PATIENCE, call).await.context("it still waits")??;
            Ok(())
        })?;
        ensure!(t.daemon().log().contains("limits.connections is reached"), "the log says nothing");
        Ok(())
    }
);

fn refused_with<T: std::fmt::Debug>(
    answer: Result<T, Status>,
    code: Code,
    text: &str,
) -> Result<()> {
    davit_e2e::cri::refused(answer, code, &[text]).map(drop)
}

/// What one subscriber was told: the kinds for each id, in order.
async fn read_until_the_end(
    mut events: Streaming<ContainerEventResponse>,
    last: &str,
) -> Result<BTreeMap<String, Vec<ContainerEventType>>> {
    let mut told: BTreeMap<String, Vec<_>> = BTreeMap::new();
    loop {
        let event = events.message().await?.context("the stream has ended")?;
        let kind = event.container_event_type();
        let name = event
            .pod_sandbox_status
            .and_then(|status| status.metadata)
            .context("a pod's name")?
            .name;
        told.entry(event.container_id).or_default().push(kind);
        if name == last && kind == ContainerEventType::ContainerDeletedEvent {
            return Ok(told);
        }
    }
}

/// One after the other: pods that have an event for each of their four steps.
fn live_and_die(t: &Test, names: impl Iterator<Item = String>) -> Result<()> {
    for name in names {
        let pod = t.pod(&name, |p| {
            namespaces(p).network = 2;
            p.annotations = [("a".to_owned(), "x".repeat(2000))].into();
        })?;
        t.cri.remove_pod(&pod.id)?;
    }
    Ok(())
}

on_one!(of_a_hundred_subscribers_those_who_read_miss_nothing_and_the_others_are_cut_off, |t| {
    use ContainerEventType::{
        ContainerCreatedEvent as Created, ContainerDeletedEvent as Deleted,
        ContainerStartedEvent as Started, ContainerStoppedEvent as Stopped,
    };
    // Four events each: more than the 1024 that a listener may be behind, and what its window holds.
    const PODS: usize = 400;
    let before = footprint(t)?;
    let (readers, silent) = t.cri.block_on(async {
        let mut readers = Vec::new();
        for channel in connections(t, 50, None).await? {
            let mut client = RuntimeServiceClient::new(channel);
            readers.push(client.get_container_events(GetEventsRequest {}).await?.into_inner());
        }
        let mut silent = Vec::new();
        for channel in connections(t, 50, Some(65_535)).await? {
            let mut client = RuntimeServiceClient::new(channel);
            silent.push(client.get_container_events(GetEventsRequest {}).await?.into_inner());
        }
        anyhow::Ok((readers, silent))
    })?;
    let told = std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let all = join_all(readers.into_iter().map(|one| read_until_the_end(one, "the-last")));
            t.cri.block_on(async { tokio::time::timeout(PATIENCE * 2, all).await })
        });
        let lives = (0..4_usize).map(|worker| {
            let names = (worker..PODS).step_by(4).map(|number| format!("pod-{number}"));
            scope.spawn(|| live_and_die(t, names))
        });
        for life in lives.collect::<Vec<_>>() {
            life.join().map_err(|_panic| anyhow::anyhow!("a life panicked"))??;
        }
        live_and_die(t, std::iter::once("the-last".to_owned()))?;
        reading.join().map_err(|_panic| anyhow::anyhow!("a reader panicked"))?.context("too slow")
    })?;
    for told in told {
        let told = told?;
        assert_eq!(told.len(), PODS + 1);
        for (id, kinds) in told {
            assert_eq!(kinds, [Created, Started, Stopped, Deleted], "{id}");
        }
    }
    let after = footprint(t)?;
    println!("before: {before}\nafter:  {after}");
    let cut = t.cri.block_on(async {
        let reads = silent.into_iter().map(|mut events| async move {
            let mut count = 0;
            loop {
                match events.message().await {
                    Ok(Some(_)) => count += 1,
                    end => return (count, end.err()),
                }
            }
        });
        tokio::time::timeout(PATIENCE, join_all(reads)).await
    })?;
    for (count, end) in cut {
        let status = end.context("the stream has ended without a word")?;
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert!(status.message().contains("list anew"), "{status}");
        assert!(count < PODS * 4, "{count}");
    }
    // 1024 events in the ring, the windows of 100 connections, and what 50 readers have not read yet.
    ensure!(after.own_peak() < before.anonymous + 64 * MIB, "{after}");
    Ok(())
});

on_one!(a_thousand_lists_that_nobody_reads_cost_little_and_hold_up_nobody, |t| {
    // A list of 2 MB: if each of those who wait had it whole, they would have 2 GB.
    let configs: Vec<PodSandboxConfig> = pod_configs(t, 100)?
        .into_iter()
        .map(|mut config| {
            namespaces(&mut config).network = 2;
            config.annotations = [("a".to_owned(), "x".repeat(20_000))].into();
            config
        })
        .collect();
    let made = t.cri.block_on(run_all(t, &configs))?;
    made.iter().for_each(|(id, _)| t.watch(id));
    let before = footprint(t)?;
    let (during, took) = t.cri.block_on(async {
        let mut unread = Vec::new();
        for channel in connections(t, 1000, Some(65_535)).await? {
            let mut client =
                davit_proto::cri::runtime_service_client::RuntimeServiceClient::new(channel);
            let request = davit_proto::cri::StreamPodSandboxesRequest::default();
            unread.push(client.stream_pod_sandboxes(request).await?.into_inner());
        }
        let begun = Instant::now();
        let channel = connect(t.settings().socket(), None).await?;
        let list = RuntimeServiceClient::new(channel)
            .max_decoding_message_size(16 << 20)
            .list_pod_sandbox(ListPodSandboxRequest::default())
            .await?
            .into_inner();
        ensure!(list.items.len() == 100, "{}", list.items.len());
        anyhow::Ok((footprint(t)?, begun.elapsed()))
    })?;
    println!("a list meanwhile took {took:?}\nbefore: {before}\nthen:   {during}");
    // One message of 64 KiB and its buffer for each.
    ensure!(during.anonymous < before.anonymous + 1000 * 256, "{during}");
    ensure!(took < Duration::from_secs(5), "{took:?}");
    t.cri.block_on(end_all(t, &made.into_iter().map(|(id, _)| id).collect::<Vec<_>>()))
});
