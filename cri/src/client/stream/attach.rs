//! `davit attach`, and the attaching of `davit run -i` and `-t`: this terminal on a container's own process.

use super::exec::signalled;
use super::keys::DetachKeys;
use super::session::{Input, Manner, Over, Terminal, hold};
use super::socket::{End, Said, Socket};
use super::terminal;
use crate::cli::AttachArgs;
use crate::client::connect::Daemon;
use crate::client::error::{ClientError, doing};
use crate::client::find;
use crate::output;
use davit_proto::admin;
use std::process::ExitCode;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long the daemon may take to tell that the session stands. An older one never does.
const STANDS: Duration = Duration::from_secs(2);
/// Signals that wait to be passed on.
const BACKLOG: usize = 8;

/// A container that is attached to.
#[derive(Debug)]
pub(crate) struct Attached {
    daemon: Daemon,
    container_id: String,
    socket: Socket,
    terminal: Terminal,
    input: Input,
}

/// What a client wants of the container's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// To write to it, if it has one.
    Write,
    /// Nothing.
    Watch,
}

/// Who gets the signals that end a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proxy {
    /// The container.
    Container,
    /// This program.
    Nobody,
}

/// `davit attach`: ends as the container does.
///
/// # Errors
/// [`ClientError`] for what kept it from being attached to.
pub(crate) async fn attach(mut daemon: Daemon, args: AttachArgs) -> Result<ExitCode, ClientError> {
    let AttachArgs { no_stdin, sig_proxy, detach_keys, id } = args;
    let container_id = find::container(&mut daemon, &id).await?.id;
    let wish = if no_stdin { Wish::Watch } else { Wish::Write };
    let attached = Attached::open(daemon, container_id, wish).await?;
    let proxy = if sig_proxy { Proxy::Container } else { Proxy::Nobody };
    attached.stay(detach_keys, proxy).await
}

impl Attached {
    /// Attaches; what the container says from now on is not missed.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn open(
        mut daemon: Daemon,
        container_id: String,
        wish: Wish,
    ) -> Result<Self, ClientError> {
        let request =
            admin::AttachRequest { container_id: container_id.clone(), stdin: wish == Wish::Write };
        let failed = doing(format!("attach to container {container_id}"));
        let answer = daemon.davit.open_attach(request).await.map_err(failed)?.into_inner();
        let admin::AttachResponse { url, tty, stdin } = answer;
        let terminal = if tty { Terminal::Yes } else { Terminal::No };
        let input = if stdin { Input::Passed } else { Input::Left };
        let mut socket = Socket::connect(&url).await?;
        // One empty message when the connection stands, another when the session does.
        let stands = async {
            for _ in 0..2 {
                match socket.next().await {
                    Some(Said::Output(bytes) | Said::Errors(bytes)) if bytes.is_empty() => {}
                    Some(Said::Output(bytes)) => return Ok(output::print_bytes(&bytes)?),
                    Some(Said::Errors(bytes)) => return Ok(output::print_error_bytes(&bytes)?),
                    Some(Said::End(End::Failed(problem))) => {
                        return Err(ClientError::Stream { problem });
                    }
                    Some(Said::End(End::Success | End::Exit(_))) | None => return Ok(()),
                }
            }
            Ok(())
        };
        if let Ok(stands) = tokio::time::timeout(STANDS, stands).await {
            stands?;
        }
        Ok(Self { daemon, container_id, socket, terminal, input })
    }

    /// Stays until the container ends, or somebody leaves.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn stay(
        self,
        keys: DetachKeys,
        proxy: Proxy,
    ) -> Result<ExitCode, ClientError> {
        let Self { mut daemon, container_id, socket, terminal, input } = self;
        let terminal = if terminal == Terminal::Yes && terminal::is_one() {
            Terminal::Yes
        } else {
            Terminal::No
        };
        let signals = (proxy == Proxy::Container && terminal == Terminal::No)
            .then(|| pass_on(daemon.clone(), container_id.clone()));
        let over = hold(socket, Manner { terminal, input, keys, signals }).await?;
        match over {
            Over::Left => {
                output::complain("davit: detached");
                Ok(ExitCode::SUCCESS)
            }
            Over::Signal(number) => Ok(signalled(number)),
            Over::Ended(End::Failed(problem)) => Err(ClientError::Stream { problem }),
            Over::Ended(End::Success | End::Exit(_)) => exit_code(&mut daemon, container_id).await,
            Over::Lost => Err(ClientError::Stream { problem: "the connection broke".to_owned() }),
        }
    }
}

async fn exit_code(daemon: &mut Daemon, container_id: String) -> Result<ExitCode, ClientError> {
    let failed = doing(format!("wait for container {container_id}"));
    let ended = daemon.davit.wait(admin::WaitRequest { container_id }).await.map_err(failed)?;
    let code = ended.into_inner().exit_code;
    Ok(u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Passes signals on to the container, one after the other.
fn pass_on(mut daemon: Daemon, container_id: String) -> mpsc::Sender<i32> {
    let (sender, mut signals) = mpsc::channel::<i32>(BACKLOG);
    tokio::spawn(async move {
        while let Some(number) = signals.recv().await {
            let Ok(signal) = u32::try_from(number) else { continue };
            let kill = admin::KillRequest { container_id: container_id.clone(), signal };
            if let Err(status) = daemon.davit.kill(kill).await {
                output::complain(&format!("davit: signal container: {}", status.message()));
            }
        }
    });
    sender
}
