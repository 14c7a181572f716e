//! Where a pod's start and end go: what processes are begun, what is asked of the kernel, how long each step takes.
//!
//! Owns one run: a davit of its own, some pods one after the other for the steps' times (as davit's own metrics tell them), then one under strace for the counts,
//! which don't depend on how fast the machine is. Times under strace would say nothing, so none are taken there.

pub mod allocations;
pub mod report;
mod trace;

pub use trace::{Calls, Role, Trace};

use crate::host::{eventually, pause};
use crate::scrape::Scrape;
use crate::subnet::Room;
use crate::test::{Pod, Test};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long it may take until what was pulled is on the disk.
const SETTLED: Duration = Duration::from_secs(60);

/// What a run is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How many pods the times are of.
    pub pods: u32,
    /// How many others there are meanwhile.
    pub there: u32,
    /// How long nothing happens between the end of a pod and the start of the next: the kernel tidies up after an end for some milliseconds, with its lock on all
    /// cgroups held, and what moves between cgroups waits longer once nothing has for a while.
    pub pause: Duration,
    /// The OCI runtime: `crun` or `runc`.
    pub handler: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { pods: 30, there: 0, pause: Duration::ZERO, handler: "crun".to_owned() }
    }
}

/// What a run gave.
#[derive(Debug)]
pub struct Profile {
    /// Medians of the whole: RunPodSandbox, CreateContainer, StartContainer, then StopPodSandbox and RemovePodSandbox together.
    pub whole: [Duration; 4],
    /// Means of the steps, in seconds, by their names in the metrics.
    pub steps: BTreeMap<String, f64>,
    /// Of one pod's start.
    pub start: Calls,
    /// Of its end.
    pub end: Calls,
}

/// Takes a profile of a davit of its own.
///
/// # Errors
/// If a call failed, or something was left behind, or the daemon complained.
pub fn run(options: &Options) -> Result<Profile> {
    let port = crate::host::free_port()?;
    let mut profile = None;
    let setup = |settings: &mut crate::daemon::Settings| {
        settings.keys = format!("metrics_listen = \"127.0.0.1:{port}\"\n");
        settings.room = Room::Wide;
        crate::disk::in_memory(settings)
    };
    crate::test::run(&options.handler, setup, |t| {
        profile = Some(take(t, options, ([127, 0, 0, 1], port).into())?);
        Ok(())
    })?;
    profile.context("the run gave no profile")
}

fn take(t: &Test, options: &Options, metrics: SocketAddr) -> Result<Profile> {
    t.pull("davit-test/busybox:latest")?;
    settled(t)?;
    // The first one makes the bridge, the table, and the copy of the OCI runtime.
    end(t, &begin(t, "warm")?.0)?;
    let there: Vec<Pod> = (0..options.there)
        .map(|number| Ok(begin(t, &format!("there-{number}"))?.0))
        .collect::<Result<_>>()?;
    let before = steps(metrics)?;
    let mut times: [Vec<Duration>; 4] = Default::default();
    for number in 0..options.pods {
        pause(options.pause);
        let (pod, [run, create, start]) = begin(t, &format!("timed-{number}"))?;
        let begun = Instant::now();
        end(t, &pod)?;
        for (times, time) in times.iter_mut().zip([run, create, start, begun.elapsed()]) {
            times.push(time);
        }
    }
    let after = steps(metrics)?;
    there.iter().try_for_each(|pod| end(t, pod))?;
    let (pod, start, end) = counted(t)?;
    drop(pod);
    let whole = times.map(|mut times| {
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default()
    });
    Ok(Profile { whole, steps: means(&before, &after), start, end })
}

/// One pod's start and end under strace, and what was asked for in each.
///
/// # Errors
/// If a call failed, or strace did.
pub fn counted(t: &Test) -> Result<(Pod, Calls, Calls)> {
    let daemon = t.daemon().pid().context("davit runs")?;
    let trace = Trace::attach(&[(daemon, "davit")], &t.dir.join("start.strace"))?;
    let (pod, _) = begin(t, "counted")?;
    let started = trace.end()?;
    let shim = (shim_of(t, &pod)?, "davit-shim");
    let trace = Trace::attach(&[(daemon, "davit"), shim], &t.dir.join("end.strace"))?;
    end(t, &pod)?;
    Ok((pod, started, trace.end()?))
}

/// Waits until what was pulled is on the disk, and nobody reads or writes it any more.
///
/// # Errors
/// If it takes too long.
pub fn settled(t: &Test) -> Result<()> {
    let images = t.settings().root().join("images");
    eventually(SETTLED, "what was pulled is on the disk", || {
        let told = String::from_utf8(t.davit(&["check"])?.stdout)?;
        let mut settled = !told.contains("too new");
        for image in crate::host::names_in(&images)? {
            let record = crate::host::read_optional(&images.join(image).join("image.json"))?;
            settled &= !record.unwrap_or_default().contains("\"boot\"");
        }
        Ok(settled.then_some(()))
    })
}

fn begin(t: &Test, name: &str) -> Result<(Pod, [Duration; 3])> {
    let begun = Instant::now();
    let pod = t.pod(name, |_| ())?;
    let ran = begun.elapsed();
    let mut config = t.container_config("c");
    config.command = ["sleep", "1000000"].map(str::to_owned).to_vec();
    // `Test::create` would pull.
    let id = t.cri.create(&pod.id, &config, &pod.config)?;
    t.watch(&id);
    let created = begun.elapsed();
    t.cri.start(&id)?;
    let started = begun.elapsed();
    Ok((pod, [ran, created.saturating_sub(ran), started.saturating_sub(created)]))
}

fn end(t: &Test, pod: &Pod) -> Result<()> {
    t.cri.stop_pod(&pod.id)?;
    Ok(t.cri.remove_pod(&pod.id)?)
}

fn shim_of(t: &Test, pod: &Pod) -> Result<u32> {
    let record = t.settings().state().join("pods").join(&pod.id).join("sandbox.json");
    let text = std::fs::read_to_string(&record).context("read the pod's record")?;
    let record: serde_json::Value = serde_json::from_str(&text).context("read the pod's record")?;
    let pid = record.pointer("/shim/pid").and_then(serde_json::Value::as_u64);
    Ok(u32::try_from(pid.context("the record names the shim")?)?)
}

/// Sums and counts of the steps' histograms.
fn steps(metrics: SocketAddr) -> Result<BTreeMap<String, (f64, f64)>> {
    let scrape = Scrape::take(metrics)?;
    let mut found: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for line in scrape.text.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, value)) = line.rsplit_once(' ') else { continue };
        let histogram =
            ["davit_pod_start_step_duration_seconds", "davit_oci_runtime_call_duration_seconds"];
        let Some(rest) = histogram.iter().find_map(|prefix| name.strip_prefix(prefix)) else {
            continue;
        };
        let value: f64 = value.parse().with_context(|| format!("read {line:?}"))?;
        if let Some(labels) = rest.strip_prefix("_sum") {
            found.entry(title(labels)).or_default().0 = value;
        } else if let Some(labels) = rest.strip_prefix("_count") {
            found.entry(title(labels)).or_default().1 = value;
        }
    }
    Ok(found)
}

/// `{operation="run",step="shim"}` as `run shim`.
fn title(labels: &str) -> String {
    let values: Vec<&str> = labels.split('"').skip(1).step_by(2).collect();
    values.join(" ")
}

fn means(
    before: &BTreeMap<String, (f64, f64)>,
    after: &BTreeMap<String, (f64, f64)>,
) -> BTreeMap<String, f64> {
    let mean = |(name, (sum, count)): (&String, &(f64, f64))| {
        let (old_sum, old_count) = before.get(name).copied().unwrap_or_default();
        let pods = count - old_count;
        (pods > 0.0).then(|| (name.clone(), (sum - old_sum) / pods))
    };
    after.iter().filter_map(mean).collect()
}
