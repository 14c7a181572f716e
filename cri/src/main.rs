//! davit: the daemon and its command line.
//!
//! One binary. `davit serve` is the daemon; everything else is its client, or looks at the configuration. This file is the table of
//! contents: [`cli`] turns arguments into an [`Action`], and each action has its module.
//!
//! | module | owns |
//! |---|---|
//! | [`cli`] | arguments |
//! | [`about`] | what the program was built from |
//! | [`auth_file`] | the file in which credentials for registries are kept |
//! | [`config`] | files and flags → one validated configuration |
//! | [`open`] | the runtime that the configuration asks for |
//! | [`service`] | the gRPC services |
//! | [`serve`] | the daemon's life: locks, sockets, signals, drain |
//! | [`layer`] | what every call goes through |
//! | [`state`] | all that the daemon knows, for debugging |
//! | [`streaming`] | exec, attach and port-forward: what flows outside gRPC |
//! | [`metrics`] | the counters, and the endpoint that shows them |
//! | [`traces`] | what calls and pods' starts took, for a collector |
//! | [`doctor`] | whether this machine can run pods |
//! | [`convert`] | CRI's words ↔ davit's |
//! | [`wipe`] | the end of everything |
//! | [`client`] | the commands that talk to a daemon |
//! | [`output`] | what is written to the terminal |

mod about;
mod auth_file;
mod cli;
mod client;
mod config;
mod convert;
mod doctor;
mod layer;
mod metrics;
mod open;
mod output;
mod serve;
mod service;
mod state;
mod streaming;
mod traces;
mod wipe;

use cli::Action;
use std::process::ExitCode;

/// davit's version, as every interface tells it.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    let action = match cli::parse(args.iter().cloned()) {
        Ok(action) => action,
        Err(refused) => return output::refused_arguments(&refused, cli::refusal_code(&args)),
    };
    match action {
        Action::Serve(flags) => output::end(serve::main(&flags, open::open)),
        Action::Wipe(consent, flags) => output::end(wipe::main(&flags, consent)),
        Action::Doctor(format, flags) => doctor::main(&flags, &format),
        Action::Config(action) => output::end(config_command(action)),
        Action::Completion(shell) => {
            output::end(output::print_bytes(&cli::completion(shell)).map_err(Into::into))
        }
        Action::Man(directory) => output::end(cli::man(&directory).map_err(Into::into)),
        Action::Client(address, command) => client::main(&address, command),
    }
}

/// `davit config …`: no daemon is asked.
fn config_command(action: cli::ConfigAction) -> anyhow::Result<()> {
    match action {
        cli::ConfigAction::Default => output::print(config::DEFAULT_TEXT)?,
        cli::ConfigAction::Check(flags) => {
            config::load(&flags)?;
            let file = flags.config.unwrap_or_else(|| config::DEFAULT_FILE.into());
            output::print(&format!("{}: the configuration is right\n", file.display()))?;
        }
        cli::ConfigAction::Dump(flags) => output::print(&config::dump(&config::load(&flags)?)?)?,
    }
    Ok(())
}
