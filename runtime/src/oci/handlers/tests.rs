//! Against the OCI runtimes of this machine, and against programs that only claim to be one. These need root.

use super::*;
use crate::cgroup::{Driver, Version};
use crate::id::ContainerId;
use crate::oci::testing::ALONE;
use crate::oci::{Host, HostConfig};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

fn host() -> Host {
    Host::probe(&HostConfig::default()).unwrap()
}

fn config(state: &Path) -> HandlersConfig {
    HandlersConfig {
        handlers: BTreeMap::new(),
        default: None,
        state: state.to_owned(),
        root: state.to_owned(),
        shim: "/none".into(),
        path: "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into(),
    }
}

fn script(directory: &Path, name: &str, body: &str) -> PathBuf {
    let path = directory.join(name);
    let mut file = std::fs::File::create(&path).unwrap();
    write!(file, "#!/bin/sh\n{body}\n").unwrap();
    file.set_permissions(std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// What a failed or finished trial leaves behind.
fn leftovers(state: &Path, host: &Host) -> Vec<PathBuf> {
    let below = |path: &Path| std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let trial = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("trial-");
    let mut found: Vec<PathBuf> = below(state).filter(trial).collect();
    let id = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!id.contains(state.to_str().unwrap()), "a mount is left");
    for hierarchy in host.cgroups.layout().hierarchies() {
        // Other tests' trials come and go: only those that hold one of ours count.
        found.extend(
            below(&hierarchy.mount).filter(|path| path.join(state.file_name().unwrap()).exists()),
        );
    }
    found
}

#[tokio::test]
async fn what_a_killed_daemons_trials_have_left_goes_with_the_next_ones() {
    let state = tempfile::tempdir().unwrap();
    let _alone = ALONE.lock().await;
    let host = host();
    let group = super::trial::group(Driver::Cgroupfs, state.path()).unwrap();
    let container = group.container(&ContainerId::random().unwrap()).unwrap();
    host.cgroups.ensure(&group).await.unwrap();
    host.cgroups.ensure(&container).await.unwrap();
    let left = host.cgroups.procs_files(&container);
    let mut process = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    for file in &left {
        std::fs::File::options()
            .write(true)
            .open(file)
            .and_then(|mut file| write!(file, "{}", process.id()))
            .unwrap();
    }
    let directory = state.path().join("trial-crun-0123456789ab");
    std::fs::create_dir_all(directory.join("rootfs")).unwrap();
    // Reaped at once, as by the init that such a process gets.
    let reaper = std::thread::spawn(move || process.wait().unwrap());
    super::trial::sweep(&host.cgroups, &group, state.path()).await;
    assert_eq!(reaper.join().unwrap().signal(), Some(9));
    assert!(left.iter().all(|file| !file.exists()) && !directory.exists(), "{left:?}");
    assert_eq!(host.cgroups.procs_files(&group), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn the_default_is_the_first_that_works_here_and_the_others_say_why_they_do_not() {
    let state = tempfile::tempdir().unwrap();
    let _alone = ALONE.lock().await;
    let host = host();
    let handlers = Handlers::probe(&config(state.path()), &host).await.unwrap();
    let by_name = |name: &str| handlers.list().iter().find(|one| one.name == name).unwrap().clone();
    let (crun, runc) = (by_name("crun"), by_name("runc"));
    assert_eq!((crun.kind, runc.kind), (Kind::Crun, Kind::Runc));
    assert_eq!(runc.problem, None, "runc works on every cgroup layout");
    assert!(runc.features.recursive_read_only && runc.features.seccomp, "{runc:?}");
    assert!(!runc.version.is_empty());
    // By the other end of the pipe, which is left to its own start.
    assert!(!runc.features.start_fifo);
    assert_eq!(crun.features.start_fifo, crun.problem.is_none(), "{crun:?}");

    let first = if crun.problem.is_none() { "crun" } else { "runc" };
    assert_eq!(handlers.default_name(), Some(first));
    assert_eq!(handlers.get("").unwrap().name, first);
    assert!(
        handlers
            .why_default()
            .starts_with(&format!("{first} is the default handler: the first that works here"))
    );
    if let Some(problem) = &crun.problem {
        // crun 1.8 on a hybrid host whose unified hierarchy has a controller.
        assert_eq!(host.cgroups.layout().version(), Version::Hybrid);
        assert!(problem.contains("unknown controllers"), "{problem}");
        assert!(handlers.why_default().contains(problem));
        assert!(handlers.get("crun").unwrap_err().to_string().contains(problem));
    }
    let unknown = handlers.get("kata").unwrap_err().to_string();
    assert_eq!(unknown, "no runtime handler \"kata\": there are crun, runc");
    assert_eq!(leftovers(state.path(), &host), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn what_is_known_is_not_tried_again_until_the_program_changes() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let calls = directory.path().join("calls");
    let body = format!("echo \"$@\" >> {}\nexec /usr/sbin/runc \"$@\"", calls.display());
    let path = script(directory.path(), "counted", &body);
    let mut config = config(&state);
    config.path = "".into();
    config.handlers.insert(
        "counted".into(),
        HandlerConfig { path: Some(path.clone()), ..HandlerConfig::default() },
    );
    let count = || std::fs::read_to_string(&calls).unwrap_or_default().lines().count();
    let host = host();

    let first = Handlers::probe(&config, &host).await.unwrap();
    assert_eq!(count(), 4, "version, features, create, delete");
    let second = Handlers::probe(&config, &host).await.unwrap();
    assert_eq!(count(), 4);
    assert_eq!(first.list(), second.list());

    script(directory.path(), "counted", &format!("{body}\n# changed"));
    Handlers::probe(&config, &host).await.unwrap();
    assert_eq!(count(), 8);
    std::fs::File::create(state.join("handlers.json")).unwrap().write_all(b"{ torn").unwrap();
    Handlers::probe(&config, &host).await.unwrap();
    assert_eq!(count(), 12, "a damaged file is as good as none");
    config.handlers.get_mut("counted").unwrap().args = vec!["--debug".into()];
    Handlers::probe(&config, &host).await.unwrap();
    assert_eq!(count(), 16, "other arguments may behave otherwise");
}

#[tokio::test]
async fn a_program_that_is_no_oci_runtime_is_found_out_and_not_remembered() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let mut config = config(&state);
    config.path = "".into();
    let mut add = |name: &str, path: PathBuf| {
        config
            .handlers
            .insert(name.into(), HandlerConfig { path: Some(path), ..HandlerConfig::default() });
    };
    add("absent", "/nonexistent/runtime".into());
    add("directory", directory.path().to_owned());
    add("fails", script(directory.path(), "fails", "echo told on stderr >&2\nexit 3"));
    add("silent", script(directory.path(), "silent", "exit 1"));
    add("lies", script(directory.path(), "lies", "head -c 3000000 /dev/zero\nexit 0"));
    config.handlers.insert("unfound".into(), HandlerConfig::default());
    let host = host();
    let handlers = Handlers::probe(&config, &host).await.unwrap();
    let problem = |name: &str| match handlers.get(name).unwrap_err() {
        HandlerError::Broken { problem, .. } => problem,
        other @ (HandlerError::Unknown { .. } | HandlerError::NoDefault { .. }) => {
            panic!("{other}")
        }
    };
    assert_eq!(problem("absent"), "/nonexistent/runtime is no executable file");
    assert!(problem("directory").contains("is no executable file"));
    assert_eq!(problem("unfound"), "there is no executable \"unfound\" in PATH");
    assert_eq!(problem("fails"), "told on stderr");
    assert_eq!(problem("silent"), "it fails to make a trial container and doesn't say why");
    assert!(problem("lies").contains("made no container"), "{}", problem("lies"));
    assert_eq!(handlers.default_name(), None);
    assert!(handlers.get("").unwrap_err().to_string().contains("told on stderr"));
    assert_eq!(leftovers(&state, &host), Vec::<PathBuf>::new());
    let remembered = std::fs::read_to_string(state.join("handlers.json")).unwrap_or_default();
    assert!(!remembered.contains("fails"), "{remembered}");
}

#[tokio::test]
async fn a_default_that_is_not_there_is_an_error_and_one_that_is_broken_stays_the_default() {
    let state = tempfile::tempdir().unwrap();
    let mut config = config(state.path());
    config.default = Some("kata".into());
    let error = Handlers::probe(&config, &host()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "default handler \"kata\" is neither configured nor found: there are crun, runc"
    );
    config.handlers.insert("kata".into(), HandlerConfig::default());
    let handlers = Handlers::probe(&config, &host()).await.unwrap();
    assert_eq!(handlers.default_name(), Some("kata"));
    assert!(matches!(handlers.get(""), Err(HandlerError::Broken { .. })));
    assert!(handlers.get("runc").is_ok());

    config.handlers.insert("../evil".into(), HandlerConfig::default());
    assert!(matches!(Handlers::probe(&config, &host()).await, Err(ProbeError::Name(_))));
}

#[tokio::test]
async fn one_that_hangs_is_given_up_and_holds_up_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let hangs = script(directory.path(), "hangs", "exec sleep 60");
    let began = Instant::now();
    let ended = super::command::ask(&hangs, &["--version"], Duration::from_millis(200)).await;
    assert!(ended.err().unwrap().contains("takes longer than"));
    let stderr = directory.path().join("stderr");
    let command = tokio::process::Command::new(&hangs);
    let ended = super::command::leave(command, &stderr, Duration::from_millis(200)).await;
    assert!(ended.err().unwrap().contains("takes longer than"));
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn probing_is_quick() {
    let state = tempfile::tempdir().unwrap();
    let (config, host) = (config(state.path()), host());
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let _ = std::fs::remove_file(state.path().join("handlers.json"));
        let began = Instant::now();
        Handlers::probe(&config, &host).await.unwrap();
        best = best.min(began.elapsed());
    }
    // A bound against hangs, not a benchmark: the machine is shared.
    assert!(best < Duration::from_secs(2), "{best:?}");
    println!("a first probe takes {best:?}");
    let began = Instant::now();
    Handlers::probe(&config, &host).await.unwrap();
    println!("a second takes {:?}", began.elapsed());
}
