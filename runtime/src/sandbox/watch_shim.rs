//! Listening to a pod's shim: its events, its silence, and its end.
//!
//! Owns the subscription and its renewal. A shim tells a new subscriber of every exit that there has been, so a stream that breaks loses
//! nothing; the pod's task takes an exit told twice for what it is. A shim that nobody asks anything is asked now and then whether it answers: that
//! it hangs would be noticed by whoever needs it, else, and too late. One question without an answer says little: a disk that stands still for some seconds holds up
//! every shim that writes a log to it, and a kubelet makes a pod that is not ready anew. So silence is what lasts.
//!
//! ```text
//!  find ──answers──► spawn: events ──► Event…
//!    │                       asks ──► Silent ⇄ Answers
//!    └──────── ended ────────┴──────────────────────► ShimEnded
//! ```

use super::handle::Message;
use super::shim::{Line, Shim};
use crate::id::SandboxId;
use crate::shared::Shared;
use crate::shim::{ShimError, SpawnError};
use crate::store::ShimRecord;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Between two tries to subscribe to a shim that lives and does not answer.
const PAUSE: Duration = Duration::from_millis(200);
/// How many times the deadline of a call lies between two of the questions: with fifty pods and the usual deadline, one and a half a second.
const QUIET: u32 = 3;
/// How many questions in a row have to stay without an answer, each for as long as a call may take: with the usual deadline, a minute.
pub(super) const UNANSWERED: u32 = 6;

/// Passes what the shim tells to the pod's task, until the shim has ended (which is told last) or the task has. `deadline`: how long it may take
/// to answer.
pub(super) fn spawn(shim: Shim, deadline: Duration, inbox: mpsc::Sender<Message>) {
    tokio::spawn(async move {
        tokio::select! {
            () = events(&shim, &inbox) => {}
            () = ask(&shim, deadline, &inbox) => {}
            () = inbox.closed() => {}
            () = shim.process.ended() => drop(inbox.send(Message::ShimEnded).await),
        }
    });
}

/// Waits for a shim that did not answer when a daemon took up its pod, or that could not be looked at or killed, until it answers or ends.
pub(super) fn find(
    shared: Arc<Shared>,
    id: SandboxId,
    record: ShimRecord,
    inbox: mpsc::Sender<Message>,
) {
    tokio::spawn(async move {
        let message = tokio::select! {
            message = found(&shared, &id, record) => message,
            () = inbox.closed() => return,
        };
        drop(inbox.send(message).await);
    });
}

async fn found(shared: &Shared, id: &SandboxId, record: ShimRecord) -> Message {
    let line = loop {
        match Line::open(shared, id, Some(record)) {
            Ok(line) => break line,
            Err(SpawnError::Watch { .. }) => tokio::time::sleep(PAUSE).await,
            Err(_) => return Message::ShimEnded,
        }
    };
    let answer = async {
        loop {
            if let Ok(found) = line.ask().await {
                return Message::ShimFound(Box::new(found));
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::select! {
        biased;
        () = line.ended() => Message::ShimEnded,
        found = answer => found,
    }
}

/// Ends only with the task.
async fn events(shim: &Shim, inbox: &mpsc::Sender<Message>) {
    loop {
        if let Ok(mut stream) = shim.client.events().await {
            while let Ok(Some(event)) = stream.message().await {
                if inbox.send(Message::Event(event)).await.is_err() {
                    return;
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Ends only with the task.
async fn ask(shim: &Shim, deadline: Duration, inbox: &mpsc::Sender<Message>) {
    let (mut hears, mut unanswered) = (Hearing::Answers, 0);
    loop {
        tokio::time::sleep(if unanswered == 0 { deadline * QUIET } else { PAUSE }).await;
        unanswered = match shim.client.state().await {
            Err(ShimError::Deadline { .. }) => UNANSWERED.min(unanswered + 1),
            Ok(_) => 0,
            // The connection was lost: the shim's end, or nothing that says what it does.
            Err(
                ShimError::Unknown { .. }
                | ShimError::Old
                | ShimError::State { .. }
                | ShimError::Runtime { .. }
                | ShimError::Gone { .. }
                | ShimError::Short { .. }
                | ShimError::Failed { .. },
            ) => continue,
        };
        let now = match unanswered {
            0 => Hearing::Answers,
            UNANSWERED => Hearing::Silent,
            // Not long enough to be told of.
            _ => continue,
        };
        if now != hears && inbox.send(Message::ShimHeard(now)).await.is_err() {
            return;
        }
        hears = now;
    }
}

/// Whether a shim that lives answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hearing {
    Answers,
    Silent,
}
