//! A container's restoration from a checkpoint: a creation whose processes are there already.
//!
//! Owns what it needs beside a creation: the archive unpacked beside the writable layer, what the container had changed applied to it, and the OCI runtime's
//! `restore` in the place of `create` and `start`. The same record says `Creating` before anything is made, so the same undo and the same recovery take it back.
//!
//! ```text
//! image, spec, record, rootfs (as in a creation) ─► archive unpacked ─► diff applied ─► shim: restored ─► what was unpacked removed ─► record Running
//!                                   └──────────────────── whatever fails: all of it undone ────────────────────┘
//! ```

use super::create::{Creation, MadeContainer, Prepared, finish};
use super::{ContainerEvent, CreateContainerError};
use crate::checkpoint::{Archive, ArchiveError, Unpacked};
use crate::id::ContainerId;
use crate::store::{StoreError, ensure_dir, reach, remove_tree};
use crate::undo::Undo;
use davit_proto::shim::RestoreRequest;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What a restoration works with.
pub(crate) struct Restoration {
    pub(crate) creation: Arc<Creation>,
    pub(crate) archive: Arc<Archive>,
    /// How long the OCI runtime may take.
    pub(crate) timeout: Duration,
}

/// Restores the container, or leaves nothing of it.
pub(crate) async fn restore(
    restoration: Restoration,
) -> Result<MadeContainer, CreateContainerError> {
    let id = ContainerId::random()?;
    let mut undo = Undo::default();
    let made = restoration.steps(&id, &mut undo).await;
    finish(&restoration.creation, &id, undo, made).await
}

impl Restoration {
    async fn steps(
        &self,
        id: &ContainerId,
        undo: &mut Undo<'static>,
    ) -> Result<MadeContainer, CreateContainerError> {
        let creation = &self.creation;
        let Prepared { record, held, mut request } = creation.prepare(id, undo).await?;
        // What restores looks the mounts up in the host's own list.
        if let Some(rootfs) = &mut request.rootfs {
            (rootfs.hidden, rootfs.view) = (Vec::new(), None);
        }
        reach("restore.prepared")?;
        let writable = creation.shared.layout.writable(id);
        let directory = writable.join("restore");
        let unpacked = self.unpack(directory.clone(), writable.join("fs")).await?;
        reach("restore.unpacked")?;
        let request = RestoreRequest {
            container: Some(request),
            images: unpacked.images.to_string_lossy().into_owned(),
            work: unpacked.work.to_string_lossy().into_owned(),
            timeout_ms: u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX),
        };
        let restored = creation.shim.client.restore(request).await;
        let restored = match restored {
            Ok(restored) => restored,
            Err(source) => {
                let said = last_error(&unpacked.work.join("restore.log"));
                return Err(CreateContainerError::Restore {
                    said: said.unwrap_or_default(),
                    source,
                });
            }
        };
        reach("restore.made")?;
        // The memory of its processes is in there once more.
        blocking(move || remove_tree(&directory).map_err(ArchiveError::from)).await?;
        let events = [
            ContainerEvent::Made { pid: restored.pid },
            ContainerEvent::Started { at: restored.started_at },
        ];
        let made = creation.commit(record, held, events)?;
        reach("restore.committed")?;
        Ok(made)
    }

    async fn unpack(&self, directory: PathBuf, upper: PathBuf) -> Result<Unpacked, ArchiveError> {
        let archive = Arc::clone(&self.archive);
        blocking(move || {
            ensure_dir(&directory)?;
            let unpacked = archive.unpack(&directory)?;
            archive.apply_diff(&unpacked, &upper)?;
            Ok(unpacked)
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ArchiveError> + Send + 'static,
) -> Result<T, ArchiveError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| {
        let place = Path::new("the checkpoint");
        Err(StoreError::io("unpack", place)(io::Error::other(error)).into())
    })
}

/// What CRIU says of a restore that fails: OCI runtimes only name its log, which is removed.
fn last_error(log: &Path) -> Option<String> {
    const TAIL: u64 = 64 << 10;
    let mut file = std::fs::File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    io::Seek::seek(&mut file, io::SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, TAIL), &mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let errors =
        || text.lines().filter_map(|line| line.split_once("Error (").map(|(_, said)| said));
    // The first is the cause; what follows is what came of it.
    let said = errors().next()?;
    Some(said.chars().filter(|letter| !letter.is_control()).take(300).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_in_crius_log_is_the_cause() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("restore.log");
        assert_eq!(last_error(&path), None);
        let text = "(00.1) Warn  (a.c:1): x\n(00.2)      1: Error (criu/files.c:3): no such file\n(00.3) Error (criu/cr-restore.c:9): Restoring FAILED.\n";
        io::Write::write_all(&mut std::fs::File::create(&path).unwrap(), text.as_bytes()).unwrap();
        assert_eq!(last_error(&path).unwrap(), "criu/files.c:3): no such file");
    }
}
