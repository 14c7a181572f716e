//! The CRI validation suite, critest of cri-tools, against a davit of its own.
//!
//! Owns a run: its options, the daemon's network, critest's arguments, the judgement of its report. The suite's images come from the
//! test's registry, as the mirror of those that it names. That nothing is left and the daemon did not complain is the frame's
//! work, as for any other test ([`crate::test`]).
//!
//! Invariant: one run at a time on this machine: the suite uses host ports 12000 to 12003.

mod report;
mod skips;

pub use report::{Failure, Location, Outcome, Report, Spec};

use crate::daemon::Settings;
use crate::images::catalog;
use crate::test::Test;
use crate::{cni, test, tools};
use anyhow::{Context, Result, bail};
use k8s_cri::v1::GetEventsRequest;
use rustix::fs::{FlockOperation, flock};
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// After which ginkgo ends the suite: a run takes one to four minutes, more on a busy machine.
const SUITE: Duration = Duration::from_secs(25 * 60);
/// After which critest itself is ended.
const PROCESS: Duration = Duration::from_secs(27 * 60);

/// What the suite measures, and with which images: without this it measures next to nothing, and with images of its own.
const BENCHMARK: &str = "containersNumber: 5
containersNumberParallel: 1
containerBenchmarkTimeoutSeconds: 60
podsNumber: 5
podsNumberParallel: 1
podBenchmarkTimeoutSeconds: 60
imagesNumber: 3
imagesNumberParallel: 1
imageBenchmarkTimeoutSeconds: 60
podContainerStartBenchmarkTimeoutSeconds: 60
imagePullingBenchmarkImage: registry.k8s.io/e2e-test-images/busybox:1.29-2
imageListingBenchmarkImages:
- registry.k8s.io/e2e-test-images/busybox:1.29-2
- registry.k8s.io/e2e-test-images/nginx:1.14-2
";

/// The report's name, in the directory where critest is started.
const REPORT: &str = "critest.json";
/// Between two looks at critest.
const STEP: Duration = Duration::from_millis(50);

/// Where the pods' network comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Plugins: bridge and portmap.
    Cni,
    /// davit's own bridge.
    BuiltIn,
}

/// What exec, attach and port-forward travel in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// The suite's default.
    Spdy,
    /// For all three.
    WebSocket,
}

/// What the suite is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// To validate.
    Validate,
    /// To measure; it has its own specs for that.
    Benchmark,
}

/// One run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The OCI runtime of the pods.
    pub handler: String,
    /// Their network.
    pub network: Network,
    /// How streams travel.
    pub transport: Transport,
    /// What is done.
    pub work: Work,
    /// The order of the specs; ginkgo's own choice if there is none.
    pub seed: Option<u32>,
    /// How many processes share the specs.
    pub parallel: u32,
    /// Only specs that match this; what is skipped is not judged then.
    pub focus: Option<String>,
    /// Where critest's output and report and the daemon's log are put; they are lost otherwise.
    pub keep: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            handler: "crun".to_owned(),
            network: Network::BuiltIn,
            transport: Transport::Spdy,
            work: Work::Validate,
            seed: None,
            parallel: 1,
            focus: None,
            keep: None,
        }
    }
}

impl Options {
    /// In a few words, such as `crun cni seed=3`.
    #[must_use]
    pub fn name(&self) -> String {
        let mut words = vec![self.handler.clone()];
        words.push(if self.network == Network::Cni { "cni" } else { "builtin" }.to_owned());
        if self.transport == Transport::WebSocket {
            words.push("websocket".to_owned());
        }
        if self.work == Work::Benchmark {
            words.push("benchmark".to_owned());
        }
        if self.parallel > 1 {
            words.push(format!("parallel={}", self.parallel));
        }
        words.extend(self.seed.map(|seed| format!("seed={seed}")));
        words.join(" ")
    }
}

/// Runs the suite and demands that all is well: critest's own summary.
///
/// # Errors
/// Specs that failed, specs that were skipped and should not have been, and everything that [`test::run`] finds wrong afterwards.
pub fn run(options: &Options) -> Result<String> {
    let lock =
        File::create(catalog::cache().join("critest.lock")).context("open critest's lock")?;
    flock(&lock, FlockOperation::LockExclusive).context("wait for another critest's end")?;
    let mut summary = String::new();
    let setup = |settings: &mut Settings| match options.network {
        Network::Cni => cni::bridge_and_ports(settings),
        Network::BuiltIn => Ok(()),
    };
    test::run(&options.handler, setup, |t| {
        let ended = validate(t, options, &mut summary);
        if let Some(dir) = &options.keep {
            keep(t, dir)?;
        }
        ended
    })
    .with_context(|| format!("critest, {}: {summary}", options.name()))?;
    Ok(summary)
}

fn validate(t: &Test, options: &Options, summary: &mut String) -> Result<()> {
    let mut child = command(t, options)?.spawn().context("start critest")?;
    let watched = watch(t, &mut child);
    if watched.is_err() {
        child.kill().context("kill critest")?;
        child.wait().context("wait for critest")?;
    }
    watched?;
    let output = crate::host::read_optional(&t.dir.join("critest.log"))?.unwrap_or_default();
    let told = match options.work {
        Work::Validate => summary_of(&output),
        Work::Benchmark => figures_of(&output),
    };
    *summary = told.with_context(|| format!("critest printed:\n{output}"))?;
    judge(&Report::read(&t.dir.join(REPORT))?, options)
}

fn command(t: &Test, options: &Options) -> Result<Command> {
    let critest = tools::critest()?;
    let mut command = Command::new(&critest);
    let endpoint = format!("unix://{}", t.settings().socket().display());
    command.arg(format!("--runtime-endpoint={endpoint}"));
    command.arg(format!("--image-endpoint={endpoint}"));
    command.args(["--ginkgo.no-color", "--ginkgo.json-report", REPORT]);
    command.arg(format!("--ginkgo.timeout={}s", SUITE.as_secs()));
    command.arg(format!("--ginkgo.skip={}", skips::BY_DIGEST));
    if options.transport == Transport::WebSocket {
        command.args(["--websocket-exec", "--websocket-attach", "--websocket-portforward"]);
    }
    if options.work == Work::Benchmark {
        let parameters = t.dir.join("benchmark.yaml");
        crate::registry::write_whole(&parameters, BENCHMARK.as_bytes())?;
        command.arg("--benchmark").arg(format!("--benchmarking-output-dir={}", t.dir.display()));
        command.arg(format!("--benchmarking-params-file={}", parameters.display()));
    }
    if options.parallel > 1 {
        command.arg(format!("--parallel={}", options.parallel));
    }
    command.args(options.seed.map(|seed| format!("--ginkgo.seed={seed}")));
    command.args(options.focus.iter().map(|focus| format!("--ginkgo.focus={focus}")));
    let output = File::create(t.dir.join("critest.log")).context("make critest's output file")?;
    command.current_dir(&t.dir).env("TMPDIR", &t.dir).env("PATH", path_with(&critest)?);
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    Ok(command)
}

/// For several processes critest starts `ginkgo`, which is beside it.
fn path_with(critest: &Path) -> Result<std::ffi::OsString> {
    let own = critest.parent().map(Path::to_owned);
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(own.into_iter().chain(std::env::split_paths(&path)))
        .context("put critest's directory into PATH")
}

/// Waits for the suite's end. Meanwhile it notes the ids of all that is made, so that the search for what is left knows them.
fn watch(t: &Test, child: &mut Child) -> Result<()> {
    let mut events = t.cri.wait(t.cri.runtime().get_container_events(GetEventsRequest {}))?;
    let mut ids = BTreeSet::new();
    let end = Instant::now() + PROCESS;
    loop {
        let next = t.cri.block_on(async { tokio::time::timeout(STEP, events.message()).await });
        match next {
            Ok(event) => {
                let event = event.context("hear of what is made")?;
                let id = event.context("davit ended the stream of events")?.container_id;
                if ids.insert(id.clone()) {
                    t.watch(&id);
                }
            }
            Err(_) if child.try_wait().context("look after critest")?.is_some() => return Ok(()),
            Err(_) if Instant::now() >= end => bail!("critest did not end within {PROCESS:?}"),
            Err(_) => {}
        }
    }
}

/// The two lines in which ginkgo says how it went, as one.
fn summary_of(output: &str) -> Option<String> {
    let mut lines = output.lines().map(str::trim).skip_while(|line| !line.starts_with("Ran "));
    let (ran, verdict) = (lines.next()?, lines.next()?);
    Some(format!("{ran}: {verdict}"))
}

/// The tables of the measurements; there is no line that sums them up.
fn figures_of(output: &str) -> Option<String> {
    let rows = output.lines().map(str::trim).filter(|line| line.contains("[duration]"));
    let rows: Vec<&str> = rows.collect();
    (!rows.is_empty()).then(|| format!("N, min, median, mean, deviation, max\n{}", rows.join("\n")))
}

fn judge(report: &Report, options: &Options) -> Result<()> {
    let mut problems: Vec<String> = report.with(Outcome::Failed).map(describe).collect();
    if options.focus.is_none() {
        match options.work {
            Work::Validate => problems.extend(skips::unexpected(report)),
            Work::Benchmark => problems.extend(idle(report)),
        }
    }
    if report.with(Outcome::Passed).next().is_none() {
        problems.push("no spec ran".to_owned());
    }
    if problems.is_empty() && !report.suite_succeeded {
        problems.push("every spec is well, but ginkgo says that the suite failed".to_owned());
    }
    if problems.is_empty() {
        return Ok(());
    }
    bail!("{}", problems.join("\n"))
}

/// Measurements that did not take place.
fn idle(report: &Report) -> Vec<String> {
    let skipped = report.with(Outcome::Skipped).filter(|spec| !spec.said().is_empty());
    skipped.map(|spec| format!("skipped: {}: {}", spec.name(), spec.said())).collect()
}

/// The name, where it failed and the start of what it said: what follows there is a dump of the error's fields.
fn describe(spec: &Spec) -> String {
    let mut text = format!("{}: {}", spec.state, spec.name());
    if let Some(failure) = &spec.failure {
        let Location { file_name, line_number } = &failure.location;
        text.push_str(&format!(" ({file_name}:{line_number})"));
    }
    for line in spec.said().lines().take(5) {
        text.push_str("\n    ");
        text.push_str(line);
    }
    text
}

fn keep(t: &Test, dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    for entry in std::fs::read_dir(&t.dir).context("list the run's files")? {
        let path = entry.context("list the run's files")?.path();
        let kept = path.extension().is_some_and(|end| end == "log" || end == "json");
        if let Some(name) = path.file_name().filter(|_| kept) {
            std::fs::copy(&path, dir.join(name))
                .with_context(|| format!("keep {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::summary_of;

    #[test]
    fn the_summary_is_ginkgos_own() {
        let output = "STEP: x\n\nRan 107 of 122 Specs in 80.1 seconds\nSUCCESS! -- 107 Passed | 0 Failed\nPASS\n";
        let told = summary_of(output).unwrap();
        assert_eq!(told, "Ran 107 of 122 Specs in 80.1 seconds: SUCCESS! -- 107 Passed | 0 Failed");
        assert_eq!(summary_of("panic: nothing ran"), None);
    }
}
