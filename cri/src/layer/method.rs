//! Which methods there are, so that labels and log lines can't be made up by callers, and which of them never end by themselves.

/// A method of the services that davit serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Method {
    /// Its name, without the service's: `RunPodSandbox`. `other` for one that isn't served.
    pub(crate) name: &'static str,
    /// It lasts for as long as the caller or a container does: nobody waits for it when davit stops.
    pub(crate) endless: bool,
    /// Which of [`Method::COUNT`] it is, for tables.
    pub(crate) at: usize,
}

/// What a path that is none of ours counts as.
const OTHER: Method = Method { name: "other", endless: false, at: METHODS.len() };

const fn method(name: &'static str) -> Method {
    Method { name, endless: false, at: 0 }
}

const fn endless(name: &'static str) -> Method {
    Method { name, endless: true, at: 0 }
}

/// Of all three services: their methods' names differ.
const METHODS: &[Method] = &[
    method("Version"),
    method("RunPodSandbox"),
    method("StopPodSandbox"),
    method("RemovePodSandbox"),
    method("PodSandboxStatus"),
    method("ListPodSandbox"),
    method("StreamPodSandboxes"),
    method("CreateContainer"),
    method("StartContainer"),
    method("StopContainer"),
    method("RemoveContainer"),
    method("ListContainers"),
    method("StreamContainers"),
    method("ContainerStatus"),
    method("UpdateContainerResources"),
    method("ReopenContainerLog"),
    method("ExecSync"),
    method("Exec"),
    method("Attach"),
    method("PortForward"),
    method("ContainerStats"),
    method("ListContainerStats"),
    method("StreamContainerStats"),
    method("PodSandboxStats"),
    method("ListPodSandboxStats"),
    method("StreamPodSandboxStats"),
    method("UpdateRuntimeConfig"),
    method("Status"),
    method("CheckpointContainer"),
    endless("GetContainerEvents"),
    method("ListMetricDescriptors"),
    method("ListPodSandboxMetrics"),
    method("StreamPodSandboxMetrics"),
    method("RuntimeConfig"),
    method("UpdatePodSandboxResources"),
    method("ListImages"),
    method("StreamImages"),
    method("ImageStatus"),
    method("PullImage"),
    method("RemoveImage"),
    method("ImageFsInfo"),
    method("About"),
    method("Info"),
    method("Pull"),
    endless("Logs"),
    endless("Events"),
    method("State"),
    endless("Wait"),
    endless("Check"),
    method("Pause"),
    method("Resume"),
    method("Kill"),
    method("OpenExec"),
    method("OpenAttach"),
    method("Standings"),
    method("Usage"),
    method("Login"),
    method("Search"),
    method("Explain"),
    method("CreateCheckpoint"),
    method("ListCheckpoints"),
    method("InspectCheckpoint"),
    method("RestoreCheckpoint"),
    method("RemoveCheckpoint"),
];

impl Method {
    /// How many there are, the one for all that are not served included.
    pub(crate) const COUNT: usize = METHODS.len() + 1;

    /// The method of a request's path: `/runtime.v1.RuntimeService/Version`.
    pub(crate) fn of(path: &str) -> Self {
        let name = path.rsplit('/').next().unwrap_or_default();
        let mut known = METHODS.iter().enumerate();
        let found = known.find(|(_, method)| method.name == name);
        found.map_or(OTHER, |(at, method)| Self { at, ..*method })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_of_the_interfaces_is_known() {
        let protos = [
            include_str!("../../../proto/proto/cri.proto"),
            include_str!("../../../proto/proto/davit.proto"),
        ];
        let mut found = std::collections::BTreeSet::new();
        for line in protos.iter().flat_map(|proto| proto.lines()) {
            let Some(rest) = line.trim().strip_prefix("rpc ") else { continue };
            let name = rest.split('(').next().unwrap();
            let method = Method::of(&format!("/a.b/{name}"));
            assert_eq!(method.name, name);
            assert!(method.at < Method::COUNT - 1);
            found.insert(name);
        }
        assert_eq!(found.len(), METHODS.len());
    }

    #[test]
    fn a_made_up_path_has_no_label_of_its_own() {
        assert_eq!(Method::of("/x/Made-Up"), OTHER);
        assert_eq!(Method::of(""), OTHER);
    }
}
