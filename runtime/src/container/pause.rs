//! What is asked of a container that runs: to stand still, or to go on.

use super::{ContainerEvent, PauseContainerError};
use crate::clock;
use crate::id::ContainerId;
use crate::shim::{ShimClient, ShimError};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Motion {
    /// To stand still.
    Pause,
    /// To go on.
    Resume,
}

impl Motion {
    /// As a verb, for messages.
    #[must_use]
    pub fn verb(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
        }
    }

    /// What has happened once it is done.
    pub(crate) fn event(self) -> ContainerEvent {
        match self {
            Self::Pause => ContainerEvent::Paused { at: clock::now() },
            Self::Resume => ContainerEvent::Resumed,
        }
    }

    /// Has the shim do it.
    ///
    /// # Errors
    /// [`PauseContainerError::Shim`].
    pub(crate) async fn perform(
        self,
        client: &ShimClient,
        id: &ContainerId,
    ) -> Result<(), PauseContainerError> {
        let done: Result<(), ShimError> = match self {
            Self::Pause => client.pause(id.as_str()).await,
            Self::Resume => client.resume(id.as_str()).await,
        };
        done.map_err(|source| PauseContainerError::Shim { motion: self, id: id.clone(), source })
    }
}
