//! From an exec'd process's pipe to the client: in chunks, up to the limit, through a bounded channel.
//!
//! Beyond the limit, or when the client has gone, output is read and dropped, so that the process does not wait for ever on what
//! nobody will read. After the exit, reading goes on until the pipe ends or the time to drain is over; what is in the pipe then
//! still counts.

use super::Message;
use crate::stdio::stream::Reader;
use davit_proto::shim::ExecSyncOutput;
use davit_proto::shim::exec_sync_output::Kind;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// The most that is read at the last look: as much as the biggest pipe holds, so that a child that keeps writing cannot
/// keep the look from ending.
const LAST_LOOK: usize = 1 << 20;

/// When to stop reading, known once the process has exited.
#[derive(Debug, Clone, Default)]
pub(crate) struct Drain {
    until: watch::Sender<Option<Instant>>,
}

impl Drain {
    /// Reading is to end at that time.
    pub(crate) fn until(&self, when: Instant) {
        self.until.send_replace(Some(when));
    }

    async fn over(&self) {
        let mut until = self.until.subscribe();
        // The sender lives as long as `self`, so there is an answer.
        let when = until.wait_for(Option::is_some).await.ok().and_then(|when| *when);
        match when {
            Some(when) => tokio::time::sleep_until(when).await,
            None => std::future::pending().await,
        }
    }
}

/// One stream's way.
#[derive(Debug)]
pub(crate) struct Pump {
    pub(crate) reader: Reader,
    pub(crate) kind: fn(Vec<u8>) -> Kind,
    /// How much may still be passed on.
    pub(crate) left: u64,
    pub(crate) sender: mpsc::Sender<Message>,
    pub(crate) drain: Drain,
}

impl Pump {
    /// Passes output on until it ends; answers how much was dropped because of the limit.
    pub(crate) async fn run(mut self) -> u64 {
        let mut dropped = 0;
        let over = {
            let drain = self.drain.clone();
            async move { drain.over().await }
        };
        tokio::pin!(over);
        loop {
            let read = tokio::select! {
                biased;
                read = self.reader.read() => read,
                () = &mut over => return dropped + self.last_look().await,
            };
            let Ok(Some(bytes)) = read else { return dropped };
            dropped += self.pass_on(bytes).await;
        }
    }

    async fn last_look(&mut self) -> u64 {
        let (mut dropped, mut seen) = (0, 0);
        while let (true, Ok(Some(bytes))) = (seen < LAST_LOOK, self.reader.read_rest()) {
            if bytes.is_empty() {
                break;
            }
            seen += bytes.len();
            dropped += self.pass_on(bytes).await;
        }
        dropped
    }

    async fn pass_on(&mut self, mut bytes: Vec<u8>) -> u64 {
        let all = bytes.len() as u64;
        let passed = all.min(self.left);
        self.left -= passed;
        bytes.truncate(usize::try_from(passed).unwrap_or(usize::MAX));
        if !bytes.is_empty() {
            // Read with room to spare: what waits in the channel holds no more than it needs.
            bytes.shrink_to_fit();
            let _ = self.sender.send(Ok(ExecSyncOutput { kind: Some((self.kind)(bytes)) })).await;
        }
        all - passed
    }
}
