//! The process of a container, and those run beside it later.
//!
//! Owns what is run and where: command, working directory, limits. A process that is run later gets what the container's own has, so that
//! an exec is never a way to more rights.

use super::ImageDefaults;
use super::env::{EnvError, Environment};
use super::host::Host;
use super::path::{PathProblem, working_dir};
use super::user::{self, UserError, UserFiles};
use crate::container::ContainerSpec;
use crate::sandbox::IdMappings;
use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, Spec};
use rustix::process::{Resource, getrlimit};
use std::path::{Path, PathBuf};

/// Why there is nothing to run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProcessError {
    /// Neither pod nor image say what.
    #[error("no command specified")]
    NoCommand,
    /// An argument holds what none can.
    #[error("argument {index} of the command has a NUL in it")]
    Nul {
        /// Which, the command itself being 0.
        index: usize,
    },
    /// The working directory is none.
    #[error("{field} {:?} {problem}", path.display())]
    WorkingDir {
        /// Whose.
        field: &'static str,
        /// What it says.
        path: PathBuf,
        /// What is wrong with it.
        problem: PathProblem,
    },
    /// The user is none.
    #[error(transparent)]
    User(#[from] UserError),
    /// The environment can't be.
    #[error(transparent)]
    Env(#[from] EnvError),
}

/// Whether a process has a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Terminal {
    /// It has.
    Yes,
    /// It hasn't.
    No,
}

/// What runs: the pod's command over the image's entrypoint and command, the pod's arguments over the image's command alone.
pub(super) fn args(
    container: &ContainerSpec,
    image: &ImageDefaults,
) -> Result<Vec<String>, ProcessError> {
    let (command, args) = if !container.command.is_empty() {
        (&container.command, &container.args)
    } else if container.args.is_empty() {
        (&image.entrypoint, &image.cmd)
    } else {
        (&image.entrypoint, &container.args)
    };
    // Builders write an entrypoint of one empty text to undo that of the image below.
    let none =
        container.command.is_empty() && matches!(command.as_slice(), [only] if only.is_empty());
    let command: &[String] = if none { &[] } else { command };
    checked(command.iter().chain(args).cloned().collect())
}

fn checked(args: Vec<String>) -> Result<Vec<String>, ProcessError> {
    if args.first().is_none_or(String::is_empty) {
        return Err(ProcessError::NoCommand);
    }
    match args.iter().position(|argument| argument.contains('\0')) {
        Some(index) => Err(ProcessError::Nul { index }),
        None => Ok(args),
    }
}

/// Where it runs.
pub(super) fn cwd(
    container: &ContainerSpec,
    image: &ImageDefaults,
) -> Result<PathBuf, ProcessError> {
    let (field, path) = match &container.working_dir {
        Some(path) => ("working_dir", path.as_path()),
        None if image.working_dir.is_empty() => return Ok(PathBuf::from("/")),
        None => ("the image's WORKDIR", Path::new(&image.working_dir)),
    };
    working_dir(path).map_err(|problem| ProcessError::WorkingDir {
        field,
        path: path.to_owned(),
        problem,
    })
}

/// Limits set in so many words rather than inherited: a daemon's own are for a daemon.
#[expect(clippy::expect_used, reason = "the builder has a default for every field")]
pub(super) fn rlimits(host: &Host, userns: Option<&IdMappings>) -> Vec<PosixRlimit> {
    let (soft, mut hard) = host.nofile;
    if userns.is_some() {
        // Some OCI runtimes set it when they are in the namespace, where nobody may raise it.
        hard = hard.min(getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX));
    }
    let soft = soft.min(hard);
    let nofile =
        PosixRlimitBuilder::default().typ(PosixRlimitType::RlimitNofile).soft(soft).hard(hard);
    vec![nofile.build().expect("no field of a limit is required")]
}

/// How a command that is run later differs from the container's own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecAs {
    /// `USER[:GROUP]`, by name or number; empty: whom the container runs as.
    pub user: String,
    /// Where it runs; empty: where the container's own does.
    pub cwd: String,
    /// `NAME=value`, besides the container's own.
    pub env: Vec<String>,
}

/// The process of an exec: the container's own with another command, and what else is asked for; `users` are the container's files as
/// they are now. Rights stay the container's: another user is no way to more capabilities than it has.
///
/// # Errors
/// [`ProcessError`] if there is no command, or one that can't be.
pub fn exec_process(
    spec: &Spec,
    command: &[String],
    terminal: Terminal,
    whom: &ExecAs,
    users: &UserFiles,
) -> Result<Process, ProcessError> {
    let args = checked(command.to_vec())?;
    let mut process = spec.process().clone().unwrap_or_default();
    process.set_args(Some(args)).set_console_size(None);
    process.set_terminal(Some(terminal == Terminal::Yes));
    let mut env = Environment::of_lines(process.env().as_deref().unwrap_or_default());
    match terminal {
        Terminal::Yes => env.set_default("TERM", "xterm"),
        Terminal::No => {}
    }
    let ExecAs { user, cwd, env: more } = whom;
    env.add_exec(more)?;
    if !user.is_empty() {
        let identity = user::written(user, users)?;
        if let Some(home) = &identity.home {
            env.set("HOME", home);
        }
        process.set_user(identity.to_oci());
    }
    if !cwd.is_empty() {
        let path = Path::new(cwd);
        let checked = working_dir(path).map_err(|problem| ProcessError::WorkingDir {
            field: "cwd",
            path: path.to_owned(),
            problem,
        });
        process.set_cwd(checked?);
    }
    process.set_env(Some(env.into_lines()));
    Ok(process)
}
