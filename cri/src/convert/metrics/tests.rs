use super::*;
use crate::convert::tests::view;
use davit_runtime::container::ContainerEvent;
use davit_runtime::stats::{
    ContainerUse, CpuDetail, CpuUse, LayerUse, MemoryDetail, NetworkUse, SandboxUse, Usage,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const SECOND: u64 = 1_000_000_000;

fn usage() -> Usage {
    let pressure = Pressure {
        some: Stall { total: 3 * SECOND, ..Stall::default() },
        full: Stall { total: 2 * SECOND, ..Stall::default() },
    };
    Usage {
        cpu: Some(CpuUse { nanoseconds: 2_900_000_000, pressure: Some(pressure) }),
        memory: Some(MemoryUse { usage: 10, pressure: Some(pressure), ..MemoryUse::default() }),
        swap: None,
        io_pressure: Some(pressure),
    }
}

fn detail() -> Detail {
    Detail {
        cpu: CpuDetail {
            user: Some(SECOND),
            system: Some(SECOND),
            periods: Some(1),
            throttled_periods: Some(1),
            throttled: Some(SECOND),
        },
        memory: MemoryDetail {
            cache: Some(1),
            mapped: Some(1),
            active_file: Some(1),
            inactive_file: Some(1),
            kernel: Some(1),
            swap: Some(1),
            peak: Some(1),
            limit_hits: Some(1),
            oom_kills: Some(1),
        },
        disks: vec![DiskUse { major: 8, minor: 1, read_bytes: 5, ..DiskUse::default() }],
        threads: Some(4),
        threads_max: None,
    }
}

/// A pod of which everything was measured, each figure another.
fn everything() -> SandboxDetail {
    let (pod, mut container) = view();
    container.state = container
        .state
        .next(ContainerEvent::Started { at: 7 * i64::try_from(SECOND).unwrap() })
        .unwrap();
    let mut spec = davit_runtime::container::ContainerSpec::clone(&container.spec);
    spec.resources = Resources {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 512,
        memory_limit: 1 << 20,
        memory_swap_limit: -1,
        ..Resources::default()
    };
    container.spec = Arc::new(spec);
    let at = 9 * i64::try_from(SECOND).unwrap();
    let layer = Some(LayerUse { at, bytes: 4096, inodes: 1 });
    let used = ContainerUse {
        container: Arc::new(container),
        at,
        usage: usage(),
        nano_cores: None,
        layer,
    };
    let processes = ProcessUse { open_files_limit: Some(1024), ..ProcessUse::default() };
    let eth0 = InterfaceUse { name: "eth0".to_owned(), ..InterfaceUse::default() };
    let network = NetworkUse { at, default: Some(eth0), others: Vec::new() };
    SandboxDetail {
        used: SandboxUse {
            sandbox: Arc::new(pod),
            at,
            usage: Usage::default(),
            nano_cores: None,
            tasks: None,
            network: Some(network),
            containers: Vec::new(),
        },
        containers: vec![ContainerDetail {
            used,
            detail: detail(),
            processes,
            cgroup: "/p/c".to_owned(),
        }],
        disk: Some(DiskSpace { size: 100, inodes: 10, inodes_free: 5 }),
    }
}

#[test]
fn every_metric_is_described_and_every_description_has_a_metric() {
    let described: BTreeMap<String, usize> =
        descriptors().into_iter().map(|one| (one.name, one.label_keys.len())).collect();
    assert_eq!(described.len(), ROWS.len(), "a name is there twice");
    let pod = pod_metrics(&everything());
    let all: Vec<cri::Metric> = pod
        .metrics
        .into_iter()
        .chain(pod.container_metrics.into_iter().flat_map(|one| one.metrics))
        .collect();
    for metric in &all {
        assert_eq!(described.get(&metric.name), Some(&metric.label_values.len()), "{metric:?}");
    }
    let told: BTreeSet<&str> = all.iter().map(|metric| metric.name.as_str()).collect();
    let described: BTreeSet<&str> = described.keys().map(String::as_str).collect();
    assert_eq!(told, described);
}

#[test]
fn units_and_labels_are_cadvisors() {
    let pod = pod_metrics(&everything());
    let container = &pod.container_metrics[0];
    let find = |name: &str| container.metrics.iter().find(|metric| metric.name == name).unwrap();
    let value = |name: &str| find(name).value.unwrap().value;
    assert_eq!(value("container_cpu_usage_seconds_total"), 2, "whole seconds");
    assert_eq!(value("container_start_time_seconds"), 7, "seconds, not nanoseconds");
    assert_eq!(value("container_last_seen"), 9);
    assert_eq!(value("container_spec_memory_swap_limit_bytes"), 0, "-1 is no limit");
    assert_eq!(value("container_pressure_io_stalled_seconds_total"), 2);
    let labels = &find("container_blkio_device_usage_total").label_values;
    assert_eq!(labels[0], "/p/c");
    assert_eq!(labels[6..], ["8:1", "8", "1", "Read"]);
    let (view, _) = view();
    assert_eq!(labels[3..5], [view.spec.key.name.clone(), view.spec.key.namespace.clone()]);
    assert_eq!(pod.metrics[0].label_values.last().unwrap(), "eth0");
}

#[test]
fn what_was_not_measured_is_not_told() {
    let mut pod = everything();
    pod.used.network = None;
    pod.disk = None;
    for container in &mut pod.containers {
        container.used.usage = Usage::default();
        container.detail = Detail::default();
        container.used.layer = None;
    }
    let pod = pod_metrics(&pod);
    assert!(pod.metrics.is_empty());
    let names: Vec<&str> =
        pod.container_metrics[0].metrics.iter().map(|metric| metric.name.as_str()).collect();
    assert!(!names.iter().any(|name| name.contains("memory_usage") || name.contains("_fs_")));
    assert!(names.contains(&"container_last_seen"));
}
