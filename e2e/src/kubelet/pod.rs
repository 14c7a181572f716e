//! What a kubelet says about a pod, and the words to ask it for one.

use serde_json::{Value, json};

/// A pod of `/pods`: its manifest, with the defaults filled in, and its status.
#[derive(Clone)]
pub struct Pod(Value);

impl std::fmt::Debug for Pod {
    /// Only the status: the rest is what the test asked for.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.name(), self.at("/status"))
    }
}

impl Pod {
    pub(super) fn new(value: Value) -> Self {
        Self(value)
    }

    fn at(&self, pointer: &str) -> &Value {
        at(&self.0, pointer)
    }

    /// All of it.
    #[must_use]
    pub fn json(&self) -> &Value {
        &self.0
    }

    /// Its name, which ends in the node's.
    #[must_use]
    pub fn name(&self) -> &str {
        self.at("/metadata/name").as_str().unwrap_or_default()
    }

    /// Its uid.
    #[must_use]
    pub fn uid(&self) -> &str {
        self.at("/metadata/uid").as_str().unwrap_or_default()
    }

    /// `Pending`, `Running`, `Succeeded` or `Failed`.
    #[must_use]
    pub fn phase(&self) -> &str {
        self.at("/status/phase").as_str().unwrap_or_default()
    }

    /// Its address.
    #[must_use]
    pub fn ip(&self) -> &str {
        self.at("/status/podIP").as_str().unwrap_or_default()
    }

    /// Whether its condition `Ready` is true.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.condition("Ready")
    }

    /// Whether this condition is true.
    #[must_use]
    pub fn condition(&self, kind: &str) -> bool {
        let conditions = self.at("/status/conditions").as_array();
        let found = conditions
            .and_then(|all| all.iter().find(|one| one.get("type").is_some_and(|of| of == kind)));
        found
            .is_some_and(|condition| condition.get("status").is_some_and(|status| status == "True"))
    }

    /// The status of one of its containers, of whatever kind; null if there is none.
    #[must_use]
    pub fn container(&self, name: &str) -> &Value {
        let lists = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
        let mut all = lists
            .iter()
            .filter_map(|list| self.at(&format!("/status/{list}")).as_array())
            .flatten();
        all.find(|status| status.get("name").is_some_and(|of| of == name)).unwrap_or(&Value::Null)
    }

    /// The id of a container, without the runtime's name in front.
    #[must_use]
    pub fn id(&self, container: &str) -> &str {
        let id = at(self.container(container), "/containerID").as_str().unwrap_or_default();
        id.split_once("://").map_or(id, |(_runtime, id)| id)
    }

    /// How often a container was started again.
    #[must_use]
    pub fn restarts(&self, container: &str) -> u64 {
        at(self.container(container), "/restartCount").as_u64().unwrap_or(0)
    }

    /// How a container has ended; null while it runs.
    #[must_use]
    pub fn ended(&self, container: &str) -> &Value {
        at(self.container(container), "/state/terminated")
    }

    /// How a container's run before this one has ended.
    #[must_use]
    pub fn ended_before(&self, container: &str) -> &Value {
        at(self.container(container), "/lastState/terminated")
    }
}

/// What a JSON pointer leads to; null if there is nothing.
fn at<'v>(value: &'v Value, pointer: &str) -> &'v Value {
    value.pointer(pointer).unwrap_or(&Value::Null)
}

/// A container that runs a script in a shell, with more members on top.
#[must_use]
pub fn shell(name: &str, image: &str, script: &str, more: Value) -> Value {
    container(name, image, &["sh", "-c", script], more)
}

/// A container that runs a command, with more members on top.
#[must_use]
pub fn container(name: &str, image: &str, command: &[&str], more: Value) -> Value {
    let mut container = json!({"name": name, "image": image, "command": command});
    if let (Value::Object(members), Some(target)) = (more, container.as_object_mut()) {
        target.extend(members);
    }
    container
}
