//! Against the kernel's own hierarchies: these need root.

use super::*;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command};

fn cgroups() -> Cgroups {
    Cgroups::new(Layout::read().unwrap())
}

/// A name that no other test and no other run has.
fn unique(what: &str) -> String {
    let mut bytes = [0_u8; 6];
    getrandom::fill(&mut bytes).unwrap();
    format!("davit-test-{what}-{}", hex::encode(bytes))
}

fn sleeper(cgroups: &Cgroups, group: &Group) -> Child {
    let child = Command::new("sleep").arg("300").spawn().unwrap();
    for file in cgroups.procs_files(group) {
        super::manage::write(&file, child.id().to_string().as_bytes()).unwrap();
    }
    child
}

#[tokio::test]
async fn a_cgroup_is_made_in_every_hierarchy_takes_processes_and_goes_again() {
    let cgroups = cgroups();
    let name = unique("make");
    let group = Group::at(&format!("/{name}/pod")).unwrap();
    let ensured = cgroups.ensure(&group).await.unwrap();
    let hierarchies = cgroups.layout().hierarchies().count();
    assert_eq!(ensured.made.len(), 2 * hierarchies);
    assert_eq!(cgroups.procs_files(&group).len(), hierarchies);
    assert_eq!(
        cgroups.ensure(&group).await.unwrap(),
        Ensured::default(),
        "the second time nothing is made"
    );

    // The kernel does it for those below (cpuset(7)).
    for cpuset in cgroups.layout().v1.iter().filter(|one| one.has("cpuset")) {
        let below = cpuset.mount.join(group.path()).join("by-hand");
        std::fs::create_dir(&below).unwrap();
        let cpus = std::fs::read_to_string(below.join("cpuset.cpus")).unwrap();
        std::fs::remove_dir(&below).unwrap();
        assert!(!cpus.trim().is_empty());
    }

    // Joining proves that cpusets were inherited.
    let leaf = group.child("leaf").unwrap();
    let leaf_made = cgroups.ensure(&leaf).await.unwrap().made;
    let mut child = sleeper(&cgroups, &leaf);
    let own = std::fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
    assert_eq!(own.matches(&format!("/{name}/pod/leaf")).count(), hierarchies, "{own}");
    child.kill().unwrap();
    child.wait().unwrap();

    assert_eq!(cgroups.remove(&leaf_made).await.unwrap(), Vec::<PathBuf>::new());
    assert_eq!(cgroups.remove(&ensured.made).await.unwrap(), Vec::<PathBuf>::new());
    assert!(ensured.made.iter().all(|path| !path.exists()));
    assert_eq!(
        cgroups.remove(&ensured.made).await.unwrap(),
        Vec::<PathBuf>::new(),
        "removal is idempotent"
    );
}

#[tokio::test]
async fn kill_ends_every_process_in_the_group_and_below_and_no_other() {
    let cgroups = cgroups();
    let group = Group::at(&unique("kill")).unwrap();
    let (one, two) = (group.child("one").unwrap(), group.child("two").unwrap());
    let mut made = cgroups.ensure(&one).await.unwrap().made;
    made.extend(cgroups.ensure(&two).await.unwrap().made);
    let outside = Group::at(&unique("spared")).unwrap();
    let outside_made = cgroups.ensure(&outside).await.unwrap().made;
    let mut spared = sleeper(&cgroups, &outside);
    let mut doomed: Vec<Child> =
        [&one, &one, &two].into_iter().map(|group| sleeper(&cgroups, group)).collect();

    cgroups.kill(&group).unwrap();
    for child in &mut doomed {
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }
    assert!(spared.try_wait().unwrap().is_none());
    assert_eq!(cgroups.kill(&Group::at(&unique("absent")).unwrap()).unwrap().unwrap_or(0), 0);

    spared.kill().unwrap();
    spared.wait().unwrap();
    cgroups.remove(&made).await.unwrap();
    cgroups.remove(&outside_made).await.unwrap();
    assert!(made.iter().chain(&outside_made).all(|path| !path.exists()));
}

#[tokio::test]
async fn what_others_use_is_left_and_told_back_and_a_busy_one_is_an_error() {
    let cgroups = cgroups();
    let name = unique("shared");
    let (mine, theirs) = (
        Group::at(&format!("{name}/mine")).unwrap(),
        Group::at(&format!("{name}/theirs")).unwrap(),
    );
    let mine_made = cgroups.ensure(&mine).await.unwrap().made;
    let theirs_made = cgroups.ensure(&theirs).await.unwrap().made;
    let left = cgroups.remove(&mine_made).await.unwrap();
    assert_eq!(left.len(), cgroups.layout().hierarchies().count());
    assert!(left.iter().all(|path| path.ends_with(&name)), "{left:?}");

    let mut child = sleeper(&cgroups, &theirs);
    let error = cgroups.remove(&theirs_made).await.unwrap_err();
    assert!(error.to_string().contains("still in use"), "{error}");
    child.kill().unwrap();
    child.wait().unwrap();
    cgroups.remove(&theirs_made).await.unwrap();
    cgroups.remove(&left).await.unwrap();
    assert!(left.iter().all(|path| !path.exists()));
}

#[tokio::test]
async fn nothing_outside_of_the_hierarchies_is_removed() {
    let cgroups = cgroups();
    let directory = tempfile::tempdir().unwrap();
    let root = cgroups.layout().hierarchies().next().unwrap().mount.clone();
    let escape =
        root.join("..").join("..").join("..").join(directory.path().strip_prefix("/").unwrap());
    for path in [directory.path(), root.as_path(), escape.as_path(), Path::new("relative")] {
        let error = cgroups.remove(&[path.to_owned()]).await.unwrap_err();
        assert!(matches!(error, CgroupError::Foreign { .. }), "{error}");
    }
    assert!(directory.path().exists());
}

#[tokio::test]
async fn a_failure_half_way_leaves_nothing() {
    let cgroups = cgroups();
    // The last part is a file of the kernel's in some hierarchy, and a directory can't be made below a file.
    let name = unique("fail");
    let group = Group::at(&format!("{name}/cgroup.procs/x")).unwrap();
    assert!(cgroups.ensure(&group).await.is_err());
    for hierarchy in cgroups.layout().hierarchies() {
        assert!(!hierarchy.mount.join(&name).exists());
    }
}

/// The unified hierarchy alone, as on a host that has no other. The controllers that this host has in it are left out: handed down once,
/// they stay so, and a hybrid host needs them free.
fn unified() -> Option<Cgroups> {
    let v2 = Layout::read().unwrap().v2?;
    let v2 = Some(Hierarchy { controllers: vec!["davit-none".into()], ..v2 });
    Some(Cgroups::new(Layout { v1: Vec::new(), v2, swap: false }))
}

#[tokio::test]
async fn on_a_unified_hierarchy_a_leaf_takes_processes_and_is_ended_at_one_stroke() {
    let cgroups = unified().expect("this kernel mounts cgroup2");
    let group = Group::at(&unique("unified")).unwrap();
    let leaf = group.child("init").unwrap();
    let ensured = cgroups.ensure(&leaf).await.unwrap();
    assert_eq!(ensured.made.len(), 2);
    // What can't be handed down is told and no failure.
    assert_eq!(ensured.withheld.len(), 2);
    let mut child = sleeper(&cgroups, &leaf);
    assert_eq!(cgroups.kill(&group).unwrap(), None);
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert_eq!(cgroups.remove(&ensured.made).await.unwrap(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_process_beside_a_groups_children_is_elsewhere_where_it_would_be_in_their_way() {
    let shims = [PathBuf::from("/sys/fs/cgroup/davit/cgroup.procs")];
    let group = Group::at(&unique("beside")).unwrap();
    let (unified, own) = (unified().expect("this kernel mounts cgroup2"), cgroups());
    let made = own.ensure(&group).await.unwrap().made;
    assert_eq!(unified.procs_beside(&group, &shims), shims);
    if own.layout().version() != Version::V2 {
        assert_eq!(own.procs_beside(&group, &shims), own.procs_files(&group));
        assert_eq!(own.procs_files(&group).len(), own.layout().hierarchies().count());
    }
    own.remove(&made).await.unwrap();
}

#[tokio::test]
async fn a_container_is_found_where_crun_puts_it_in_a_scope() {
    let cgroups = cgroups();
    let slice = Group::at(&unique("crun")).unwrap();
    for inner in ["davit-a.scope", "davit-b.scope/container"] {
        let scope = slice.child(inner.split('/').next().unwrap()).unwrap();
        let place = Group::at(&format!("{}/{inner}", slice.path().display())).unwrap();
        let made = cgroups.ensure(&place).await.unwrap().made;
        let mut child = sleeper(&cgroups, &place);
        assert_eq!(cgroups.processes(&scope).unwrap(), [child.id()], "{inner}");
        assert_eq!(cgroups.is_frozen(&scope), Some(false));
        for (frozen, state) in [(true, ["FROZEN", "1"]), (false, ["THAWED", "0"])] {
            freeze(&cgroups, &place, state);
            assert_eq!(cgroups.is_frozen(&scope), Some(frozen), "{inner}");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        cgroups.remove(&made).await.unwrap();
    }
}

/// By the word of either version.
fn freeze(cgroups: &Cgroups, group: &Group, [v1_word, v2_word]: [&str; 2]) {
    let v1 = cgroups.layout().v1.iter().find(|one| one.has("freezer"));
    let (hierarchy, file, word) = match v1 {
        Some(v1) => (v1, "freezer.state", v1_word),
        None => (cgroups.layout().v2.as_ref().unwrap(), "cgroup.freeze", v2_word),
    };
    let file = hierarchy.mount.join(group.path()).join(file);
    super::manage::write(&file, word.as_bytes()).unwrap();
}
