//! Containers whose end is known beforehand, and the look at how they have ended.

use super::dice::Dice;
use super::tally::{Did, Loss};
use super::world::World;
use crate::test::{parse_log, sh};
use anyhow::{Context, Result};
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, ContainerState, ContainerStatus, LinuxContainerConfig,
    LinuxContainerSecurityContext, NamespaceOption,
};
use std::path::PathBuf;

/// The exit code of one that was asked to end.
const ASKED: i32 = 7;
/// 128 + SIGTERM, which ends only who is not PID 1: a container of a pod that shares its PID namespace.
const TERMINATED: i32 = 143;
/// What runc's init ends with if it is asked before it has become the command: Go's runtime raises the signal anew, which PID 1 is spared, and then exits
/// with this. Who runs on is only asked once it has printed something, and so is the command by then.
const RUNC_INIT_ASKED: i32 = 2;
/// 128 + SIGKILL.
const KILLED: i32 = 137;
/// How it ended is not known.
const UNKNOWN: i32 = 255;
/// The reason of one whose shim was killed, unless its end had been written down before.
const SHIM_LOST: &str = "ShimLost";
/// How much later than planned an end may be, in nanoseconds: the machine is busy.
const LATE: i64 = 20_000_000_000;
/// How much earlier: a start is told when the OCI runtime has returned from it, and the command runs by then.
const EARLY: i64 = 1_000_000_000;

/// What a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Ends with this code after so many milliseconds.
    Exits { code: i32, after: u64 },
    /// Prints the numbers from 1 on, ends with this code.
    Prints { lines: u64, code: i32 },
    /// Prints numbers until it is asked to end, and then the last one.
    Runs,
}

/// What has been done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing.
    Own,
    /// A stop with a grace that it can use.
    Asked,
    /// SIGKILL.
    Killed,
    /// Its shim was killed.
    ShimLost,
    /// SIGKILL, and then its shim was killed, maybe before it saw the end.
    KilledAndLost,
}

/// A container of a life.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) id: String,
    pub(super) config: ContainerConfig,
    pub(super) work: Work,
    pub(super) fate: Fate,
    /// As it was told first.
    pub(super) started_at: i64,
    /// Its end has been looked at.
    pub(super) seen: bool,
}

impl Work {
    pub(super) fn any(dice: &mut Dice) -> Self {
        let code = i32::try_from(dice.below(120)).unwrap_or_default();
        match dice.below(4) {
            0 => Self::Exits { code, after: dice.below(600) },
            1 => Self::Prints { lines: 1 + dice.below(400), code },
            _ => Self::Runs,
        }
    }

    fn command(self) -> Vec<String> {
        match self {
            Self::Exits { code, after } => {
                sh(&format!("sleep {}.{:03}; exit {code}", after / 1000, after % 1000))
            }
            Self::Prints { lines, code } => sh(&format!(
                "i=0; while [ $i -lt {lines} ]; do i=$((i+1)); echo $i; [ $((i % 10)) = 0 ] && sleep 0.01; done; exit {code}"
            )),
            // Counting and saying are one command, which no trap comes between.
            Self::Runs => sh(&format!(
                "trap 'echo end $i; exit {ASKED}' TERM; i=0; while :; do echo $((i=i+1)); sleep 0.02; done"
            )),
        }
    }

    pub(super) fn ends_itself(self) -> bool {
        match self {
            Self::Exits { .. } | Self::Prints { .. } => true,
            Self::Runs => false,
        }
    }
}

/// A container as the kubelet asks for it.
pub(super) fn config(world: &World<'_>, name: &str, attempt: u32, work: Work) -> ContainerConfig {
    let namespaces = NamespaceOption { pid: 1, ..NamespaceOption::default() };
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.to_owned(), attempt }),
        image: Some(crate::cri::spec(&world.image)),
        command: work.command(),
        log_path: format!("{name}-{attempt}-{}.log", world.number()),
        linux: Some(LinuxContainerConfig {
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: Some(namespaces),
                ..LinuxContainerSecurityContext::default()
            }),
            ..LinuxContainerConfig::default()
        }),
        ..ContainerConfig::default()
    }
}

impl Made {
    /// Compares how it ended with how it must have.
    pub(super) fn check_end(&mut self, world: &World<'_>, status: &ContainerStatus) -> Result<()> {
        world.tally.did(Did::Exit);
        self.seen = true;
        let told = (status.exit_code, status.reason.as_str());
        if !self.may_end_so(told, &world.options.handler) {
            world.tally.lose(
                Loss::Exit,
                format!(
                    "{}: {:?}, {:?}: told {told:?} {}",
                    self.id, self.work, self.fate, status.message
                ),
            );
        }
        self.check_times(world, status);
        self.check_log(world, status)
    }

    fn may_end_so(&self, told: (i32, &str), handler: &str) -> bool {
        let own = match self.work {
            Work::Exits { code, .. } | Work::Prints { code, .. } => Some(code),
            Work::Runs => None,
        };
        let with = |code: i32| (code, if code == 0 { "Completed" } else { "Error" });
        let is = |code: Option<i32>| code.is_some_and(|code| told == with(code));
        match self.fate {
            Fate::Own => is(own),
            Fate::Asked if own.is_some() => {
                let by_init = handler == "runc" && told == with(RUNC_INIT_ASKED);
                is(own) || told == with(TERMINATED) || by_init
            }
            Fate::Asked => told == with(ASKED),
            Fate::Killed => is(own) || told == with(KILLED),
            Fate::KilledAndLost if told == with(KILLED) => true,
            Fate::ShimLost | Fate::KilledAndLost => {
                is(own) || told == (UNKNOWN, SHIM_LOST) || told == (KILLED, SHIM_LOST)
            }
        }
    }

    fn check_times(&self, world: &World<'_>, status: &ContainerStatus) {
        let (created, started, finished) =
            (status.created_at, status.started_at, status.finished_at);
        let planned = match (self.work, self.fate) {
            (Work::Exits { after, .. }, Fate::Own) => i64::try_from(after * 1_000_000).ok(),
            (_, _) => None,
        };
        let ran = finished - started;
        let well = created <= started
            && started <= finished
            && (self.started_at == 0 || self.started_at == started)
            && planned.is_none_or(|planned| (planned - EARLY..planned + LATE).contains(&ran));
        if !well {
            world.tally.lose(
                Loss::Exit,
                format!(
                    "{}: {:?}, {:?}: created {created}, started {started} (first told as {}), finished {finished}",
                    self.id, self.work, self.fate, self.started_at
                ),
            );
        }
    }

    /// Every number once, in order; to the end, where the end was its own.
    fn check_log(&self, world: &World<'_>, status: &ContainerStatus) -> Result<()> {
        let path = PathBuf::from(&status.log_path);
        let text = crate::host::read_optional(&path)?
            .with_context(|| format!("{} is not there", path.display()))?;
        let mut expected = 1;
        let mut problem = None;
        for line in parse_log(&text)? {
            let last = format!("end {}", expected - 1);
            if line.content == expected.to_string() {
                expected += 1;
            } else if line.content != last {
                problem = Some(format!("{:?} in the place of {expected}", line.content));
                break;
            }
        }
        let printed = expected - 1;
        world.tally.did_many(Did::LogLine, printed);
        let ended = text.trim_end().ends_with(&format!(" end {printed}"));
        match (self.work, self.fate) {
            (Work::Prints { lines, .. }, Fate::Own) if printed != lines => {
                problem = problem.or(Some(format!("{printed} of {lines} numbers")));
            }
            (Work::Runs, Fate::Asked) if !ended => {
                problem = problem.or(Some("its last line is missing".to_owned()));
            }
            (_, _) => {}
        }
        if let Some(problem) = problem {
            world.tally.lose(Loss::Log, format!("{}: {}: {problem}", self.id, path.display()));
        }
        Ok(())
    }
}

/// Whether this is the status of one that has ended.
pub(super) fn ended(status: &ContainerStatus) -> bool {
    status.state() == ContainerState::ContainerExited
}
