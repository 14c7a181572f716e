//! A specification file: its shape, and the rules that it must keep to be used at all.
//!
//! Owns parsing. A field that the format doesn't have makes a file unusable, as with other runtimes: a device that lacks what its vendor wanted
//! is worse than none.

use super::version;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// How a file is written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Format {
    Json,
    Yaml,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct File {
    pub(super) cdi_version: String,
    /// `vendor/class`.
    pub(super) kind: String,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) devices: Vec<Device>,
    /// For whoever gets any of the devices.
    #[serde(default)]
    pub(super) container_edits: Edits,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Device {
    pub(super) name: String,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) container_edits: Edits,
}

/// What is to be changed in a container's OCI spec.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Edits {
    pub(super) env: Vec<String>,
    pub(super) device_nodes: Vec<DeviceNode>,
    pub(super) net_devices: Vec<NetDevice>,
    pub(super) hooks: Vec<Hook>,
    pub(super) mounts: Vec<Mount>,
    pub(super) intel_rdt: Option<IntelRdt>,
    pub(super) additional_gids: Vec<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct DeviceNode {
    pub(super) path: String,
    /// Where it is on the host; empty: at `path` too.
    pub(super) host_path: String,
    /// `b`, `c`, `u` or `p`; empty: the host's.
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) major: i64,
    pub(super) minor: i64,
    pub(super) file_mode: Option<u32>,
    /// Some of `r`, `w`, `m`; empty: all.
    pub(super) permissions: String,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct NetDevice {
    pub(super) host_interface_name: String,
    pub(super) name: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Hook {
    pub(super) hook_name: HookName,
    pub(super) path: String,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<String>,
    /// Seconds.
    pub(super) timeout: Option<i64>,
}

/// When a hook is run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum HookName {
    #[default]
    #[serde(skip)]
    Missing,
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Mount {
    pub(super) host_path: String,
    pub(super) container_path: String,
    pub(super) options: Vec<String>,
    #[serde(rename = "type")]
    pub(super) kind: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct IntelRdt {
    #[serde(rename = "closID")]
    pub(super) clos_id: String,
    pub(super) l3_cache_schema: String,
    pub(super) mem_bw_schema: String,
    pub(super) schemata: Vec<String>,
    pub(super) enable_monitoring: bool,
}

/// A file that can be used, or what is wrong with it, as the end of a sentence.
pub(super) fn parse(text: &str, format: Format) -> Result<File, String> {
    let parsed: Result<File, String> = match format {
        Format::Json => serde_json::from_str(text).map_err(|error| error.to_string()),
        Format::Yaml => serde_saphyr::from_str(text).map_err(|error| error.to_string()),
    };
    let file = parsed.map_err(|error| {
        let line = error.lines().next().unwrap_or_default();
        format!("is no CDI specification: {line}")
    })?;
    check(&file)?;
    Ok(file)
}

fn check(file: &File) -> Result<(), String> {
    let version = version::known(&file.cdi_version)?;
    if !file.kind.split_once('/').is_some_and(|(vendor, class)| is_word(vendor) && is_word(class)) {
        return Err(format!("has kind {:?}, which is not vendor/class", file.kind));
    }
    if file.devices.is_empty() {
        return Err("has no devices".to_owned());
    }
    check_edits(&file.container_edits)?;
    let mut names = BTreeSet::new();
    for device in &file.devices {
        let name = &device.name;
        if !is_device(name) {
            return Err(format!("has a device {name:?}, which is no name"));
        }
        if !names.insert(name) {
            return Err(format!("has the device {name:?} twice"));
        }
        if device.container_edits == Edits::default() {
            return Err(format!("has the device {name:?}, which changes nothing"));
        }
        check_edits(&device.container_edits)?;
    }
    version::check(file, version)
}

fn check_edits(edits: &Edits) -> Result<(), String> {
    if let Some(bad) = edits.env.iter().find(|line| !is_env(line)) {
        return Err(format!("has the environment variable {bad:?}, which has no name or no value"));
    }
    for DeviceNode { path, kind, permissions, .. } in &edits.device_nodes {
        if !path.starts_with('/') || !["", "b", "c", "u", "p"].contains(&kind.as_str()) {
            return Err(format!("has the device node {path:?} of type {kind:?}"));
        }
        if !permissions.chars().all(|letter| "rwm".contains(letter)) {
            return Err(format!("has the device node {path:?} with permissions {permissions:?}"));
        }
    }
    for Hook { hook_name, path, env, .. } in &edits.hooks {
        if *hook_name == HookName::Missing || !path.starts_with('/') {
            return Err(format!("has the hook {path:?} without a name or an absolute path"));
        }
        if let Some(bad) = env.iter().find(|line| !is_env(line)) {
            return Err(format!("has a hook with the environment variable {bad:?}"));
        }
    }
    for Mount { host_path, container_path, .. } in &edits.mounts {
        if host_path.is_empty() || !container_path.starts_with('/') {
            return Err(format!("has a mount of {host_path:?} on {container_path:?}"));
        }
    }
    let nameless =
        |device: &&NetDevice| device.host_interface_name.is_empty() || device.name.is_empty();
    match edits.net_devices.iter().find(nameless) {
        Some(bad) => Err(format!("has a network device without a name: {bad:?}")),
        None => Ok(()),
    }
}

fn is_env(line: &str) -> bool {
    line.find('=').is_some_and(|at| at > 0) && !line.contains('\0')
}

/// A vendor or class: letters, digits, `_`, `-` and `.`, with a letter first and none of the last three at the end.
fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic()) && is_name(text, "_-.")
}

/// The name of a device in its file: a `:` may be in it too, and a digit first.
pub(super) fn is_device(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric()) && is_name(text, "_-.:")
}

fn is_name(text: &str, others: &str) -> bool {
    text.ends_with(|last: char| last.is_ascii_alphanumeric())
        && text.chars().all(|letter| letter.is_ascii_alphanumeric() || others.contains(letter))
}

/// Whether a text is `vendor/class=name`.
#[must_use]
pub fn is_qualified(text: &str) -> bool {
    let parts = text.split_once('=').and_then(|(kind, name)| Some((kind.split_once('/')?, name)));
    parts
        .is_some_and(|((vendor, class), name)| is_word(vendor) && is_word(class) && is_device(name))
}
