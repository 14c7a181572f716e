//! What a container's root is put together from, and where: its layers, what it writes, the images that are its volumes, what is mounted with other ids.
//!
//! Owns what is made on the disk for them before the shim is called, and how the shim is told. The mounting is the shim's.

use super::create::{Creation, Held};
use crate::id::ContainerId;
use crate::image::LayerHold;
use crate::oci::{self, Built, MappedBind};
use crate::sandbox::{IdMapping, IdMappings};
use crate::store::{StoreError, ensure_dir, new_dir, write_bytes};
use davit_proto::shim::{Directory, ImageVolume, MappedMount, Rootfs};
use std::path::{Path, PathBuf};

impl Creation {
    /// The writable layer and the place for the root, and how the shim is to put them together.
    pub(super) fn make_rootfs(
        &self,
        id: &ContainerId,
        bundle: &Path,
        held: &Held,
        built: &Built,
    ) -> Result<Rootfs, StoreError> {
        let target = self.rootfs_target(bundle);
        if self.sandbox.spec.userns.is_none() {
            new_dir(&target, 0o755)?;
        }
        let writable = self.shared.layout.writable(id);
        ensure_dir(&writable)?;
        let (upper, work) = (writable.join("fs"), writable.join("work"));
        // The container's root directory is this one: everybody may enter it.
        new_dir(&upper, 0o755)?;
        new_dir(&work, 0o700)?;
        if let Some((uid, gid)) = self.sandbox.spec.userns.as_ref().and_then(IdMappings::host_root)
        {
            // The layers below are mapped, this one isn't: what the container writes is its users' on the disk too.
            std::os::unix::fs::chown(&upper, Some(uid), Some(gid))
                .map_err(StoreError::io("set the owner of", &upper))?;
        }
        let lower = padded(&held.root, &writable, 1)?;
        let make_dirs = built.make_dirs.iter().map(|wanted| Directory {
            path: text(&wanted.path),
            uid: wanted.uid,
            gid: wanted.gid,
            mode: wanted.mode,
        });
        let volumes = held.volumes.iter().map(|volume| {
            let target = oci::volume_target(&volumes_target(bundle), volume.index);
            Ok(ImageVolume {
                lower: padded(&volume.layers, &writable, 2)?,
                target: text(&target),
                sub_path: text(&volume.sub_path),
                options: context(built),
            })
        });
        let volumes = volumes.collect::<Result<_, StoreError>>()?;
        Ok(Rootfs {
            lower,
            upper: text(&upper),
            work: text(&work),
            target: text(&target),
            options: context(built),
            make_dirs: make_dirs.collect(),
            volumes,
            ..Rootfs::default()
        })
    }

    /// Where the root is mounted. With a user namespace of its own it is a place that the namespace's users can reach, one for all: each mount there is
    /// seen by its maker alone.
    pub(super) fn rootfs_target(&self, bundle: &Path) -> PathBuf {
        match self.sandbox.spec.userns {
            None => bundle.join("rootfs"),
            Some(_) => self.shared.layout.userns_rootfs(),
        }
    }
}

/// Where a bundle's mapped mounts are.
pub(super) fn mapped_dir(bundle: &Path) -> PathBuf {
    bundle.join("mapped")
}

/// Makes an empty file or directory for each mapped mount to lie on.
pub(super) fn make_places(
    directory: &Path,
    mapped: &[MappedBind],
) -> Result<Vec<MappedMount>, StoreError> {
    if !mapped.is_empty() {
        new_dir(directory, 0o700)?;
    }
    let range = |one: &IdMapping| {
        let IdMapping { inside, host, length } = *one;
        davit_proto::shim::IdMapping { inside, host, length }
    };
    let place = |bind: &MappedBind| -> Result<MappedMount, StoreError> {
        let MappedBind { source, target, is_dir, mappings } = bind;
        if *is_dir {
            new_dir(target, 0o700)?
        } else {
            write_bytes(target, b"", 0o600)?
        }
        Ok(MappedMount {
            source: text(source),
            target: text(target),
            uids: mappings.uids.iter().map(range).collect(),
            gids: mappings.gids.iter().map(range).collect(),
        })
    };
    mapped.iter().map(place).collect()
}

/// The label of everything in an overlay of this container.
fn context(built: &Built) -> Vec<String> {
    built.labels.iter().map(|labels| format!("context={}", labels.file)).collect()
}

/// Where the images are mounted that are volumes.
pub(super) fn volumes_target(bundle: &Path) -> PathBuf {
    bundle.join("volumes")
}

/// Directories for overlayfs, top first: of an image that has less than `least` layers, filled up with empty ones. Overlayfs wants
/// one below what it can write, and two where it can't; to bind a single layer instead would show what only overlayfs hides.
fn padded(layers: &LayerHold, writable: &Path, least: usize) -> Result<Vec<String>, StoreError> {
    let mut lower: Vec<String> = layers.lower().iter().map(|path| text(path)).collect();
    for at in lower.len()..least {
        let empty = writable.join(format!("empty{at}"));
        ensure_dir(&empty)?;
        lower.push(text(&empty));
    }
    Ok(lower)
}

/// Our own paths are below the roots, which the configuration took as UTF-8.
pub(super) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
