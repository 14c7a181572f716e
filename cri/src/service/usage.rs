//! What pods and containers use, for `davit stats` and `davit top`: what CRI's statistics tell, and what they leave out.

use davit_proto::admin::{ContainerUsage, PodUsage, UsageResponse};
use davit_runtime::Runtime;
use davit_runtime::sandbox::SandboxState;
use davit_runtime::stats::{ContainerDetail, InterfaceUse, SandboxDetail};

/// Of the pods that are ready, and their containers that run.
pub(super) async fn all(runtime: &Runtime) -> UsageResponse {
    let mut wanted = runtime.sandboxes();
    wanted.retain(|view| view.state == SandboxState::Ready);
    let details = runtime.sandbox_details(wanted).await;
    UsageResponse { pods: details.iter().map(pod).collect() }
}

fn pod(detail: &SandboxDetail) -> PodUsage {
    let SandboxDetail { used, containers, disk: _ } = detail;
    let key = &used.sandbox.spec.key;
    let interfaces =
        used.network.iter().flat_map(|network| network.default.iter().chain(&network.others));
    let sum = |bytes: fn(&InterfaceUse) -> u64| interfaces.clone().map(bytes).sum();
    PodUsage {
        id: used.sandbox.id.to_string(),
        name: key.name.clone(),
        namespace: key.namespace.clone(),
        received_bytes: sum(|one| one.received.bytes),
        sent_bytes: sum(|one| one.sent.bytes),
        has_network: used.network.is_some(),
        containers: containers.iter().map(container).collect(),
    }
}

fn container(detail: &ContainerDetail) -> ContainerUsage {
    let ContainerDetail { used, detail, processes, cgroup: _ } = detail;
    let memory = used.usage.memory.as_ref();
    ContainerUsage {
        id: used.container.id.to_string(),
        name: used.container.spec.name.clone(),
        at: used.at,
        cpu_nanoseconds: used.usage.cpu.as_ref().map_or(0, |cpu| cpu.nanoseconds),
        memory_bytes: memory.map_or(0, |memory| memory.working_set),
        memory_limit_bytes: memory.and_then(|memory| memory.limit).unwrap_or_default(),
        processes: processes.processes,
        read_bytes: detail.disks.iter().map(|disk| disk.read_bytes).sum(),
        written_bytes: detail.disks.iter().map(|disk| disk.write_bytes).sum(),
        paused: used.container.state.paused_at().is_some(),
    }
}
