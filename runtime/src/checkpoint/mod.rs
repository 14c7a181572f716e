//! A running container, written into an archive while it goes on.
//!
//! Owns the archive and the order; the container is frozen and dumped by its pod's shim with the OCI runtime and CRIU. The layout is the one that
//! podman began and the other runtimes share: `checkpoint/` with CRIU's images, `rootfs-diff.tar`, `deleted.files`, `spec.dump`, `config.dump`, and
//! `dump.log`; and `davit.dump`, from which davit makes the container again (`read.rs`, [`crate::container`]). Whoever makes an archive decides what the
//! restored processes may do, so one is restored only by the verb for that, and never because an image says so.
//!
//! ```text
//! CRIU tried ─► shim: frozen, dumped ─► diff of the root read ─► shim: thawed ─► archive packed beside its place ─► renamed
//!                                 └──────────── whatever fails: thawed, all files of it removed ────────────┘
//! ```
//!
//! Invariants: at `location` there is a whole archive or nothing; nobody but root reads it, for it holds the container's memory.

mod archive;
mod criu;
mod diff;
mod dump;
mod error;
mod read;

pub use dump::{Dump, DumpedImage, DumpedPod};
pub use error::{ArchiveError, CheckpointError};
pub use read::Archive;
pub(crate) use read::Unpacked;

use crate::config::RuntimeConfig;
use crate::machine::Finding;

use crate::container::ContainerView;
use crate::exec::ExecTarget;
use crate::id::ContainerId;
use crate::sandbox::SandboxView;
use crate::shared::Shared;
use crate::store::{ensure_dir, remove_tree};
use davit_proto::shim::CheckpointRequest;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// How long a dump may take if the caller sets no limit: memory is written at the speed of a disk.
const LIMIT: Duration = Duration::from_secs(600);
/// How long the container stays frozen at most while its changes are read.
const HOLD: Duration = Duration::from_secs(120);

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    pub(crate) shared: Arc<Shared>,
    pub(crate) target: ExecTarget,
    pub(crate) sandbox: Arc<SandboxView>,
    pub(crate) view: Arc<ContainerView>,
    pub(crate) location: PathBuf,
    pub(crate) timeout: Option<Duration>,
}

/// How long `criu check` gets where nobody waits for a checkpoint.
const EXAMINATION: Duration = Duration::from_secs(5);

/// Whether containers could be checkpointed here.
pub(crate) async fn examine(config: &RuntimeConfig) -> Finding {
    let subject = "criu";
    if !config.criu {
        return Finding::ok(subject, "checkpoints are off (criu = false)");
    }
    match criu::check(EXAMINATION).await {
        Ok(()) => Finding::ok(subject, "containers can be checkpointed"),
        Err(error) => {
            let text = format!("containers can't be checkpointed: {}", crate::error::chain(&error));
            Finding::warning(
                subject,
                text,
                "install a criu that works with this kernel, or set criu = false",
            )
        }
    }
}

/// Makes the archive, or leaves nothing of it. Mutates, so it belongs in a task of its own.
pub(crate) async fn make(checkpoint: Checkpoint) -> Result<(), CheckpointError> {
    let shared = &checkpoint.shared;
    if shared.config.criu {
        check_location(&checkpoint.location)?;
    }
    check_criu(shared, &checkpoint.sandbox.handler).await?;
    let id = &checkpoint.target.id;
    let _turn = Turn::take(&checkpoint.shared, id)?;
    let directory = checkpoint.shared.layout.writable(id).join("checkpoint");
    // Left by a daemon that was killed meanwhile.
    remove_tree(&directory)?;
    ensure_dir(&directory)?;
    let limit = checkpoint.timeout.unwrap_or(LIMIT);
    let made = match tokio::time::timeout(limit, checkpoint.steps(&directory)).await {
        Ok(made) => made,
        Err(_elapsed) => Err(CheckpointError::Timeout { id: id.clone(), after: limit }),
    };
    // Whether or not it was frozen, and whatever became of the call.
    drop(checkpoint.target.client.thaw(id.as_str()).await);
    let removed = tokio::task::spawn_blocking(move || remove_tree(&directory)).await;
    if let Ok(Err(error)) = removed {
        tracing::error!(container = %id, error = &error as &dyn std::error::Error, "left behind by a checkpoint");
    }
    made
}

/// Finds out whether containers of this handler can be checkpointed and restored here. Touches nothing.
pub(crate) async fn check_criu(shared: &Shared, handler: &str) -> Result<(), CheckpointError> {
    if !shared.config.criu {
        return Err(CheckpointError::Off);
    }
    criu::check(shared.config.deadlines.runtime).await?;
    match shared.handlers.get(handler) {
        Ok(handler) => criu::check_runtime(handler, shared.config.deadlines.runtime).await,
        // Who uses the handler says what is wrong with it.
        Err(_) => Ok(()),
    }
}

/// One checkpoint of a container at a time.
struct Turn {
    shared: Arc<Shared>,
    id: ContainerId,
}

impl Turn {
    fn take(shared: &Arc<Shared>, id: &ContainerId) -> Result<Self, CheckpointError> {
        let mut taken = shared.checkpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if !taken.insert(id.clone()) {
            return Err(CheckpointError::Busy { id: id.clone() });
        }
        Ok(Self { shared: Arc::clone(shared), id: id.clone() })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut taken = self.shared.checkpoints.lock().unwrap_or_else(PoisonError::into_inner);
        taken.remove(&self.id);
    }
}

/// Before anything is frozen: a place that an archive can be renamed to.
fn check_location(location: &Path) -> Result<(), CheckpointError> {
    let refused = |problem| CheckpointError::Location { path: location.to_owned(), problem };
    let parent = location.parent().ok_or_else(|| refused("is no place for a file"))?;
    if !parent.is_dir() {
        return Err(refused("is in no directory that is there"));
    }
    match std::fs::symlink_metadata(location) {
        Ok(metadata) if metadata.is_file() => Ok(()),
        Ok(_) => Err(refused("is there, and is no file")),
        Err(_) => Ok(()),
    }
}

impl Checkpoint {
    async fn steps(&self, directory: &Path) -> Result<(), CheckpointError> {
        let id = &self.target.id;
        let (images, work) = (directory.join("checkpoint"), directory.join("work"));
        for path in [&images, &work] {
            ensure_dir(path)?;
        }
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let request = CheckpointRequest {
            id: id.to_string(),
            images: images.to_string_lossy().into_owned(),
            work: work.to_string_lossy().into_owned(),
            timeout_ms: millis(self.timeout.unwrap_or(LIMIT)),
            hold_ms: millis(HOLD),
        };
        let shim = |source| CheckpointError::Shim { id: id.clone(), source };
        self.target.client.checkpoint(request).await.map_err(shim)?;
        let upper = self.shared.layout.writable(id).join("fs");
        let diff = diff::Files::below(directory);
        let read = diff.clone();
        blocking(move || diff::read(&upper, &read)).await?;
        self.target.client.thaw(id.as_str()).await.map_err(shim)?;
        self.pack(&images, &work, diff).await
    }

    async fn pack(
        &self,
        images: &Path,
        work: &Path,
        diff: diff::Files,
    ) -> Result<(), CheckpointError> {
        let parts = archive::Parts {
            images: images.to_owned(),
            diff,
            spec: self.target.bundle.join("config.json"),
            dump_log: work.join("dump.log"),
            config: archive::config(&self.view)?,
            davit: serde_json::to_vec(&Dump::of(&self.sandbox, &self.view))?,
        };
        let location = self.location.clone();
        blocking(move || archive::write(&parts, &location)).await
    }
}

async fn blocking(
    work: impl FnOnce() -> Result<(), CheckpointError> + Send + 'static,
) -> Result<(), CheckpointError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(CheckpointError::Task(std::io::Error::other(error))))
}
