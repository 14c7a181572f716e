//! What all threads of a run share: the daemon, who is killed when, what there is.
//!
//! Owns the rule of what a kill excuses: an error of a call during which the daemon was killed, or was not up. Everything else must succeed.

use super::Options;
use super::tally::{Did, Loss, Tally};
use crate::cri::Cri;
use crate::daemon::Settings;
use crate::host::pause;
use crate::test::Test;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};
use tonic::Status;

/// How long one call may be repeated.
const PATIENCE: Duration = Duration::from_secs(60);
/// A start that takes longer is told apart.
const SLOW: Duration = Duration::from_secs(1);
/// How long a daemon may take until it answers.
const START: Duration = Duration::from_secs(20);

/// A pod as its worker knows it.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    pub(super) key: String,
    /// Empty with the host's network.
    pub(super) ip: String,
    pub(super) ready: bool,
    /// Containers by id.
    pub(super) containers: BTreeMap<String, KnownContainer>,
}

/// A container as its worker knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KnownContainer {
    pub(super) name: String,
    /// Of its init, while nothing but its worker's wish ends it.
    pub(super) pid: Option<u32>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct World<'a> {
    pub(super) test: &'a Test,
    pub(super) settings: Settings,
    pub(super) options: Options,
    pub(super) image: String,
    pub(super) tally: Tally,
    /// No new life is begun.
    pub(super) over: AtomicBool,
    /// No event is listened for.
    pub(super) deaf: AtomicBool,
    /// Numbers log directories and the like, which are never used twice.
    pub(super) serial: AtomicU64,
    /// Pods by id, as long as they are to be there.
    pods: Mutex<BTreeMap<String, Known>>,
    /// Held by every worker for a step, whole by the auditor.
    gate: RwLock<()>,
    /// Odd while the daemon is being killed and started.
    epoch: AtomicU64,
    cri: Mutex<Cri>,
}

impl<'a> World<'a> {
    pub(super) fn new(test: &'a Test, options: &Options) -> Result<Self> {
        let settings = test.settings();
        Ok(Self {
            test,
            image: test.registry.reference("davit-test/busybox:latest"),
            cri: Mutex::new(Cri::new(&settings.socket())?),
            settings,
            options: options.clone(),
            tally: Tally::default(),
            over: AtomicBool::new(false),
            deaf: AtomicBool::new(false),
            serial: AtomicU64::new(0),
            pods: Mutex::default(),
            gate: RwLock::new(()),
            epoch: AtomicU64::new(0),
        })
    }

    pub(super) fn cri(&self) -> Cri {
        self.cri.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn pods(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For one step of a life: what a worker knows and what is are the same at its begin and its end.
    pub(super) fn step(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops everybody.
    pub(super) fn stop_the_world(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn number(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::SeqCst)
    }

    /// Changes what is known of a pod.
    pub(super) fn note(&self, pod: &str, change: impl FnOnce(&mut Known)) {
        change(self.pods().entry(pod.to_owned()).or_default());
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Whether what has been done since `before` may have met a daemon that was not there.
    pub(super) fn excused(&self, before: u64) -> bool {
        before % 2 == 1 || self.epoch() != before
    }

    /// Ends the daemon without a word, starts it at once, and waits until it answers.
    pub(super) fn kill_daemon(&self) -> Result<()> {
        self.tally.did(Did::Kill);
        self.epoch.fetch_add(1, Ordering::SeqCst);
        let mut daemon = self.test.daemon();
        daemon.kill()?;
        let begun = Instant::now();
        daemon.launch()?;
        let cri = Cri::new(&self.settings.socket())?;
        loop {
            if cri.pods(None).is_ok() {
                break;
            }
            if begun.elapsed() > START {
                bail!("the daemon does not answer\n{}", daemon.log_tail());
            }
            pause(Duration::from_millis(1));
        }
        let took = begun.elapsed();
        self.tally.restarted(took);
        if took > SLOW {
            let log = daemon.log_tail();
            let said = log.lines().rev().find(|line| line.contains("taken up"));
            self.tally.slow(took, said.unwrap_or("it does not say why"));
        }
        *self.cri.lock().unwrap_or_else(PoisonError::into_inner) = cri;
        self.epoch.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// Waits until the daemon is up.
    pub(super) fn wait_until_up(&self) {
        pause(Duration::from_millis(1));
        // A daemon that does not come up ends the run.
        while self.epoch() % 2 == 1 && !self.over.load(Ordering::SeqCst) {
            pause(Duration::from_millis(1));
        }
    }

    /// Calls until an answer comes: what a kill has cut off is sent again as it was.
    pub(super) fn call<T>(
        &self,
        what: &str,
        mut call: impl FnMut(&Cri) -> Result<T, Status>,
    ) -> Result<T> {
        let begun = Instant::now();
        loop {
            let before = self.epoch();
            let cri = self.cri();
            self.tally.did(Did::Call);
            let status = match call(&cri) {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            if !self.excused(before) {
                let refused = format!("{what}: {:?}: {}", status.code(), status.message());
                self.tally.lose(Loss::Refused, refused.clone());
                bail!(refused);
            }
            self.tally.did(Did::Cut);
            if begun.elapsed() > PATIENCE {
                return Err(status).with_context(|| format!("{what}: given up"));
            }
            // The client of the daemon that was killed may not have been replaced yet.
            self.wait_until_up();
        }
    }
}
