//! What was done, and what was lost.

use super::Options;
use std::collections::BTreeMap;
use std::fmt;
use std::io::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The kinds of losses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// An exit code, or its reason, is not the true one, or is not told.
    Exit,
    /// A number is missing in a log, or comes twice, or out of order.
    Log,
    /// A container that should run does not, or not as the same process.
    Running,
    /// A pod or container is missing, or there twice, or there though it was removed.
    Name,
    /// A pod's address changed, or two have the same.
    Address,
    /// A counter differs from the list.
    Counter,
    /// An event came twice or out of order.
    Event,
    /// A call failed that no kill had cut off.
    Refused,
    /// What a lost shim leaves was not told or not ended in time.
    Shim,
    /// Something is there that nobody needs any more.
    Left,
}

impl Loss {
    const ALL: [Self; 10] = [
        Self::Exit,
        Self::Log,
        Self::Running,
        Self::Name,
        Self::Address,
        Self::Counter,
        Self::Event,
        Self::Refused,
        Self::Shim,
        Self::Left,
    ];

    fn title(self) -> &'static str {
        match self {
            Self::Exit => "exit codes",
            Self::Log => "log lines",
            Self::Running => "running containers",
            Self::Name => "names",
            Self::Address => "addresses",
            Self::Counter => "counters",
            Self::Event => "events",
            Self::Refused => "refusals",
            Self::Shim => "shims' ends",
            Self::Left => "left behind",
        }
    }
}

/// Things that are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Did {
    Kill,
    ShimKill,
    Cut,
    Call,
    Pod,
    Container,
    Exit,
    LogLine,
    Exec,
    Event,
    Audit,
}

#[derive(Debug, Default)]
struct Counts {
    did: BTreeMap<Did, u64>,
    lost: BTreeMap<Loss, Vec<String>>,
    restarts: Vec<Duration>,
}

/// The live counts, for all threads.
#[derive(Debug, Default)]
pub(super) struct Tally {
    counts: Mutex<Counts>,
}

impl Tally {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn did(&self, what: Did) {
        self.did_many(what, 1);
    }

    pub(super) fn did_many(&self, what: Did, times: u64) {
        *self.counts().did.entry(what).or_default() += times;
    }

    /// Told at once as well: whoever watches a long run wants to know when it happened.
    pub(super) fn lose(&self, loss: Loss, what: String) {
        drop(writeln!(std::io::stderr(), "lost ({}): {what}", loss.title()));
        self.counts().lost.entry(loss).or_default().push(what);
    }

    pub(super) fn restarted(&self, after: Duration) {
        self.counts().restarts.push(after);
    }

    /// A start that took long, and what it says took how long: told at once, and no loss.
    pub(super) fn slow(&self, after: Duration, said: &str) {
        drop(writeln!(std::io::stderr(), "a restart took {} ms: {said}", after.as_millis()));
    }

    pub(super) fn summary(&self, options: &Options) -> Summary {
        let counts = self.counts();
        let did = |what| counts.did.get(&what).copied().unwrap_or_default();
        let mut restarts = counts.restarts.clone();
        restarts.sort_unstable();
        let millis = |time: Option<&Duration>| time.map_or(0, Duration::as_millis);
        let done = format!(
            "seed {}, {}, {}: {} kills of the daemon, {} of shims; {} pods, {} containers, {} exits and {} log lines looked at, {} execs, {} events; \
             {} calls, {} cut off; {} audits; restart to the first answer {} ms at the median, {} ms at most",
            options.seed,
            options.handler,
            if options.cni { "CNI" } else { "built-in network" },
            did(Did::Kill),
            did(Did::ShimKill),
            did(Did::Pod),
            did(Did::Container),
            did(Did::Exit),
            did(Did::LogLine),
            did(Did::Exec),
            did(Did::Event),
            did(Did::Call),
            did(Did::Cut),
            did(Did::Audit),
            millis(restarts.get(restarts.len() / 2)),
            millis(restarts.last()),
        );
        Summary { done, kills: did(Did::Kill), lost: counts.lost.clone() }
    }
}

/// A run in one line, and each loss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    done: String,
    /// How often the daemon was killed.
    pub kills: u64,
    /// What was lost, by kind.
    pub lost: BTreeMap<Loss, Vec<String>>,
}

impl Summary {
    /// How much was lost of everything.
    #[must_use]
    pub fn losses(&self) -> usize {
        self.lost.values().map(Vec::len).sum()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; lost:", self.done)?;
        for (at, loss) in Loss::ALL.into_iter().enumerate() {
            let separator = if at == 0 { "" } else { "," };
            write!(f, "{separator} {} {}", self.lost.get(&loss).map_or(0, Vec::len), loss.title())?;
        }
        for (loss, each) in &self.lost {
            for what in each {
                write!(f, "\n  {}: {what}", loss.title())?;
            }
        }
        Ok(())
    }
}
