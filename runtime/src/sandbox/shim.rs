//! A pod's shim while it lives: the connection, the process, the namespaces that it holds.

use crate::id::SandboxId;
use crate::shared::Shared;
use crate::shim::{ProcessHandle, ShimClient, ShimError, SpawnError, last_words};
use crate::store::ShimRecord;
use davit_proto::shim::{ContainerState, Exit, StateResponse};
use std::path::PathBuf;
use std::time::Duration;

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

/// A shim that was asked, and what it told.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) shim: Shim,
    pub(crate) containers: Vec<ContainerState>,
    /// How the init of the pod's shared PID namespace has ended, if it has.
    pub(crate) init_exit: Option<Exit>,
}

/// The way to a shim that has not answered yet.
#[derive(Debug)]
pub(super) struct Line {
    record: ShimRecord,
    process: ProcessHandle,
    client: ShimClient,
    directory: PathBuf,
    deadline: Duration,
}

/// The pod's namespaces, but for the network's, as paths that an OCI runtime can join; `None` where the pod uses the host's (or, for the PID namespace, shares
/// none).
#[derive(Debug, Clone, Default)]
pub(crate) struct Namespaces {
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
    ) -> Result<Found, SpawnError> {
        Line::open(shared, id, record)?.ask().await
    }

    fn found(line: &Line, state: StateResponse) -> Found {
        let namespaces = Namespaces {
            ipc: path(state.ipcns_path),
            uts: path(state.utsns_path),
            pid: path(state.pidns_path),
            user: path(state.userns_path),
        };
        let shim = Self {
            client: line.client.clone(),
            process: line.process.clone(),
            pid: line.record.pid,
            protocol: state.protocol,
            namespaces,
        };
        let init_exit = state.init.and_then(|init| init.exit);
        Found { shim, containers: state.containers, init_exit }
    }
}

impl Line {
    /// To the shim of this record, which must live.
    pub(super) fn open(
        shared: &Shared,
        id: &SandboxId,
        record: Option<ShimRecord>,
    ) -> Result<Self, SpawnError> {
        let directory = shared.layout.pod(id);
        let ended = || SpawnError::Ended { said: last_words(&directory) };
        let record = record.ok_or_else(ended)?;
        let process = ProcessHandle::open(record)
            .map_err(|source| SpawnError::Watch { pid: record.pid, source })?
            .ok_or_else(ended)?;
        let deadline = shared.config.deadlines.shim;
        let client =
            ShimClient::new(&directory, deadline).allowing(shared.config.deadlines.runtime);
        Ok(Self { record, process, client, directory, deadline })
    }

    /// Asks it who it is. The socket listens already, so the call waits in its queue; only the shim's end would leave it there.
    pub(super) async fn ask(&self) -> Result<Found, SpawnError> {
        let ended = || SpawnError::Ended { said: last_words(&self.directory) };
        let state = tokio::select! {
            biased;
            state = self.client.state() => state,
            () = self.process.ended() => return Err(ended()),
        };
        match state {
            Ok(state) if state.pid != self.record.pid => {
                Err(SpawnError::Foreign { pid: state.pid, shim: self.record.pid })
            }
            Ok(state) => Ok(Shim::found(self, state)),
            Err(_) if matches!(ProcessHandle::open(self.record), Ok(None)) => Err(ended()),
            Err(ShimError::Deadline { .. }) => Err(SpawnError::Silent { after: self.deadline }),
            Err(error) => Err(SpawnError::State(error)),
        }
    }

    /// Answers when the shim has ended.
    pub(super) async fn ended(&self) {
        self.process.ended().await;
    }
}

fn path(text: String) -> Option<PathBuf> {
    (!text.is_empty()).then(|| PathBuf::from(text))
}
