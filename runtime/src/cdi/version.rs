//! The versions of the format, and what each brought.
//!
//! Owns the rule that a file says no less than what it uses: a runtime that knows only the version it names would not understand it. The
//! fields are those for which the interface's own library demands it.

use super::spec::{Device, Edits, File};

/// In the order in which they came. The numbers between brought no field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    V0_3,
    V0_4,
    V0_5,
    V0_6,
    V0_7,
    V0_8,
    V1_0,
    V1_1,
}

impl Version {
    const ALL: [Self; 8] = [
        Self::V0_3,
        Self::V0_4,
        Self::V0_5,
        Self::V0_6,
        Self::V0_7,
        Self::V0_8,
        Self::V1_0,
        Self::V1_1,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::V0_3 => "0.3.0",
            Self::V0_4 => "0.4.0",
            Self::V0_5 => "0.5.0",
            Self::V0_6 => "0.6.0",
            Self::V0_7 => "0.7.0",
            Self::V0_8 => "0.8.0",
            Self::V1_0 => "1.0.0",
            Self::V1_1 => "1.1.0",
        }
    }
}

/// The version that a file names.
pub(super) fn known(text: &str) -> Result<Version, String> {
    let bare = text.strip_prefix('v').unwrap_or(text);
    let found = Version::ALL.into_iter().find(|version| version.name() == bare);
    found.ok_or_else(|| format!("has cdiVersion {text:?}, which is not known"))
}

/// Whether the file uses nothing that came after the version that it names.
pub(super) fn check(file: &File, named: Version) -> Result<(), String> {
    let mut needs = Vec::new();
    if !file.annotations.is_empty() {
        needs.push((Version::V0_6, "annotations"));
    }
    if file.kind.split_once('/').is_some_and(|(_, class)| class.contains('.')) {
        needs.push((Version::V0_6, "a class with a dot in kind"));
    }
    edits(&file.container_edits, &mut needs);
    file.devices.iter().for_each(|one| device(one, &mut needs));
    let newest = needs.into_iter().max_by_key(|(version, _)| *version);
    match newest.filter(|(version, _)| *version > named) {
        None => Ok(()),
        Some((version, what)) => Err(format!(
            "has cdiVersion {:?}, but uses {what}, for which it has to be at least {}",
            file.cdi_version,
            version.name()
        )),
    }
}

fn device(device: &Device, needs: &mut Vec<(Version, &'static str)>) {
    if device.name.starts_with(|first: char| first.is_ascii_digit()) {
        needs.push((Version::V0_5, "a device name that begins with a digit"));
    }
    if !device.annotations.is_empty() {
        needs.push((Version::V0_6, "annotations"));
    }
    edits(&device.container_edits, needs);
}

fn edits(edits: &Edits, needs: &mut Vec<(Version, &'static str)>) {
    let Edits { env: _, device_nodes, net_devices, hooks: _, mounts, intel_rdt, additional_gids } =
        edits;
    if mounts.iter().any(|mount| !mount.kind.is_empty()) {
        needs.push((Version::V0_4, "mounts.type"));
    }
    if device_nodes.iter().any(|node| !node.host_path.is_empty()) {
        needs.push((Version::V0_5, "deviceNodes.hostPath"));
    }
    if !additional_gids.is_empty() {
        needs.push((Version::V0_7, "additionalGids"));
    }
    if let Some(rdt) = intel_rdt {
        needs.push((Version::V0_7, "intelRdt"));
        if !rdt.schemata.is_empty() {
            needs.push((Version::V1_1, "intelRdt.schemata"));
        }
        if rdt.enable_monitoring {
            needs.push((Version::V1_1, "intelRdt.enableMonitoring"));
        }
    }
    if !net_devices.is_empty() {
        needs.push((Version::V1_1, "netDevices"));
    }
}
