//! Commands in a container, and ends of containers.
//!
//! Owns what is compared with something that davit doesn't tell: the OCI runtime's own time for a command, and the end of a process
//! as the kernel tells it.

use super::figures::Metric;
use super::lane::Subject;
use super::measure::{ALONE, Bench, millis};
use super::pods::{self, Network};
use super::streams::exec_streamed;
use crate::host::pause;
use anyhow::{Context, Result, ensure};
use k8s_cri::v1::{ContainerEventResponse, ContainerEventType, GetEventsRequest};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, Signal, kill_process, pidfd_open};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tonic::Streaming;

/// How long a process may take to end, and its event to come.
const END: Duration = Duration::from_secs(20);

impl Bench {
    /// Commands in one container, one after the other, in turns with the OCI runtime by hand.
    pub(super) fn execs(&mut self, subject: &Subject) -> Result<()> {
        let running = pods::run(subject, Network::Host)?;
        self.begin()?;
        for _ in 0..self.options.block * 2 {
            let begun = Instant::now();
            let answer = subject.cri.exec(&running.container, &["true"], 10).context("ExecSync")?;
            let whole = millis(begun);
            ensure!(answer.exit_code == 0, "`true` ended with {}", answer.exit_code);
            let bare = bare_exec(subject, &running.container)?;
            self.add(subject, Metric::Exec, whole);
            self.add(subject, Metric::ExecBare, bare);
            self.add(subject, Metric::ExecBeyond, whole - bare);
        }
        for _ in 0..self.options.block {
            pause(ALONE);
            let begun = Instant::now();
            subject.cri.exec(&running.container, &["true"], 10).context("ExecSync")?;
            self.add(subject, Metric::ExecAlone, millis(begun));
        }
        pods::remove(subject, &running)
    }

    /// Commands whose output comes by a stream, one after the other.
    pub(super) fn streamed_execs(&mut self, subject: &Subject) -> Result<()> {
        let running = pods::run(subject, Network::Host)?;
        self.begin()?;
        for _ in 0..self.options.block * 2 {
            let begun = Instant::now();
            subject.cri.block_on(exec_streamed(subject, &running.container))?;
            self.add(subject, Metric::StreamedExec, millis(begun));
        }
        pods::remove(subject, &running)
    }

    /// Containers that are killed, and a subscriber that hears of it.
    pub(super) fn events(&mut self, subject: &Subject) -> Result<()> {
        let request = GetEventsRequest {};
        let events = subject.cri.wait(subject.cri.runtime().get_container_events(request));
        let mut events = events.context("GetContainerEvents")?;
        self.begin()?;
        for _ in 0..self.options.block * 2 {
            let running = pods::run(subject, Network::Host)?;
            let late = end(subject, &running.container, &mut events)?;
            self.add(subject, Metric::Event, late);
            pods::remove(subject, &running)?;
        }
        Ok(())
    }
}

/// Milliseconds that the OCI runtime takes for `true` in this container.
fn bare_exec(subject: &Subject, container: &str) -> Result<f64> {
    let mut command = subject.oci()?;
    command.args(["exec", container, "true"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let begun = Instant::now();
    let status = command.status().context("run the OCI runtime")?;
    let time = millis(begun);
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(time)
}

/// Kills a container: milliseconds from its process's end to the event. The end is what comes first, the kernel's word to who
/// watches the process, or the time that the event itself tells, so that nothing is lost to a watcher that is woken late.
fn end(
    subject: &Subject,
    container: &str,
    events: &mut Streaming<ContainerEventResponse>,
) -> Result<f64> {
    let pid = subject.process_of(container)?;
    let process = pidfd_open(pid, PidfdFlags::empty()).context("watch the process")?;
    std::thread::scope(|scope| {
        let ended = scope.spawn(move || ended(&process));
        kill_process(pid, Signal::KILL).context("kill the process")?;
        let (told, heard) = subject.cri.block_on(stopped(container, events))?;
        let ended = ended.join().map_err(|_panic| anyhow::anyhow!("the watcher panicked"))??;
        let first = match told {
            Some(told) => ended.min(UNIX_EPOCH + Duration::from_nanos(told.try_into()?)),
            None => ended,
        };
        let late = heard.duration_since(first).context("the event came before the end")?;
        Ok(late.as_secs_f64() * 1000.0)
    })
}

/// When a process is no more.
fn ended(process: &OwnedFd) -> Result<SystemTime> {
    let mut ready = [PollFd::new(process, PollFlags::IN)];
    let limit = Timespec::try_from(END)?;
    let ready = poll(&mut ready, Some(&limit)).context("wait for the process")?;
    let now = SystemTime::now();
    ensure!(ready == 1, "the process goes on");
    Ok(now)
}

/// When a container ended by its event, in nanoseconds since 1970 (not every peer tells), and when that was here.
async fn stopped(
    container: &str,
    events: &mut Streaming<ContainerEventResponse>,
) -> Result<(Option<i64>, SystemTime)> {
    loop {
        let event = tokio::time::timeout(END, events.message()).await;
        let now = SystemTime::now();
        let event = event.context("no event comes")?.context("GetContainerEvents")?;
        let event = event.context("the events have ended")?;
        let kind = event.container_event_type();
        if event.container_id == container && kind == ContainerEventType::ContainerStoppedEvent {
            let of_it = event.containers_statuses.iter().find(|status| status.id == container);
            return Ok((of_it.map(|status| status.finished_at), now));
        }
    }
}
