//! A pod's shim while it lives: the connection, the process, the namespaces that it holds.

use crate::id::SandboxId;
use crate::shared::Shared;
use crate::shim::{ProcessHandle, ShimClient, SpawnError, last_words};
use crate::store::ShimRecord;
use davit_proto::shim::ContainerState;
use std::path::PathBuf;

/// A shim that serves.
#[derive(Debug, Clone)]
pub(crate) struct Shim {
    pub(crate) client: ShimClient,
    pub(crate) process: ProcessHandle,
    pub(crate) pid: u32,
    /// The version of its interface, which may be older or newer than this daemon's.
    pub(crate) protocol: u32,
    pub(crate) namespaces: Namespaces,
}

/// The pod's namespaces as paths that an OCI runtime can join; `None` where the pod uses the host's (or, for the PID namespace, shares
/// none).
#[derive(Debug, Clone, Default)]
pub(crate) struct Namespaces {
    pub(crate) net: Option<PathBuf>,
    pub(crate) ipc: Option<PathBuf>,
    pub(crate) uts: Option<PathBuf>,
    pub(crate) pid: Option<PathBuf>,
    pub(crate) user: Option<PathBuf>,
}

impl Shim {
    /// Waits until the shim of this record serves.
    /// Answers with what runs there, too.
    pub(super) async fn connect(
        shared: &Shared,
        id: &SandboxId,
        record: Option<ShimRecord>,
    ) -> Result<(Self, Vec<ContainerState>), SpawnError> {
        let directory = shared.layout.pod(id);
        let ended = || SpawnError::Ended { said: last_words(&directory) };
        let record = record.ok_or_else(ended)?;
        let process = ProcessHandle::open(record).ok().flatten().ok_or_else(ended)?;
        let deadline = shared.config.deadlines.shim;
        let client = ShimClient::new(&directory, deadline);
        // The socket listens already, so the call waits in its queue; only the shim's end would leave it there.
        let state = tokio::select! {
            biased;
            state = tokio::time::timeout(deadline, client.state()) => state,
            () = process.ended() => return Err(ended()),
        };
        match state {
            Ok(Ok(state)) if state.pid != record.pid => {
                Err(SpawnError::Foreign { pid: state.pid, shim: record.pid })
            }
            Ok(Ok(state)) => {
                let namespaces = Namespaces {
                    net: path(state.netns_path),
                    ipc: path(state.ipcns_path),
                    uts: path(state.utsns_path),
                    pid: path(state.pidns_path),
                    user: path(state.userns_path),
                };
                let (pid, protocol) = (record.pid, state.protocol);
                Ok((Self { client, process, pid, protocol, namespaces }, state.containers))
            }
            Ok(Err(_)) if ProcessHandle::open(record).ok().flatten().is_none() => Err(ended()),
            Ok(Err(error)) => Err(SpawnError::State(error)),
            Err(_) => Err(SpawnError::Silent { after: deadline }),
        }
    }
}

fn path(text: String) -> Option<PathBuf> {
    (!text.is_empty()).then(|| PathBuf::from(text))
}
