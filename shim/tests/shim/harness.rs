//! A pod under test: a directory, a shim in it, a client of the shim, and containers of busybox.

use davit_proto::disk::{ExitRecord, IdMapping, IdMappings, SHIM_ENV, ShimConfig, VERSION};
use davit_proto::shim::exec_sync_output::Kind;
use davit_proto::shim::shim_client::ShimClient;
use davit_proto::shim::{
    CreateRequest, Event, EventsRequest, ExecSyncEnd, ExecSyncRequest, Exit, OciRuntime, Rootfs,
    SignalRequest, StartRequest, StateRequest, event,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// Longer than anything here takes, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const RUNTIMES: [&str; 2] = ["/usr/bin/crun", "/usr/sbin/runc"];

pub(crate) struct Pod {
    pub(crate) dir: PathBuf,
    pub(crate) name: String,
    pub(crate) client: ShimClient<Channel>,
    pub(crate) runtime: OciRuntime,
    pub(crate) shim: Child,
    /// Of the pod's user namespace.
    mappings: Option<IdMappings>,
    _temporary: tempfile::TempDir,
}

/// How a container differs from the plainest one.
#[derive(Clone)]
pub(crate) struct Container {
    pub(crate) args: Vec<String>,
    pub(crate) request: CreateRequest,
    pub(crate) memory: Option<i64>,
    pub(crate) namespaces: Vec<(&'static str, Option<String>)>,
    pub(crate) mounts: Vec<Value>,
}

pub(crate) fn sh(script: &str) -> Container {
    command(&["/bin/sh", "-c", script])
}

pub(crate) fn command(args: &[&str]) -> Container {
    let request =
        CreateRequest { own_pid_namespace: true, max_log_line: 16384, ..CreateRequest::default() };
    let own = |kind| (kind, None);
    Container {
        args: args.iter().map(|a| (*a).to_owned()).collect(),
        request,
        memory: None,
        namespaces: vec![own("pid"), own("mount"), own("ipc"), own("uts"), own("network")],
        mounts: Vec::new(),
    }
}

pub(crate) fn plain_config(name: &str) -> ShimConfig {
    ShimConfig {
        version: VERSION,
        sandbox: name.to_owned(),
        hostname: None,
        netns: None,
        ipc: false,
        shared_pid: false,
        shm: None,
        shm_size: 0,
        sysctls: BTreeMap::new(),
        optional_sysctls: BTreeMap::new(),
        cgroup_procs: Vec::new(),
        pod_cgroup_procs: Vec::new(),
        oom_score_adj: None,
        userns: None,
        userns_rootfs: None,
    }
}

/// The shim under test: the one built with the tests, unless `DAVIT_SHIM` names another (a release build, to measure).
pub(crate) fn executable() -> PathBuf {
    std::env::var_os("DAVIT_SHIM")
        .map_or_else(|| env!("CARGO_BIN_EXE_davit-shim").into(), PathBuf::from)
}

pub(crate) fn random() -> String {
    let mut bytes = [0; 6];
    getrandom::fill(&mut bytes).unwrap();
    hex::encode(bytes)
}

pub(crate) fn put(path: &Path, text: &str) {
    fs::File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
}

/// crun 1.8 refuses a host where a controller is left to version 2 while others are version 1.
fn please_crun() {
    let hugetlb = Path::new("/sys/fs/cgroup/hugetlb");
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
        || hugetlb.join("cgroup.procs").exists()
    {
        return;
    }
    fs::create_dir_all(hugetlb).unwrap();
    let status = Command::new("mount")
        .args(["-t", "cgroup", "-o", "hugetlb", "cgroup"])
        .arg(hugetlb)
        .status()
        .unwrap();
    assert!(status.success() || hugetlb.join("cgroup.procs").exists(), "mount hugetlb");
}

/// What the shim is started with.
pub(crate) struct Setup {
    pub(crate) temporary: tempfile::TempDir,
    pub(crate) dir: PathBuf,
    pub(crate) name: String,
}

impl Setup {
    pub(crate) fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests need root");
        please_crun();
        let temporary = tempfile::tempdir().unwrap();
        let name = format!("davit-test-{}", random());
        let dir = temporary.path().join(&name);
        let bin = dir.join("layer/bin");
        fs::create_dir_all(&bin).unwrap();
        for below in ["proc", "sys", "dev", "etc", "tmp"] {
            fs::create_dir_all(dir.join("layer").join(below)).unwrap();
        }
        fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
        for applet in [
            "sh", "sleep", "cat", "echo", "tail", "seq", "head", "true", "ls", "yes", "test",
            "stat", "id", "hostname", "stty", "dd", "wc", "tty", "usleep",
        ] {
            std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
        }
        Self { temporary, dir, name }
    }

    /// The shim's process; its standard error goes to `shim.log`.
    pub(crate) fn spawn(&self, config: &ShimConfig, before: &str) -> Child {
        put(&self.dir.join("shim.json"), &serde_json::to_string(config).unwrap());
        let listener = UnixListener::bind(self.dir.join("s")).unwrap();
        let log = fs::File::create(self.dir.join("shim.log")).unwrap();
        let script = format!("{before} exec \"$0\" --pod-dir \"$1\"");
        let mut command = if before.is_empty() {
            Command::new("/bin/sh")
        } else {
            Command::new("/usr/bin/unshare")
        };
        if !before.is_empty() {
            command.args(["-m", "--propagation", "shared", "/bin/sh"]);
        }
        command.arg("-c").arg(script).arg(executable()).arg(&self.dir);
        command.env(SHIM_ENV.0, SHIM_ENV.1);
        command.stdin(Stdio::from(OwnedFd::from(listener))).stdout(Stdio::null()).stderr(log);
        command.spawn().unwrap()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join("shim.log")).unwrap()
    }
}

pub(crate) async fn connect(socket: PathBuf) -> ShimClient<Channel> {
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    ShimClient::new(
        Endpoint::from_static("http://shim").connect_with_connector(connector).await.unwrap(),
    )
}

impl Pod {
    pub(crate) async fn new(runtime: &str) -> Self {
        Self::with(runtime, |_, _| {}).await
    }

    pub(crate) async fn with(runtime: &str, change: impl FnOnce(&mut ShimConfig, &Path)) -> Self {
        Self::start(runtime, change, "").await
    }

    pub(crate) async fn start(
        runtime: &str,
        change: impl FnOnce(&mut ShimConfig, &Path),
        before: &str,
    ) -> Self {
        let setup = Setup::new();
        let mut config = plain_config(&setup.name);
        change(&mut config, &setup.dir);
        let shim = setup.spawn(&config, &before.replace("DIR", &setup.dir.to_string_lossy()));
        let mappings = config.userns.clone();
        if let Some(rootfs) = &config.userns_rootfs {
            fs::create_dir_all(rootfs).unwrap();
            // What mapped users can reach, and nothing else.
            for passage in [setup.temporary.path(), &setup.dir] {
                fs::set_permissions(passage, fs::Permissions::from_mode(0o711)).unwrap();
            }
            fs::set_permissions(setup.dir.join("layer"), fs::Permissions::from_mode(0o700))
                .unwrap();
        }
        let Setup { temporary, dir, name } = setup;
        let root = dir.join("runtime").to_string_lossy().into_owned();
        let runtime = OciRuntime { path: runtime.to_owned(), root, ..OciRuntime::default() };
        let mut client = connect(dir.join("s")).await;
        if let Err(error) = client.state(StateRequest {}).await {
            panic!("{error}: {}", fs::read_to_string(dir.join("shim.log")).unwrap());
        }
        Self { dir, name, client, runtime, shim, mappings, _temporary: temporary }
    }

    pub(crate) fn bundle(&self, id: &str) -> PathBuf {
        self.dir.join("containers").join(id)
    }

    pub(crate) fn log_path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.log"))
    }

    /// Writes the bundle and completes the request.
    pub(crate) fn prepare(&self, id: &str, container: &Container) -> CreateRequest {
        let bundle = self.bundle(id);
        for below in ["upper", "work", "rootfs"] {
            fs::create_dir_all(bundle.join(below)).unwrap();
        }
        put(&bundle.join("config.json"), &self.spec(id, container).to_string());
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let mut request = container.request.clone();
        request.id = id.to_owned();
        request.bundle = text(bundle.clone());
        request.runtime.get_or_insert_with(|| self.runtime.clone());
        request.rootfs.get_or_insert_with(|| Rootfs {
            lower: vec![text(self.dir.join("layer"))],
            upper: text(bundle.join("upper")),
            work: text(bundle.join("work")),
            target: text(self.rootfs(id)),
            ..Rootfs::default()
        });
        if let Some((uid, gid)) = self.mappings.as_ref().and_then(IdMappings::host_root) {
            std::os::unix::fs::chown(bundle.join("upper"), Some(uid), Some(gid)).unwrap();
        }
        match request.log_path.as_str() {
            "" => request.log_path = text(self.log_path(id)),
            "none" => request.log_path.clear(),
            _ => {}
        }
        request
    }

    fn rootfs(&self, id: &str) -> PathBuf {
        match &self.mappings {
            None => self.bundle(id).join("rootfs"),
            Some(_) => self.dir.join("userns-rootfs"),
        }
    }

    fn spec(&self, id: &str, container: &Container) -> Value {
        let namespace = |(kind, path): &(&str, Option<String>)| match path {
            Some(path) => json!({"type": kind, "path": path}),
            None => json!({"type": kind}),
        };
        let mut mounts = vec![
            json!({"destination": "/proc", "type": "proc", "source": "proc"}),
            json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]}),
            json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]}),
        ];
        mounts.extend(container.mounts.iter().cloned());
        let mut resources = json!({"devices": [{"allow": true, "access": "rwm"}]});
        if let Some(limit) = container.memory {
            resources["memory"] = json!({"limit": limit, "swap": limit});
        }
        let mut process = self.process(&container.args);
        process["terminal"] = container.request.terminal.into();
        let ranges = |of: fn(&IdMappings) -> &Vec<IdMapping>| -> Vec<Value> {
            let oci = |one: &IdMapping| json!({"containerID": one.inside, "hostID": one.host, "size": one.length});
            self.mappings.iter().flat_map(of).map(oci).collect()
        };
        json!({
            "ociVersion": "1.0.0",
            "process": process,
            "root": {"path": self.rootfs(id)},
            "mounts": mounts,
            "linux": {
                "rootfsPropagation": if container.mounts.is_empty() { "rprivate" } else { "rslave" },
                "namespaces": container.namespaces.iter().map(namespace).collect::<Vec<_>>(),
                "cgroupsPath": format!("/{}/{id}", self.name),
                "resources": resources,
                "uidMappings": ranges(|both| &both.uids),
                "gidMappings": ranges(|both| &both.gids),
            },
        })
    }

    pub(crate) fn process(&self, args: &[String]) -> Value {
        let mut process =
            json!({"args": args, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}});
        if self.mappings.is_some() {
            let all = ["CAP_CHOWN", "CAP_NET_ADMIN", "CAP_KILL", "CAP_MKNOD", "CAP_DAC_OVERRIDE"];
            process["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
        }
        process
    }

    pub(crate) async fn create(&mut self, id: &str, container: &Container) -> Result<u32, Status> {
        let request = self.prepare(id, container);
        self.client.create(request).await.map(|r| r.into_inner().pid)
    }

    /// Creates and starts; answers the init's pid.
    pub(crate) async fn run(&mut self, id: &str, container: &Container) -> u32 {
        let pid = self.create(id, container).await.unwrap();
        self.client.start(StartRequest { id: id.to_owned(), timeout_ms: 0 }).await.unwrap();
        pid
    }

    /// Runs to the end.
    pub(crate) async fn run_to_end(&mut self, id: &str, container: &Container) -> Exit {
        self.run(id, container).await;
        self.exit(id).await
    }

    /// Waits for the end of a container, by the events.
    pub(crate) async fn exit(&mut self, id: &str) -> Exit {
        let wait = async {
            let mut events = self.client.events(EventsRequest {}).await.unwrap().into_inner();
            loop {
                let Event { id: of, kind } = events.message().await.unwrap().unwrap();
                if let (true, Some(event::Kind::Exited(exit))) = (of == id, kind) {
                    return exit;
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap()
    }

    pub(crate) async fn signal(&mut self, id: &str, signal: u32) -> Result<(), Status> {
        self.client.signal(SignalRequest { id: id.to_owned(), signal, all: false }).await.map(drop)
    }

    pub(crate) async fn signal_all(&mut self, id: &str, signal: u32) -> Result<(), Status> {
        self.client.signal(SignalRequest { id: id.to_owned(), signal, all: true }).await.map(drop)
    }

    pub(crate) async fn delete(&mut self, id: &str) {
        self.client.delete(davit_proto::shim::DeleteRequest { id: id.to_owned() }).await.unwrap();
    }

    pub(crate) fn exec_request(&self, id: &str, args: &[&str]) -> ExecSyncRequest {
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        ExecSyncRequest {
            id: id.to_owned(),
            exec_id: random(),
            process: self.process(&args).to_string().into_bytes(),
            timeout_ms: 0,
            output_limit: 16 << 20,
            drain_ms: 1000,
        }
    }

    pub(crate) async fn exec(
        &mut self,
        request: ExecSyncRequest,
    ) -> Result<(Vec<u8>, Vec<u8>, ExecSyncEnd), Status> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut stream = self.client.exec_sync(request).await?.into_inner();
        while let Some(message) = stream.message().await? {
            match message.kind.unwrap() {
                Kind::Stdout(bytes) => stdout.extend(bytes),
                Kind::Stderr(bytes) => stderr.extend(bytes),
                Kind::End(end) => return Ok((stdout, stderr, end)),
            }
        }
        panic!("the stream ended without an end");
    }

    /// The log's records without their times.
    pub(crate) fn log(&self, id: &str) -> Vec<String> {
        records(&self.log_path(id))
    }

    pub(crate) fn record(&self, id: &str) -> ExitRecord {
        serde_json::from_slice(&fs::read(self.bundle(id).join("exit.json")).unwrap()).unwrap()
    }

    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.shim.id())).unwrap().count()
    }

    /// Ends the shim and checks that nothing is left.
    pub(crate) async fn finish(mut self) {
        self.client.shutdown(davit_proto::shim::ShutdownRequest {}).await.unwrap();
        let shim = &mut self.shim;
        let status = eventually("the shim ends", || shim.try_wait().unwrap()).await;
        assert!(status.success(), "{status}");
        assert_eq!(
            fs::read_to_string(self.dir.join("shim.log")).unwrap(),
            "",
            "what the shim had to say"
        );
        self.check_nothing_is_left();
    }

    pub(crate) fn check_nothing_is_left(&self) {
        // The directory of pins is every pod's: the shim makes it a mount and leaves it one.
        let _ =
            rustix::mount::unmount(self.dir.join("netns"), rustix::mount::UnmountFlags::empty());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&self.name), "{mounts}");
        for file in files_below(&self.dir.join("containers")) {
            let name = file.file_name().unwrap().to_str().unwrap();
            assert!(["config.json", "exit.json"].contains(&name), "{} is left", file.display());
        }
        assert_eq!(
            files_below(&self.dir.join("runtime")),
            Vec::<PathBuf>::new(),
            "the runtime's state"
        );
        assert_eq!(self.processes(), Vec::<i32>::new(), "processes");
        for group in cgroups(&self.name) {
            fs::remove_dir(&group).unwrap_or_else(|e| panic!("{}: {e}", group.display()));
        }
    }

    /// Everybody in a cgroup of the pod's.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let own = |pid: &i32| {
            fs::read_to_string(format!("/proc/{pid}/cgroup"))
                .is_ok_and(|text| text.contains(&self.name))
                && fs::read_to_string(format!("/proc/{pid}/stat"))
                    .is_ok_and(|text| !text.contains(") Z "))
        };
        let pids = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|e| e.unwrap().file_name().to_str()?.parse().ok());
        pids.filter(own).collect()
    }
}

impl Drop for Pod {
    /// After a failed test: end what it started.
    fn drop(&mut self) {
        let _ = self.shim.kill();
        let _ = self.shim.wait();
        for pid in self.processes() {
            let _ = rustix::process::kill_process(
                rustix::process::Pid::from_raw(pid).unwrap(),
                rustix::process::Signal::KILL,
            );
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let below = mounts
            .lines()
            .filter_map(|l| l.split(' ').nth(4))
            .filter(|path| path.contains(&self.name));
        for path in below.collect::<Vec<_>>().into_iter().rev() {
            let _ = rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH);
        }
        for _ in 0..50 {
            let left = cgroups(&self.name);
            let failed = left.iter().rev().flat_map(|g| {
                let below = fs::read_dir(g)
                    .into_iter()
                    .flatten()
                    .flatten()
                    .map(|e| e.path())
                    .filter(|p| p.is_dir());
                below.chain([g.clone()]).map(fs::remove_dir).collect::<Vec<_>>()
            });
            if !failed.collect::<Vec<_>>().iter().any(Result::is_err) {
                break;
            }
            let pause = rustix::thread::Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
            let _ = rustix::thread::nanosleep(&pause);
        }
    }
}

pub(crate) fn records(path: &Path) -> Vec<String> {
    let text = String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
    text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
}

fn cgroups(name: &str) -> Vec<PathBuf> {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().map(|e| e.unwrap().path().join(name));
    hierarchies.chain([Path::new("/sys/fs/cgroup").join(name)]).filter(|p| p.is_dir()).collect()
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let entry = entry.unwrap();
        let skip = ["upper", "work", "rootfs"].contains(&entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            if !skip {
                found.extend(files_below(&entry.path()));
            }
        } else {
            found.push(entry.path());
        }
    }
    found
}

/// Asks until there is an answer.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|text| !text.contains(") Z "))
}
