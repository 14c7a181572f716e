//! What is known of the host's mounts: looked at once each, as long as their numbers are listed.
//!
//! Owns the sorting: which mounts are always to be seen, and which only by who needs them. Pods' own are merely counted out: there is nothing to know of them.

use super::Place;
use davit_sys::mounts::Mount;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

/// File systems whose server may be gone: whoever as much as goes through their root then hangs, and they are not to hang a container that has nothing of them.
const REMOTE: [&str; 20] = [
    "9p",
    "afs",
    "autofs",
    "beegfs",
    "ceph",
    "cifs",
    "fuse",
    "fuseblk",
    "gfs2",
    "glusterfs",
    "gpfs",
    "lustre",
    "nfs",
    "nfs4",
    "ocfs2",
    "orangefs",
    "smb3",
    "vboxsf",
    "virtiofs",
    "wekafs",
];
/// But for these: there the system's programs may be, on a machine without a disk, and what makes a container's `/proc` its own (LXCFS).
const SYSTEM: [&str; 13] = [
    "/bin", "/dev", "/etc", "/gnu", "/lib", "/lib32", "/lib64", "/nix", "/opt", "/proc", "/sbin",
    "/sys", "/usr",
];

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// By number, in their order.
    numbers: Vec<(u64, Sort)>,
    /// How many mounts of this kind there are at each place.
    pub(super) always: BTreeMap<PathBuf, u32>,
    pub(super) if_needed: BTreeMap<PathBuf, u32>,
    /// How many there are that no copy takes along, nor what is below them.
    pub(super) unbindable: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Sort {
    /// A pod's, below a place of such.
    Pods,
    Always(PathBuf),
    IfNeeded(PathBuf),
    Unbindable,
}

impl Known {
    /// Forgets what is listed no more, and looks at what is new. Both lists are in the order of their numbers.
    ///
    /// # Errors
    /// If a mount can't be looked at. What is known then is not all.
    pub(super) fn update(&mut self, listed: &[u64], places: &[Place]) -> Result<(), Errno> {
        let mut failed = Ok(());
        self.follow(listed, |number| match davit_sys::mounts::look(number) {
            Ok(mount) => Some(sort(mount, places)),
            // Gone since, or out of reach: as good as not listed, and looked for again if it is listed again.
            Err(Errno::NOENT) => None,
            Err(error) => {
                failed = Err(error);
                None
            }
        });
        failed
    }

    fn follow(&mut self, listed: &[u64], mut look: impl FnMut(u64) -> Option<Sort>) {
        let mut before = std::mem::take(&mut self.numbers).into_iter().peekable();
        let mut now = Vec::with_capacity(listed.len());
        for number in listed {
            while let Some((_, gone)) = before.next_if(|(old, _)| old < number) {
                self.count(&gone, Count::Less);
            }
            if let Some(same) = before.next_if(|(old, _)| old == number) {
                now.push(same);
            } else if let Some(sort) = look(*number) {
                self.count(&sort, Count::More);
                now.push((*number, sort));
            }
        }
        before.for_each(|(_, gone)| self.count(&gone, Count::Less));
        self.numbers = now;
    }

    fn count(&mut self, sort: &Sort, count: Count) {
        let (counted, point) = match sort {
            Sort::Pods => return,
            Sort::Unbindable => {
                self.unbindable = match count {
                    Count::More => self.unbindable.saturating_add(1),
                    Count::Less => self.unbindable.saturating_sub(1),
                };
                return;
            }
            Sort::Always(point) => (&mut self.always, point),
            Sort::IfNeeded(point) => (&mut self.if_needed, point),
        };
        match count {
            Count::More => *counted.entry(point.clone()).or_default() += 1,
            Count::Less => {
                let left = counted.get(point).map_or(0, |count| count.saturating_sub(1));
                if left == 0 {
                    counted.remove(point);
                } else {
                    counted.insert(point.clone(), left);
                }
            }
        }
    }

    /// With mounts of these kinds only, for tests.
    #[cfg(test)]
    pub(super) fn of(mounts: &[(&str, &str)], places: &[Place]) -> Self {
        let mut known = Self::default();
        let numbers: Vec<u64> = (0..).take(mounts.len()).collect();
        known.follow(&numbers, |number| {
            let (point, file_system) = mounts[usize::try_from(number).unwrap()];
            Some(sort(mount(point, file_system), places))
        });
        known
    }
}

#[derive(Debug, Clone, Copy)]
enum Count {
    More,
    Less,
}

#[cfg(test)]
fn mount(point: &str, file_system: &str) -> Mount {
    Mount { point: point.into(), file_system: file_system.to_owned(), bindable: true }
}

fn sort(mount: Mount, places: &[Place]) -> Sort {
    let Mount { point, file_system, bindable } = mount;
    if places.iter().any(|place| point != place.all && point.starts_with(&place.all)) {
        return Sort::Pods;
    }
    if !bindable {
        return Sort::Unbindable;
    }
    let system = || point == Path::new("/") || SYSTEM.iter().any(|path| point.starts_with(path));
    let remote = REMOTE.contains(&file_system.as_str()) && !system();
    // A tree in which a mount namespace is pinned can't be mounted anywhere, and other kinds look the same.
    if is_volume(&point) || remote || file_system == "nsfs" {
        return Sort::IfNeeded(point);
    }
    Sort::Always(point)
}

/// Whether it is where a kubelet mounts what a pod is to have: `…/pods/UID/volumes/…`, and, once for all pods, `…/plugins/kubernetes.io/…`.
fn is_volume(point: &Path) -> bool {
    let parts: Vec<&OsStr> = point.components().map(Component::as_os_str).collect();
    let all = |two: &[&OsStr]| two == ["plugins", "kubernetes.io"];
    let of_a_pod = |three: &[&OsStr]| {
        let [pods, uid, volumes] = three else { return false };
        *pods == "pods"
            && uid.len() == 36
            && (*volumes == "volumes" || *volumes == "volume-subpaths")
    };
    parts.windows(2).any(all) || parts.windows(3).any(of_a_pod)
}

#[cfg(test)]
mod tests {
    use super::*;
    use davit_sys::namespace::{Namespace, unshare};
    use rustix::mount::{MountPropagationFlags, mount_change};

    #[test]
    fn each_is_looked_at_once_and_counted_as_long_as_it_is_listed() {
        let looked = std::cell::RefCell::new(Vec::new());
        let look = |number: u64| {
            looked.borrow_mut().push(number);
            let point =
                PathBuf::from(["/a", "/b", "/a", "/gone"][usize::try_from(number).unwrap()]);
            (number != 3).then_some(Sort::Always(point))
        };
        let mut known = Known::default();
        let points = |known: &Known| {
            let points =
                known.always.iter().map(|(point, count)| format!("{} {count}", point.display()));
            points.collect::<Vec<_>>().join(", ")
        };
        known.follow(&[1, 2, 3], look);
        assert_eq!(points(&known), "/a 1, /b 1");
        known.follow(&[0, 1, 2], look);
        assert_eq!(points(&known), "/a 2, /b 1");
        known.follow(&[0, 1, 2, 3], look);
        known.follow(&[0, 3], look);
        assert_eq!(points(&known), "/a 1");
        known.follow(&[], look);
        assert_eq!(points(&known), "");
        assert_eq!(*looked.borrow(), [1, 2, 3, 0, 3, 3]);
    }

    #[test]
    fn what_is_known_is_what_the_kernel_lists() {
        // In mounts of its own: on the host, tests beside this one mount and unmount between two looks.
        let work = || {
            unshare(Namespace::Mount).unwrap();
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount_change("/", private).unwrap();
            let mut known = Known::default();
            known.update(&davit_sys::mounts::list().unwrap(), &[]).unwrap();
            assert!(known.always.contains_key(Path::new("/")));
            assert!(known.always.contains_key(Path::new("/proc")));
            assert_eq!(known.numbers.len(), davit_sys::mounts::list().unwrap().len());
        };
        std::thread::scope(|scope| scope.spawn(work).join().unwrap());
    }

    #[test]
    fn volumes_and_what_may_hang_are_for_those_who_need_them() {
        let uid = "0e5e0dbd-4a3c-4a6e-9bd8-7d1f4c1d3a52";
        let volume = format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~projected/token");
        let part = format!("/var/lib/kubelet/pods/{uid}/volume-subpaths/v/c/0");
        for (point, file_system) in [
            (volume.as_str(), "tmpfs"),
            (&part, "ext4"),
            ("/var/lib/kubelet/plugins/kubernetes.io/csi/x/1/globalmount", "ext4"),
            ("/srv/share", "nfs4"),
            ("/home", "autofs"),
            ("/mnt/s3", "fuse"),
            ("/run/snapd/ns/x.mnt", "nsfs"),
        ] {
            let sorted = sort(mount(point, file_system), &[]);
            assert_eq!(sorted, Sort::IfNeeded(point.into()), "{point}");
        }
        for (point, file_system) in [
            ("/", "nfs"),
            ("/usr", "9p"),
            ("/opt/tools", "fuse"),
            ("/proc/meminfo", "fuse"),
            ("/proc/sys/fs/binfmt_misc", "autofs"),
            ("/var/lib/kubelet", "xfs"),
            ("/var/lib/kubelet/pods/short/volumes/v", "tmpfs"),
            ("/opt/plugins/kubernetes.io.d", "ext4"),
            ("/srv/data", "ext4"),
            ("/run", "tmpfs"),
        ] {
            let sorted = sort(mount(point, file_system), &[]);
            assert_eq!(sorted, Sort::Always(point.into()), "{point}");
        }
        let pins = [Place { all: "/run/netns".into(), own: None }];
        let sort = |point: &str, file_system: &str| sort(mount(point, file_system), &pins);
        assert_eq!(sort("/run/netns/a", "nsfs"), Sort::Pods);
        assert_eq!(sort("/run/netns", "tmpfs"), Sort::Always("/run/netns".into()));
    }

    #[test]
    fn one_that_cannot_be_copied_is_counted() {
        let mut known = Known::default();
        let odd = || Some(sort(Mount { bindable: false, ..mount("/data", "ext4") }, &[]));
        known.follow(&[1], |_| odd());
        assert_eq!(known.unbindable, 1);
        known.follow(&[], |_| odd());
        assert_eq!(known.unbindable, 0);
    }
}
