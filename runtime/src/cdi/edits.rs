//! A device's edits, done to an OCI spec.

use super::spec::{DeviceNode, Edits, Hook, HookName, IntelRdt, Mount, NetDevice};
use crate::oci::Built;
use crate::oci::handlers::Handler;
use oci_spec::runtime::{
    Hook as OciHook, Linux, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxIntelRdt,
    LinuxNetDevice, LinuxResources, Mount as OciMount, Process, Spec,
};
use rustix::fs::{FileType, major, minor};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Why an edit can't be done.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// A device of the host can't be looked at.
    #[error("look at the device {}", path.display())]
    Device {
        /// Where, on the host.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is something else there.
    #[error("{} is no device of type {kind:?}", path.display())]
    Kind {
        /// Where, on the host.
        path: PathBuf,
        /// What it should be; empty: any.
        kind: String,
    },
    /// The OCI runtime can't move network devices.
    #[error("handler {handler:?} can't give a container the network device {name:?}")]
    NetDevice {
        /// Which handler.
        handler: String,
        /// The host's name of it.
        name: String,
    },
}

/// Does them. Whatever it replaces, the last word is the device's.
pub(super) fn apply(edits: &Edits, built: &mut Built, handler: &Handler) -> Result<(), EditError> {
    let Edits { env, device_nodes, net_devices, hooks, mounts, intel_rdt, additional_gids } = edits;
    let spec = &mut built.spec;
    let mut process = spec.process().clone().unwrap_or_default();
    add_env(&mut process, env);
    let mut linux = spec.linux().clone().unwrap_or_default();
    for node in device_nodes {
        add_device(&mut linux, &process, node)?;
    }
    add_net_devices(&mut linux, net_devices, handler)?;
    if let Some(rdt) = intel_rdt {
        linux.set_intel_rdt(Some(intel(rdt)));
    }
    let mut user = process.user().clone();
    let mut groups = user.additional_gids().clone().unwrap_or_default();
    for gid in additional_gids.iter().filter(|gid| **gid != 0) {
        if !groups.contains(gid) {
            groups.push(*gid);
        }
        if !built.user.groups.contains(gid) {
            built.user.groups.push(*gid);
        }
    }
    user.set_additional_gids(Some(groups));
    process.set_user(user);
    add_mounts(spec, mounts);
    add_hooks(spec, hooks);
    spec.set_process(Some(process)).set_linux(Some(linux));
    Ok(())
}

fn name_of(line: &str) -> &str {
    line.split('=').next().unwrap_or_default()
}

fn add_env(process: &mut Process, lines: &[String]) {
    let mut env = process.env().clone().unwrap_or_default();
    for line in lines {
        env.retain(|other| name_of(other) != name_of(line));
        env.push(line.clone());
    }
    process.set_env(Some(env));
}

fn kind_of(letter: &str) -> LinuxDeviceType {
    match letter {
        "b" => LinuxDeviceType::B,
        "p" => LinuxDeviceType::P,
        "u" => LinuxDeviceType::U,
        _ => LinuxDeviceType::C,
    }
}

/// Type and numbers of a node: the file's, or where it leaves them out the host's.
fn numbers(node: &DeviceNode) -> Result<(LinuxDeviceType, i64, i64), EditError> {
    let DeviceNode { path, host_path, kind, major: given, minor: given_minor, .. } = node;
    if !kind.is_empty() && (*given != 0 || kind == "p") {
        return Ok((kind_of(kind), *given, *given_minor));
    }
    let path = PathBuf::from(if host_path.is_empty() { path } else { host_path });
    let metadata = std::fs::metadata(&path)
        .map_err(|source| EditError::Device { path: path.clone(), source })?;
    let found = match FileType::from_raw_mode(metadata.mode()) {
        FileType::BlockDevice => "b",
        FileType::CharacterDevice => "c",
        FileType::Fifo => "p",
        FileType::RegularFile
        | FileType::Directory
        | FileType::Symlink
        | FileType::Socket
        | FileType::Unknown => "",
    };
    let same = kind == found || (kind == "u" && found == "c") || kind.is_empty();
    if found.is_empty() || !same {
        return Err(EditError::Kind { path, kind: kind.clone() });
    }
    let (major, minor) = if *given == 0 && found != "p" {
        (i64::from(major(metadata.rdev())), i64::from(minor(metadata.rdev())))
    } else {
        (*given, *given_minor)
    };
    Ok((kind_of(found), major, minor))
}

fn add_device(linux: &mut Linux, process: &Process, node: &DeviceNode) -> Result<(), EditError> {
    let (kind, major, minor) = numbers(node)?;
    // A device that belongs to nobody in particular belongs to whom the container runs as.
    let own = |id: u32| Some(id).filter(|id| *id != 0);
    let mut device = LinuxDevice::default();
    device.set_path(PathBuf::from(&node.path)).set_typ(kind).set_major(major).set_minor(minor);
    device.set_file_mode(node.file_mode);
    device.set_uid(node.uid.or(own(process.user().uid())));
    device.set_gid(node.gid.or(own(process.user().gid())));
    let mut devices = linux.devices().clone().unwrap_or_default();
    devices.retain(|other| other.path() != device.path());
    devices.push(device);
    linux.set_devices(Some(devices));
    if matches!(kind, LinuxDeviceType::B | LinuxDeviceType::C) {
        let access = if node.permissions.is_empty() { "rwm" } else { &node.permissions };
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(true).set_typ(Some(kind)).set_access(Some(access.to_owned()));
        rule.set_major(Some(major)).set_minor(Some(minor));
        let mut resources: LinuxResources = linux.resources().clone().unwrap_or_default();
        let mut rules = resources.devices().clone().unwrap_or_default();
        rules.push(rule);
        resources.set_devices(Some(rules));
        linux.set_resources(Some(resources));
    }
    Ok(())
}

/// A runtime that doesn't know them passes them over without a word, so it is not asked.
fn add_net_devices(
    linux: &mut Linux,
    devices: &[NetDevice],
    handler: &Handler,
) -> Result<(), EditError> {
    let mut all = linux.net_devices().clone().unwrap_or_default();
    for NetDevice { host_interface_name, name } in devices {
        if !handler.features.net_devices {
            let (handler, name) = (handler.name.clone(), host_interface_name.clone());
            return Err(EditError::NetDevice { handler, name });
        }
        let mut device = LinuxNetDevice::default();
        device.set_name(Some(name.clone()));
        all.insert(host_interface_name.clone(), device);
    }
    if !all.is_empty() {
        linux.set_net_devices(Some(all));
    }
    Ok(())
}

fn intel(rdt: &IntelRdt) -> LinuxIntelRdt {
    let IntelRdt { clos_id, l3_cache_schema, mem_bw_schema, schemata, enable_monitoring } = rdt;
    let said = |text: &String| (!text.is_empty()).then(|| text.clone());
    let mut out = LinuxIntelRdt::default();
    out.set_clos_id(said(clos_id)).set_l3_cache_schema(said(l3_cache_schema));
    out.set_mem_bw_schema(said(mem_bw_schema));
    out.set_schemata((!schemata.is_empty()).then(|| schemata.clone()));
    out.set_enable_monitoring(enable_monitoring.then_some(true));
    out
}

fn add_mounts(spec: &mut Spec, mounts: &[Mount]) {
    if mounts.is_empty() {
        return;
    }
    let mut all = spec.mounts().clone().unwrap_or_default();
    for Mount { host_path, container_path, options, kind } in mounts {
        let destination: PathBuf = Path::new(container_path).components().collect();
        let mut options = options.clone();
        let bound = options.iter().any(|option| option == "bind" || option == "rbind");
        let kind = if kind.is_empty() { "bind" } else { kind };
        if kind == "bind" && !bound {
            options.push("rbind".to_owned());
        }
        let mut mount = OciMount::default();
        mount.set_destination(destination).set_source(Some(PathBuf::from(host_path)));
        mount.set_typ(Some(kind.to_owned())).set_options(Some(options));
        all.retain(|other| other.destination() != mount.destination());
        all.push(mount);
    }
    // Stable: what lies below another comes after it, and everything else stays where it was.
    all.sort_by_key(|mount| mount.destination().components().count());
    spec.set_mounts(Some(all));
}

fn add_hooks(spec: &mut Spec, hooks: &[Hook]) {
    if hooks.is_empty() {
        return;
    }
    let mut all = spec.hooks().clone().unwrap_or_default();
    for Hook { hook_name, path, args, env, timeout } in hooks {
        let mut hook = OciHook::default();
        hook.set_path(PathBuf::from(path)).set_timeout(*timeout);
        hook.set_args((!args.is_empty()).then(|| args.clone()));
        hook.set_env((!env.is_empty()).then(|| env.clone()));
        let list = match hook_name {
            HookName::Missing => continue,
            HookName::Prestart => all.prestart_mut(),
            HookName::CreateRuntime => all.create_runtime_mut(),
            HookName::CreateContainer => all.create_container_mut(),
            HookName::StartContainer => all.start_container_mut(),
            HookName::Poststart => all.poststart_mut(),
            HookName::Poststop => all.poststop_mut(),
        };
        list.get_or_insert_default().push(hook);
    }
    spec.set_hooks(Some(all));
}
