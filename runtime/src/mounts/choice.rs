//! Which mounts to copy so that nothing is missed: as few as can be, each with all that is below it wherever nothing of that is left out.
//!
//! Goes by paths alone. A mount that is covered by another one, at its place or above, can't be reached by its path: who makes the copies takes what he finds there, and passes
//! over what is no mount.

use super::Place;
use super::known::Known;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::{Path, PathBuf};

/// More of them are as slow as all mounts.
const MOST: usize = 100;

/// A mount to copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Part<'a> {
    pub(super) path: &'a Path,
    /// With those below it.
    pub(super) whole: bool,
}

impl Part<'_> {
    /// Whether the mount at this point comes with it.
    pub(super) fn shows(&self, point: &Path) -> bool {
        point == self.path || (self.whole && point.starts_with(self.path))
    }
}

/// `None`: all, since nothing is left out, or too much is to be copied one by one.
pub(super) fn choose<'a>(
    known: &'a Known,
    unseen: &'a [Place],
    needed: &'a [PathBuf],
) -> Option<Vec<Part<'a>>> {
    let wanted = wanted(&known.if_needed, needed);
    let left = |path: &Path| known.if_needed.contains_key(path) && !wanted.contains(path);
    // Below what is left out there is no way either, and whoever tried it could hang.
    let out = |path: &Path| {
        unseen.iter().any(|place| path.starts_with(&place.all)) || path.ancestors().any(left)
    };
    let left_below = |path: &Path| {
        unseen.iter().any(|place| place.all.starts_with(path))
            || below(&known.if_needed, path).any(|one| !wanted.contains(one))
    };
    let mut parts: Vec<Part<'a>> = Vec::new();
    // Those that are wanted whatever comes, and those that somebody needs, in the order of paths: what a mount lies in comes before it.
    let mut points: Vec<&'a Path> = known.always.keys().map(PathBuf::as_path).collect();
    points.extend(&wanted);
    points.sort_unstable();
    points.dedup();
    for path in points.into_iter().filter(|path| !out(path)) {
        if parts.last().is_none_or(|last| !(last.whole && path.starts_with(last.path))) {
            parts.push(Part { path, whole: !left_below(path) });
        }
    }
    let own = unseen
        .iter()
        .filter_map(|place| place.own.as_deref().filter(|own| own.starts_with(&place.all)));
    parts.extend(own.map(|path| Part { path, whole: false }));
    parts.sort_unstable();
    let [first, _, ..] = parts.as_slice() else { return None };
    (first.path == Path::new("/") && !first.whole && parts.len() <= MOST).then_some(parts)
}

/// Of what is seen if need be, that on which something needed is, or which is below that.
fn wanted<'a>(if_needed: &'a BTreeMap<PathBuf, u32>, needed: &'a [PathBuf]) -> BTreeSet<&'a Path> {
    let mut wanted = BTreeSet::new();
    for path in needed {
        wanted.extend(path.ancestors().filter(|above| if_needed.contains_key(*above)));
        wanted.extend(below(if_needed, path));
    }
    wanted
}

/// At this path, and below it.
fn below<'a>(mounts: &'a BTreeMap<PathBuf, u32>, path: &'a Path) -> impl Iterator<Item = &'a Path> {
    let from = (Bound::Included(path), Bound::Unbounded);
    let from = mounts.range::<Path, _>(from).map(|(point, _)| point.as_path());
    from.take_while(move |point| point.starts_with(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "/var/lib/kubelet/pods/0e5e0dbd-4a3c-4a6e-9bd8-7d1f4c1d3a52/volumes";

    fn told(known: &Known, unseen: &[Place], needed: &[&str]) -> Option<String> {
        let needed: Vec<PathBuf> = needed.iter().map(PathBuf::from).collect();
        let parts = choose(known, unseen, &needed)?;
        let words = parts
            .iter()
            .map(|part| format!("{}{}", part.path.display(), if part.whole { "*" } else { "" }));
        Some(words.collect::<Vec<_>>().join(" ").replace(UID, "V"))
    }

    fn place(all: &str, own: &str) -> Place {
        let own = Some(own).filter(|own| !own.is_empty()).map(PathBuf::from);
        Place { all: all.into(), own }
    }

    #[test]
    fn what_is_on_the_way_to_what_is_left_out_is_copied_by_itself_and_the_rest_whole() {
        let (volume, deep, other) =
            (format!("{UID}/a"), format!("{UID}/a/deep"), format!("{UID}/b"));
        let mounts = [
            ("/", "ext4"),
            ("/proc", "proc"),
            ("/sys", "sysfs"),
            ("/sys/fs/cgroup", "cgroup2"),
            ("/dev", "devtmpfs"),
            ("/dev/pts", "devpts"),
            ("/run", "tmpfs"),
            ("/run/lock", "tmpfs"),
            ("/run/netns", "tmpfs"),
            ("/run/netns/p", "nsfs"),
            ("/run/netns/q", "nsfs"),
            ("/run/davit/shm", "tmpfs"),
            ("/run/davit/shm/p", "tmpfs"),
            ("/run-other", "tmpfs"),
            ("/srv", "nfs4"),
            ("/srv/inner", "ext4"),
            ("/var/lib/kubelet", "xfs"),
            (&volume, "tmpfs"),
            (&deep, "ext4"),
            (&other, "tmpfs"),
        ];
        let both = [place("/run/netns", "/run/netns/p"), place("/run/davit/shm", "")];
        let known = Known::of(&mounts, &both);
        let rest = "/dev* /proc* /run /run/lock* /run/netns/p";
        let tail = "/run-other* /sys* /var/lib/kubelet";
        let need = |path: &str| told(&known, &both, &["/tmp", path]);
        // The share is left out, and what is mounted in it.
        assert_eq!(need("/var/lib/davit"), Some(format!("/ {rest} {tail}")));
        // A volume, with what is mounted in it; one that is a part of another.
        assert_eq!(need(&volume), Some(format!("/ {rest} {tail} V/a*")));
        assert_eq!(need(&format!("{other}/file")), Some(format!("/ {rest} {tail} V/b*")));
        let served = Some(format!("/ {rest} /run-other* /srv* /sys* /var/lib/kubelet"));
        assert_eq!(need("/srv/x"), served);
        // All of the kubelet's.
        assert_eq!(need("/var/lib"), Some(format!("/ {rest} {tail}*")));
        // Everything but other pods'.
        let all =
            "/ /dev* /proc* /run /run/lock* /run/netns/p /run-other* /srv* /sys* /var/lib/kubelet*";
        assert_eq!(need("/"), Some(all.to_owned()));
        // One place is to be seen: it comes with its mounts.
        let memory = &both[1..];
        let seen = "/ /dev* /proc* /run /run/lock* /run/netns* /run-other* /sys* /var/lib/kubelet";
        assert_eq!(told(&known, memory, &["/tmp"]), Some(seen.to_owned()));
    }

    #[test]
    fn where_nothing_is_left_out_or_much_would_be_copied_alone_all_are_seen() {
        let plain = Known::of(&[("/", "ext4"), ("/proc", "proc")], &[]);
        assert_eq!(told(&plain, &[], &["/tmp"]), None);
        assert_eq!(told(&Known::default(), &[place("/run/netns", "")], &["/tmp"]), None);
        let many: Vec<String> = (0..200).map(|number| format!("/data/{number}")).collect();
        let mut mounts: Vec<(&str, &str)> =
            many.iter().map(|path| (path.as_str(), "ext4")).collect();
        mounts.extend([("/", "ext4"), ("/srv", "nfs")]);
        let known = Known::of(&mounts, &[]);
        assert_eq!(told(&known, &[], &["/tmp"]), None);
        assert_eq!(told(&known, &[], &["/srv"]), None);
    }
}
