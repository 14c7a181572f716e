//! Who numbers events, has them written, and shows them.
//!
//! One task. It gathers what comes within a moment, so that a burst is one write. A disk that does not answer is waited for a second; then events
//! are shown without having been written, until it answers.

use super::describe::describe;
use super::log::{AppendError, Log};
use super::window::Window;
use super::{Entry, Told};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// How long a burst is gathered.
const GATHER: Duration = Duration::from_millis(5);
/// How long a write may take before events are shown without it.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many events are taken at a time.
const BATCH: usize = 512;

type Written = (Log, Result<(), AppendError>);

/// See the module.
pub(super) struct Writer {
    disk: Disk,
    next: u64,
    window: Arc<Window>,
    not_stored: Arc<AtomicU64>,
    /// Events that found no room in the inbox.
    lost: Arc<AtomicU64>,
    /// Writing does not work; said once.
    failing: bool,
}

/// Where the log is.
enum Disk {
    /// Here.
    Idle(Log),
    /// With a write of so many events that takes long.
    Busy(JoinHandle<Written>, u64),
    /// Nowhere: it could not be opened.
    None,
}

impl Writer {
    pub(super) fn new(
        log: Option<Log>,
        next: u64,
        (window, not_stored): (Arc<Window>, Arc<AtomicU64>),
        lost: Arc<AtomicU64>,
    ) -> Self {
        let disk = log.map_or(Disk::None, Disk::Idle);
        Self { disk, next, window, not_stored, lost, failing: false }
    }

    /// Ends when nobody can tell anything any more.
    pub(super) async fn run(mut self, mut told: mpsc::Receiver<Told>) {
        let mut batch = Vec::new();
        while told.recv_many(&mut batch, BATCH).await > 0 {
            if !batch.iter().any(|told| matches!(told, Told::Flush(_))) {
                tokio::time::sleep(GATHER).await;
                while batch.len() < BATCH
                    && let Ok(more) = told.try_recv()
                {
                    batch.push(more);
                }
            }
            let (entries, waiting) = self.number(std::mem::take(&mut batch));
            let count = u64::try_from(entries.len()).unwrap_or(u64::MAX);
            self.store(&entries, count).await;
            self.window.show(entries, self.next);
            // One that has gone does not wait any more.
            waiting.into_iter().for_each(|waiter| waiter.send(()).unwrap_or_default());
        }
    }

    /// Gives each its number; what was lost has one, too, so that its loss is seen.
    fn number(&mut self, batch: Vec<Told>) -> (Vec<Arc<Entry>>, Vec<oneshot::Sender<()>>) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let (mut entries, mut waiting) = (Vec::with_capacity(batch.len()), Vec::new());
        for told in batch {
            if let Some(entry) = describe(&told, self.next) {
                self.next = self.next.saturating_add(1);
                entries.push(Arc::new(entry));
            }
            if let Told::Flush(waiter) = told {
                waiting.push(waiter);
            }
        }
        if lost > 0 {
            tracing::warn!(lost, "events were lost: more came than could be taken");
            self.next = self.next.saturating_add(lost);
            self.not_stored.fetch_add(lost, Ordering::Relaxed);
        }
        (entries, waiting)
    }

    async fn store(&mut self, entries: &[Arc<Entry>], count: u64) {
        if count == 0 {
            return;
        }
        let Some(mut log) = self.idle().await else {
            self.not_stored.fetch_add(count, Ordering::Relaxed);
            return;
        };
        let (entries, next) = (entries.to_vec(), self.next);
        let writing = tokio::task::spawn_blocking(move || {
            let written = log.append(&entries, next);
            (log, written)
        });
        self.disk = Disk::Busy(writing, count);
        self.settle(PATIENCE).await;
    }

    /// The log, if it is not busy with what was to be written before.
    async fn idle(&mut self) -> Option<Log> {
        self.settle(Duration::ZERO).await;
        match std::mem::replace(&mut self.disk, Disk::None) {
            Disk::Idle(log) => Some(log),
            busy @ (Disk::Busy(..) | Disk::None) => {
                self.disk = busy;
                None
            }
        }
    }

    /// Waits so long for a write to end, and takes note of how it did.
    async fn settle(&mut self, patience: Duration) {
        let Disk::Busy(writing, count) = &mut self.disk else { return };
        let count = *count;
        match tokio::time::timeout(patience, writing).await {
            Err(_elapsed) => {
                let hangs = std::io::Error::from(std::io::ErrorKind::TimedOut);
                if patience > Duration::ZERO {
                    self.told_failure(&hangs);
                }
            }
            Ok(Ok((log, written))) => {
                self.disk = Disk::Idle(log);
                self.note(written);
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "events are not stored any more");
                self.disk = Disk::None;
                self.not_stored.fetch_add(count, Ordering::Relaxed);
            }
        }
    }

    fn note(&mut self, written: Result<(), AppendError>) {
        match written {
            Ok(()) if std::mem::take(&mut self.failing) => {
                tracing::info!("events are stored again");
            }
            Ok(()) => {}
            Err(AppendError { unwritten, source }) => {
                self.not_stored.fetch_add(unwritten, Ordering::Relaxed);
                self.told_failure(&source);
            }
        }
    }

    fn told_failure(&mut self, error: &std::io::Error) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(%error, "events can't be stored; they are shown to those who listen");
        }
    }
}
