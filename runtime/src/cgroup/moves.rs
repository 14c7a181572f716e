//! Keeps the kernel ready for moves between cgroups while containers are being made.
//!
//! Who moves a process into another cgroup waits, with the lock on all cgroups held, until every processor has taken notice; but not if somebody else has done so in the last
//! some 10 ms. An OCI runtime does it for each container and each command, so one alone would wait for that as long as all the rest takes. Owns that the
//! waiting has begun before, beside that rest: by moving the daemon to where it is. For some milliseconds after each call that is told of, and never else; nowhere
//! where the hierarchies are mounted with `favordynmods`, which spares everybody the wait, nor before Linux 6.0, where there was none.

use super::Layout;
use crate::oci::mountinfo::{self, Mount};
use rustix::fs::{Mode, OFlags};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Less than the kernel stays ready for.
const PAUSE: rustix::thread::Timespec = rustix::thread::Timespec { tv_sec: 0, tv_nsec: 6_000_000 };

const FAVORED: &str = "favordynmods";

/// See the module.
#[derive(Debug)]
pub(crate) struct Moves {
    /// `None`: nobody waits here.
    layout: Option<Layout>,
    wanted: Mutex<Wanted>,
}

#[derive(Debug, Default)]
struct Wanted {
    until: Option<Instant>,
    /// A thread sees to it.
    seen_to: bool,
}

impl Moves {
    /// Between the cgroups of these hierarchies.
    pub(crate) fn new(layout: &Layout) -> Self {
        let table = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
        // Before Linux 6.0, which brought the option, all were favored.
        let features = std::fs::read_to_string("/sys/kernel/cgroup/features").unwrap_or_default();
        let waits = features.lines().any(|one| one == FAVORED);
        let waits = waits && !are_favored(&mountinfo::parse(&table));
        Self { layout: waits.then(|| layout.clone()), wanted: Mutex::default() }
    }

    /// There will be one within that time.
    pub(crate) fn expect(self: &Arc<Self>, within: Duration) {
        if self.layout.is_none() {
            return;
        }
        let mut wanted = self.wanted();
        wanted.until = wanted.until.max(Some(Instant::now() + within));
        if !std::mem::replace(&mut wanted.seen_to, true) {
            let moves = Arc::clone(self);
            tokio::task::spawn_blocking(move || moves.see_to_it());
        }
    }

    /// The waits are the kernel's, of a thread that is there for such.
    fn see_to_it(&self) {
        let pid = std::process::id().to_string();
        let (mut told, mut own) = (String::new(), None);
        loop {
            // Others may move the daemon meanwhile, and are not to be undone: but for what happens right between this and the write.
            let now = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
            if now != told {
                (own, told) = (self.own(&now), now);
            }
            let write = |file| rustix::io::pwrite(file, pid.as_bytes(), 0);
            let moved = own.as_ref().is_some_and(|file: &OwnedFd| write(file).is_ok());
            if moved {
                let _ = rustix::thread::nanosleep(&PAUSE);
            }
            let mut wanted = self.wanted();
            if !moved || wanted.until.is_none_or(|until| until <= Instant::now()) {
                wanted.seen_to = false;
                return;
            }
        }
    }

    /// The list of processes that the daemon is in, by what `/proc/self/cgroup` tells.
    fn own(&self, told: &str) -> Option<OwnedFd> {
        let file = procs(self.layout.as_ref()?, told)?;
        // Seen through a namespace of cgroups, the path may be another one's.
        let listed = std::fs::read_to_string(&file).ok()?;
        let pid = std::process::id().to_string();
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let open = || rustix::fs::open(&file, flags, Mode::empty()).ok();
        listed.lines().any(|line| line == pid).then(open).flatten()
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether they are spared the wait: by one hierarchy for all.
fn are_favored(mounts: &[Mount]) -> bool {
    let cgroups = mounts.iter().filter(|one| one.fs_type == "cgroup" || one.fs_type == "cgroup2");
    cgroups.flat_map(|one| one.super_options.split(',')).any(|option| option == FAVORED)
}

/// Where the processes of the cgroup are listed of which `/proc/PID/cgroup` tells.
fn procs(layout: &Layout, told: &str) -> Option<PathBuf> {
    let mut groups = told.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
    let (mount, path) = if let Some(v2) = &layout.v2 {
        (&v2.mount, groups.find(|(controllers, _)| controllers.is_empty())?.1)
    } else {
        let v1 = layout.v1.first()?;
        let same = |controllers: &str| controllers.split(',').all(|one| v1.has(one));
        (&v1.mount, groups.find(|(controllers, _)| same(controllers))?.1)
    };
    Some(mount.join(path.trim_start_matches('/')).join("cgroup.procs"))
}

#[cfg(test)]
mod tests {
    use super::super::Hierarchy;
    use super::*;

    #[test]
    fn the_daemons_own_list_is_found_in_either_version() {
        let one = |mount: &str, controllers: &[&str]| Hierarchy {
            mount: mount.into(),
            controllers: controllers.iter().map(|one| (*one).to_owned()).collect(),
        };
        let told = "5:cpu,cpuacct:/a\n4:name=systemd:/b\n0::/c:d/e\n";
        let v1 = vec![one("/cg/cpu", &["cpu", "cpuacct"])];
        let v2 = Some(one("/cg/unified", &[]));
        let of = |layout: Layout, told| procs(&layout, told);
        let hybrid = Layout { v1: v1.clone(), v2: v2.clone(), swap: false };
        assert_eq!(of(hybrid, told), Some("/cg/unified/c:d/e/cgroup.procs".into()));
        let old = Layout { v1, v2: None, swap: false };
        assert_eq!(of(old.clone(), told), Some("/cg/cpu/a/cgroup.procs".into()));
        assert_eq!(of(old, "4:name=systemd:/b\n"), None);
        let named = vec![one("/cg/systemd", &["name=systemd"])];
        let named = Layout { v1: named, v2: None, swap: false };
        assert_eq!(of(named, told), Some("/cg/systemd/b/cgroup.procs".into()));
        let unified = Layout { v1: Vec::new(), v2, swap: false };
        assert_eq!(of(unified.clone(), "0::/\n"), Some("/cg/unified/cgroup.procs".into()));
        assert_eq!(of(unified, "1:cpu:/\n"), None);
    }

    #[test]
    fn where_moves_are_favored_nobody_waits() {
        let table = |options: &str| {
            let line = format!("31 23 0:29 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,{options}\n");
            are_favored(&mountinfo::parse(line.as_bytes()))
        };
        assert!(table("nsdelegate,favordynmods") && !table("nsdelegate"));
        assert!(!are_favored(&mountinfo::parse(b"1 1 0:1 / /x rw - tmpfs x rw,favordynmods\n")));
    }

    #[tokio::test]
    async fn it_ends_by_itself_and_begins_again_and_the_process_stays_where_it_is() {
        let before = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let layout = Layout::read().unwrap();
        let moves = Arc::new(Moves { layout: Some(layout), wanted: Mutex::default() });
        assert!(moves.own(&before).is_some());
        for _ in 0..2 {
            let begun = Instant::now();
            moves.expect(Duration::from_millis(10));
            moves.expect(Duration::from_millis(20));
            // Unless this thread stood still for so long that it has ended.
            let seen_to = moves.wanted().seen_to;
            assert!(seen_to || begun.elapsed() >= Duration::from_millis(20));
            while moves.wanted().seen_to {
                assert!(begun.elapsed() < Duration::from_secs(20));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert!(begun.elapsed() >= Duration::from_millis(15));
        }
        assert_eq!(std::fs::read_to_string("/proc/self/cgroup").unwrap(), before);
        let none = Arc::new(Moves { layout: None, wanted: Mutex::default() });
        none.expect(Duration::from_secs(1));
        assert!(!none.wanted().seen_to);
    }
}
