//! The commands that talk to a daemon, over the same sockets as the kubelet.
//!
//! Owns what people see: tables, JSON, progress, exit codes and one line for what went wrong. Asks CRI where CRI has the word, and
//! davit's own service where it hasn't. Knows nothing of the daemon's files, but for the logs of `davit run` ([`run`]).

mod check;
mod connect;
mod error;
mod list;
mod pull;
mod rm;
mod run;
#[cfg(test)]
mod tests;
mod value;

pub(crate) use connect::Address;
pub(crate) use value::{Cpus, Memory, Port, RunUser, Volume};

use crate::cli::ClientCommand;
use crate::output;
use connect::Daemon;
use error::ClientError;
use std::process::ExitCode;

/// What `davit run` exits with when davit itself failed, as other container tools do.
const RUN_FAILED: u8 = 125;

/// Does what was asked.
pub(crate) fn main(address: &Address, command: ClientCommand) -> ExitCode {
    let failed = match command {
        ClientCommand::Run(_) => RUN_FAILED,
        ClientCommand::Version
        | ClientCommand::Info(_)
        | ClientCommand::Pull { .. }
        | ClientCommand::Images(_)
        | ClientCommand::Ps { .. }
        | ClientCommand::Pods(_)
        | ClientCommand::Check
        | ClientCommand::Repair
        | ClientCommand::Rm { .. } => 1,
    };
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match executor {
        Ok(executor) => executor.block_on(Box::pin(answer(address, command))),
        Err(error) => Err(ClientError::Executor(error)),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            let code = error.exit_code().unwrap_or(failed);
            output::complain(&format!("davit: {}", output::one_line(&anyhow::Error::new(error))));
            ExitCode::from(code)
        }
    }
}

async fn answer(address: &Address, command: ClientCommand) -> Result<ExitCode, ClientError> {
    if matches!(command, ClientCommand::Version) {
        output::print(&format!("davit {}\n", crate::VERSION))?;
    }
    let daemon = Daemon::connect(address).await?;
    match command {
        ClientCommand::Version => list::version(daemon).await?,
        ClientCommand::Info(listing) => list::info(daemon, listing.format).await?,
        ClientCommand::Images(listing) => list::images(daemon, listing.format).await?,
        ClientCommand::Ps { all, listing } => {
            let which = if all { list::Which::All } else { list::Which::Running };
            list::containers(daemon, which, listing.format).await?;
        }
        ClientCommand::Pods(listing) => list::pods(daemon, listing.format).await?,
        ClientCommand::Pull { image } => {
            let id = pull::pull(daemon, &image).await?;
            output::print(&format!("{id}\n"))?;
        }
        ClientCommand::Check => return check::check(daemon, check::Aim::Check).await,
        ClientCommand::Repair => return check::check(daemon, check::Aim::Repair).await,
        ClientCommand::Rm { force, ids } => {
            let running = if force { rm::Running::Stop } else { rm::Running::Keep };
            return rm::remove(daemon, &ids, running).await;
        }
        ClientCommand::Run(args) => return Box::pin(run::run(daemon, *args)).await,
    }
    Ok(ExitCode::SUCCESS)
}
