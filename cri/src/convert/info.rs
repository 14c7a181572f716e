//! Verbose statuses: one JSON object under the key `info`, where crictl and scripts look for `.info.pid` and `.info.runtimeSpec`.

use davit_runtime::container::ContainerView;
use davit_runtime::sandbox::SandboxView;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What there is to know about a pod. `pid` is its shim's: there is no pause process. `reason` says why it is not ready, if nobody has stopped it.
pub(crate) fn sandbox_info(view: &SandboxView) -> BTreeMap<String, String> {
    under_info(&json!({
        "pid": view.shim_pid.unwrap_or(0),
        "reason": view.trouble.as_ref().map(ToString::to_string),
        "netNamespace": view.netns,
        "runtimeHandler": view.handler,
        "ips": view.ips,
        "containers": view.containers.keys().collect::<Vec<_>>(),
        "config": &*view.spec,
    }))
}

/// What there is to know about a container; `runtime_spec` is the OCI spec that it was made from, if that can be had.
pub(crate) fn container_info(
    view: &ContainerView,
    runtime_spec: Option<Value>,
) -> BTreeMap<String, String> {
    under_info(&json!({
        "sandboxID": view.sandbox,
        "pid": view.state.pid().unwrap_or(0),
        "state": view.state,
        "paused": view.state.paused_at().is_some(),
        "facts": &*view.facts,
        "logDroppedBytes": view.log_dropped,
        "privileged": view.spec.security.privileged,
        "config": &*view.spec,
        "runtimeSpec": runtime_spec,
    }))
}

fn under_info(info: &Value) -> BTreeMap<String, String> {
    [("info".to_owned(), info.to_string())].into()
}
