//! What is used: lists, filters, and figures that follow what the container does.

use davit_e2e::prelude::*;
use k8s_cri::v1::{
    ContainerStats, ContainerStatsFilter, ContainerStatsRequest, ListContainerStatsRequest,
    ListPodSandboxStatsRequest, PodSandboxStats, PodSandboxStatsRequest,
};

const MIB: u64 = 1 << 20;

fn list(t: &Test, filter: Option<ContainerStatsFilter>) -> Result<Vec<ContainerStats>> {
    let request = ListContainerStatsRequest { filter };
    Ok(t.cri.wait(t.cri.runtime().list_container_stats(request))?.stats)
}

fn one(t: &Test, id: &str) -> Result<ContainerStats> {
    let request = ContainerStatsRequest { container_id: id.to_owned() };
    t.cri.wait(t.cri.runtime().container_stats(request))?.stats.context("stats are there")
}

fn pod_stats(t: &Test, id: &str) -> Result<PodSandboxStats> {
    let request = PodSandboxStatsRequest { pod_sandbox_id: id.to_owned() };
    t.cri.wait(t.cri.runtime().pod_sandbox_stats(request))?.stats.context("stats are there")
}

fn ids(stats: &[ContainerStats]) -> Vec<String> {
    let id = |stats: &ContainerStats| stats.attributes.clone().map(|attributes| attributes.id);
    let mut ids: Vec<String> = stats.iter().filter_map(id).collect();
    ids.sort();
    ids
}

on_both!(lists_tell_of_those_that_run_and_fit, |t| {
    let (web, other) = (t.pod("web", |_| ())?, t.pod("other", |_| ())?);
    let labelled = |c: &mut ContainerConfig| {
        c.labels.insert("app".to_owned(), "web".to_owned());
    };
    let one = t.run(&web, "one", labelled)?;
    let two = t.run(&web, "two", |_| ())?;
    let three = t.run(&other, "three", labelled)?;
    let waiting = t.create(&other, "waiting", labelled)?;
    let fitting =
        |filter: ContainerStatsFilter| -> Result<Vec<String>> { Ok(ids(&list(t, Some(filter))?)) };
    let sorted = |wanted: &[&String]| {
        let mut wanted: Vec<String> = wanted.iter().map(|id| (*id).clone()).collect();
        wanted.sort();
        wanted
    };
    assert_eq!(ids(&list(t, None)?), sorted(&[&one, &two, &three]), "{waiting} does not run");
    let by_id = ContainerStatsFilter { id: one[..12].to_owned(), ..Default::default() };
    assert_eq!(fitting(by_id)?, sorted(&[&one]));
    let of_pod = ContainerStatsFilter { pod_sandbox_id: web.id.clone(), ..Default::default() };
    assert_eq!(fitting(of_pod)?, sorted(&[&one, &two]));
    let label = [("app".to_owned(), "web".to_owned())];
    let by_label = ContainerStatsFilter { label_selector: label.into(), ..Default::default() };
    assert_eq!(fitting(by_label)?, sorted(&[&one, &three]));
    let nobody = ContainerStatsFilter { id: "no-such".to_owned(), ..Default::default() };
    assert_eq!(fitting(nobody)?, Vec::<String>::new());
    t.cri.stop(&two, 0)?;
    assert_eq!(ids(&list(t, None)?), sorted(&[&one, &three]));
    Ok(())
});

on_both!(figures_follow_what_a_container_does, |t| {
    let (_, id) = t.sleeper(|c| resources(c).memory_limit_in_bytes = 256 << 20)?;
    let before = one(t, &id)?;
    let memory = before.memory.context("memory")?;
    let available = memory.available_bytes.context("available")?.value;
    let working_set = memory.working_set_bytes.context("working set")?.value;
    assert_eq!(available + working_set, 256 * MIB);
    assert!(before.cpu.context("cpu")?.usage_nano_cores.is_none(), "there is one sample");
    t.exec(&id, "dd if=/dev/zero of=/grown bs=1M count=20 2>/dev/null; sync /grown")?;
    t.exec(&id, "timeout 1 sh -c 'while :; do :; done'; true")?;
    let after = one(t, &id)?;
    let rate = after.cpu.context("cpu")?.usage_nano_cores.context("a rate")?.value;
    assert!((100_000_000..4_000_000_000).contains(&rate), "{rate}");
    let layer = |stats: &ContainerStats| -> Result<(u64, u64, i64)> {
        let layer = stats.writable_layer.clone().context("a writable layer")?;
        let (bytes, inodes) = (layer.used_bytes.context("bytes")?, layer.inodes_used);
        Ok((bytes.value, inodes.context("inodes")?.value, layer.timestamp))
    };
    let (bytes, inodes, at) = layer(&before)?;
    assert!(at > 0);
    // The layer is walked again only after a while.
    eventually(Duration::from_secs(20), "the layer has grown", || {
        let (grown, more, later) = layer(&one(t, &id)?)?;
        Ok((grown >= bytes + 20 * MIB && more == inodes + 1 && later > at).then_some(()))
    })?;
    let mountpoint = after.writable_layer.and_then(|layer| layer.fs_id).context("a mountpoint")?;
    assert!(Path::new(&mountpoint.mountpoint).is_dir());
    t.cri.stop(&id, 0)?;
    let ended = one(t, &id)?;
    assert!(ended.cpu.is_none() && ended.memory.is_none() && ended.writable_layer.is_some());
    t.cri.remove(&id)?;
    let request = ContainerStatsRequest { container_id: id.clone() };
    let gone = t.cri.wait(t.cri.runtime().container_stats(request)).err().context("it is gone")?;
    assert_eq!(gone.code(), Code::NotFound);
    Ok(())
});

on_both!(a_pod_is_measured_with_its_network_and_its_containers, |t| {
    let (pod, id) = t.sleeper(|_| ())?;
    let host = t.pod("host", |c| namespaces(c).network = 2)?;
    let linux = |id: &str| pod_stats(t, id)?.linux.context("linux");
    let before = linux(&pod.id)?;
    let process = before.process.context("processes")?;
    assert!(process.process_count.context("a count")?.value >= 2, "sh and sleep");
    assert!(before.cpu.context("cpu")?.usage_core_nano_seconds.context("cpu time")?.value > 0);
    assert!(before.memory.context("memory")?.usage_bytes.context("usage")?.value > 0);
    assert_eq!(ids(&before.containers), std::slice::from_ref(&id));
    let sent = |network: Option<k8s_cri::v1::NetworkUsage>| -> Result<(u64, u64)> {
        let network = network.context("a network")?;
        assert!(network.timestamp > 0);
        let eth0 = network.default_interface.context("a default interface")?;
        assert_eq!(eth0.name, "eth0");
        Ok((eth0.tx_bytes.context("sent")?.value, eth0.rx_bytes.context("received")?.value))
    };
    let (tx, rx) = sent(before.network)?;
    // The gateway may not answer pings; asking for its address is traffic in both directions already.
    let script = "gw=$(ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p'); \
        ping -c 5 -s 1000 -i 0.2 -W 1 $gw >/dev/null; cat /sys/class/net/eth0/statistics/tx_bytes";
    let inside: u64 = t.exec(&id, script)?.parse().context("tx_bytes")?;
    let (tx_later, rx_later) = sent(linux(&pod.id)?.network)?;
    assert!(tx_later >= inside && inside > tx, "{tx} {inside} {tx_later}");
    assert!(rx_later > rx, "{rx} {rx_later}");
    assert!(linux(&host.id)?.network.is_none(), "the host's network is not the pod's");
    let request = ListPodSandboxStatsRequest { filter: None };
    let listed = t.cri.wait(t.cri.runtime().list_pod_sandbox_stats(request))?.stats;
    assert_eq!(listed.len(), 2);
    t.cri.stop_pod(&host.id)?;
    let request = PodSandboxStatsRequest { pod_sandbox_id: host.id.clone() };
    let stopped = t.cri.wait(t.cri.runtime().pod_sandbox_stats(request));
    assert_eq!(stopped.err().context("it is stopped")?.code(), Code::FailedPrecondition);
    Ok(())
});

on_one!(crictl_shows_what_pods_and_containers_use, |t| {
    let (pod, id) = t.sleeper(|_| ())?;
    let shown = t.crictl_json(&["stats", "-o", "json", "--id", &id])?;
    assert_eq!(shown["stats"][0]["attributes"]["id"], id.as_str(), "{shown}");
    assert!(t.crictl(&["stats"])?.contains("main"));
    let shown = t.crictl_json(&["statsp", "-o", "json", "--id", &pod.id])?;
    assert_eq!(shown["stats"][0]["attributes"]["id"], pod.id.as_str(), "{shown}");
    assert!(t.crictl(&["statsp"])?.contains("pod"));
    Ok(())
});

on_both!(metrics_are_described_and_there_for_what_runs, |t| {
    let (pod, id) = t.sleeper(|c| resources(c).cpu_shares = 512)?;
    t.exec(&id, "i=0; while [ $i -lt 1000 ]; do i=$((i+1)); done")?;
    let described = t.crictl_json(&["metricdescs"])?;
    let described = described["descriptors"].as_array().context("descriptors")?.clone();
    let labels = |name: &serde_json::Value| {
        let one = described.iter().find(|one| one["name"] == *name)?;
        one["labelKeys"].as_array().map(Vec::len)
    };
    let told = t.crictl_json(&["metricsp"])?;
    let told = &told["podMetrics"][0];
    assert_eq!(told["podSandboxId"], pod.id.as_str(), "{told}");
    let of_container = &told["containerMetrics"][0];
    assert_eq!(of_container["containerId"], id.as_str());
    let mut values = std::collections::BTreeMap::new();
    for list in [&told["metrics"], &of_container["metrics"]] {
        for metric in list.as_array().context("metrics")? {
            let count = metric["labelValues"].as_array().map(Vec::len);
            assert_eq!(labels(&metric["name"]), count, "{metric}");
            let value: u64 = metric["value"]["value"].as_str().unwrap_or("0").parse()?;
            values.insert(metric["name"].as_str().context("a name")?.to_owned(), value);
        }
    }
    let value = |name: &str| values.get(name).copied().with_context(|| format!("{name} is told"));
    for name in [
        "container_memory_usage_bytes",
        "container_memory_max_usage_bytes",
        "container_network_receive_bytes_total",
        "container_start_time_seconds",
        "container_last_seen",
        "container_file_descriptors",
        "container_fs_inodes_total",
        "container_fs_limit_bytes",
        "container_ulimits_soft",
    ] {
        assert!(value(name)? > 0, "{name}: {values:?}");
    }
    assert!(value("container_processes")? >= 2 && value("container_threads")? >= 2);
    assert_eq!(value("container_spec_cpu_shares")?, 512);
    value("container_cpu_user_seconds_total")?;
    value("container_oom_events_total")?;
    Ok(())
});
