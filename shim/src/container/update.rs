//! Update: other limits for a container that lives.
//!
//! The OCI runtime knows how each is written, in which order, and what of it systemd has to be told. One call at a time and
//! container is the caller's to see to.

use crate::error::{Invalid, Refusal};
use crate::oci::{Call, CallStdio, OciError, Verb};
use crate::pod::Pod;
use davit_proto::shim::UpdateRequest;
use rustix::fs::MemfdFlags;
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;

/// More than all limits there are, by far.
const RESOURCES_LIMIT: usize = 256 * 1024;

/// Why limits were not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpdateError {
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Oci(#[from] OciError),
    #[error("update container {id}: hand over the limits")]
    Input { id: String, source: io::Error },
}

/// Changes a container's limits. To be run in a task of its own.
pub(crate) async fn update(pod: &Pod, request: UpdateRequest) -> Result<(), UpdateError> {
    let UpdateRequest { id, resources } = request;
    if resources.len() > RESOURCES_LIMIT {
        let length = format!("{} bytes", resources.len());
        return Err(Invalid::new("resources", length, "more than limits can take").into());
    }
    let container = pod.container(&id)?;
    container.living()?;
    let input =
        handed_over(&resources).map_err(|source| UpdateError::Input { id: id.clone(), source })?;
    let log = container.bundle.join("update.log");
    let call = Call { verb: Verb::Update, id: &id, log, stdio: CallStdio::Reads(input) };
    container.oci.run(&pod.reaper, call, || Ok::<(), Infallible>(())).await?;
    Ok(())
}

/// In memory, rather than in a pipe: nobody has to write while the runtime reads, and one that opens it anew reads all of it.
fn handed_over(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(rustix::fs::memfd_create("resources", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}
