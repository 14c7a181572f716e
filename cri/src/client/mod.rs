//! The commands that talk to a daemon, over the same sockets as the kubelet.
//!
//! Owns what people see: tables, JSON, progress, exit codes and one line for what went wrong. Asks CRI where CRI has the word, and
//! davit's own service where it hasn't. Knows nothing of the daemon's files, but for the logs of `davit run` ([`run`]).

mod act;
mod check;
mod checkpoint;
mod connect;
mod error;
mod event_filter;
mod events;
mod filter;
mod find;
mod format;
mod images;
mod info;
mod inspect;
mod logs;
mod moment;
mod pods;
mod ps;
mod pull;
mod registry;
mod restore;
mod rm;
mod rmi;
mod run;
mod state;
mod stats;
mod stream;
#[cfg(test)]
mod tests;
mod top;
mod usage;
mod value;
mod version;

pub(crate) use act::SignalName;
pub(crate) use connect::Address;
pub(crate) use error::ClientError;
pub(crate) use event_filter::EventFilter;
pub(crate) use events::EventFormat;
pub(crate) use filter::{Filter, Listed};
pub(crate) use format::{Format, print_json, print_template};
pub(crate) use images::Image;
pub(crate) use inspect::InspectKind;
pub(crate) use logs::Tail;
pub(crate) use moment::Instant;
pub(crate) use pods::Pod;
pub(crate) use ps::Container;
pub(crate) use stream::keys::DetachKeys;
pub(crate) use usage::Field;
pub(crate) use value::{Cpus, Memory, Port, RunUser, Unified, Volume};

use crate::cli::{ClientCommand, ImageCommand};
use crate::output;
use act::Act;
use connect::Daemon;
use std::process::ExitCode;

/// What `davit run` exits with when davit itself failed, as other container tools do.
const RUN_FAILED: u8 = 125;

/// Does what was asked.
pub(crate) fn main(address: &Address, command: ClientCommand) -> ExitCode {
    let failed = if matches!(command, ClientCommand::Run(_) | ClientCommand::Exec(_)) {
        RUN_FAILED
    } else {
        1
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
    if let ClientCommand::Version(listing) = &command {
        version::version(address, &listing.format).await?;
        return Ok(ExitCode::SUCCESS);
    }
    if let ClientCommand::Logout(args) = &command {
        // It may have ended.
        return registry::logout(args);
    }
    let daemon = Daemon::connect(address).await?;
    match command {
        ClientCommand::Info(args) => info::info(daemon, &args).await?,
        ClientCommand::Images(args) => images::images(daemon, &args).await?,
        ClientCommand::Ps(args) => ps::ps(daemon, &args).await?,
        ClientCommand::Pods(args) => pods::pods(daemon, &args).await?,
        ClientCommand::Inspect(args) => return inspect::inspect(daemon, &args).await,
        ClientCommand::Logs(args) => logs::logs(daemon, &args).await?,
        ClientCommand::Events(args) => events::events(daemon, &args).await?,
        ClientCommand::State => state::state(daemon).await?,
        ClientCommand::Wait(ids) => return act::each(daemon, &ids.ids, &Act::Wait).await,
        ClientCommand::Start(ids) => return act::each(daemon, &ids.ids, &Act::Start).await,
        ClientCommand::Stop(args) => {
            return act::each(daemon, &args.ids.ids, &Act::Stop(args.seconds)).await;
        }
        ClientCommand::Kill(args) => {
            return act::each(daemon, &args.ids.ids, &Act::Kill(args.signal)).await;
        }
        ClientCommand::Pause(ids) => return act::each(daemon, &ids.ids, &Act::Pause).await,
        ClientCommand::Resume(ids) => return act::each(daemon, &ids.ids, &Act::Resume).await,
        ClientCommand::Update(args) => {
            return act::each(daemon, &args.ids.ids, &Act::Update(args.limits)).await;
        }
        ClientCommand::Exec(args) => return Box::pin(stream::exec::exec(daemon, args)).await,
        ClientCommand::Attach(args) => return Box::pin(stream::attach::attach(daemon, args)).await,
        ClientCommand::Stats(args) => stats::stats(daemon, &args).await?,
        ClientCommand::Top(args) => top::top(daemon, &args).await?,
        ClientCommand::Rmi(args) => return rmi::rmi(daemon, &args).await,
        ClientCommand::Checkpoint(command) => {
            return checkpoint::checkpoint(daemon, command).await;
        }
        // Done above.
        ClientCommand::Version(_) | ClientCommand::Logout(_) => {}
        ClientCommand::Login(args) => registry::login(daemon, args).await?,
        ClientCommand::Search(args) => registry::search(daemon, args).await?,
        ClientCommand::Image(ImageCommand::Explain(args)) => {
            registry::explain(daemon, args).await?;
        }
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
