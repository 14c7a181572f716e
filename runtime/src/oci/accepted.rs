//! That real OCI runtimes accept what is built here, and do as it says: crun and runc make, run and delete containers from these specs.
//! These need root, both runtimes and busybox.

use super::handlers::{Features, Handler, Kind};
use super::testing::{ALONE, Given};
use super::*;
use crate::cgroup::{Driver, Group};
use crate::container::{
    AppArmor, MountSource, MountSpec, Propagation, ReadOnly, Resources, RunAs, Seccomp,
};
use crate::sandbox::{CgroupParent, NetworkMode};
use std::collections::HashMap;
use std::io::Write as _;
use std::process::{Child, Command, Stdio};

/// What a container prints about itself, one `key=value` per line.
const REPORT: &str = "\
    echo uid=$(id -u); echo gid=$(id -g); echo groups=$(id -G); echo cwd=$(pwd); echo home=$HOME; echo path=$PATH; \
    echo hostname=$(hostname); echo pid=$$; echo soft=$(ulimit -Sn); echo hard=$(ulimit -Hn); \
    echo score=$(cat /proc/self/oom_score_adj); \
    while read -r k v; do case $k in Cap*|NoNewPrivs:|Seccomp:) echo $k=$v;; esac; done < /proc/self/status; \
    touch /x 2>/dev/null && echo root=rw || echo root=ro; \
    touch /data/x 2>/dev/null && echo data=rw || echo data=ro; \
    touch /sys/x 2>/dev/null; mount | grep -q 'on /sys type sysfs (ro' && echo sys=ro || echo sys=rw; \
    echo masked=$(cat /proc/timer_list 2>/dev/null | wc -c); \
    test -w /proc/sys/vm/swappiness && echo procsys=rw || echo procsys=ro; \
    unshare -n true 2>/dev/null && echo unshare=yes || echo unshare=no; \
    hostname changed 2>/dev/null && echo sethostname=yes || echo sethostname=no; hostname $HOSTNAME 2>/dev/null; \
    test -c /dev/kmsg && echo kmsg=yes || echo kmsg=no; \
    while IFS=: read -r _ c p; do echo cgroup-$c=$p; done < /proc/self/cgroup; true";

/// crun refuses a hybrid host on which the unified hierarchy has a controller. In a mount namespace of its own that controller can be
/// given a hierarchy, without changing anything that others see.
const WITHOUT_UNIFIED_CONTROLLERS: &str = r#"
if [ -s /sys/fs/cgroup/unified/cgroup.controllers ] && [ ! -d /sys/fs/cgroup/hugetlb ]; then
    t=$(mktemp -d)
    mount -t tmpfs none "$t"
    for d in /sys/fs/cgroup/*; do n=${d##*/}; mkdir "$t/$n"; mount --bind "$d" "$t/$n"; done
    mkdir "$t/hugetlb"
    mount -t cgroup -o hugetlb cgroup "$t/hugetlb"
    mount --move "$t" /sys/fs/cgroup
    rmdir "$t"
fi
"#;

/// Create, start, wait, delete: the arguments are the runtime, its root, the bundle, the id and the pod's cgroup.
const LIFE: &str = r#"
r=$1 root=$2 bundle=$3 id=$4 group=$5
ulimit -Sn 1024
trap '"$r" --root "$root" delete --force "$id" > /dev/null 2>&1' EXIT
"$r" --root "$root" create --bundle "$bundle" --pid-file "$bundle/pid" "$id" > "$bundle/out" 2> "$bundle/err" < /dev/null
"$r" --root "$root" start "$id"
if [ -e "$bundle/exec.json" ]; then
    "$r" --root "$root" exec --process "$bundle/exec.json" "$id" > "$bundle/out" 2>> "$bundle/err" < /dev/null
    "$r" --root "$root" kill "$id" KILL
fi
n=0
until "$r" --root "$root" state "$id" | grep -q '"status": "stopped"'; do n=$((n + 1)); [ $n -lt 200 ]; sleep 0.05; done
"$r" --root "$root" delete "$id"
trap - EXIT
[ ! -d "/sys/fs/cgroup/hugetlb/$group" ] || find "/sys/fs/cgroup/hugetlb/${group%%/*}" -depth -type d -exec rmdir {} +
"#;

/// Namespaces to join, as a pod's shim holds them.
struct Pod(Child);

impl Pod {
    fn new() -> Self {
        let script = "hostname web && echo ready && exec sleep 300";
        let mut child = Command::new("unshare")
            .args(["--net", "--ipc", "--uts", "sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }

    fn namespace(&self, kind: &str) -> Option<PathBuf> {
        Some(format!("/proc/{}/ns/{kind}", self.0.id()).into())
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::File::create(path).unwrap().write_all(bytes).unwrap();
}

/// A root of busybox and what it is linked to.
fn rootfs(at: &Path) {
    for directory in ["bin", "etc", "proc", "sys", "dev", "tmp"] {
        std::fs::create_dir_all(at.join(directory)).unwrap();
    }
    let found = Command::new("sh").args(["-c", "command -v busybox"]).output().unwrap();
    let busybox = PathBuf::from(String::from_utf8(found.stdout).unwrap().trim());
    assert!(busybox.is_absolute(), "this test needs busybox: install Debian's busybox-static");
    std::fs::copy(&busybox, at.join("bin/busybox")).unwrap();
    for applet in
        ["sh", "id", "cat", "touch", "mount", "grep", "wc", "hostname", "unshare", "true", "sleep"]
    {
        std::fs::hard_link(at.join("bin/busybox"), at.join("bin").join(applet)).unwrap();
    }
    let linked = Command::new("ldd").arg(&busybox).output().unwrap();
    for word in String::from_utf8(linked.stdout)
        .unwrap()
        .split_ascii_whitespace()
        .filter(|word| word.starts_with('/'))
    {
        let to = at.join(word.trim_start_matches('/'));
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(word, to).unwrap();
    }
}

fn runtimes() -> [Handler; 2] {
    [("crun", Kind::Crun), ("runc", Kind::Runc)].map(|(name, kind)| {
        let found =
            Command::new("sh").args(["-c", &format!("command -v {name}")]).output().unwrap();
        let path = PathBuf::from(String::from_utf8(found.stdout).unwrap().trim());
        assert!(path.is_absolute(), "this test needs {name}");
        let features = Features { recursive_read_only: true, seccomp: true, ..Features::default() };
        Handler { name: name.into(), path, kind, features, ..super::testing::handler() }
    })
}

/// Whether it was built by a Go that raises its soft limit of open files as it starts, and does not put that back for the command that it becomes: from 1.19 on, until
/// 1.19.9 and 1.20.4 (Go's issue 46279).
fn raises_files(handler: &Handler) -> bool {
    let told = Command::new(&handler.path).arg("--version").output().unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    let Some(go) = told.lines().find_map(|line| line.strip_prefix("go: go")) else { return false };
    let mut numbers = go.split('.').map(|number| number.trim().parse().unwrap_or(0_u32));
    let mut next = || numbers.next().unwrap_or(0);
    match (next(), next(), next()) {
        (1, 19, patch) => patch < 9,
        (1, 20, patch) => patch < 4,
        _ => false,
    }
}

struct Run {
    directory: tempfile::TempDir,
    /// Held for its namespaces.
    _pod: Pod,
    group: Group,
    made: Vec<PathBuf>,
    given: Given,
    /// Run beside the container's own command, and its output read instead.
    exec: Option<Vec<String>>,
}

impl Run {
    async fn new(handler: Handler) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().to_owned();
        rootfs(&at.join("rootfs"));
        for name in ["shm", "data", "root"] {
            std::fs::create_dir(at.join(name)).unwrap();
        }
        write(&at.join("hostname"), b"web\n");
        write(&at.join("resolv.conf"), b"nameserver 192.0.2.1\n");
        let pod = Pod::new();
        let mut given = Given::new();
        given.host = Host::probe(&HostConfig {
            cgroup_driver: Some(Driver::Cgroupfs),
            ..HostConfig::default()
        })
        .unwrap();
        given.handler = handler;
        given.rootfs = at.join("rootfs");
        given.pod = PodPaths {
            userns: None,
            netns: pod.namespace("net"),
            ipcns: pod.namespace("ipc"),
            utsns: pod.namespace("uts"),
            pidns: None,
            shm: Some(at.join("shm")),
            hostname_file: Some(at.join("hostname")),
            resolv_conf: Some(at.join("resolv.conf")),
            hostname: "web".into(),
        };
        let name = format!(
            "/davit-test-oci-{}/pod",
            at.file_name().unwrap().to_str().unwrap().trim_start_matches('.')
        );
        given.sandbox.cgroup_parent = Some(CgroupParent::try_from(name).unwrap());
        let sandbox_id = SandboxId::random().unwrap();
        let group = given.host.pod_group(&sandbox_id, &given.sandbox).unwrap();
        let made = given.host.cgroups.ensure(&group).await.unwrap().made;
        given.container.command = vec!["sh".into(), "-c".into(), REPORT.into()];
        Self { directory, _pod: pod, group, made, given, exec: None }
    }

    /// Runs the container through its life, and reads what it printed.
    fn report(&self) -> HashMap<String, String> {
        let at = self.directory.path();
        let built = self.given.build().unwrap();
        assert_eq!(built.warnings, Vec::<String>::new());
        // The shim's part: directories that the image lacks.
        for directory in &built.make_dirs {
            std::fs::create_dir_all(
                at.join("rootfs").join(directory.path.strip_prefix("/").unwrap()),
            )
            .unwrap();
        }
        write(&at.join("config.json"), &serde_json::to_vec(&built.spec).unwrap());
        if let Some(command) = &self.exec {
            let process = exec_process(
                &built.spec,
                command,
                Terminal::No,
                &Default::default(),
                &Default::default(),
            )
            .unwrap();
            write(&at.join("exec.json"), &serde_json::to_vec(&process).unwrap());
        }
        let status = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-eu", "-c"])
            .arg(format!("{WITHOUT_UNIFIED_CONTROLLERS}{LIFE}"))
            .arg("life")
            .args([&self.given.handler.path, &at.join("root"), at])
            .arg(ContainerId::random().unwrap().as_str())
            .arg(self.group.path())
            .output()
            .unwrap();
        let read = |name: &str| std::fs::read_to_string(at.join(name)).unwrap_or_default();
        let (out, err) = (read("out"), read("err"));
        let told = String::from_utf8_lossy(&status.stderr);
        assert!(status.status.success(), "{}: {err}{out}{told}", self.given.handler.name);
        out.lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.into(), value.into()))
            .collect()
    }

    async fn end(self) {
        assert_eq!(
            self.given.host.cgroups.remove(&self.made).await.unwrap(),
            Vec::<PathBuf>::new()
        );
    }
}

impl Drop for Run {
    /// After a failure, too.
    fn drop(&mut self) {
        for path in self.made.iter().rev() {
            let _gone_already = std::fs::remove_dir(path);
        }
    }
}

fn bind(source: &Path, destination: &str, readonly: ReadOnly) -> MountSpec {
    MountSpec {
        container_path: destination.into(),
        source: MountSource::Host(source.to_owned()),
        readonly,
        propagation: Propagation::Private,
        selinux_relabel: false,
        id_mappings: None,
    }
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a list of what is asked and of what is found")]
async fn a_confined_container_is_made_by_crun_and_by_runc_and_is_as_asked() {
    let _alone = ALONE.lock().await;
    for handler in runtimes() {
        let name = handler.name.clone();
        let mut run = Run::new(handler).await;
        let data = run.directory.path().join("data");
        let container = &mut run.given.container;
        container.mounts = vec![bind(&data, "/data", ReadOnly::Recursive)];
        container.working_dir = Some("/srv/app".into());
        container.envs = vec![("PATH".into(), "/bin".into())];
        container.resources = Resources {
            cpu_shares: 512,
            cpu_period: 100_000,
            cpu_quota: 50_000,
            memory_limit: 64 << 20,
            oom_score_adj: 900,
            ..Resources::default()
        };
        let security = &mut container.security;
        security.run_as = RunAs::Name { name: "app".into(), gid: None };
        security.supplemental_groups = vec![1234];
        security.readonly_rootfs = true;
        security.no_new_privs = true;
        security.seccomp = Seccomp::RuntimeDefault;
        security.masked_paths = vec!["/proc/timer_list".into(), "/proc/not-there".into()];
        security.readonly_paths = vec!["/proc/sys".into()];

        let report = run.report();
        let is = |key: &str, value: &str| {
            assert_eq!(report.get(key).map(String::as_str), Some(value), "{name} {key}: {report:?}")
        };
        is("uid", "1000");
        is("gid", "1000");
        // The kernel keeps them sorted, but for the primary one.
        is("groups", "1000 1234 50000");
        is("cwd", "/srv/app");
        is("home", "/home/app");
        is("path", "/bin");
        is("hostname", "web");
        is("pid", "1");
        is("soft", &run.given.host.nofile.0.to_string());
        is("hard", &run.given.host.nofile.1.to_string());
        is("score", "900");
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            is(set, "0000000000000000");
        }
        is("CapBnd:", "00000000a80425fb");
        is("NoNewPrivs:", "1");
        is("Seccomp:", "2");
        is("root", "ro");
        is("data", "ro");
        is("sys", "ro");
        is("masked", "0");
        is("procsys", "ro");
        is("unshare", "no");
        is("sethostname", "no");
        is("kmsg", "no");
        let pod = format!("/{}/", run.group.path().display());
        assert!(
            report
                .get("cgroup-memory")
                .or_else(|| report.get("cgroup-"))
                .unwrap()
                .starts_with(&pod),
            "{report:?}"
        );
        run.end().await;
    }
}

#[tokio::test]
async fn a_privileged_container_is_made_by_crun_and_by_runc_and_can_do_what_davit_can() {
    let _alone = ALONE.lock().await;
    for handler in runtimes() {
        let name = handler.name.clone();
        let mut run = Run::new(handler).await;
        let data = run.directory.path().join("data");
        run.given.sandbox.security.privileged = true;
        let container = &mut run.given.container;
        container.mounts = vec![bind(&data, "/data", ReadOnly::No)];
        let security = &mut container.security;
        security.privileged = true;
        security.seccomp = Seccomp::RuntimeDefault;
        security.apparmor = AppArmor::Localhost("not-loaded".into());
        security.masked_paths = vec!["/proc/timer_list".into()];
        security.capabilities.add_ambient = vec!["NET_ADMIN".into()];

        let report = run.report();
        let is = |key: &str, value: &str| {
            assert_eq!(report.get(key).map(String::as_str), Some(value), "{name} {key}: {report:?}")
        };
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let own = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap().trim();
        is("uid", "0");
        is("groups", "0");
        is("CapBnd:", own);
        is("CapEff:", own);
        is("CapAmb:", "0000000000001000");
        is("CapInh:", "0000000000001000");
        is("Seccomp:", "0");
        is("NoNewPrivs:", "0");
        is("root", "rw");
        is("data", "rw");
        is("sys", "rw");
        is("unshare", "yes");
        is("kmsg", "yes");
        assert_ne!(report.get("masked").unwrap(), "0");
        assert!(data.join("x").exists());
        run.end().await;
    }
}

#[tokio::test]
async fn an_exec_in_crun_and_in_runc_has_no_more_than_the_containers_own_process() {
    let _alone = ALONE.lock().await;
    for handler in runtimes() {
        let name = handler.name.clone();
        let mut run = Run::new(handler).await;
        let container = &mut run.given.container;
        run.exec =
            Some(std::mem::replace(&mut container.command, vec!["sleep".into(), "60".into()]));
        container.envs = vec![("PATH".into(), "/bin".into())];
        container.working_dir = Some("/tmp".into());
        let security = &mut container.security;
        security.run_as = RunAs::Uid { uid: 1000, gid: Some(7) };
        security.no_new_privs = true;
        security.seccomp = Seccomp::RuntimeDefault;
        security.capabilities.drop = vec!["ALL".into()];
        security.capabilities.add_ambient = vec!["NET_BIND_SERVICE".into()];

        let report = run.report();
        let is = |key: &str, value: &str| {
            assert_eq!(report.get(key).map(String::as_str), Some(value), "{name} {key}: {report:?}")
        };
        is("uid", "1000");
        is("gid", "7");
        is("groups", "7 50000");
        is("cwd", "/tmp");
        is("home", "/home/app");
        is("NoNewPrivs:", "1");
        is("Seccomp:", "2");
        is("hard", &run.given.host.nofile.1.to_string());
        // Where its cgroups are joined at once, such a runc sets the limit first and raises it then, as Linux lets whoever has that hard limit.
        if !raises_files(&run.given.handler) || report.get("soft") != report.get("hard") {
            is("soft", "1024");
        }
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            is(set, "0000000000000400");
        }
        run.end().await;
    }
}

#[tokio::test]
async fn a_container_in_the_hosts_namespaces_is_made_by_crun_and_by_runc() {
    let _alone = ALONE.lock().await;
    for handler in runtimes() {
        let name = handler.name.clone();
        let mut run = Run::new(handler).await;
        run.given.sandbox.network = NetworkMode::Host;
        run.given.sandbox.host_ipc = true;
        run.given.container.security.pid = crate::container::ContainerPid::Host;
        run.given.pod = PodPaths { hostname: "host".into(), ..PodPaths::default() };
        let report = run.report();
        let host = rustix::system::uname();
        assert_eq!(report["hostname"], host.nodename().to_str().unwrap(), "{name}");
        assert_ne!(report["pid"], "1", "{name}");
        run.end().await;
    }
}
