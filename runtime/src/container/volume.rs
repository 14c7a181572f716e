//! The images that a container has as volumes (KEP-4639).
//!
//! Owns finding them and their parts before anything is made. They are mounted by the pod's shim, where the container's root is
//! ([`davit_proto::shim::ImageVolume`]), and their layers are held for as long as the container is there, so that removing an image takes
//! nothing from under a container.

use super::{MountSource, MountSpec};
use crate::image::view::LayerView;
use crate::image::{Digest, FindError, HoldError, Images, LayerHold};
use std::io;
use std::path::{Path, PathBuf};

/// Why an image can't be a volume. The kubelet knows the word that each message has.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// It isn't here.
    #[error(
        "config.mounts[{index}].image: ImageVolumeMountFailed: no image {image:?} is here; pull it first"
    )]
    Unknown {
        /// Which mount.
        index: usize,
        /// As it was asked for.
        image: String,
    },
    /// Its name makes no sense, or is ambiguous.
    #[error("config.mounts[{index}].image: ImageVolumeMountFailed")]
    Image {
        /// Which mount.
        index: usize,
        /// Why.
        #[source]
        source: FindError,
    },
    /// A layer of it is missing.
    #[error("config.mounts[{index}].image: ImageVolumeMountFailed: use the image {image:?}")]
    Layers {
        /// Which mount.
        index: usize,
        /// As it was asked for.
        image: String,
        /// Which layer.
        #[source]
        source: HoldError,
    },
    /// It has no such directory.
    #[error(
        "config.mounts[{index}].image_sub_path {:?}: ImageVolumeMountFailed: it {problem} image {image:?}", path.display()
    )]
    SubPath {
        /// Which mount.
        index: usize,
        /// What it says.
        path: PathBuf,
        /// As it was asked for.
        image: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The part of it can't be looked up.
    #[error("config.mounts[{index}].image_sub_path {:?}: ImageVolumeMountFailed: look for it in image {image:?}", path.display())]
    Look {
        /// Which mount.
        index: usize,
        /// What it says.
        path: PathBuf,
        /// As it was asked for.
        image: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// An image that is a volume of a container to be.
#[derive(Debug)]
pub(super) struct Volume {
    /// Which of the container's mounts.
    pub(super) index: usize,
    pub(super) layers: LayerHold,
    pub(super) sub_path: PathBuf,
}

/// Finds the images among these mounts and keeps their layers. Blocks, for as long as it takes to look up a directory.
pub(super) fn hold(images: &Images, mounts: &[MountSpec]) -> Result<Vec<Volume>, VolumeError> {
    let mut volumes = Vec::new();
    for (index, mount) in mounts.iter().enumerate() {
        let MountSource::Image { image, sub_path } = &mount.source else { continue };
        let name = &image.image;
        let found = images.find(name).map_err(|source| VolumeError::Image { index, source })?;
        let found = found.ok_or_else(|| VolumeError::Unknown { index, image: name.clone() })?;
        let layers = images.hold(&found.layers);
        let layers =
            layers.map_err(|source| VolumeError::Layers { index, image: name.clone(), source })?;
        check_sub_path(index, name, sub_path, layers.lower())?;
        volumes.push(Volume { index, layers, sub_path: sub_path.clone() });
    }
    Ok(volumes)
}

/// The shim finds out the same in what it mounts; this says it in time, by the name of the field.
fn check_sub_path(
    index: usize,
    image: &str,
    path: &Path,
    lower: &[PathBuf],
) -> Result<(), VolumeError> {
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    let refused = |problem| {
        let (path, image) = (path.to_owned(), image.to_owned());
        Err(VolumeError::SubPath { index, path, image, problem })
    };
    match LayerView::new(lower).is_directory(&path.to_string_lossy()) {
        Ok(Some(true)) => Ok(()),
        // A single file is no goal of the KEP, and other runtimes refuse it too.
        Ok(Some(false)) => refused("is no directory of"),
        Ok(None) => refused("is not in"),
        Err(source) => {
            let (path, image) = (path.to_owned(), image.to_owned());
            Err(VolumeError::Look { index, path, image, source })
        }
    }
}

/// The layers of all of them, for the container's record.
pub(super) fn layers(volumes: &[Volume]) -> Vec<Digest> {
    volumes.iter().flat_map(|volume| volume.layers.layers()).cloned().collect()
}
