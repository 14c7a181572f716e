//! What is used → what statistics tell. What was not measured is left out, never told as 0.

use super::status::sandbox_metadata;
use davit_proto::cri;
use davit_runtime::container::ContainerView;
use davit_runtime::sandbox::SandboxView;
use davit_runtime::stats::{
    ContainerUse, CpuUse, InterfaceUse, LayerUse, MemoryUse, NetworkUse, Pressure, SandboxUse,
    Stall, SwapUse,
};
use std::path::Path;

fn value(value: u64) -> Option<cri::UInt64Value> {
    Some(cri::UInt64Value { value })
}

/// What a container uses. `layers` is where all writable layers are.
pub(crate) fn container_stats(used: &ContainerUse, layers: &Path) -> cri::ContainerStats {
    let ContainerUse { container, at, usage, nano_cores, layer } = used;
    cri::ContainerStats {
        attributes: Some(container_attributes(container)),
        cpu: usage.cpu.map(|used| cpu(*at, &used, *nano_cores)),
        memory: usage.memory.map(|used| memory(*at, &used)),
        writable_layer: layer.map(|used| writable_layer(&used, layers)),
        swap: usage.swap.map(|used| swap(*at, used)),
        io: usage.io_pressure.map(|stalled| io(*at, &stalled)),
    }
}

/// What a pod uses.
pub(crate) fn sandbox_stats(used: &SandboxUse, layers: &Path) -> cri::PodSandboxStats {
    let SandboxUse { sandbox, at, usage, nano_cores, tasks, network: interfaces, containers } =
        used;
    let containers = containers.iter().map(|used| container_stats(used, layers)).collect();
    cri::PodSandboxStats {
        attributes: Some(sandbox_attributes(sandbox)),
        linux: Some(cri::LinuxPodSandboxStats {
            cpu: usage.cpu.map(|used| cpu(*at, &used, *nano_cores)),
            memory: usage.memory.map(|used| memory(*at, &used)),
            network: interfaces.as_ref().map(network),
            process: tasks
                .map(|count| cri::ProcessUsage { timestamp: *at, process_count: value(count) }),
            containers,
            io: usage.io_pressure.map(|stalled| io(*at, &stalled)),
        }),
        windows: None,
    }
}

fn container_attributes(view: &ContainerView) -> cri::ContainerAttributes {
    let spec = &view.spec;
    cri::ContainerAttributes {
        id: view.id.to_string(),
        metadata: Some(cri::ContainerMetadata { name: spec.name.clone(), attempt: spec.attempt }),
        labels: spec.labels.clone(),
        annotations: spec.annotations.clone(),
    }
}

fn sandbox_attributes(view: &SandboxView) -> cri::PodSandboxAttributes {
    cri::PodSandboxAttributes {
        id: view.id.to_string(),
        metadata: Some(sandbox_metadata(&view.spec.key)),
        labels: view.spec.labels.clone(),
        annotations: view.spec.annotations.clone(),
    }
}

fn cpu(timestamp: i64, used: &CpuUse, nano_cores: Option<u64>) -> cri::CpuUsage {
    cri::CpuUsage {
        timestamp,
        usage_core_nano_seconds: value(used.nanoseconds),
        usage_nano_cores: nano_cores.and_then(value),
        psi: used.pressure.as_ref().map(psi),
    }
}

fn memory(timestamp: i64, used: &MemoryUse) -> cri::MemoryUsage {
    cri::MemoryUsage {
        timestamp,
        working_set_bytes: value(used.working_set),
        available_bytes: value(used.available()),
        usage_bytes: value(used.usage),
        rss_bytes: value(used.rss),
        page_faults: value(used.page_faults),
        major_page_faults: value(used.major_page_faults),
        psi: used.pressure.as_ref().map(psi),
    }
}

fn swap(timestamp: i64, used: SwapUse) -> cri::SwapUsage {
    let available = used.limit.map(|limit| limit.saturating_sub(used.usage));
    cri::SwapUsage {
        timestamp,
        swap_available_bytes: available.and_then(value),
        swap_usage_bytes: value(used.usage),
    }
}

fn io(timestamp: i64, stalled: &Pressure) -> cri::IoUsage {
    cri::IoUsage { timestamp, psi: Some(psi(stalled)) }
}

fn psi(pressure: &Pressure) -> cri::PsiStats {
    let data = |stall: &Stall| cri::PsiData {
        total: stall.total,
        avg10: stall.avg10,
        avg60: stall.avg60,
        avg300: stall.avg300,
    };
    cri::PsiStats { full: Some(data(&pressure.full)), some: Some(data(&pressure.some)) }
}

fn writable_layer(used: &LayerUse, layers: &Path) -> cri::FilesystemUsage {
    cri::FilesystemUsage {
        timestamp: used.at,
        fs_id: Some(cri::FilesystemIdentifier { mountpoint: layers.display().to_string() }),
        used_bytes: value(used.bytes),
        inodes_used: value(used.inodes),
    }
}

fn network(used: &NetworkUse) -> cri::NetworkUsage {
    let interface = |used: &InterfaceUse| cri::NetworkInterfaceUsage {
        name: used.name.clone(),
        rx_bytes: value(used.received.bytes),
        rx_errors: value(used.received.errors),
        tx_bytes: value(used.sent.bytes),
        tx_errors: value(used.sent.errors),
    };
    cri::NetworkUsage {
        timestamp: used.at,
        default_interface: used.default.as_ref().map(interface),
        interfaces: used.others.iter().map(interface).collect(),
    }
}
