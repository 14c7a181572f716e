//! `davit checkpoint create|list|delete`, and the way to [`super::restore`].

use super::act::complain;
use super::connect::Daemon;
use super::error::{ClientError, doing};
use super::find;
use super::format::{Ids, Row, show};
use super::moment::moment;
use crate::cli::{CheckpointCommand, Written};
use crate::output;
use davit_proto::admin;
use serde::Serialize;
use std::process::ExitCode;

/// A checkpoint, as lists show it.
#[derive(Debug, Clone, Default, Serialize)]
struct Kept {
    name: String,
    path: String,
    size: u64,
    created_at: String,
}

impl Row for Kept {
    const HEADINGS: &'static [&'static str] = &["NAME", "SIZE", "CREATED", "PATH"];

    fn id(&self) -> &str {
        &self.name
    }

    fn cells(&self, _: Ids) -> Vec<Vec<String>> {
        let size = indicatif::BinaryBytes(self.size).to_string();
        vec![vec![self.name.clone(), size, self.created_at.clone(), self.path.clone()]]
    }
}

/// Does what is asked.
///
/// # Errors
/// [`ClientError`].
pub(crate) async fn checkpoint(
    mut daemon: Daemon,
    command: CheckpointCommand,
) -> Result<ExitCode, ClientError> {
    match command {
        CheckpointCommand::Create { name, timeout, id } => {
            let container_id = find::container(&mut daemon, &id).await?.id;
            let name = name.unwrap_or_default();
            let request = admin::CreateCheckpointRequest { container_id, name, timeout_s: timeout };
            let failed = doing(format!("checkpoint container {id}"));
            let answer = daemon.davit.create_checkpoint(request).await.map_err(failed)?;
            let made = answer.into_inner().checkpoint.unwrap_or_default();
            output::print(&format!("{}\n", made.name))?;
            Ok(ExitCode::SUCCESS)
        }
        CheckpointCommand::Restore { name, pod, timeout, archive } => {
            let wish = super::restore::Wish { archive, name, pod, timeout };
            Box::pin(super::restore::restore(daemon, wish)).await
        }
        CheckpointCommand::List { written } => list(&mut daemon, &written).await,
        CheckpointCommand::Delete { names } => {
            let mut code = ExitCode::SUCCESS;
            for name in names {
                let request = admin::RemoveCheckpointRequest { name: name.clone() };
                match daemon.davit.remove_checkpoint(request).await {
                    Ok(_) => output::print(&format!("{name}\n"))?,
                    Err(status) => {
                        complain(doing(format!("delete checkpoint {name}"))(status));
                        code = ExitCode::FAILURE;
                    }
                }
            }
            Ok(code)
        }
    }
}

async fn list(daemon: &mut Daemon, written: &Written) -> Result<ExitCode, ClientError> {
    let answer = daemon.davit.list_checkpoints(admin::ListCheckpointsRequest {}).await;
    let found = answer.map_err(doing("list checkpoints"))?.into_inner().checkpoints;
    let rows: Vec<Kept> = found
        .into_iter()
        .map(|admin::Checkpoint { name, path, size, created_at }| Kept {
            name,
            path,
            size,
            created_at: moment(created_at),
        })
        .collect();
    show(&rows, written)?;
    Ok(ExitCode::SUCCESS)
}
