//! All that the daemon knows, as JSON: for `davit state`, and for the log on SIGUSR1.
//!
//! Owns its shape, which is no promise to anybody: it is for people who look for what is wrong. What of it programs may rely on, CRI and
//! the metrics tell.

use crate::config::Config;
use crate::convert;
use crate::metrics::{Counters, debug};
use davit_runtime::Runtime;
use davit_runtime::image::Image;
use davit_runtime::journal::Stored;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The state now.
pub(crate) fn of(runtime: &Runtime, config: &Config) -> Value {
    let handlers = runtime.handlers();
    let network = runtime.network().status();
    let Stored { retained, not_stored, next } = runtime.stored_events();
    json!({
        "version": crate::VERSION,
        "pid": std::process::id(),
        // Every value of it can be written as TOML, and so as JSON.
        "config": serde_json::to_value(config.as_layer()).unwrap_or_default(),
        "counters": Counters::of(runtime).to_json(),
        "tasks": debug::tasks(),
        "heap": debug::heap(),
        "handlers": handlers.list().iter().map(|handler| json!({
            "name": handler.name,
            "path": handler.path,
            "version": handler.version,
            "problem": handler.problem,
        })).collect::<Vec<_>>(),
        "defaultHandler": handlers.default_name(),
        "network": { "name": network.name, "ready": network.ready, "message": network.message },
        "events": { "retained": retained, "notStored": not_stored, "next": next },
        "images": runtime.images().list().iter().map(|image| of_image(image)).collect::<Vec<_>>(),
        "pods": of_pods(runtime),
    })
}

fn of_image(image: &Image) -> Value {
    json!({
        "id": image.id.to_string(),
        "manifest": image.manifest.to_string(),
        "repoTags": image.repo_tags,
        "repoDigests": image.repo_digests,
        "size": image.size,
        "layers": image.layers.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "pinned": image.pinned,
        "pulledAt": image.pulled_at,
    })
}

/// Every pod and container, as the verbose statuses tell them.
fn of_pods(runtime: &Runtime) -> Value {
    let info = |info: BTreeMap<String, String>| -> Value {
        info.get("info").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    };
    let pods = runtime.sandboxes().into_iter().map(|view| {
        let containers: Map<String, Value> = view
            .containers
            .iter()
            .map(|(id, one)| (id.to_string(), info(convert::container_info(one, None))))
            .collect();
        let pod = json!({ "pod": info(convert::sandbox_info(&view)), "containers": containers });
        (view.id.to_string(), pod)
    });
    Value::Object(pods.collect())
}
