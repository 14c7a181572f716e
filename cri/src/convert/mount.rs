//! Mounts and devices, there and back.

use super::error::{InvalidField, refuse, variant};
use super::image::{image_request, image_spec};
use super::{text, userns};
use davit_proto::cri;
use davit_runtime::container::{DeviceSpec, MountSource, MountSpec, Propagation, ReadOnly};
use davit_runtime::sandbox::{IdMappings, SandboxSpec};
use std::path::Path;

/// One mount of a container.
pub(crate) fn mount(
    at: usize,
    wire: cri::Mount,
    pod: &SandboxSpec,
) -> Result<MountSpec, InvalidField> {
    let cri::Mount {
        container_path,
        host_path,
        readonly,
        selinux_relabel,
        propagation,
        uid_mappings,
        gid_mappings,
        recursive_read_only,
        image,
        image_sub_path,
    } = wire;
    let field = |name: &str| format!("mounts[{at}].{name}");
    let id_mappings = owners(at, uid_mappings, gid_mappings)?;
    if image.is_some() && id_mappings.is_some() && id_mappings != pod.userns {
        let problem = "are not the pod's own, which its images are mounted with";
        return Err(refuse(field("uidMappings"), &id_mappings, problem));
    }
    let propagation = match variant(&field("propagation"), propagation)? {
        cri::MountPropagation::PropagationPrivate => Propagation::Private,
        cri::MountPropagation::PropagationHostToContainer => Propagation::HostToContainer,
        cri::MountPropagation::PropagationBidirectional => Propagation::Bidirectional,
    };
    let readonly = match (readonly, recursive_read_only) {
        (false, false) => ReadOnly::No,
        (true, false) => ReadOnly::Yes,
        (true, true) if propagation == Propagation::Private => ReadOnly::Recursive,
        (true, true) => {
            let problem = "goes with private propagation only";
            return Err(refuse(field("recursive_read_only"), &recursive_read_only, problem));
        }
        (false, true) => {
            let problem = "is given without readonly";
            return Err(refuse(field("recursive_read_only"), &recursive_read_only, problem));
        }
    };
    // An empty message is what some clients send for "none".
    let source = match image.filter(|image| *image != cri::ImageSpec::default()) {
        Some(image) => {
            if !host_path.is_empty() {
                return Err(refuse(field("host_path"), &host_path, "is given together with image"));
            }
            check_image_mount(at, readonly, propagation)?;
            image_source(at, image, image_sub_path, pod)?
        }
        None if image_sub_path.is_empty() => {
            MountSource::Host(text::absolute(&field("host_path"), host_path)?)
        }
        None => {
            let problem = "is given without image";
            return Err(refuse(field("image_sub_path"), &image_sub_path, problem));
        }
    };
    Ok(MountSpec {
        container_path: text::absolute(&field("container_path"), container_path)?,
        source,
        readonly,
        propagation,
        selinux_relabel,
        id_mappings,
    })
}

/// Who the owners are in a mount: of both kinds, or left as they are.
fn owners(
    at: usize,
    uids: Vec<cri::IdMapping>,
    gids: Vec<cri::IdMapping>,
) -> Result<Option<IdMappings>, InvalidField> {
    let field = |name: &str| format!("mounts[{at}].{name}");
    let uids = userns::mappings(&field("uidMappings"), uids)?;
    let gids = userns::mappings(&field("gidMappings"), gids)?;
    match (uids.is_empty(), gids.is_empty()) {
        (true, true) => Ok(None),
        (false, false) => Ok(Some(IdMappings { uids, gids })),
        (true, false) => {
            Err(refuse(field("uidMappings"), &uids, "is empty, though there are gidMappings"))
        }
        (false, true) => {
            Err(refuse(field("gidMappings"), &gids, "is empty, though there are uidMappings"))
        }
    }
}

/// An image is mounted read-only, and there is nothing in it that could propagate: who asks for more would get less.
fn check_image_mount(
    at: usize,
    readonly: ReadOnly,
    propagation: Propagation,
) -> Result<(), InvalidField> {
    let field = |name: &str| format!("mounts[{at}].{name}");
    if readonly == ReadOnly::No {
        let problem = "is given for an image, which is mounted read-only";
        return Err(refuse(field("readonly"), &false, problem));
    }
    if propagation != Propagation::Private {
        let problem = "is given for an image, whose mount is private";
        return Err(refuse(field("propagation"), &propagation, problem));
    }
    Ok(())
}

fn image_source(
    at: usize,
    image: cri::ImageSpec,
    sub_path: String,
    pod: &SandboxSpec,
) -> Result<MountSource, InvalidField> {
    let field = |name: &str| format!("mounts[{at}].{name}");
    let image = image_request(&field("image"), Some(image), pod)?;
    let sub_path = text::relative_directory(&field("image_sub_path"), sub_path)?;
    Ok(MountSource::Image { image, sub_path })
}

/// A mount as it was given.
pub(crate) fn mount_to_cri(mount: &MountSpec) -> cri::Mount {
    let MountSpec { container_path, source, readonly, propagation, selinux_relabel, id_mappings } =
        mount;
    let ids = id_mappings.clone().unwrap_or_default();
    let (host_path, image, image_sub_path) = match source {
        MountSource::Host(path) => (path_text(path), None, String::new()),
        MountSource::Image { image, sub_path } => {
            (String::new(), Some(image_spec(image, &image.image)), path_text(sub_path))
        }
    };
    let propagation = match propagation {
        Propagation::Private => cri::MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => cri::MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => cri::MountPropagation::PropagationBidirectional,
    };
    let (readonly, recursive_read_only) = match readonly {
        ReadOnly::No => (false, false),
        ReadOnly::Yes => (true, false),
        ReadOnly::Recursive => (true, true),
    };
    cri::Mount {
        container_path: path_text(container_path),
        host_path,
        readonly,
        selinux_relabel: *selinux_relabel,
        propagation: propagation.into(),
        uid_mappings: userns::mappings_to_cri(&ids.uids),
        gid_mappings: userns::mappings_to_cri(&ids.gids),
        recursive_read_only,
        image,
        image_sub_path,
    }
}

/// Every path came as text, so nothing is lost here.
pub(crate) fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A device as it was given.
pub(crate) fn device_to_cri(device: &DeviceSpec) -> cri::Device {
    let DeviceSpec { container_path, host_path, permissions } = device;
    cri::Device {
        container_path: path_text(container_path),
        host_path: path_text(host_path),
        permissions: permissions.clone(),
    }
}

/// One device of a container.
pub(crate) fn device(at: usize, wire: cri::Device) -> Result<DeviceSpec, InvalidField> {
    let cri::Device { container_path, host_path, permissions } = wire;
    let field = |name: &str| format!("devices[{at}].{name}");
    let repeated = |letter: char| permissions.matches(letter).count() > 1;
    let known = permissions.chars().all(|letter| matches!(letter, 'r' | 'w' | 'm'));
    if permissions.is_empty() || !known || ['r', 'w', 'm'].into_iter().any(repeated) {
        return Err(refuse(field("permissions"), &permissions, "is not made of r, w and m"));
    }
    Ok(DeviceSpec {
        container_path: text::absolute(&field("container_path"), container_path)?,
        host_path: text::absolute(&field("host_path"), host_path)?,
        permissions,
    })
}
