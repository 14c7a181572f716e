//! Devices: which nodes a container finds in its `/dev`, and which it may use.
//!
//! Owns the translation of the host's device nodes. The standard ones (`null`, `tty`, `ptmx`…) every OCI runtime makes and allows by
//! itself; everything else is denied unless listed. Invariant: the first rule denies all, so an empty list allows nothing (GHSA-g54h).

use super::path::{PathProblem, below_root, normal};
use crate::container::DeviceSpec;
use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};
use rustix::fs::{FileType, Mode, major, minor};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// How many nodes one container may have: a large storage server has some thousand disks.
const LIMIT: usize = 65_536;
/// How deep directories below `/dev` are followed.
const DEPTH: usize = 8;
/// Directories of `/dev` that hold no devices of the host, or another mount's.
const NOT_DEVICES: [&str; 6] = ["pts", "shm", "fd", "mqueue", ".udev", ".lxc"];
/// Nodes that every OCI runtime makes itself, and the console, which it makes for a terminal.
const STANDARD: [&str; 8] = ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "console"];

/// Why a device can't be given.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A path is none.
    #[error("devices[{index}].{field} {:?} {problem}", path.display())]
    Path {
        /// Which device.
        index: usize,
        /// Which of its paths.
        field: &'static str,
        /// What it says.
        path: PathBuf,
        /// What is wrong with it.
        problem: PathProblem,
    },
    /// Its permissions are none.
    #[error("devices[{index}].permissions {value:?} is not one or more of r, w and m")]
    Permissions {
        /// Which device.
        index: usize,
        /// What it says.
        value: String,
    },
    /// It isn't there.
    #[error("devices[{index}].host_path {:?} can't be read", path.display())]
    Read {
        /// Which device.
        index: usize,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It isn't a device.
    #[error("devices[{index}].host_path {:?} is neither a device nor a directory of devices", path.display())]
    NotADevice {
        /// Which device.
        index: usize,
        /// Where.
        path: PathBuf,
    },
    /// The host's own can't be listed, or are too many.
    #[error("list the host's devices below {}", path.display())]
    Host {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// A container's device nodes, and the rules for them.
#[derive(Debug)]
pub(super) struct Devices {
    pub(super) nodes: Vec<LinuxDevice>,
    pub(super) rules: Vec<LinuxDeviceCgroup>,
}

/// The devices listed, each with its permissions.
pub(super) fn of_container(asked: &[DeviceSpec]) -> Result<Devices, DeviceError> {
    let mut devices = Devices { nodes: Vec::new(), rules: vec![rule_for_all(Access::Deny)] };
    for (index, device) in asked.iter().enumerate() {
        let access = permissions(index, &device.permissions)?;
        for node in nodes_of(index, device)? {
            // The later of two on the same place is meant.
            devices.nodes.retain(|other| other.path() != node.path());
            devices.rules.push(rule_for(&node, &access));
            devices.nodes.push(node);
        }
    }
    Ok(devices)
}

/// All devices of the host, and those listed by another name.
pub(super) fn of_privileged(asked: &[DeviceSpec]) -> Result<Devices, DeviceError> {
    let mut nodes = Vec::new();
    let root = Path::new("/dev");
    let host = |source| DeviceError::Host { path: root.to_owned(), source };
    walk(root, root, DEPTH, &mut nodes).map_err(host)?;
    nodes.retain(|node| !STANDARD.iter().any(|name| node.path() == &root.join(name)));
    let listed = of_container(asked)?;
    nodes.retain(|node| !listed.nodes.iter().any(|other| other.path() == node.path()));
    nodes.extend(listed.nodes);
    Ok(Devices { nodes, rules: vec![rule_for_all(Access::Allow)] })
}

/// Whether a rule for all devices is the first word or the last.
enum Access {
    Deny,
    Allow,
}

fn rule_for_all(access: Access) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(matches!(access, Access::Allow)).set_access(Some("rwm".to_owned()));
    rule
}

fn rule_for(node: &LinuxDevice, access: &str) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(true).set_typ(Some(node.typ())).set_access(Some(access.to_owned()));
    rule.set_major(Some(node.major())).set_minor(Some(node.minor()));
    rule
}

/// Each letter once, in the kernel's order.
fn permissions(index: usize, text: &str) -> Result<String, DeviceError> {
    if text.is_empty() || !text.chars().all(|letter| "rwm".contains(letter)) {
        return Err(DeviceError::Permissions { index, value: text.chars().take(100).collect() });
    }
    Ok("rwm".chars().filter(|letter| text.contains(*letter)).collect())
}

fn nodes_of(index: usize, device: &DeviceSpec) -> Result<Vec<LinuxDevice>, DeviceError> {
    let fault = |field, path: &Path, problem| DeviceError::Path {
        index,
        field,
        path: path.to_owned(),
        problem,
    };
    let host = normal(&device.host_path)
        .map_err(|problem| fault("host_path", &device.host_path, problem))?;
    let inside = below_root(&device.container_path)
        .map_err(|problem| fault("container_path", &device.container_path, problem))?;
    let unreadable = |source| DeviceError::Read { index, path: host.clone(), source };
    // Symlinks are followed: /dev/disk/by-id/… is how people name disks.
    let metadata = fs::metadata(&host).map_err(unreadable)?;
    if let Some(node) = node(&metadata, inside.clone()) {
        return Ok(vec![node]);
    }
    if !metadata.is_dir() {
        return Err(DeviceError::NotADevice { index, path: host });
    }
    let mut nodes = Vec::new();
    walk(&host, &inside, DEPTH, &mut nodes).map_err(unreadable)?;
    Ok(nodes)
}

/// All device nodes below `host`, as they will be called below `inside`.
fn walk(
    host: &Path,
    inside: &Path,
    depth: usize,
    nodes: &mut Vec<LinuxDevice>,
) -> std::io::Result<()> {
    for entry in fs::read_dir(host)? {
        let entry = entry?;
        let name = entry.file_name();
        // Not followed: a link leads to a node that is listed anyway, or out of the directory.
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            let skipped = NOT_DEVICES.iter().any(|known| name == *known);
            if let (false, Some(deeper)) = (skipped, depth.checked_sub(1)) {
                walk(&entry.path(), &inside.join(&name), deeper, nodes)?;
            }
        } else if let Some(node) = node(&metadata, inside.join(&name)) {
            nodes.push(node);
        }
        if nodes.len() > LIMIT {
            return Err(std::io::Error::other(format!("there are more than {LIMIT}")));
        }
    }
    Ok(())
}

/// The node that these metadata describe, if they do.
fn node(metadata: &fs::Metadata, path: PathBuf) -> Option<LinuxDevice> {
    let typ = match FileType::from_raw_mode(metadata.mode()) {
        FileType::BlockDevice => LinuxDeviceType::B,
        FileType::CharacterDevice => LinuxDeviceType::C,
        FileType::RegularFile
        | FileType::Directory
        | FileType::Symlink
        | FileType::Fifo
        | FileType::Socket
        | FileType::Unknown => return None,
    };
    let mut device = LinuxDevice::default();
    device.set_path(path).set_typ(typ);
    device
        .set_major(i64::from(major(metadata.rdev())))
        .set_minor(i64::from(minor(metadata.rdev())));
    device.set_file_mode(Some(Mode::from_raw_mode(metadata.mode()).bits()));
    device.set_uid(Some(metadata.uid())).set_gid(Some(metadata.gid()));
    Some(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(host: impl Into<PathBuf>, inside: &str, permissions: &str) -> DeviceSpec {
        DeviceSpec {
            host_path: host.into(),
            container_path: inside.into(),
            permissions: permissions.into(),
        }
    }

    #[test]
    fn a_device_is_given_by_its_numbers_and_everything_else_denied() {
        let devices = of_container(&[spec("/dev/null", "/dev//x", "wr")]).unwrap();
        assert_eq!(devices.rules.len(), 2);
        assert!(!devices.rules[0].allow() && devices.rules[0].major().is_none());
        assert_eq!(devices.rules[1].to_string(), "c 1:3 rw");
        let node = &devices.nodes[0];
        assert_eq!(node.path(), Path::new("/dev/x"));
        assert_eq!((node.typ(), node.major(), node.minor()), (LinuxDeviceType::C, 1, 3));
        assert_eq!(node.file_mode(), Some(0o666));
        assert_eq!(of_container(&[]).unwrap().rules.len(), 1);
    }

    #[test]
    fn a_link_leads_to_its_device_and_a_directory_stands_for_all_below_it() {
        let directory = tempfile::tempdir().unwrap();
        let sub = directory.path().join("sub");
        fs::create_dir(&sub).unwrap();
        fs::create_dir(directory.path().join("pts")).unwrap();
        for (path, minor) in [
            (directory.path().join("a"), 3),
            (sub.join("b"), 5),
            (directory.path().join("pts/c"), 7),
        ] {
            let device = rustix::fs::makedev(1, minor);
            rustix::fs::mknodat(
                rustix::fs::CWD,
                &path,
                FileType::CharacterDevice,
                Mode::RUSR,
                device,
            )
            .unwrap();
        }
        fs::File::create(directory.path().join("file")).unwrap();
        std::os::unix::fs::symlink("/dev/null", directory.path().join("link")).unwrap();

        let devices = of_container(&[spec(directory.path(), "/dev/all", "r")]).unwrap();
        let mut found: Vec<_> = devices
            .nodes
            .iter()
            .map(|node| (node.path().to_str().unwrap(), node.minor()))
            .collect();
        found.sort_unstable();
        assert_eq!(found, [("/dev/all/a", 3), ("/dev/all/sub/b", 5)]);

        let devices = of_container(&[spec(directory.path().join("link"), "/dev/n", "m")]).unwrap();
        assert_eq!((devices.nodes[0].major(), devices.nodes[0].minor()), (1, 3));

        let error =
            of_container(&[spec(directory.path().join("file"), "/dev/n", "m")]).unwrap_err();
        assert!(matches!(error, DeviceError::NotADevice { index: 0, .. }), "{error}");
    }

    #[test]
    fn a_privileged_container_has_every_device_of_the_host_but_the_standard_ones() {
        let devices = of_privileged(&[spec("/dev/null", "/dev/my-null", "r")]).unwrap();
        assert_eq!(devices.rules.len(), 1);
        assert!(devices.rules[0].allow());
        let has = |path: &str| devices.nodes.iter().any(|node| node.path() == Path::new(path));
        assert!(has("/dev/my-null") && has("/dev/kmsg"));
        assert!(!has("/dev/null") && !has("/dev/ptmx"));
        assert!(!devices.nodes.iter().any(|node| node.path().starts_with("/dev/pts")));
    }

    #[test]
    fn what_is_no_device_is_refused_with_field_and_value() {
        for (device, message) in [
            (
                spec("/dev/null", "/dev/x", ""),
                "devices[0].permissions \"\" is not one or more of r, w and m",
            ),
            (
                spec("/dev/null", "/dev/x", "rx"),
                "devices[0].permissions \"rx\" is not one or more of r, w and m",
            ),
            (
                spec("/dev/davit-none", "/dev/x", "r"),
                "devices[0].host_path \"/dev/davit-none\" can't be read",
            ),
            (spec("null", "/dev/x", "r"), "devices[0].host_path \"null\" is not absolute"),
            (spec("/dev/null", "x", "r"), "devices[0].container_path \"x\" is not absolute"),
            (
                spec("/dev/null", "/dev/../x", "r"),
                "devices[0].container_path \"/dev/../x\" has a `..` in it",
            ),
            (
                spec("/etc/passwd", "/dev/x", "r"),
                "devices[0].host_path \"/etc/passwd\" is neither a device nor a directory of devices",
            ),
        ] {
            assert_eq!(of_container(&[device]).unwrap_err().to_string(), message);
        }
    }
}
