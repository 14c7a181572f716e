//! SIGINT and SIGTERM, counted.

use crate::client::error::ClientError;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How many signals have come.
#[derive(Debug)]
pub(crate) struct Interrupts(watch::Receiver<u32>);

impl Interrupts {
    /// Takes the signals: from now on they end nothing by themselves.
    ///
    /// # Errors
    /// [`ClientError::Signals`].
    pub(crate) fn new() -> Result<Self, ClientError> {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(ClientError::Signals)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(ClientError::Signals)?;
        let (count, counted) = watch::channel(0_u32);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                count.send_modify(|count| *count = count.saturating_add(1));
            }
        });
        Ok(Self(counted))
    }

    /// An error if one has come.
    ///
    /// # Errors
    /// [`ClientError::Interrupted`].
    pub(crate) fn check(&self) -> Result<(), ClientError> {
        if *self.0.borrow() == 0 { Ok(()) } else { Err(ClientError::Interrupted) }
    }

    /// Ends when the first has come.
    pub(crate) async fn first(&self) {
        let mut counted = self.0.clone();
        if counted.wait_for(|count| *count > 0).await.is_err() {
            // The counting task never ends before the executor does.
            std::future::pending::<()>().await;
        }
    }

    /// Ends at the next one that this was not called for yet, one that came before included.
    pub(crate) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
