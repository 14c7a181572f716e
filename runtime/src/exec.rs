//! Running a command in a container and waiting for it.
//!
//! Owns the daemon's half: the process to run, the output gathered up to its limit. The process itself is the shim's.

use crate::container::ExecError;
use crate::id::ContainerId;
use crate::image::view::LayerView;
use crate::oci::{self, ExecAs, Terminal, UserFiles};
use crate::shared::Shared;
use crate::shim::{ShimClient, ShimError};
use crate::store::{StoreError, read_json};
use davit_proto::shim::ExecSyncRequest;
use davit_proto::shim::exec_sync_output::Kind;
use std::path::PathBuf;
use std::time::Duration;

/// How much of both streams together is kept: what a client takes in one message, 16 MiB, less what frames it.
const OUTPUT_LIMIT: usize = (16 << 20) - (4 << 10);

/// Where a command is to run.
#[derive(Debug)]
pub(crate) struct ExecTarget {
    pub(crate) id: ContainerId,
    pub(crate) client: ShimClient,
    /// The version of the shim's interface.
    pub(crate) protocol: u32,
    pub(crate) bundle: PathBuf,
    /// Of the container's first process.
    pub(crate) pid: u32,
}

impl ExecTarget {
    /// The process that runs `command`, as the shim wants it: the container's own with that command.
    pub(crate) fn process(
        &self,
        command: &[String],
        terminal: Terminal,
        whom: &ExecAs,
    ) -> Result<Vec<u8>, ExecError> {
        let config = self.bundle.join("config.json");
        let store = |source| ExecError::Store { id: self.id.clone(), source };
        let spec = read_json(&config).map_err(store)?;
        let users = if whom.user.is_empty() { UserFiles::default() } else { self.users()? };
        let process = oci::exec_process(&spec, command, terminal, whom, &users)?;
        serde_json::to_vec(&process)
            .map_err(|source| store(StoreError::Broken { path: config, source }))
    }
}

impl ExecTarget {
    /// The users that the container knows now. Its own to write, so they are read as an image's: no link leads out of its root.
    fn users(&self) -> Result<UserFiles, ExecError> {
        // With the dot the last part is the root itself, and not the link to it.
        let view = LayerView::new(&[PathBuf::from(format!("/proc/{}/root/.", self.pid))]);
        let limit = u64::try_from(UserFiles::LIMIT).unwrap_or(u64::MAX).saturating_add(1);
        let read = |path: &'static str| {
            let failed = |source| ExecError::UserFiles { id: self.id.clone(), path, source };
            view.read(path, limit).map_err(failed)
        };
        Ok(UserFiles { passwd: read("/etc/passwd")?, group: read("/etc/group")? })
    }
}

/// What a command said and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecOutput {
    /// Of both together the first 16 MiB, less 4 KiB: what fits one message to a client.
    pub stdout: Vec<u8>,
    /// See there.
    pub stderr: Vec<u8>,
    /// The exit code, or 128 + the signal's number.
    pub exit_code: i32,
}

pub(crate) async fn run(
    shared: &Shared,
    target: ExecTarget,
    command: &[String],
    timeout: Option<Duration>,
) -> Result<ExecOutput, ExecError> {
    let id = target.id.clone();
    let request = request(shared, &target, command, timeout)?;
    let failed = |source| ExecError::Shim { id: id.clone(), source };
    let mut stream = target.client.exec_sync(request).await.map_err(failed)?;
    let mut output = ExecOutput::default();
    let mut room = OUTPUT_LIMIT;
    while let Some(part) = stream
        .message()
        .await
        .map_err(|status| failed(ShimClient::exec_error(id.as_str(), status)))?
    {
        match part.kind {
            Some(Kind::Stdout(bytes)) => keep(&mut output.stdout, &bytes, &mut room),
            Some(Kind::Stderr(bytes)) => keep(&mut output.stderr, &bytes, &mut room),
            Some(Kind::End(end)) if end.timed_out => {
                return Err(ExecError::Timeout { after: timeout.unwrap_or_default() });
            }
            Some(Kind::End(end)) => {
                output.exit_code = end.exit.map_or(-1, |exit| exit.code);
                return Ok(output);
            }
            None => {}
        }
    }
    Err(failed(ShimError::Failed { message: "the output ended without an exit".to_owned() }))
}

/// Keeps as much of it as there is room for.
fn keep(output: &mut Vec<u8>, bytes: &[u8], room: &mut usize) {
    let kept = bytes.get(..*room).unwrap_or(bytes);
    output.extend_from_slice(kept);
    *room -= kept.len();
}

fn request(
    shared: &Shared,
    target: &ExecTarget,
    command: &[String],
    timeout: Option<Duration>,
) -> Result<ExecSyncRequest, ExecError> {
    Ok(ExecSyncRequest {
        id: target.id.to_string(),
        exec_id: ContainerId::random()?.to_string(),
        process: target.process(command, Terminal::No, &ExecAs::default())?,
        timeout_ms: millis(timeout.unwrap_or_default()),
        output_limit: u64::try_from(OUTPUT_LIMIT).unwrap_or(u64::MAX),
        drain_ms: millis(shared.config.deadlines.drain),
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
