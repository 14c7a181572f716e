//! `davit exec`: a command in a container, with this terminal as its own.

use super::session::{Input, Manner, Over, Terminal, hold};
use super::socket::{End, Socket};
use super::terminal;
use crate::cli::ExecArgs;
use crate::client::connect::Daemon;
use crate::client::error::{ClientError, doing};
use crate::client::find;
use crate::output;
use crate::service::command_code;
use davit_proto::admin;
use std::process::ExitCode;

/// Runs it; ends as it does.
///
/// # Errors
/// [`ClientError`] for what kept it from running.
pub(crate) async fn exec(mut daemon: Daemon, args: ExecArgs) -> Result<ExitCode, ClientError> {
    let ExecArgs { interactive, tty, user, workdir, env, detach_keys, id, command } = args;
    if tty && interactive && !terminal::is_one() {
        return Err(ClientError::NoTerminal);
    }
    let container_id = find::container(&mut daemon, &id).await?.id;
    let request = admin::ExecRequest {
        container_id,
        cmd: command,
        tty,
        stdin: interactive,
        user: user.unwrap_or_default(),
        cwd: workdir.unwrap_or_default(),
        env: env.iter().filter_map(|text| passed_on(text)).collect(),
    };
    let answer = daemon.davit.open_exec(request).await.map_err(doing(format!("exec in {id}")))?;
    let socket = Socket::connect(&answer.into_inner().url).await?;
    let manner = Manner {
        terminal: if tty { Terminal::Yes } else { Terminal::No },
        input: if interactive { Input::Passed } else { Input::Left },
        keys: detach_keys,
        signals: None,
    };
    match hold(socket, manner).await? {
        Over::Ended(End::Success) => Ok(ExitCode::SUCCESS),
        Over::Ended(End::Exit(code)) => Ok(ExitCode::from(code)),
        Over::Ended(End::Failed(problem)) => {
            let code = command_code(&problem).and_then(|code| code.parse().ok()).unwrap_or(125);
            output::complain(&format!("davit: {problem}"));
            Ok(ExitCode::from(code))
        }
        // The command goes with its connection: there is nobody to come back to it.
        Over::Left => Ok(ExitCode::SUCCESS),
        Over::Signal(number) => Ok(signalled(number)),
        Over::Lost => Err(ClientError::Stream { problem: "the connection broke".to_owned() }),
    }
}

/// As a shell tells it.
pub(super) fn signalled(number: i32) -> ExitCode {
    u8::try_from(number).map_or(ExitCode::FAILURE, |number| ExitCode::from(number | 128))
}

/// `NAME=VALUE`, or `NAME` with the value it has here; one that has none here is left out.
fn passed_on(text: &str) -> Option<String> {
    match text.split_once('=') {
        Some(_) => Some(text.to_owned()),
        None => Some(format!("{text}={}", std::env::var(text).ok()?)),
    }
}
