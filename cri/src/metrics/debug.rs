//! What there is below `/debug/`: for people who look for what hangs, what burns and what is kept.
//!
//! Told only while the configuration says `debug`, and only to clients on loopback: a profile costs CPU, and threads' names are nobody
//! else's business.

use super::process;
use serde_json::json;

/// What the executor and the kernel know of the daemon's work.
pub(crate) fn tasks() -> serde_json::Value {
    let executor = tokio::runtime::Handle::try_current().ok().map(|handle| handle.metrics());
    let threads = process::thread_list().into_iter().map(|thread| {
        let process::Thread { id, name, state, cpu_seconds } = thread;
        json!({ "id": id, "name": name, "state": state, "cpuSeconds": cpu_seconds })
    });
    json!({
        "aliveTasks": executor.as_ref().map(|executor| executor.num_alive_tasks()),
        "workers": executor.as_ref().map(|executor| executor.num_workers()),
        "globalQueueDepth": executor.as_ref().map(|executor| executor.global_queue_depth()),
        "threads": threads.collect::<Vec<_>>(),
    })
}

/// What memory is used for.
pub(crate) fn heap() -> serde_json::Value {
    let davit_runtime::Heap { arena, used, free, mapped } = davit_runtime::heap();
    json!({
        "heap": { "arenaBytes": arena, "usedBytes": used, "freeBytes": free, "mappedBytes": mapped },
        "kernel": process::memory(),
    })
}
