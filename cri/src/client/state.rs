//! `davit state`: all that the daemon knows, as it comes.

use super::connect::Daemon;
use super::error::{ClientError, doing};
use crate::output;
use davit_proto::admin::{StatePiece, StateRequest};

/// `davit state`.
pub(crate) async fn state(mut daemon: Daemon) -> Result<(), ClientError> {
    let failed = || doing("ask for the state");
    let mut pieces = daemon.davit.state(StateRequest {}).await.map_err(failed())?.into_inner();
    while let Some(StatePiece { json }) = pieces.message().await.map_err(failed())? {
        output::print_bytes(&json)?;
    }
    Ok(output::print("\n")?)
}
