//! Listening to a pod's shim: its events, and its end.
//!
//! Owns the subscription and its renewal. A shim tells a new subscriber of every exit that there has been, so a stream that breaks loses
//! nothing; the pod's task takes an exit told twice for what it is.

use super::handle::Message;
use super::shim::Shim;
use std::time::Duration;
use tokio::sync::mpsc;

/// Between two tries to subscribe to a shim that lives and does not answer.
const PAUSE: Duration = Duration::from_millis(200);

/// Passes what the shim tells to the pod's task, until the shim has ended (which is told last) or the task has.
pub(super) fn spawn(shim: Shim, inbox: mpsc::Sender<Message>) {
    tokio::spawn(async move {
        tokio::select! {
            () = events(&shim, &inbox) => {}
            () = inbox.closed() => {}
            () = shim.process.ended() => drop(inbox.send(Message::ShimEnded).await),
        }
    });
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
