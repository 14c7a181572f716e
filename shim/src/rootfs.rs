//! A container's root, and the images that are its volumes: overlays, mounted by the child that is about to become the OCI runtime.
//!
//! Runs between fork and exec, in a mount namespace that lives only as long as that child; the container's own namespace, copied
//! from it, is what holds the mount afterwards. The copy keeps its peer groups, so that volumes still propagate. Only the one mount
//! below which the root is mounted is made private in the copy, so that the overlay itself reaches nobody: the daemon
//! keeps pods below a private mount of their own, where this changes nothing.
//!
//! In a pod with a user namespace the layers are mapped ([`mapped`]), while the upper directory is not: what a container writes belongs to the namespace's
//! users on the host's disk too, and nothing that it makes setuid can be root's there. Overlay itself can't be mapped as a whole.

use crate::error::{Invalid, checked_path};
use crate::mapped;
use crate::overlay;
use crate::userns::Userns;
use crate::view::NoView;
use davit_proto::disk::IdMappings;
use davit_proto::shim::{Directory, ImageVolume, Rootfs};
use davit_sys::namespace::{Namespace, unshare};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, MoveMountFlags, OpenTreeFlags};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

/// How often a directory is looked for while others mount and rename.
const OPEN_TRIES: usize = 1000;

/// A step that failed, as it goes through the pipe to the shim.
#[derive(Debug, thiserror::Error)]
#[error("{step} {}: {}", path.display(), std::io::Error::from(*source))]
pub(crate) struct RootfsError {
    pub(crate) step: &'static str,
    path: PathBuf,
    pub(crate) source: Errno,
}

pub(crate) fn at<'a, P: AsRef<Path> + ?Sized>(
    step: &'static str,
    path: &'a P,
) -> impl FnOnce(Errno) -> RootfsError + use<'a, P> {
    let path = path.as_ref();
    move |source| RootfsError { step, path: path.to_owned(), source }
}

/// Refuses what could not be mounted, or would land neither below the pod's directory nor where a user namespace's roots are to be.
pub(crate) fn check(
    rootfs: &Rootfs,
    pod_dir: &Path,
    userns: Option<&Userns>,
) -> Result<(), Invalid> {
    let Rootfs { lower, upper, work, target, options: _, make_dirs, volumes, .. } = rootfs;
    let Rootfs { hidden, view, .. } = rootfs;
    if lower.is_empty() {
        return Err(Invalid::new("rootfs.lower", "[]", "at least one layer is needed"));
    }
    lower.iter().try_for_each(|path| checked_path("rootfs.lower", path))?;
    if !(upper.is_empty() && work.is_empty()) {
        checked_path("rootfs.upper", upper)?;
        checked_path("rootfs.work", work)?;
    }
    checked_path("rootfs.target", target)?;
    let of_userns = userns.and_then(|userns| userns.rootfs.as_deref());
    if !Path::new(target).starts_with(pod_dir) && Some(Path::new(target)) != of_userns {
        return Err(Invalid::new("rootfs.target", target, "not below the pod's directory"));
    }
    make_dirs.iter().try_for_each(|directory| checked_path("rootfs.make_dirs", &directory.path))?;
    crate::hidden::check(hidden)?;
    view.as_ref().map_or(Ok(()), crate::view::check)?;
    volumes.iter().try_for_each(|volume| check_volume(volume, pod_dir))
}

fn check_volume(volume: &ImageVolume, pod_dir: &Path) -> Result<(), Invalid> {
    let ImageVolume { lower, target, sub_path, options: _ } = volume;
    if lower.len() < 2 {
        let count = lower.len().to_string();
        return Err(Invalid::new("rootfs.volumes.lower", count, "two layers are needed"));
    }
    lower.iter().try_for_each(|path| checked_path("rootfs.volumes.lower", path))?;
    checked_path("rootfs.volumes.target", target)?;
    if !Path::new(target).starts_with(pod_dir) {
        let problem = "not below the pod's directory";
        return Err(Invalid::new("rootfs.volumes.target", target, problem));
    }
    if sub_path.contains('\0') {
        return Err(Invalid::new("rootfs.volumes.sub_path", sub_path, "it contains a NUL byte"));
    }
    Ok(())
}

/// Leaves the host's mount namespace for one that shows what this container's OCI runtime needs.
pub(crate) fn leave_mounts_for(rootfs: &Rootfs) -> Result<(), RootfsError> {
    if let Some(view) = &rootfs.view {
        match crate::view::enter(view) {
            Ok(()) => return Ok(()),
            // The daemon that offered it may have ended, something was unmounted just now, a share does not answer, or the host refuses such mounts. All of them do
            // as well.
            Err(NoView::Refused(error)) => crate::say(&error),
            Err(NoView::Lost(error)) => return Err(error),
        }
    }
    leave_mounts(&rootfs.target)?;
    crate::hidden::hide(&rootfs.hidden)
}

/// Mounts the overlay and makes the directories in it. The mount namespace is the caller's own.
pub(crate) fn prepare(rootfs: &Rootfs, userns: Option<&Userns>) -> Result<(), RootfsError> {
    keep_from_propagating(Path::new(&rootfs.target))?;
    let root = mount_mapped(rootfs, userns)?;
    let mappings = userns.map(|userns| &userns.mappings);
    rootfs
        .make_dirs
        .iter()
        .try_for_each(|directory| make_dir(root.as_fd(), directory, mappings))?;
    rootfs.volumes.iter().try_for_each(|volume| mount_volume(volume, userns))
}

/// Mounts the overlay, its layers mapped if there is a user namespace.
fn mount_mapped(rootfs: &Rootfs, userns: Option<&Userns>) -> Result<OwnedFd, RootfsError> {
    let Some(userns) = userns else { return overlay::mount(rootfs) };
    let held = mapped::layers(&rootfs.lower, &rootfs.target, userns)?;
    let lower = held.iter().map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd())).collect();
    overlay::mount(&Rootfs { lower, ..rootfs.clone() })
}

/// Mounts an image that is a volume. It has no upper directory, so nothing can be written whatever the bind of it says. The directory
/// of the image that was asked for is looked up in the merged tree, and laid over the whole of it.
fn mount_volume(volume: &ImageVolume, userns: Option<&Userns>) -> Result<(), RootfsError> {
    let ImageVolume { lower, target, sub_path, options } = volume;
    std::fs::create_dir_all(target)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        .map_err(at("make", target))?;
    let overlay = Rootfs {
        lower: lower.clone(),
        target: target.clone(),
        options: options.clone(),
        ..Rootfs::default()
    };
    let root = mount_mapped(&overlay, userns)?;
    if sub_path.is_empty() {
        return Ok(());
    }
    let beneath = Path::new(sub_path.trim_start_matches('/'));
    let wanted = open_beneath(root.as_fd(), beneath, OFlags::PATH)
        .map_err(at("open in an image volume", sub_path))?;
    let clone = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = rustix::mount::open_tree(&wanted, "", clone)
        .map_err(at("take from an image volume", sub_path))?;
    rustix::mount::move_mount(
        &tree,
        "",
        CWD,
        target.as_str(),
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .map_err(at("mount a part of an image on", target))
}

/// Leaves the host's mount namespace.
pub(crate) fn leave_mounts(target: &str) -> Result<(), RootfsError> {
    unshare(Namespace::Mount).map_err(at("leave the host's mounts for", target))
}

/// Makes the mount in which `target` lies private, in this namespace.
pub(crate) fn keep_from_propagating(target: &Path) -> Result<(), RootfsError> {
    // Of the real way there: a link's words may name another mount.
    let real = std::fs::canonicalize(target)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        .map_err(at("find", target))?;
    for directory in real.ancestors() {
        let stat = rustix::fs::statx(CWD, directory, AtFlags::empty(), StatxFlags::TYPE)
            .map_err(at("stat", directory))?;
        if stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            return rustix::mount::mount_change(directory, MountPropagationFlags::PRIVATE)
                .map_err(at("make private", directory));
        }
    }
    Ok(())
}

/// Makes a directory and its parents beneath `root`, never outside of it whatever links the image holds. What is there is left as
/// it is. Owners are as the container calls them.
fn make_dir(
    root: BorrowedFd<'_>,
    directory: &Directory,
    mappings: Option<&IdMappings>,
) -> Result<(), RootfsError> {
    let Directory { path, uid, gid, mode } = directory;
    let parts: Vec<_> =
        Path::new(path).components().filter(|c| matches!(c, Component::Normal(_))).collect();
    let mut parent = open_beneath(root, Path::new("."), OFlags::PATH)
        .map_err(at("open the root to make", path))?;
    let mut so_far = PathBuf::new();
    for (at_part, part) in parts.iter().enumerate() {
        so_far.push(part);
        let last = at_part + 1 == parts.len();
        let next = match open_beneath(root, &so_far, OFlags::PATH) {
            Err(Errno::NOENT) => {
                let name = part.as_os_str();
                rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))
                    .map_err(at("make directory", &so_far))?;
                let made =
                    open_beneath(root, &so_far, OFlags::PATH).map_err(at("open", &so_far))?;
                if last {
                    own(root, &so_far, (*uid, *gid, *mode), mappings)?;
                } else if mappings.is_some() {
                    own(root, &so_far, (0, 0, 0o755), mappings)?;
                }
                made
            }
            other => other.map_err(at("open", &so_far))?,
        };
        parent = next;
    }
    Ok(())
}

fn open_beneath(root: BorrowedFd<'_>, path: &Path, access: OFlags) -> Result<OwnedFd, Errno> {
    let flags = access | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let open = || rustix::fs::openat2(root, path, flags, Mode::empty(), resolve);
    // Any mount or rename on the host while `..` is resolved makes the kernel refuse to vouch for it.
    let mut tries = std::iter::repeat_with(open).take(OPEN_TRIES);
    tries.find(|opened| !matches!(opened, Err(Errno::AGAIN))).unwrap_or(Err(Errno::AGAIN))
}

fn own(
    root: BorrowedFd<'_>,
    path: &Path,
    (uid, gid, mode): (u32, u32, u32),
    mappings: Option<&IdMappings>,
) -> Result<(), RootfsError> {
    let owner = match mappings {
        None => Some((uid, gid)),
        Some(mappings) => mappings.host_uid(uid).zip(mappings.host_gid(gid)),
    };
    // What the kernel says to an owner who isn't there.
    let (uid, gid) = owner.ok_or(Errno::OVERFLOW).map_err(at("set owner of", path))?;
    let fd = open_beneath(root, path, OFlags::RDONLY).map_err(at("open", path))?;
    rustix::fs::fchown(&fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
        .map_err(at("set owner of", path))?;
    // After the owner: changing that clears the set-id bits.
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode)).map_err(at("set mode of", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlay::{mount_by_descriptors, mount_by_string};
    use rustix::fs::Mode;

    struct Tree {
        dir: tempfile::TempDir,
    }

    impl Tree {
        fn new(layers: &[&str]) -> (Self, Rootfs) {
            let tree = Self { dir: tempfile::tempdir().unwrap() };
            let lower = layers.iter().map(|name| tree.make(name)).collect();
            let rootfs = Rootfs {
                lower,
                upper: tree.make("upper"),
                work: tree.make("work"),
                target: tree.make("target"),
                ..Rootfs::default()
            };
            (tree, rootfs)
        }

        fn make(&self, name: &str) -> String {
            let path = self.dir.path().join(name);
            std::fs::create_dir_all(&path).unwrap();
            path.to_string_lossy().into_owned()
        }
    }

    /// In a thread of its own, whose mounts nobody else sees.
    fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inner = move || {
                unshare(Namespace::Mount).unwrap();
                rustix::mount::mount_change(
                    "/",
                    MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
                )
                .unwrap();
                work()
            };
            scope.spawn(inner).join().unwrap()
        })
    }

    #[test]
    fn the_topmost_layer_wins_and_directories_are_made_as_asked() {
        let (tree, mut rootfs) = Tree::new(&["a", "b:with,odd\\name"]);
        let [top, bottom] = [&rootfs.lower[0], &rootfs.lower[1]];
        crate::files::write_new(&Path::new(top).join("f"), b"top").unwrap();
        crate::files::write_new(&Path::new(bottom).join("f"), b"bottom").unwrap();
        std::os::unix::fs::symlink("/real", Path::new(top).join("link")).unwrap();
        std::os::unix::fs::symlink("../../../../etc", Path::new(top).join("up")).unwrap();
        tree.make("a/real");
        tree.make("a/etc");
        let dir = |path: &str| Directory { path: path.to_owned(), uid: 5, gid: 6, mode: 0o1770 };
        rootfs.make_dirs = vec![dir("/x/y"), dir("/link/z"), dir("/up/made"), dir("/real")];
        for mount in [mount_by_descriptors, mount_by_string] {
            apart(|| {
                use std::os::unix::fs::MetadataExt;
                let root = mount(&rootfs).unwrap();
                rootfs.make_dirs.iter().for_each(|d| make_dir(root.as_fd(), d, None).unwrap());
                let target = Path::new(&rootfs.target);
                assert_eq!(std::fs::read(target.join("f")).unwrap(), b"top");
                for made in ["x/y", "real/z", "etc/made"] {
                    let meta = std::fs::metadata(target.join(made)).unwrap();
                    assert_eq!(
                        (meta.uid(), meta.gid(), meta.mode() & 0o7777),
                        (5, 6, 0o1770),
                        "{made}"
                    );
                }
                assert_eq!(std::fs::metadata(target.join("x")).unwrap().mode() & 0o7777, 0o755);
                assert_eq!(std::fs::metadata(target.join("real")).unwrap().uid(), 0);
            });
        }
        assert!(!Path::new("/etc/made").exists());
    }

    #[test]
    fn a_hundred_layers_with_long_paths_are_mounted_either_way() {
        let long = "n".repeat(200);
        let names: Vec<String> = (0..100).map(|n| format!("{long}/{long}{n}")).collect();
        let (_tree, rootfs) = Tree::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
        for mount in [mount_by_descriptors, mount_by_string] {
            apart(|| drop(mount(&rootfs).unwrap()));
        }
    }

    fn volume(tree: &Tree, sub_path: &str) -> ImageVolume {
        ImageVolume {
            lower: vec![tree.make("top"), tree.make("bottom")],
            target: tree.dir.path().join("volumes/0").to_string_lossy().into_owned(),
            sub_path: sub_path.to_owned(),
            options: Vec::new(),
        }
    }

    #[test]
    fn an_image_volume_is_the_merged_tree_or_a_directory_of_it_and_cannot_be_written() {
        let (tree, rootfs) = Tree::new(&["a"]);
        tree.make("bottom/models/v1");
        tree.make("top/models/v2");
        tree.make("top/etc");
        crate::files::write_new(&tree.dir.path().join("bottom/gone"), b"").unwrap();
        let none = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(CWD, tree.dir.path().join("top/gone"), none, Mode::empty(), 0).unwrap();
        std::os::unix::fs::symlink("/models", tree.dir.path().join("top/link")).unwrap();
        std::os::unix::fs::symlink("../../../../etc", tree.dir.path().join("top/up")).unwrap();
        let names = |sub_path: &str| {
            let rootfs = Rootfs { volumes: vec![volume(&tree, sub_path)], ..rootfs.clone() };
            apart(|| {
                prepare(&rootfs, None)?;
                let target = Path::new(&rootfs.volumes[0].target);
                let error = std::fs::create_dir(target.join("new")).unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
                let mut names: Vec<String> = std::fs::read_dir(target)
                    .unwrap()
                    .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                    .collect();
                names.sort();
                Ok::<_, RootfsError>(names.join(" "))
            })
        };
        assert_eq!(names("").unwrap(), "etc link models up");
        for path in ["models", "/models/", "link", "link/../models", "../../models"] {
            assert_eq!(names(path).unwrap(), "v1 v2", "{path}");
        }
        assert_eq!(names("models/v1").unwrap(), "");
        // The image's own /etc, which is empty; the host's is not.
        assert_eq!(names("up").unwrap(), "");
        for (path, problem) in [("none", "No such file"), ("gone", "No such file")] {
            let error = names(path).unwrap_err().to_string();
            assert!(error.contains(path) && error.contains(problem), "{error}");
        }
        assert!(std::fs::read_dir(tree.dir.path().join("volumes/0")).unwrap().next().is_none());
    }

    #[test]
    fn a_file_of_an_image_is_no_volume() {
        let (tree, mut rootfs) = Tree::new(&["a"]);
        tree.make("top");
        crate::files::write_new(&tree.dir.path().join("top/file"), b"").unwrap();
        rootfs.volumes = vec![volume(&tree, "file")];
        let error = apart(|| prepare(&rootfs, None).unwrap_err().to_string());
        assert!(error.contains("file: Not a directory"), "{error}");
    }

    #[test]
    fn a_step_that_fails_is_named_with_its_path() {
        let (tree, mut rootfs) = Tree::new(&["a"]);
        rootfs.lower.push(tree.dir.path().join("none").to_string_lossy().into_owned());
        let error = apart(|| mount_by_descriptors(&rootfs).unwrap_err().to_string());
        assert!(
            error.starts_with("add layer ") && error.contains("/none: No such file"),
            "{error}"
        );
    }

    #[test]
    fn what_would_land_elsewhere_is_refused() {
        let (tree, rootfs) = Tree::new(&["a"]);
        assert_eq!(check(&rootfs, tree.dir.path(), None), Ok(()));
        assert_eq!(
            check(&rootfs, Path::new("/elsewhere"), None).unwrap_err().field,
            "rootfs.target"
        );
        let with = |change: &dyn Fn(&mut Rootfs)| {
            let mut rootfs = rootfs.clone();
            change(&mut rootfs);
            check(&rootfs, tree.dir.path(), None).unwrap_err().field
        };
        assert_eq!(with(&|r| r.lower.clear()), "rootfs.lower");
        assert_eq!(with(&|r| r.lower[0] = "relative".into()), "rootfs.lower");
        assert_eq!(with(&|r| r.work.clear()), "rootfs.work");
        let up = Directory { path: "/a/../../b".into(), ..Directory::default() };
        assert_eq!(with(&|r| r.make_dirs = vec![up.clone()]), "rootfs.make_dirs");
        let volume = |change: &dyn Fn(&mut ImageVolume)| {
            let mut volume = volume(&tree, "etc");
            change(&mut volume);
            with(&|r| r.volumes = vec![volume.clone()])
        };
        assert_eq!(volume(&|v| v.lower.truncate(1)), "rootfs.volumes.lower");
        assert_eq!(volume(&|v| v.lower[1] = "relative".into()), "rootfs.volumes.lower");
        assert_eq!(volume(&|v| v.target = "/elsewhere".into()), "rootfs.volumes.target");
        assert_eq!(volume(&|v| v.sub_path = "a\0b".into()), "rootfs.volumes.sub_path");
    }
}
