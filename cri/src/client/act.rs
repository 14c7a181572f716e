//! What is done to containers that are there: start, stop, kill, pause, resume, update, wait.
//!
//! Every one that is named is tried; what was done is printed by the name it was given, what could not be is told line by line, and makes the program
//! exit with 1.

use super::connect::Daemon;
use super::error::{ClientError, doing};
use super::find;
use super::value::{CPU_PERIOD, Cpus};
use crate::cli::Limits;
use crate::output;
use davit_proto::{admin, cri};
use davit_runtime::container::{Signal, UnknownSignal};
use std::process::ExitCode;
use std::str::FromStr;

/// A signal, by its name or number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SignalName(Signal);

impl FromStr for SignalName {
    type Err = UnknownSignal;

    fn from_str(text: &str) -> Result<Self, UnknownSignal> {
        text.parse().map(Self)
    }
}

/// What is to be done to each.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// Start it.
    Start,
    /// Stop it, with so many seconds between its signal and SIGKILL.
    Stop(i64),
    /// Send it a signal.
    Kill(SignalName),
    /// Freeze it.
    Pause,
    /// Let it go on.
    Resume,
    /// Change its limits.
    Update(Limits),
    /// Wait for its end.
    Wait,
}

impl Act {
    fn verb(&self) -> &'static str {
        match self {
            Self::Start => "start container",
            Self::Stop(_) => "stop container",
            Self::Kill(_) => "signal container",
            Self::Pause => "pause container",
            Self::Resume => "resume container",
            Self::Update(_) => "update container",
            Self::Wait => "wait for container",
        }
    }
}

/// Does it to each of these.
///
/// # Errors
/// What keeps the outcome from being printed.
pub(crate) async fn each(
    mut daemon: Daemon,
    ids: &[String],
    act: &Act,
) -> Result<ExitCode, ClientError> {
    let mut code = ExitCode::SUCCESS;
    for id in ids {
        match one(&mut daemon, id, act).await {
            Ok(told) => output::print(&format!("{told}\n"))?,
            Err(error) => {
                complain(error);
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

/// One line for what could not be done to one of several.
pub(crate) fn complain(error: ClientError) {
    output::complain(&format!("davit: {}", output::one_line(&anyhow::Error::new(error))));
}

/// Answers with what is to be printed.
async fn one(daemon: &mut Daemon, given: &str, act: &Act) -> Result<String, ClientError> {
    let container_id = find::container(daemon, given).await?.id;
    let failed = doing(format!("{} {given}", act.verb()));
    let Daemon { runtime, davit, .. } = daemon;
    match act {
        Act::Start => {
            let start = cri::StartContainerRequest { container_id };
            runtime.start_container(start).await.map_err(failed)?;
        }
        Act::Stop(timeout) => {
            let stop = cri::StopContainerRequest { container_id, timeout: *timeout };
            runtime.stop_container(stop).await.map_err(failed)?;
        }
        Act::Kill(SignalName(signal)) => {
            let signal = u32::from(signal.number());
            davit.kill(admin::KillRequest { container_id, signal }).await.map_err(failed)?;
        }
        Act::Pause => {
            davit.pause(admin::PauseRequest { container_id }).await.map_err(failed)?;
        }
        Act::Resume => {
            davit.resume(admin::ResumeRequest { container_id }).await.map_err(failed)?;
        }
        Act::Update(limits) => {
            let linux = Some(resources(limits));
            let update = cri::UpdateContainerResourcesRequest {
                container_id,
                linux,
                ..cri::UpdateContainerResourcesRequest::default()
            };
            runtime.update_container_resources(update).await.map_err(failed)?;
        }
        Act::Wait => {
            let wait = admin::WaitRequest { container_id };
            let ended = davit.wait(wait).await.map_err(failed)?.into_inner();
            return Ok(ended.exit_code.to_string());
        }
    }
    Ok(given.to_owned())
}

fn resources(limits: &Limits) -> cri::LinuxContainerResources {
    let Limits { cpus, cpu_shares, cpuset_cpus, cpuset_mems, memory, memory_swap, unified } =
        limits.clone();
    cri::LinuxContainerResources {
        cpu_period: cpus.map_or(0, |_| CPU_PERIOD),
        cpu_quota: cpus.map_or(0, Cpus::quota),
        cpu_shares: cpu_shares.unwrap_or_default(),
        cpuset_cpus: cpuset_cpus.unwrap_or_default(),
        cpuset_mems: cpuset_mems.unwrap_or_default(),
        memory_limit_in_bytes: memory.map_or(0, |memory| memory.0),
        memory_swap_limit_in_bytes: memory_swap.map_or(0, |memory| memory.0),
        unified: unified.into_iter().map(Into::into).collect(),
        ..cri::LinuxContainerResources::default()
    }
}
