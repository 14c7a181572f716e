//! What the pod asks to be mounted, made into bind mounts.
//!
//! Owns the checks that need the host: that a source is there, and that its mount can propagate as asked. A source is resolved here, by
//! the host's own symlinks, so that the OCI runtime is given a plain path; the pod's author may choose any path of the host anyway.
//! An image is bound from where the shim mounts it before the OCI runtime runs.

use super::handlers::Handler;
use super::host::MissingSources;
use super::mounts::bind;
use super::path::{PathProblem, below_root, normal};
use super::userns::{self, MappedBind};
use super::{SpecInput, mountinfo, volume_target};
use crate::container::{MountSource, MountSpec, Propagation, ReadOnly};
use oci_spec::runtime::Mount;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// Why a mount can't be.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A path is none.
    #[error("mounts[{index}].{field} {:?} {problem}", path.display())]
    Path {
        /// Which mount.
        index: usize,
        /// Which of its paths.
        field: &'static str,
        /// What it says.
        path: PathBuf,
        /// What is wrong with it.
        problem: PathProblem,
    },
    /// There is nothing to mount.
    #[error("mounts[{index}].host_path {:?} can't be mounted", path.display())]
    Source {
        /// Which mount.
        index: usize,
        /// Its source.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The source's mount does not propagate as it would have to.
    #[error("mounts[{index}].propagation {asked} needs {:?} to be on a mount that is {needed}, but {:?} is not", path.display(), mount.display())]
    Propagation {
        /// Which mount.
        index: usize,
        /// What was asked.
        asked: &'static str,
        /// Its source.
        path: PathBuf,
        /// What the source's mount has to be.
        needed: &'static str,
        /// Where the source's mount is.
        mount: PathBuf,
    },
    /// The OCI runtime can't.
    #[error(
        "mounts[{index}].recursive_read_only: RROUnsupported: handler {handler:?} can't mount recursively read-only"
    )]
    RecursiveReadOnly {
        /// Which mount.
        index: usize,
        /// The handler.
        handler: String,
    },
    /// Recursively read-only and propagating exclude each other.
    #[error("mounts[{index}].recursive_read_only needs private propagation")]
    RecursivePropagation {
        /// Which mount.
        index: usize,
    },
    /// The mount table can't be read.
    #[error("read the mount table")]
    Table(#[source] std::io::Error),
}

/// All of a container's.
#[derive(Debug, Default)]
pub(super) struct Binds {
    pub(super) list: Vec<Mount>,
    pub(super) mapped: Vec<MappedBind>,
    pub(super) root_propagation: Option<&'static str>,
    /// Sources that are to be given the container's label.
    pub(super) relabel: Vec<PathBuf>,
}

pub(super) fn all(input: &SpecInput<'_>) -> Result<Binds, MountError> {
    let (mounts, handler) = (&input.container.mounts, input.handler);
    // Read once, and only if somebody's propagation depends on it.
    let table = if mounts.iter().any(|mount| mount.propagation != Propagation::Private) {
        mountinfo::parse(&std::fs::read("/proc/self/mountinfo").map_err(MountError::Table)?)
    } else {
        Vec::new()
    };
    let mut binds = Binds::default();
    for (index, asked) in mounts.iter().enumerate() {
        let destination =
            below_root(&asked.container_path).map_err(|problem| MountError::Path {
                index,
                field: "container_path",
                path: asked.container_path.clone(),
                problem,
            })?;
        let source = match &asked.source {
            MountSource::Host(path) => {
                let source = source(index, path, input)?;
                check_propagation(index, asked.propagation, &source, &table)?;
                source
            }
            // Nothing is ever mounted below it that could travel anywhere.
            MountSource::Image { .. } => volume_target(input.volumes, index),
        };
        // An image has the label by its mount.
        if asked.selinux_relabel && matches!(asked.source, MountSource::Host(_)) {
            binds.relabel.push(source.clone());
        }
        binds.root_propagation = root_propagation(binds.root_propagation, asked.propagation);
        let mut options =
            vec!["rbind", propagation(asked.propagation), access(index, asked, handler)?];
        if input.sandbox.userns.is_some() {
            options.extend(userns::restrictions(&source));
        }
        let mut mount = bind(&source, destination, &options);
        // An image's layers are mapped when it is mounted.
        if let (Some(mappings), MountSource::Host(_)) = (&asked.id_mappings, &asked.source) {
            let target = input.mapped.join(index.to_string());
            binds.mapped.push(MappedBind::instead_of(&mut mount, target, mappings));
        }
        // The later of two on the same place is meant: the kubelet appends what overrides.
        binds.list.retain(|other| other.destination() != mount.destination());
        binds.list.push(mount);
    }
    // What was overridden need not be made.
    let made = |mapped: &MappedBind| Some(mapped.target.clone());
    binds.mapped.retain(|mapped| binds.list.iter().any(|bind| *bind.source() == made(mapped)));
    Ok(binds)
}

fn source(index: usize, path: &Path, input: &SpecInput<'_>) -> Result<PathBuf, MountError> {
    let path = normal(path).map_err(|problem| MountError::Path {
        index,
        field: "host_path",
        path: path.to_owned(),
        problem,
    })?;
    let refused = |source| MountError::Source { index, path: path.clone(), source };
    input.spot.at(&path);
    match std::fs::canonicalize(&path) {
        Ok(resolved) => Ok(resolved),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            match input.host.missing_sources {
                MissingSources::Refuse => Err(refused(error)),
                MissingSources::Create => DirBuilder::new()
                    .recursive(true)
                    .mode(0o755)
                    .create(&path)
                    .and_then(|()| std::fs::canonicalize(&path))
                    .map_err(refused),
            }
        }
        Err(error) => Err(refused(error)),
    }
}

fn access(index: usize, asked: &MountSpec, handler: &Handler) -> Result<&'static str, MountError> {
    // Recursively so with every OCI runtime: there is nothing below it.
    if matches!(asked.source, MountSource::Image { .. }) {
        return Ok("ro");
    }
    match asked.readonly {
        ReadOnly::No => Ok("rw"),
        ReadOnly::Yes => Ok("ro"),
        ReadOnly::Recursive if asked.propagation != Propagation::Private => {
            Err(MountError::RecursivePropagation { index })
        }
        ReadOnly::Recursive if !handler.features.recursive_read_only => {
            Err(MountError::RecursiveReadOnly { index, handler: handler.name.clone() })
        }
        ReadOnly::Recursive => Ok("rro"),
    }
}

fn propagation(asked: Propagation) -> &'static str {
    match asked {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    }
}

/// The root has to let through what the most open of its mounts lets through.
fn root_propagation(so_far: Option<&'static str>, asked: Propagation) -> Option<&'static str> {
    match (so_far, asked) {
        (_, Propagation::Bidirectional) => Some("rshared"),
        (None, Propagation::HostToContainer) => Some("rslave"),
        (so_far, Propagation::HostToContainer | Propagation::Private) => so_far,
    }
}

fn check_propagation(
    index: usize,
    asked: Propagation,
    path: &Path,
    table: &[mountinfo::Mount],
) -> Result<(), MountError> {
    let mount = mountinfo::holding(table, path);
    let (fits, name, needed) = match asked {
        Propagation::Private => return Ok(()),
        Propagation::HostToContainer => (
            mount.is_some_and(|mount| mount.group.is_some() || mount.slave),
            "HOST_TO_CONTAINER",
            "shared or slave",
        ),
        Propagation::Bidirectional => {
            (mount.is_some_and(|mount| mount.group.is_some()), "BIDIRECTIONAL", "shared")
        }
    };
    if fits {
        return Ok(());
    }
    let mount = mount.map_or_else(|| PathBuf::from("/"), |mount| mount.point.clone());
    Err(MountError::Propagation { index, asked: name, path: path.to_owned(), needed, mount })
}
