//! What is mounted into a container, and in which order.
//!
//! Owns the defaults, the files davit makes for a pod, and how both give way to what the pod asks for; what a single mount of the pod
//! becomes is [`super::binds`]. Invariant: no destination appears twice, and none comes before one that it lies below.

use super::binds::{self, MountError};
use super::userns::MappedBind;
use super::{PodPaths, SpecInput};
use crate::container::{ContainerSpec, MountSpec};
use crate::sandbox::NetworkMode;
use oci_spec::runtime::Mount;
use std::path::{Path, PathBuf};

/// How large a container's own `/dev/shm` is where the pod has none: what every pod gets.
const SHM: &str = "size=65536k";

/// A container's mounts.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    pub(super) list: Vec<Mount>,
    /// How the container's root has to propagate for the pod's mounts to do as asked.
    pub(super) root_propagation: Option<&'static str>,
    pub(super) mapped: Vec<MappedBind>,
    /// Sources that are to be given the container's label.
    pub(super) relabel: Vec<PathBuf>,
}

/// All mounts of a container.
pub(super) fn build(input: &SpecInput<'_>) -> Result<Mounts, MountError> {
    let (container, pod) = (input.container, input.pod);
    let asked = binds::all(input)?;
    let mut list = defaults(input);
    list.extend(shm(pod));
    // A default gives way to what the pod mounts there or above: below the pod's mount it would be hidden, or hide a part of it.
    list.retain(|mount| {
        !asked.list.iter().any(|other| mount.destination().starts_with(other.destination()))
    });
    // The pod's files give way to the same file only: who mounts a volume over /etc still wants the pod's resolver in it.
    let mut rest = asked.list;
    let given = |mount: &Mount| rest.iter().any(|other| other.destination() == mount.destination());
    let (_, mut files): (Vec<Mount>, Vec<Mount>) =
        files(pod, container).into_iter().partition(given);
    let mut mapped = asked.mapped;
    if let Some(mappings) = &input.sandbox.userns {
        // Root's on the host, and so on in the pod.
        mapped.extend(files.iter_mut().filter_map(|file| {
            let name = file.destination().file_name()?.to_owned();
            Some(MappedBind::instead_of(file, input.mapped.join(name), mappings))
        }));
    }
    rest.extend(files);
    // Stable, so that what the pod lists later lies on top.
    rest.sort_by_key(|mount| mount.destination().components().count());
    list.extend(rest);
    let (root_propagation, relabel) = (asked.root_propagation, asked.relabel);
    Ok(Mounts { list, root_propagation, mapped, relabel })
}

fn kernel(destination: &str, kind: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount.set_destination(PathBuf::from(destination));
    mount.set_typ(Some(kind.to_owned())).set_source(Some(PathBuf::from(kind)));
    mount.set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()));
    mount
}

/// What the OCI specification promises a container on Linux.
fn defaults(input: &SpecInput<'_>) -> Vec<Mount> {
    let writable = if input.container.security.privileged { "rw" } else { "ro" };
    vec![
        kernel("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        kernel("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        kernel(
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        kernel("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        sys(input, writable),
        kernel("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", writable]),
    ]
}

/// It shows devices of the network namespace, and only who is root of that may mount it. So a pod with the host's network and its own users sees the host's,
/// of which it can change nothing.
fn sys(input: &SpecInput<'_>, writable: &str) -> Mount {
    let destination = "/sys";
    if input.sandbox.userns.is_none() || input.sandbox.network == NetworkMode::Pod {
        return kernel(destination, "sysfs", &["nosuid", "noexec", "nodev", writable]);
    }
    let access = if input.handler.features.recursive_read_only { "rro" } else { "ro" };
    let options = ["rbind", "rprivate", "nosuid", "noexec", "nodev", access];
    bind(Path::new(destination), PathBuf::from(destination), &options)
}

/// A bind of something davit or the host has.
pub(super) fn bind(source: &Path, destination: PathBuf, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount.set_destination(destination);
    mount.set_typ(Some("bind".to_owned())).set_source(Some(source.to_owned()));
    mount.set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()));
    mount
}

fn shm(pod: &PodPaths) -> Option<Mount> {
    let own = || kernel("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", SHM]);
    // The pod's, the host's with the host's IPC namespace, else one of its own.
    let source = match (&pod.shm, &pod.ipcns) {
        (Some(shm), _) => shm.as_path(),
        (None, None) => Path::new("/dev/shm"),
        (None, Some(_)) => return Some(own()),
    };
    // Writable even where the root is not: it is the pod's memory, not the image's.
    Some(bind(
        source,
        PathBuf::from("/dev/shm"),
        &["rbind", "rprivate", "nosuid", "nodev", "noexec", "rw"],
    ))
}

/// The pod's host name and resolver. `/etc/hosts` is the kubelet's.
fn files(pod: &PodPaths, container: &ContainerSpec) -> Vec<Mount> {
    let access = if container.security.readonly_rootfs { "ro" } else { "rw" };
    [(&pod.hostname_file, "/etc/hostname"), (&pod.resolv_conf, "/etc/resolv.conf")]
        .into_iter()
        .filter_map(|(source, destination)| {
            let options = ["rbind", "rprivate", "nosuid", "nodev", "noexec", access];
            Some(bind(source.as_deref()?, PathBuf::from(destination), &options))
        })
        .collect()
}

/// Whether one of `mounts` covers `path`.
pub(super) fn covers(mounts: &[MountSpec], path: &Path) -> bool {
    mounts.iter().any(|mount| path.starts_with(&mount.container_path))
}
