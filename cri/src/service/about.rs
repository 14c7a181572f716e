//! What Status says of the runtime, its handlers and its network.

use super::info;
use crate::convert;
use crate::metrics::Counters;
use davit_proto::admin::InfoRequest;
use davit_proto::cri::{RuntimeCondition, RuntimeFeatures, RuntimeHandler, RuntimeHandlerFeatures};
use davit_runtime::Runtime;
use davit_runtime::oci::Handler;
use davit_runtime::oci::handlers::UserNamespaces;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The handlers that work, the default one under the empty name too.
pub(super) fn handlers(runtime: &Runtime) -> Vec<RuntimeHandler> {
    let handlers = runtime.handlers();
    let features = |name: &str| {
        handlers.get(name).ok().map(|handler| RuntimeHandlerFeatures {
            recursive_read_only_mounts: handler.features.recursive_read_only,
            user_namespaces: handler.features.user_namespaces == UserNamespaces::Yes,
        })
    };
    let names = handlers
        .list()
        .iter()
        .filter(|handler| handler.problem.is_none())
        .map(|handler| handler.name.clone());
    let names = std::iter::once(String::new()).chain(names);
    names.map(|name| RuntimeHandler { features: features(&name), name }).collect()
}

/// What the runtime can do whichever the handler. A user namespace goes together with the host's network wherever there is one at all.
pub(super) fn features(runtime: &Runtime) -> RuntimeFeatures {
    let works = |handler: &Arc<Handler>| handler.features.user_namespaces == UserNamespaces::Yes;
    RuntimeFeatures {
        supplemental_groups_policy: true,
        user_namespaces_host_network: runtime.handlers().list().iter().any(works),
    }
}

/// Whether pods can be run, and given a network.
pub(super) fn conditions(runtime: &Runtime) -> Vec<RuntimeCondition> {
    let network = runtime.network().status();
    vec![
        RuntimeCondition {
            r#type: "RuntimeReady".to_owned(),
            status: true,
            ..RuntimeCondition::default()
        },
        RuntimeCondition {
            r#type: "NetworkReady".to_owned(),
            status: network.ready,
            reason: network.reason,
            message: network.message,
        },
    ]
}

/// Configuration, counters and network, for who asks for all there is.
pub(super) async fn verbose(runtime: &Runtime) -> BTreeMap<String, String> {
    let asked = InfoRequest { machine: true, debug: true };
    let whole = convert::about_json(&info::info(runtime, asked).await);
    let config = runtime.config();
    let network = runtime.network().status();
    let broken = tokio::task::block_in_place(|| runtime.cdi().broken());
    let broken: BTreeMap<_, _> =
        broken.into_iter().map(|file| (file.path.display().to_string(), file.problem)).collect();
    let cdi = serde_json::json!({ "specDirs": config.cdi_spec_dirs, "broken": broken });
    let config = serde_json::json!({
        "rootDir": config.root,
        "stateDir": config.state,
        "shim": config.shim,
        "cgroupDriver": runtime.host().driver.name(),
        "defaultHandler": runtime.handlers().default_name(),
    });
    [
        ("config", config.to_string()),
        ("cdi", cdi.to_string()),
        ("counters", Counters::of(runtime).to_json().to_string()),
        ("info", whole.to_string()),
        ("network", network.name),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}
