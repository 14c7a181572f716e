//! Mounts and devices, there and back.

use super::error::{InvalidField, refuse, unsupported, variant};
use super::text;
use davit_proto::cri;
use davit_runtime::container::{DeviceSpec, MountSource, MountSpec, Propagation, ReadOnly};
use std::path::Path;

/// One mount of a container.
pub(crate) fn mount(at: usize, wire: cri::Mount) -> Result<MountSpec, InvalidField> {
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
    if !uid_mappings.is_empty() {
        return Err(unsupported(field("uidMappings"), &uid_mappings));
    }
    if !gid_mappings.is_empty() {
        return Err(unsupported(field("gidMappings"), &gid_mappings));
    }
    // An empty message is what some clients send for "none".
    if let Some(image) = image.filter(|image| *image != cri::ImageSpec::default()) {
        return Err(unsupported(field("image"), &image));
    }
    if !image_sub_path.is_empty() {
        return Err(unsupported(field("image_sub_path"), &image_sub_path));
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
    Ok(MountSpec {
        container_path: text::absolute(&field("container_path"), container_path)?,
        source: MountSource::Host(text::absolute(&field("host_path"), host_path)?),
        readonly,
        propagation,
        selinux_relabel,
    })
}

/// A mount as it was given.
pub(crate) fn mount_to_cri(mount: &MountSpec) -> cri::Mount {
    let MountSpec { container_path, source, readonly, propagation, selinux_relabel } = mount;
    let MountSource::Host(host_path) = source;
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
        host_path: path_text(host_path),
        readonly,
        selinux_relabel: *selinux_relabel,
        propagation: propagation.into(),
        uid_mappings: Vec::new(),
        gid_mappings: Vec::new(),
        recursive_read_only,
        image: None,
        image_sub_path: String::new(),
    }
}

/// Every path came as text, so nothing is lost here.
pub(crate) fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
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
