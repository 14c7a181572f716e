//! A davit of the test's own.
//!
//! Owns one `davit serve`: its configuration (own roots, socket, bridge, subnet, nft table, cgroups, so that many run side by
//! side), its process and its log. Ends it with SIGTERM ([`Daemon::stop`]) or without a word ([`Daemon::kill`]) and starts it again on
//! the same state.
//!
//! Invariant: no two daemons of this machine share a name. The subnet's number is locked in the cache folder for as long as the
//! [`Daemon`] lives; all other names come from the test's directory, which is unique.

use crate::disk::LET_GO;
use crate::host::{self, eventually};
use crate::subnet::{self, Room, SubnetLock};
use crate::tools;
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a daemon may take until its socket answers.
const START: Duration = Duration::from_secs(60);
/// How long it may take to end: it lets running calls finish for 15 s.
const STOP: Duration = Duration::from_secs(20);

/// The socket of another CRI runtime (`DAVIT_PEER`), which then takes the place of davit: a test that fails there is a wrong test, or
/// one of what only davit promises. Nobody looks for leaks then.
#[must_use]
pub fn peer() -> Option<PathBuf> {
    std::env::var_os("DAVIT_PEER").map(PathBuf::from)
}

/// How a daemon is to be set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Holds everything of this daemon; its last part is the name of all that cannot be in a directory.
    pub dir: PathBuf,
    /// The OCI runtime of pods that name none.
    pub handler: String,
    /// CNI configurations; an empty directory stands for the built-in bridge.
    pub cni_conf_dir: PathBuf,
    /// CNI plugins.
    pub cni_bin_dir: PathBuf,
    /// Lines of TOML for the end of the configuration: tables such as `[handlers.NAME]`, or `[timeouts]`.
    pub tables: String,
    /// Lines of TOML for its start: keys of the top level.
    pub keys: String,
    /// Set in the daemon's environment.
    pub env: Vec<(String, String)>,
    /// Where `davit` and `davit-shim` are; `None` for the usual ones.
    pub binaries: Option<PathBuf>,
    /// Disks that the test has mounted in the directory: no leaks of the daemon's, and unmounted after it.
    pub disks: Vec<PathBuf>,
    /// Where it listens besides its socket: `tcp://…`.
    pub listen: Vec<String>,
    /// A file that is this machine's boot id to the daemon; `None` for the true one.
    pub boot_id: Option<PathBuf>,
    /// How many addresses its pods have.
    pub room: Room,
    /// The subnet of plugins, ours while this is there.
    plugins: Arc<Mutex<Option<(SubnetLock, String)>>>,
}

impl Settings {
    /// Makes a handler of this script's lines and, after them, the OCI runtime the default, with this limit, in seconds, for its calls.
    ///
    /// # Errors
    /// If there is no such OCI runtime, or the script can't be written.
    pub fn wrap_runtime(&mut self, lines: &str, limit: u64) -> Result<()> {
        let real = tools::oci_runtime(&self.handler)?;
        let wrapper = self.dir.join("runtime");
        host::script(&wrapper, &format!("{lines}\nexec {} \"$@\"", real.display()))?;
        self.tables = format!(
            "[timeouts]\nruntime = \"{limit}s\"\n[handlers.wrapped]\nkind = \"oci\"\npath = {wrapper:?}\n"
        );
        "wrapped".clone_into(&mut self.handler);
        Ok(())
    }

    /// What suits a test in `dir` with this OCI runtime.
    #[must_use]
    pub fn new(dir: &Path, handler: &str) -> Self {
        Self {
            dir: dir.to_owned(),
            handler: handler.to_owned(),
            cni_conf_dir: dir.join("cni"),
            cni_bin_dir: PathBuf::from("/usr/lib/cni"),
            tables: String::new(),
            keys: String::new(),
            env: Vec::new(),
            binaries: None,
            disks: Vec::new(),
            listen: Vec::new(),
            boot_id: None,
            room: Room::Usual,
            plugins: Arc::default(),
        }
    }

    /// A subnet for CNI plugins, the same each time, for as long as these settings are there.
    pub(crate) fn plugins_subnet(&self) -> Result<String> {
        let mut taken = self.plugins.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.is_none() {
            *taken = Some(subnet::take(Room::Usual)?);
        }
        taken.as_ref().map(|(_, subnet)| subnet.clone()).context("it was taken just now")
    }

    /// The name of the bridge, the nft table and, with an ending, the cgroups.
    #[must_use]
    pub fn tag(&self) -> String {
        self.dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// `--root`.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// `--state`.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// The socket: of this daemon, or of the other runtime that [`peer`] names.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        peer().unwrap_or_else(|| self.own_socket())
    }

    fn own_socket(&self) -> PathBuf {
        self.state().join("davit.sock")
    }

    /// Where network namespaces are pinned.
    #[must_use]
    pub fn netns_dir(&self) -> PathBuf {
        self.dir.join("pins/netns")
    }

    /// Where registries' hosts.toml files are.
    #[must_use]
    pub fn registry_config_dir(&self) -> PathBuf {
        let shared = std::env::var_os("DAVIT_PEER_CERTS").map(PathBuf::from);
        shared.unwrap_or_else(|| self.dir.join("certs.d"))
    }

    /// The daemon's standard error.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.dir.join("davit.log")
    }

    /// The configuration's file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.dir.join("config.toml")
    }

    fn write_config(&self, shim: &Path, subnet: &str) -> Result<()> {
        let tag = self.tag();
        let mut text = String::new();
        let mut key = |name: &str, value: &str| writeln!(text, "{name} = {value:?}");
        key("netns_dir", &self.netns_dir().to_string_lossy())?;
        key("shim", &shim.to_string_lossy())?;
        key("shim_cgroup", &format!("{tag}-shims"))?;
        key("pod_cgroup_parent", &format!("{tag}-pods"))?;
        text.push_str(&self.keys);
        writeln!(text, "[bridge]\nname = {tag:?}\nsubnet = {subnet:?}\ntable = {tag:?}")?;
        text.push_str(&self.tables);
        crate::registry::write_whole(&self.config(), text.as_bytes())
    }
}

/// A davit that runs, or ran.
#[derive(Debug)]
pub struct Daemon {
    settings: Settings,
    binaries: PathBuf,
    child: Option<Child>,
    /// The subnet, ours while this is there.
    _subnet: SubnetLock,
    subnet: String,
}

impl Daemon {
    /// Starts one and waits until its socket takes connections.
    ///
    /// # Errors
    /// If it cannot be started, ends at once, or does not listen in time; its log is in the message.
    pub fn start(settings: Settings) -> Result<Self> {
        let binaries = match (&settings.binaries, peer()) {
            (Some(own), _) => own.clone(),
            (None, None) => tools::binaries()?,
            (None, Some(_)) => PathBuf::new(),
        };
        for dir in [&settings.cni_conf_dir, &settings.netns_dir(), &settings.registry_config_dir()]
        {
            std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        }
        let (lock, subnet) = subnet::take(settings.room)?;
        settings.write_config(&binaries.join("davit-shim"), &subnet)?;
        let mut daemon = Self { settings, binaries, child: None, _subnet: lock, subnet };
        if peer().is_none() {
            daemon.spawn()?;
        }
        Ok(daemon)
    }

    /// Its setup.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The subnet of its built-in bridge.
    #[must_use]
    pub fn subnet(&self) -> &str {
        &self.subnet
    }

    /// Changes what is set in its environment from the next start on.
    pub fn set_env(&mut self, env: Vec<(String, String)>) {
        self.settings.env = env;
    }

    /// Makes it, from the next start on, the `davit` in this directory with the `davit-shim` beside it.
    ///
    /// # Errors
    /// If its configuration can't be written.
    pub fn use_binaries(&mut self, directory: &Path) -> Result<()> {
        directory.clone_into(&mut self.binaries);
        self.settings.write_config(&self.binaries.join("davit-shim"), &self.subnet)
    }

    /// Makes it find this file's content as the machine's boot id from the next start on: in a mount namespace of its own.
    pub fn set_boot_id(&mut self, file: PathBuf) {
        self.settings.boot_id = Some(file);
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// If it does not run, or goes on.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        let child = self.child.as_mut().context("davit serve is not running")?;
        let ended = eventually(within, "davit serve ends by itself", || Ok(child.try_wait()?))?;
        self.child = None;
        Ok(ended)
    }

    /// Its pid, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// A command of the same `davit`, told where the daemon listens.
    #[must_use]
    pub fn davit(&self) -> Command {
        let mut command = Command::new(self.binaries.join("davit"));
        command.env("DAVIT_ADDRESS", format!("unix://{}", self.settings.socket().display()));
        command
    }

    /// Starts it again after [`Self::stop`] or [`Self::kill`].
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn spawn(&mut self) -> Result<()> {
        self.launch()?;
        self.wait_until_ready()
    }

    /// As [`Self::spawn`], without waiting until it listens.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn launch(&mut self) -> Result<()> {
        let log = self.settings.log();
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("open {}", log.display()))?;
        let mut command = self.in_its_boot(self.davit());
        command.arg("serve");
        for (flag, value) in [
            ("--config", self.settings.config()),
            ("--root", self.settings.root()),
            ("--state", self.settings.state()),
            ("--cni-conf-dir", self.settings.cni_conf_dir.clone()),
            ("--cni-bin-dir", self.settings.cni_bin_dir.clone()),
            ("--registry-config-dir", self.settings.registry_config_dir()),
            ("--default-handler", PathBuf::from(&self.settings.handler)),
            ("--pidfile", self.settings.dir.join("davit.pid")),
        ] {
            command.arg(flag).arg(value);
        }
        command.arg("--listen").arg(format!("unix://{}", self.settings.socket().display()));
        for address in &self.settings.listen {
            command.arg("--listen").arg(address);
        }
        command.envs(self.settings.env.iter().cloned());
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        self.child = Some(command.spawn().context("start davit serve")?);
        Ok(())
    }

    /// The same command where the kernel shows the boot id that is wanted. It stays one process: its pid is davit's.
    fn in_its_boot(&self, davit: Command) -> Command {
        let Some(boot_id) = &self.settings.boot_id else { return davit };
        let script = format!(
            r#"own=${{0%/*}}; {LET_GO}
            mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@""#
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
        command.arg(boot_id).arg(davit.get_program());
        let env = davit.get_envs().filter_map(|(key, value)| Some((key, value?)));
        command.envs(env);
        command
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let socket = self.settings.socket();
        let child = self.child.as_mut().context("davit serve is not started")?;
        let ready = eventually(START, "davit serve listens", || {
            if let Some(status) = child.try_wait().context("look after davit serve")? {
                bail!("davit serve ended at once: {status}");
            }
            // A process that the daemon before was just starting when it was killed may hold its listener for a moment.
            Ok(listens(&socket, child.id()).then_some(()))
        });
        ready.map_err(|error| error.context(self.log_tail()))
    }

    /// Ends it with SIGTERM and checks that it says it ended well.
    ///
    /// # Errors
    /// If it does not end in time (it is killed then) or not with 0.
    pub fn stop(&mut self) -> Result<()> {
        let status = self.end(Signal::TERM)?;
        if !status.success() {
            bail!("davit serve ended with {status} on SIGTERM\n{}", self.log_tail());
        }
        Ok(())
    }

    /// Ends it with SIGKILL.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.end(Signal::KILL).map(drop)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// If it does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        kill_process(pid.context("davit serve is not running")?, signal)
            .context("signal davit serve")
    }

    fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        self.signal(signal)?;
        let mut child = self.child.take().context("davit serve is not running")?;
        let ended = eventually(STOP, "davit serve ends", || Ok(child.try_wait()?));
        if ended.is_err() {
            child.kill().context("kill davit serve")?;
            child.wait().context("wait for davit serve")?;
        }
        ended.map_err(|error| error.context(self.log_tail()))
    }

    /// All that it has written so far.
    #[must_use]
    pub fn log(&self) -> String {
        host::read_optional(&self.settings.log()).ok().flatten().unwrap_or_default()
    }

    /// The end of its log, for a message.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let from = lines.len().saturating_sub(40);
        format!("the end of davit's log:\n{}", lines.get(from..).unwrap_or_default().join("\n"))
    }

    /// Lines of its log that no test should see: warnings and errors that hold none of the `allowed` texts.
    #[must_use]
    pub fn complaints(&self, allowed: &[String]) -> Vec<String> {
        let complaint = |line: &&str| {
            let mut words = line.split_whitespace().take(3);
            words.any(|word| matches!(word, "WARN" | "ERROR")) || line.contains("panicked at")
        };
        let expected = |line: &&str| allowed.iter().any(|text| line.contains(text.as_str()));
        self.log()
            .lines()
            .filter(complaint)
            .filter(|line| !expected(line))
            .map(str::to_owned)
            .collect()
    }
}

/// Whether it is this process that listens on the socket.
fn listens(socket: &Path, pid: u32) -> bool {
    let Ok(stream) = std::os::unix::net::UnixStream::connect(socket) else { return false };
    rustix::net::sockopt::socket_peercred(&stream)
        .is_ok_and(|listener| u32::try_from(listener.pid.as_raw_pid()) == Ok(pid))
}

impl Drop for Daemon {
    /// For a test that could not be finished: nothing of it may go on running.
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}
