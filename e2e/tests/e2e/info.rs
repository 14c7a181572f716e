//! `davit info` beside the machine's own facts and beside the verbose Status of CRI.

use davit_e2e::prelude::*;
use k8s_cri::v1::StatusRequest;
use rustix::fs::statvfs;
use serde_json::Value;
use std::io::Write as _;
use std::path::Path;

fn info(t: &Test, more: &[&str]) -> Result<Value> {
    let arguments = [&["info", "--format", "json"], more].concat();
    Ok(serde_json::from_str(&t.davit_ok(&arguments)?)?)
}

fn by_status(t: &Test) -> Result<Value> {
    let status = t.cri.wait(t.cri.runtime().status(StatusRequest { verbose: true }))?;
    Ok(serde_json::from_str(status.info.get("info").context("info")?)?)
}

fn read(path: &str) -> Result<String> {
    Ok(std::fs::read_to_string(path).with_context(|| path.to_owned())?.trim().to_owned())
}

/// A line `NAME: NUMBER kB` of a file of the kernel, in bytes.
fn kibibytes(path: &str, name: &str) -> Result<u64> {
    let text = read(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.context(name.to_owned())?.trim().trim_end_matches("kB").trim();
    Ok(number.parse::<u64>()? * 1024)
}

fn number(value: &Value) -> Result<u64> {
    value.as_u64().with_context(|| format!("{value} is no number"))
}

/// Others use the machine, too.
fn near(one: u64, other: u64) -> bool {
    one.abs_diff(other) <= one.max(other) / 2
}

fn disk(told: &Value, path: &Path) -> Result<()> {
    assert_eq!(told["path"].as_str().map(Path::new), Some(path), "{told}");
    let fact = statvfs(path)?;
    assert_eq!(number(&told["size"])?, fact.f_blocks * fact.f_frsize, "{told}");
    assert_eq!(number(&told["inodes"])?, fact.f_files, "{told}");
    let free = fact.f_bavail * fact.f_frsize;
    assert!(near(number(&told["free"])?, free), "{told}: {free} is free");
    let name = std::process::Command::new("stat").args(["-f", "-c", "%T"]).arg(path).output()?;
    let name = String::from_utf8(name.stdout)?;
    // One of the two says ext2/ext3 for all of them.
    let told = told["filesystem"].as_str().context("a file system")?;
    ensure!(
        name.trim().contains(told) || told.starts_with("ext") && name.starts_with("ext"),
        "{told}, {name}"
    );
    Ok(())
}

on_both!(info_is_what_the_machine_itself_tells, |t| {
    let pod = t.pod("web", |_| ())?;
    t.pull("davit-test/busybox:latest")?;
    t.run(&pod, "runs", |_| ())?;
    t.create(&pod, "made", |_| ())?;
    let (told, settings) = (info(t, &["--debug"])?, t.settings());
    let machine = &told["machine"];
    assert_eq!(machine["kernel"], read("/proc/sys/kernel/osrelease")?);
    assert_eq!(machine["name"], read("/proc/sys/kernel/hostname")?);
    assert_eq!((&told["name"], &machine["architecture"]), (&machine["name"], &"amd64".into()));
    let processors = read("/proc/cpuinfo")?.matches("processor\t:").count() as u64;
    assert_eq!(number(&machine["cpus"])?, processors);
    assert_eq!(number(&machine["memory"])?, kibibytes("/proc/meminfo", "MemTotal")?);
    assert_eq!(number(&machine["swap"])?, kibibytes("/proc/meminfo", "SwapTotal")?);
    let os = machine["os"].as_str().context("os")?;
    assert!(!os.is_empty() && read("/etc/os-release")?.contains(os), "{os}");
    assert_eq!(told["storage"]["driver"], "overlay");
    disk(&told["storage"]["root"], &settings.root())?;
    disk(&told["storage"]["state"], &settings.state())?;
    let counters = &told["counters"];
    let containers =
        serde_json::json!({ "total": 2, "created": 1, "running": 1, "paused": 0, "stopped": 0 });
    assert_eq!(counters["containers"], containers);
    assert_eq!((&counters["images"], &counters["shims"]), (&1.into(), &1.into()));
    assert!(number(&counters["image_layers"])? >= 1 && number(&counters["image_layer_bytes"])? > 0);
    assert_eq!(told["default_handler"], settings.handler);
    let handlers = told["handlers"].as_array().context("handlers")?;
    let own = handlers.iter().find(|one| one["name"] == settings.handler).context("its own")?;
    assert!(own["problem"] == "" && own["features"]["seccomp"] == true, "{own}");
    let seccomp = Path::new("/proc/sys/kernel/seccomp").exists();
    let apparmor = read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text == "Y");
    let security = &told["security"];
    assert_eq!((&security["seccomp"], &security["apparmor"]), (&seccomp.into(), &apparmor.into()));
    assert_eq!(security["user_namespaces"], own["features"]["user_namespaces"]);
    assert_eq!(told["network_state"]["ready"], true);
    assert_eq!(told["network_state"]["config"]["bridge"], settings.tag());
    debugging(t, &told, &pod.id)
});

/// The part for debugging, beside what the kernel says of the daemon and of the pod's shim.
fn debugging(t: &Test, told: &Value, pod: &str) -> Result<()> {
    let debug = &told["debugging"];
    let pid = t.daemon().pid().context("it runs")?;
    let rollup = format!("/proc/{pid}/smaps_rollup");
    let shim = format!("/proc/{}/smaps_rollup", t.cri.pod_info(pod)?["pid"]);
    let facts = [
        ("resident", &rollup, "Rss"),
        ("proportional", &rollup, "Pss"),
        ("shims_proportional", &shim, "Pss"),
    ];
    // A moment after its start it lets go of the code of that.
    let mut wrong = Vec::new();
    let told_so = eventually(Duration::from_secs(10), "memory is told as it is", || {
        let debug = &info(t, &["--debug"])?["debugging"];
        wrong.clear();
        for (key, file, field) in facts {
            let (told, fact) = (number(&debug[key])?, kibibytes(file, field)?);
            if !near(told, fact) {
                wrong.push(format!("{key}: {told} is told, {fact} it is"));
            }
        }
        Ok(wrong.is_empty().then_some(()))
    });
    told_so.with_context(|| format!("{wrong:?}"))?;
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))?.count() as u64;
    assert!(number(&debug["threads"])?.abs_diff(tasks) <= 16, "{debug}: {tasks} threads");
    assert!(number(&debug["heap"])? > 0 && number(&told["counters"]["tasks"])? > 0);
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64;
    assert!(number(&told["counters"]["descriptors"])?.abs_diff(descriptors) <= 16);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos();
    let started = u128::from(number(&debug["started_at"])?);
    assert!(now.abs_diff(started) < 3_600_000_000_000, "{debug}");
    assert!(info(t, &[])?["debugging"].is_null());
    Ok(())
}

on_one!(the_verbose_status_tells_the_same, |t| {
    let (told, status) = (info(t, &["--debug"])?, by_status(t)?);
    let keys = |value: &Value| value.as_object().map(|all| all.keys().cloned().collect::<Vec<_>>());
    assert_eq!(keys(&told), keys(&status));
    assert_eq!(keys(&told["debugging"]), keys(&status["debugging"]));
    for key in [
        "id",
        "name",
        "version",
        "handlers",
        "network",
        "network_state",
        "machine",
        "security",
        "registries",
        "cgroup_version",
    ] {
        assert_eq!(told[key], status[key], "{key}");
    }
    assert_eq!(told["counters"]["containers"], status["counters"]["containers"]);
    assert_eq!(told["storage"]["root"]["size"], status["storage"]["root"]["size"]);
    Ok(())
});

on_one!(an_id_is_the_roots_and_outlives_everything_else, |t| {
    let first = info(t, &[])?["id"].as_str().context("an id")?.to_owned();
    assert_eq!(first.len(), 32, "{first}");
    assert_eq!(read(&t.settings().root().join("id").to_string_lossy())?, first);
    t.daemon().kill()?;
    t.daemon().spawn()?;
    assert_eq!(info(t, &[])?["id"], first);
    t.daemon().stop()?;
    let id = t.settings().root().join("id");
    std::fs::File::create(&id)?.write_all(b"torn\n")?;
    t.allow_log("it holds no id");
    t.daemon().spawn()?;
    let second = info(t, &[])?["id"].clone();
    assert!(second != first && second.as_str().is_some_and(|id| id.len() == 32), "{second}");
    Ok(())
});

on_one!(registries_and_warnings_are_those_of_now, |t| {
    let settings = t.settings();
    let told = info(t, &[])?;
    let named = |told: &Value, name: &str| -> Option<Value> {
        told["registries"].as_array()?.iter().find(|one| one["name"] == name).cloned()
    };
    let docker = named(&told, "docker.io").context("docker.io is mirrored")?;
    let first = docker["endpoints"][0].as_str().context("an endpoint")?;
    assert!(first.contains(t.registry.address().to_string().as_str()), "{docker}");
    assert!(named(&told, "broken.example").is_none());
    let broken = settings.registry_config_dir().join("broken.example");
    std::fs::create_dir(&broken)?;
    std::fs::File::create(broken.join("hosts.toml"))?.write_all(b"colour = 'red'\n")?;
    let told = info(t, &[])?;
    let found = named(&told, "broken.example").context("it is listed")?;
    assert!(found["problem"].as_str().is_some_and(|text| text.contains("colour")), "{found}");
    let warned = |told: &Value| told["warnings"].to_string().contains("broken.example");
    assert!(warned(&told), "{told}");
    let table = t.davit_ok(&["info"])?;
    assert!(
        table.lines().any(|line| line.starts_with("WARNING: ") && line.contains("broken.example")),
        "{table}"
    );
    std::fs::remove_dir_all(&broken)?;
    assert!(!warned(&info(t, &[])?));
    // This machine's own shortcomings, by its own facts.
    let told = told["warnings"].to_string();
    let status = read("/proc/self/status")?;
    let bounding =
        status.lines().find_map(|line| line.strip_prefix("CapBnd:")).context("CapBnd")?;
    let resource = u64::from_str_radix(bounding.trim(), 16)? >> 24 & 1 == 1;
    assert_eq!(told.contains("CAP_SYS_RESOURCE is missing"), !resource, "{told}");
    let hybrid = read("/proc/self/mountinfo")?.contains("/sys/fs/cgroup/memory ");
    assert_eq!(told.contains("version 1"), hybrid, "{told}");
    let works = std::process::Command::new("criu").arg("check").output();
    let works = works.is_ok_and(|output| output.status.success());
    assert_eq!(told.contains("can't be checkpointed"), !works, "{told}");
    Ok(())
});
