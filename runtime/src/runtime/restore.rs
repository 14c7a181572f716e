//! Containers from checkpoints: by this verb and no other.

use super::Runtime;
use crate::checkpoint::{self, Archive, CheckpointError, DumpedImage};
use crate::container::{ContainerSpec, CreateContainerError};
use crate::id::ContainerId;
use crate::sandbox::handle::{Command, Gone, Wanted};
use crate::sandbox::unknown;
use std::sync::Arc;
use std::time::Duration;

/// How long the OCI runtime may take if the caller sets no limit: memory is read at the speed of a disk.
const LIMIT: Duration = Duration::from_secs(600);

impl Runtime {
    /// Finds out whether containers of this handler can be checkpointed and restored here. Touches nothing.
    ///
    /// # Errors
    /// [`CheckpointError`] says what is missing.
    pub async fn check_criu(&self, handler: &str) -> Result<(), CheckpointError> {
        checkpoint::check_criu(&self.shared, handler).await
    }

    /// Whether the image that a checkpoint needs is here: this very one, whatever its names mean by now.
    #[must_use]
    pub fn has_image(&self, image: &DumpedImage) -> bool {
        let found = self.shared.images.find(&image.id);
        found.is_ok_and(|found| found.is_some_and(|found| found.id.as_str() == image.id))
    }

    /// Makes a container from a checkpoint, in a pod that is there; its processes go on where they were.
    ///
    /// # Errors
    /// [`CreateContainerError`]; nothing is left of it then.
    pub async fn restore_container(
        &self,
        sandbox: &str,
        archive: Archive,
        spec: ContainerSpec,
        timeout: Option<Duration>,
    ) -> Result<ContainerId, Arc<CreateContainerError>> {
        let pod = self.shared.index.pod(sandbox);
        let (id, handle) = pod.map_err(|error| Arc::new(CreateContainerError::Sandbox(error)))?;
        let wanted = Wanted {
            spec: Box::new(spec),
            archive: Arc::new(archive),
            timeout: timeout.unwrap_or(LIMIT),
        };
        let wanted = Box::new(wanted);
        handle.call(|reply| Command::Restore { wanted, reply }).await.unwrap_or_else(|Gone| {
            Err(Arc::new(CreateContainerError::Sandbox(unknown("pod sandbox", id.as_str()))))
        })
    }
}
