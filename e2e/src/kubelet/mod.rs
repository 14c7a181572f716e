//! A kubelet of the test's own, without an API server: it runs the pods whose manifests are in a directory.
//!
//! Owns one kubelet next to the test's davit: its configuration (own directories, ports, node name and root cgroup, so that many
//! run side by side), its process, its log (`log`), what it changes on the machine (`tunables`, `cgroups`) and its end (`ending`); [`Api`] asks
//! it, [`Pod`] reads what it says about a pod. Its end takes away every pod, and fails the test if anything is left, or if the log has an
//! error that is not accounted for.
//!
//! ```text
//! kubelet::run(t, |_config| (), |k| {
//!     k.put("web", json!({"containers": [{"name": "main", "image": t.pull("davit-test/busybox:latest")?}]}))?;
//!     k.until("web", "runs", |pod| pod.phase() == "Running")?;
//!     Ok(())
//! })?;
//! ```

mod api;
mod cgroups;
mod ending;
mod log;
mod pod;
mod socket;
mod tunables;

pub use api::{Answer, Api};
pub use pod::{Pod, container, shell};
pub use socket::{Frame, Socket};

use crate::host::{self, eventually, free_port};
use crate::registry::write_whole;
use crate::test::Test;
use crate::tools;
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long it may take until it answers.
const START: Duration = Duration::from_secs(30);
/// How long it may take to end.
const STOP: Duration = Duration::from_secs(20);
/// How long it may take until a pod is as expected; what takes longest is a back-off.
const POD: Duration = Duration::from_secs(60);
/// Pods of these tests are in this namespace.
pub const NAMESPACE: &str = "e2e";

/// A kubelet that runs, or ran.
#[derive(Debug)]
pub struct Kubelet<'t> {
    /// The test with the davit that it drives.
    pub test: &'t Test,
    /// Asks it.
    pub api: Api,
    dir: PathBuf,
    node: String,
    child: Mutex<Option<Child>>,
    config: Mutex<Value>,
    allowed: Mutex<Vec<log::Allowed>>,
    _tunables: tunables::Tunables,
}

/// Runs a test's body on a kubelet of its own, and looks for what is left of it afterwards, however the body ended.
///
/// # Errors
/// The body's, and everything that is wrong afterwards.
pub fn run(
    test: &Test,
    setup: impl FnOnce(&mut Value),
    body: impl FnOnce(&Kubelet<'_>) -> Result<()>,
) -> Result<()> {
    let kubelet = Kubelet::new(test, setup)?;
    let mut problems = Vec::new();
    let outcome = kubelet.spawn().map(|()| catch_unwind(AssertUnwindSafe(|| body(&kubelet))));
    match outcome {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) | Err(error) => problems.push(format!("{error:?}")),
        Ok(Err(_)) => problems.push("the test panicked (above)".to_owned()),
    }
    kubelet.finish(&mut problems);
    if problems.is_empty() {
        return Ok(());
    }
    problems.push(kubelet.log_tail());
    bail!("{}", problems.join("\n"))
}

impl<'t> Kubelet<'t> {
    fn new(test: &'t Test, setup: impl FnOnce(&mut Value)) -> Result<Self> {
        let dir = test.dir.join("kubelet");
        for name in ["manifests", "logs", "certs"] {
            let path = dir.join(name);
            std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        }
        // Names of nodes are lower case; the directory's need not be.
        let node = test.settings().tag().to_lowercase();
        let ports =
            api::Ports { https: free_port()?, read_only: free_port()?, health: free_port()? };
        let api = Api::new(ports, &node, &dir.join("certs/kubelet.crt"))?;
        let kubelet = Self {
            test,
            api,
            dir,
            node,
            child: Mutex::default(),
            config: Mutex::default(),
            allowed: Mutex::default(),
            _tunables: tunables::Tunables::borrow()?,
        };
        let mut config = kubelet.defaults(ports);
        setup(&mut config);
        *kubelet.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
        cgroups::make(&kubelet.cgroup())?;
        Ok(kubelet)
    }

    /// The root cgroup.
    fn cgroup(&self) -> String {
        format!("{}-kubelet", self.test.settings().tag())
    }

    /// What a node's configuration would say, and what this needs to run beside others on a small machine.
    fn defaults(&self, ports: api::Ports) -> Value {
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": format!("unix://{}", self.test.settings().socket().display()),
            "staticPodPath": self.dir.join("manifests"),
            "podLogsDir": self.dir.join("logs"),
            "volumePluginDir": self.dir.join("volume-plugins"),
            "address": "127.0.0.1",
            "port": ports.https,
            "readOnlyPort": ports.read_only,
            "healthzBindAddress": "127.0.0.1",
            "healthzPort": ports.health,
            "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
            "authorization": {"mode": "AlwaysAllow"},
            // The kubelet asks davit for the cgroup driver.
            "cgroupRoot": format!("/{}", self.cgroup()),
            "cgroupsPerQOS": true,
            "enforceNodeAllocatable": [],
            "failCgroupV1": false,
            "failSwapOn": false,
            // It would set them up in the host's network namespace.
            "makeIPTablesUtilChains": false,
            // Lowering it needs a capability that a container for CI may lack.
            "oomScoreAdj": 0,
            "evictionHard": {"memory.available": "1Mi", "nodefs.available": "0.1%", "imagefs.available": "0.1%"},
            "syncFrequency": "2s",
            "fileCheckFrequency": "2s",
            "crashLoopBackOff": {"maxContainerRestartPeriod": "3s"},
            "logging": {"verbosity": 2},
        })
    }

    /// Its log.
    fn log_path(&self) -> PathBuf {
        self.dir.join("kubelet.log")
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes its configuration, for the next [`Self::spawn`].
    pub fn configure(&self, change: impl FnOnce(&mut Value)) {
        change(&mut self.config.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Starts it, the first time or after [`Self::stop`], and waits until it answers.
    ///
    /// # Errors
    /// If it cannot be started, ends at once or does not answer in time; the end of its log is in the message.
    pub fn spawn(&self) -> Result<()> {
        let config = self.dir.join("config.json");
        let text = self.config.lock().unwrap_or_else(PoisonError::into_inner).to_string();
        write_whole(&config, text.as_bytes())?;
        let log = self.log_path();
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("open {}", log.display()))?;
        let mut command = Command::new(tools::kubelet()?);
        for (flag, value) in [
            ("--config", config),
            ("--root-dir", self.dir.join("root")),
            ("--cert-dir", self.dir.join("certs")),
            ("--hostname-override", PathBuf::from(&self.node)),
        ] {
            command.arg(flag).arg(value);
        }
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        *self.child() = Some(command.spawn().context("start the kubelet")?);
        let ready = eventually(START, "the kubelet answers", || {
            let mut child = self.child();
            let child = child.as_mut().context("the kubelet is not started")?;
            if let Some(status) = child.try_wait().context("look after the kubelet")? {
                bail!("the kubelet ended at once: {status}");
            }
            Ok(self.api.healthy().then_some(()))
        });
        ready.map_err(|error| error.context(self.log_tail()))
    }

    /// Ends it with SIGTERM; its pods go on.
    ///
    /// # Errors
    /// If it does not run, or not end in time (it is killed then).
    pub fn stop(&self) -> Result<()> {
        let mut child = self.child().take().context("the kubelet is not running")?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("the kubelet has no pid")?, Signal::TERM)
            .context("signal the kubelet")?;
        let ended = eventually(STOP, "the kubelet ends", || Ok(child.try_wait()?));
        if ended.is_err() {
            child.kill().context("kill the kubelet")?;
            child.wait().context("wait for the kubelet")?;
        }
        ended.map(drop)
    }

    /// Puts a pod's manifest into the directory, or another one in its place.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn put(&self, name: &str, spec: Value) -> Result<()> {
        self.put_manifest(name, json!({"metadata": {"name": name}, "spec": spec}))
    }

    /// As [`Self::put`], with metadata.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn put_manifest(&self, name: &str, manifest: Value) -> Result<()> {
        let mut manifest = manifest;
        let parts = manifest.as_object_mut().context("a manifest is an object")?;
        parts.insert("apiVersion".to_owned(), json!("v1"));
        parts.insert("kind".to_owned(), json!("Pod"));
        let mut part = |name: &str, key: &str, value: Value| -> Result<()> {
            let part = parts.get_mut(name).and_then(Value::as_object_mut);
            part.with_context(|| format!("no {name}"))?.entry(key).or_insert(value);
            Ok(())
        };
        part("metadata", "namespace", json!(NAMESPACE))?;
        part("spec", "terminationGracePeriodSeconds", json!(1))?;
        write_whole(&self.manifest(name), manifest.to_string().as_bytes())
    }

    fn manifest(&self, name: &str) -> PathBuf {
        self.dir.join("manifests").join(format!("{name}.json"))
    }

    /// Takes a pod's manifest away: the kubelet ends the pod.
    ///
    /// # Errors
    /// If it is not there.
    pub fn remove(&self, name: &str) -> Result<()> {
        let path = self.manifest(name);
        std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
    }

    /// The name under which the kubelet knows a static pod.
    #[must_use]
    pub fn full_name(&self, name: &str) -> String {
        format!("{name}-{}", self.node)
    }

    /// What the kubelet says about a pod; nothing if it does not know it.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn pod(&self, name: &str) -> Result<Option<Pod>> {
        let full = self.full_name(name);
        let pods = self.api.pods()?;
        Ok(pods.into_iter().find(|pod| pod.name() == full))
    }

    /// Waits until a pod is as wanted.
    ///
    /// # Errors
    /// If it is not in time; what the kubelet says about it instead is in the message.
    pub fn until(&self, name: &str, what: &str, wanted: impl FnMut(&Pod) -> bool) -> Result<Pod> {
        self.until_within(POD, name, what, wanted)
    }

    /// As [`Self::until`], within another time.
    ///
    /// # Errors
    /// As [`Self::until`].
    pub fn until_within(
        &self,
        within: Duration,
        name: &str,
        what: &str,
        mut wanted: impl FnMut(&Pod) -> bool,
    ) -> Result<Pod> {
        let mut last = None;
        let found = eventually(within, &format!("pod {name} {what}"), || {
            last = self.pod(name)?;
            Ok(last.clone().filter(&mut wanted))
        });
        found.with_context(|| format!("the kubelet says: {last:?}"))
    }

    /// Waits until a pod runs and is ready.
    ///
    /// # Errors
    /// As [`Self::until`].
    pub fn ready(&self, name: &str) -> Result<Pod> {
        self.until(name, "is ready", |pod| pod.phase() == "Running" && pod.ready())
    }

    /// The image with busybox, under a tag that is pulled only once.
    #[must_use]
    pub fn image(&self) -> String {
        self.test.registry.reference("davit-test/busybox:one")
    }

    /// What a container has written, as the kubelet's API tells it.
    ///
    /// # Errors
    /// If it does not.
    pub fn logs(&self, name: &str, container: &str) -> Result<String> {
        let path = self.path("containerLogs", name, container);
        let answer = self.api.get(&path)?;
        if answer.status != 200 {
            bail!("GET {path}: {answer:?}");
        }
        Ok(answer.body)
    }

    /// The path of the API's `verb` for a container of a pod.
    #[must_use]
    pub fn path(&self, verb: &str, name: &str, container: &str) -> String {
        format!("/{verb}/{NAMESPACE}/{}/{container}", self.full_name(name))
    }

    /// The directory of a container's log files.
    #[must_use]
    pub fn log_dir(&self, name: &str, uid: &str, container: &str) -> PathBuf {
        let pod = format!("{NAMESPACE}_{}_{uid}", self.full_name(name));
        self.dir.join("logs").join(pod).join(container)
    }

    /// Expects errors with this text in its log.
    pub fn allow_log(&self, text: &str) {
        self.allow(log::Allowed::Text(text.to_owned()));
    }

    /// Expects that a probe's or a hook's command finds its container ended: one whose end does not wait for it.
    pub fn allow_late(&self, command: &[&str]) {
        self.allow(log::Allowed::command(command));
    }

    fn allow(&self, error: log::Allowed) {
        self.allowed.lock().unwrap_or_else(PoisonError::into_inner).push(error);
    }

    /// All that it has written so far.
    #[must_use]
    pub fn log(&self) -> String {
        host::read_optional(&self.log_path()).ok().flatten().unwrap_or_default()
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let from = lines.len().saturating_sub(30);
        format!(
            "the end of the kubelet's log:\n{}",
            lines.get(from..).unwrap_or_default().join("\n")
        )
    }
}

impl Drop for Kubelet<'_> {
    /// For a test that could not be finished: nothing of it may go on running.
    fn drop(&mut self) {
        if let Some(mut child) = self.child().take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}
