use super::*;
pub(super) fn attachment(netns: &Path) -> Attachment {
    Attachment {
        id: SandboxId::random().unwrap(),
        key: SandboxKey {
            namespace: "default".into(),
            name: "pod".into(),
            uid: "uid".into(),
            attempt: 0,
        },
        netns: netns.to_owned(),
        port_mappings: Vec::new(),
        dns: None,
        annotations: BTreeMap::new(),
        labels: BTreeMap::new(),
        cgroup_path: None,
    }
}
