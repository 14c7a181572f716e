//! One overlay, mounted: by the kernel's descriptors where it takes layers one by one, else by the old call's page of text.
//!
//! Knows nothing of containers, and nothing of what is made in the mount afterwards ([`crate::rootfs`]).

use crate::rootfs::{RootfsError, at};
use davit_proto::shim::Rootfs;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// The kernel takes no longer value for one option.
const OPTION_LIMIT: usize = 255;
const ADD_LAYER: &str = "add layer";

/// Mounts the overlay on its target; its root, open.
pub(crate) fn mount(rootfs: &Rootfs) -> Result<OwnedFd, RootfsError> {
    match mount_by_descriptors(rootfs) {
        // Before Linux 6.8 layers can't be given one by one.
        Err(RootfsError { step: ADD_LAYER, source: Errno::INVAL, .. }) => mount_by_string(rootfs),
        other => other,
    }
}

/// Whether options are only gathered, for the old call's parser to see. Before Linux 6.5 overlay has no other: it would refuse `lowerdir+` at the
/// end and tell so in the kernel's log, for every container.
fn takes_anything(overlay: BorrowedFd<'_>) -> bool {
    rustix::mount::fsconfig_set_flag(overlay, "no-overlay-has-this").is_ok()
}

pub(crate) fn mount_by_descriptors(rootfs: &Rootfs) -> Result<OwnedFd, RootfsError> {
    let target = &rootfs.target;
    let overlay = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(at("open overlay for", target))?;
    let fd = overlay.as_fd();
    if takes_anything(fd) {
        return Err(at(ADD_LAYER, target)(Errno::INVAL));
    }
    let mut held = Vec::new();
    for layer in &rootfs.lower {
        set_path(fd, "lowerdir+", layer, &mut held).map_err(at(ADD_LAYER, layer))?;
    }
    if !rootfs.upper.is_empty() {
        set_path(fd, "upperdir", &rootfs.upper, &mut held)
            .map_err(at("set upper directory", &rootfs.upper))?;
        set_path(fd, "workdir", &rootfs.work, &mut held)
            .map_err(at("set work directory", &rootfs.work))?;
    }
    for option in &rootfs.options {
        match option.split_once('=') {
            Some((key, value)) => rustix::mount::fsconfig_set_string(fd, key, value),
            None => rustix::mount::fsconfig_set_flag(fd, option.as_str()),
        }
        .map_err(at("set overlay option", option))?;
    }
    rustix::mount::fsconfig_create(fd).map_err(at("make overlay for", target))?;
    let root = rustix::mount::fsmount(fd, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        .map_err(at("make overlay mount for", target))?;
    rustix::mount::move_mount(
        &root,
        "",
        CWD,
        target.as_str(),
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .map_err(at("mount overlay on", target))?;
    Ok(root)
}

/// Gives a path, or, where it is longer than the kernel takes, a short one that leads there.
fn set_path(
    fs: BorrowedFd<'_>,
    key: &str,
    path: &str,
    held: &mut Vec<OwnedFd>,
) -> Result<(), Errno> {
    if path.len() <= OPTION_LIMIT {
        return rustix::mount::fsconfig_set_string(fs, key, path);
    }
    let fd = open_path(path)?;
    let short = format!("/proc/self/fd/{}", fd.as_raw_fd());
    held.push(fd);
    rustix::mount::fsconfig_set_string(fs, key, short.as_str())
}

/// A directory, as a place to start from.
pub(crate) fn open_path(path: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// The old call, whose options are one page of text. Layers are named by descriptor, relative to `/proc/self/fd`: short enough
/// for the most layers that overlay takes, and nothing in a path can be mistaken for a separator.
pub(crate) fn mount_by_string(rootfs: &Rootfs) -> Result<OwnedFd, RootfsError> {
    let open = |path: &String| open_path(path).map_err(at("open", path));
    let layers = rootfs.lower.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let numbers: Vec<String> = layers.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
    let mut options = format!("lowerdir={}", numbers.join(":"));
    let mut held = Vec::new();
    if !rootfs.upper.is_empty() {
        let (upper, work) = (open(&rootfs.upper)?, open(&rootfs.work)?);
        options.push_str(&format!(",upperdir={},workdir={}", upper.as_raw_fd(), work.as_raw_fd()));
        held.extend([upper, work]);
    }
    for option in &rootfs.options {
        options.push(',');
        // SELinux, whose labels have commas, takes its values quoted.
        match option.split_once('=') {
            Some((key, value)) if value.contains(',') => {
                options.push_str(&format!("{key}=\"{value}\""));
            }
            Some(_) | None => options.push_str(option),
        }
    }
    let target = &rootfs.target;
    let options =
        CString::new(options).map_err(|_nul| at("mount overlay on", target)(Errno::INVAL))?;
    rustix::process::chdir("/proc/self/fd").map_err(at("enter", "/proc/self/fd"))?;
    rustix::mount::mount(
        "overlay",
        target.as_str(),
        "overlay",
        MountFlags::empty(),
        Some(options.as_c_str()),
    )
    .map_err(at("mount overlay on", target))?;
    rustix::process::chdir("/").map_err(at("enter", "/"))?;
    open_path(target).map_err(at("open", target))
}
