//! What nobody needs any more: every kind of it is planted, with something beside it that only looks so. What is davit's without doubt is removed, at the
//! start or every so often; what may be somebody else's is named and left.

use davit_e2e::host::cgroup_file;
use davit_e2e::prelude::*;
use davit_e2e::tools;
use std::collections::BTreeMap;
use std::process::Command;

const WAIT: Duration = Duration::from_secs(20);

/// What becomes of a planted thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Removed,
    Left,
}
use Fate::{Left, Removed};

/// A kind of leftover, or what looks like one.
struct Plant {
    what: &'static str,
    /// What `davit check` calls it; nothing if it does not tell of it.
    told: Option<String>,
    at_start: Fate,
    every_so_often: Fate,
    there: Box<dyn Fn() -> Result<bool>>,
}

/// Ids of pods and containers that never were, each used for one plant of one test: links are named after their beginnings.
fn id(t: &Test, digit: char) -> String {
    let own: String = t.settings().tag().bytes().rev().map(|byte| format!("{byte:02x}")).collect();
    format!("{digit}{}", own.repeat(4)).chars().take(64).collect()
}

fn link_of(id: &str) -> String {
    format!("dv{}", id.get(..11).unwrap_or_default())
}

fn run(program: &str, arguments: &[&str]) -> Result<String> {
    tools::run(Command::new(program).args(arguments))
}

fn file(what: &'static str, path: PathBuf, fates: [Fate; 2], told: Option<&str>) -> Plant {
    let [at_start, every_so_often] = fates;
    let told = told.map(|kind| format!("{kind}{}: ", path.display()));
    let there = Box::new(move || Ok(path.symlink_metadata().is_ok()));
    Plant { what, told, at_start, every_so_often, there }
}

fn directory(path: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))?;
    Ok(path.to_owned())
}

fn write(path: &Path, text: &str) -> Result<PathBuf> {
    use std::io::Write as _;
    std::fs::File::create(path)?.write_all(text.as_bytes())?;
    Ok(path.to_owned())
}

fn mounted(path: &Path) -> Result<bool> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(table.lines().any(|line| line.split(' ').nth(4) == path.to_str()))
}

fn tmpfs(path: &Path) -> Result<PathBuf> {
    directory(path)?;
    run("mount", &["-t", "tmpfs", "none", &path.to_string_lossy()])?;
    write(&path.join("kept"), "kept")?;
    Ok(path.to_owned())
}

fn namespace(path: &Path) -> Result<PathBuf> {
    write(path, "")?;
    run("unshare", &[&format!("--net={}", path.display()), "true"])?;
    Ok(path.to_owned())
}

/// One end of a pair, on the test's bridge.
fn link(t: &Test, name: &str, peer: &str) -> Result<PathBuf> {
    run("ip", &["link", "add", name, "type", "veth", "peer", "name", peer])?;
    run("ip", &["link", "set", name, "master", &t.settings().tag()])?;
    Ok(Path::new("/sys/class/net").join(name))
}

/// Containers' writable layers.
fn writable(t: &Test, plants: &mut Vec<Plant>) -> Result<()> {
    let layers = t.settings().root().join("containers");
    let stray = layers.join(id(t, 'f'));
    directory(&stray.join("fs/deep"))?;
    plants.push(file("a writable layer", stray, [Removed, Removed], Some("writable layer ")));
    let other = directory(&layers.join("notes"))?;
    plants.push(file("a directory among writable layers", other, [Left, Left], Some("")));
    let busy = layers.join(id(t, 'e'));
    let inside = tmpfs(&busy.join("fs/mnt"))?;
    let what = "a writable layer with a mount in it";
    plants.push(file(what, inside.join("kept"), [Left, Left], None));
    plants.push(file(what, busy, [Left, Left], Some("writable layer ")));
    Ok(())
}

/// What interrupted pulls leave.
fn pulls(t: &Test, plants: &mut Vec<Plant>) -> Result<()> {
    for place in ["layers", "images"] {
        let place = t.settings().root().join(place);
        let half = directory(&place.join(format!("{}.tmp-123", id(t, 'a'))))?;
        plants.push(file("half a pull", half, [Removed, Left], None));
        let trash = directory(&place.join("trash-123"))?;
        plants.push(file("what was being deleted", trash, [Removed, Left], None));
        let other = directory(&place.join("notes"))?;
        plants.push(file("a directory among images and layers", other, [Left, Left], Some("")));
    }
    Ok(())
}

/// A pod that was about to be, with what its shim had mounted.
fn pods(t: &Test, plants: &mut Vec<Plant>) -> Result<()> {
    let pod = t.settings().state().join("pods").join(id(t, 'd'));
    let shm = tmpfs(&pod.join("shm"))?;
    let alone = tmpfs(&t.settings().state().join("shm").join(id(t, '6')))?;
    let beside = tmpfs(&t.dir.join("mounted"))?;
    let there = |path: PathBuf| Box::new(move || mounted(&path));
    let plant = |what, at_start, path| Plant {
        what,
        told: None,
        at_start,
        every_so_often: Left,
        there: there(path),
    };
    plants.push(plant("the mount of a pod without a record", Removed, shm));
    plants.push(Plant {
        told: Some(format!("shared memory of pod {}: ", id(t, '6'))),
        every_so_often: Removed,
        ..plant("shared memory of no pod", Removed, alone)
    });
    plants.push(plant("a mount elsewhere", Left, beside));
    plants.push(file("a pod without a record", pod, [Removed, Left], None));
    Ok(())
}

/// Networks: with a record of davit's, with a lease alone, and with nothing to show whose they are.
fn networks(t: &Test, live: &Pod, plants: &mut Vec<Plant>) -> Result<()> {
    let settings = t.settings();
    let (state, pins) = (settings.root().join("network"), settings.netns_dir());
    let gone = id(t, 'c');
    let record = std::fs::read_to_string(state.join(format!("{}.json", live.id)))?;
    let record = write(&state.join(format!("{gone}.json")), &record.replace(&live.id, &gone))?;
    let both = [Removed, Removed];
    let told = format!("network of pod {gone}: ");
    plants.push(Plant { told: Some(told), ..file("a network record", record, both, None) });
    let pin = namespace(&pins.join(format!("davit-{gone}")))?;
    plants.push(file("the namespace that a record names", pin, both, None));
    let own = link(t, &link_of(&gone), &format!("{}p0", settings.tag()))?;
    plants.push(file("the link of a pod with a record", own, both, None));
    // Read at the start only: while it runs, davit knows what it has leased.
    let prefix = t.daemon().subnet().trim_end_matches("0/24").to_owned();
    let lease = state.join("leases").join(format!("{prefix}77"));
    let lease = write(&lease, &format!(r#"{{"version":1,"sandbox":"{}"}}"#, id(t, 'b')))?;
    plants.push(file("a lease without a record", lease, [Removed, Left], None));
    let other = write(&state.join("notes"), "notes")?;
    plants.push(file("a file among network records", other, [Left, Left], None));
    let pin = namespace(&pins.join(format!("davit-{}", id(t, '9'))))?;
    plants.push(file(
        "a namespace without a record",
        pin,
        [Left, Left],
        Some("network namespace "),
    ));
    let pin = namespace(&pins.join("another"))?;
    plants.push(file("another's namespace", pin, [Left, Left], None));
    let stray = link(t, &link_of(&id(t, '7')), &format!("{}p1", settings.tag()))?;
    let told = Some(format!("link {}: ", link_of(&id(t, '7'))));
    let stray = file("a link without a record", stray, [Left, Left], None);
    plants.push(Plant { told, ..stray });
    let other = link(t, &format!("{}x", settings.tag()), &format!("{}p2", settings.tag()))?;
    plants.push(file("another's link on the bridge", other, [Left, Left], None));
    Ok(())
}

/// Host ports in davit's own table, and in another one.
fn rules(t: &Test, plants: &mut Vec<Plant>) -> Result<()> {
    let tag = t.settings().tag();
    let element = "{ tcp . 45678 : 10.213.255.9 . 80 }";
    run("nft", &["add", "element", "inet", &tag, "hostports4", element])?;
    let other = format!("{tag}x");
    let map = "{ type inet_proto . inet_service : ipv4_addr . inet_service; }";
    run("nft", &["add", "table", "inet", &other])?;
    run("nft", &["add", "map", "inet", &other, "hostports4", map])?;
    run("nft", &["add", "element", "inet", &other, "hostports4", element])?;
    for (what, table, at_start) in
        [("a host port of nobody", tag, Removed), ("a host port in another's table", other, Left)]
    {
        let there = move || Ok(run("nft", &["list", "table", "inet", &table])?.contains("45678"));
        let there = Box::new(there);
        plants.push(Plant { what, told: None, at_start, every_so_often: Left, there });
    }
    Ok(())
}

fn cgroups(t: &Test, container: &str, plants: &mut Vec<Plant>) -> Result<()> {
    let file_of_container = cgroup_file(t.pid(container)?, "memory", "x", "x")?;
    let parent = file_of_container.ancestors().nth(3).context("the pods' cgroup")?;
    let stray = directory(&parent.join(id(t, '8')))?;
    plants.push(file("a pod's cgroup without a record", stray, [Left, Left], Some("cgroup ")));
    let other = directory(&parent.join("another"))?;
    plants.push(file("another's cgroup", other, [Left, Left], None));
    Ok(())
}

fn plant_all(t: &Test) -> Result<Vec<Plant>> {
    t.allow_log("left alone");
    t.allow_log("could not be swept");
    let (pod, container) = t.sleeper(|_| ())?;
    let mut plants = Vec::new();
    writable(t, &mut plants)?;
    pulls(t, &mut plants)?;
    pods(t, &mut plants)?;
    networks(t, &pod, &mut plants)?;
    rules(t, &mut plants)?;
    cgroups(t, &container, &mut plants)?;
    Ok(plants)
}

/// Waits until everything is as it should be, and tells what is not.
fn as_it_should_be(plants: &[Plant], fate: impl Fn(&Plant) -> Fate) -> Result<()> {
    let mut wrong = BTreeMap::new();
    let settled = eventually(WAIT, "all is removed that is to be", || {
        wrong.clear();
        for plant in plants {
            let there = (plant.there)()?;
            if there != (fate(plant) == Left) {
                wrong.insert(plant.what, if there { "is still there" } else { "is gone" });
            }
        }
        Ok(wrong.is_empty().then_some(()))
    });
    settled.with_context(|| format!("{wrong:?}"))
}

/// Takes away what davit rightly left.
fn clear(t: &Test, container: &str) -> Result<()> {
    let file_of_container = cgroup_file(t.pid(container)?, "memory", "x", "x")?;
    let parent = file_of_container.ancestors().nth(3).context("the pods' cgroup")?;
    for name in [id(t, '8'), "another".to_owned()] {
        std::fs::remove_dir(parent.join(name))?;
    }
    let settings = t.settings();
    let tag = settings.tag();
    let mounts = [
        settings.root().join("containers").join(id(t, 'e')).join("fs/mnt"),
        t.dir.join("mounted"),
        settings.state().join("pods").join(id(t, 'd')).join("shm"),
        settings.netns_dir().join(format!("davit-{}", id(t, '9'))),
        settings.netns_dir().join("another"),
    ];
    for mount in mounts {
        if mounted(&mount)? {
            run("umount", &[&mount.to_string_lossy()])?;
        }
    }
    for name in [format!("davit-{}", id(t, '9')), "another".to_owned()] {
        std::fs::remove_file(settings.netns_dir().join(name))?;
    }
    run("ip", &["link", "delete", &link_of(&id(t, '7'))])?;
    run("ip", &["link", "delete", &format!("{tag}x")])?;
    run("nft", &["delete", "table", "inet", &format!("{tag}x")])?;
    // While davit runs the table is what it was; a host port of nobody would be found as left behind.
    let element = "{ tcp . 45678 }";
    drop(run("nft", &["delete", "element", "inet", &tag, "hostports4", element]));
    Ok(())
}

fn container(t: &Test) -> Result<String> {
    Ok(t.cri.containers(None)?.pop().context("the container is there")?.id)
}

on_one!(every_kind_of_leftover_is_told_and_at_the_start_what_is_davits_own_is_removed, |t| {
    let plants = plant_all(t)?;
    as_it_should_be(&plants, |_| Left).context("all is planted")?;
    let checked = t.davit(&["check"])?;
    let text = String::from_utf8(checked.stdout)?;
    for plant in &plants {
        if let Some(told) = &plant.told {
            ensure!(text.contains(told.as_str()), "{}: no {told:?} in:\n{text}", plant.what);
        }
    }
    let told = plants.iter().filter_map(|plant| plant.told.as_ref()).count();
    let lines = text.lines().filter(|line| !line.contains("layers looked at")).count();
    ensure!(lines == told, "{lines} problems are told, not {told}:\n{text}");
    ensure!(!checked.status.success());
    as_it_should_be(&plants, |_| Left).context("a check changes nothing")?;
    let id = container(t)?;
    t.daemon().stop()?;
    t.daemon().spawn()?;
    as_it_should_be(&plants, |plant| plant.at_start).context("after a start")?;
    assert_eq!(t.exec(&id, "echo well")?, "well", "the container goes on");
    clear(t, &id)
});

on_one!(every_so_often_what_is_davits_own_is_removed,
    setup: |settings| {
        settings.keys.push_str("sweep_interval = \"300ms\"\n");
        Ok(())
    },
    |t| {
        let plants = plant_all(t)?;
        as_it_should_be(&plants, |plant| plant.every_so_often)?;
        // And stays so over some more sweeps.
        pause(Duration::from_secs(3));
        as_it_should_be(&plants, |plant| plant.every_so_often)?;
        let id = container(t)?;
        assert_eq!(t.exec(&id, "echo well")?, "well", "the container goes on");
        clear(t, &id)
    }
);
