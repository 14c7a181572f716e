//! The arguments of what makes this terminal a container's.

use crate::client::DetachKeys;
use clap::Args;

/// `davit exec`.
#[derive(Debug, Clone, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(crate) struct ExecArgs {
    /// Pass standard input on
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Whom the command runs as, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// Where the command starts, inside the container
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// Set an environment variable, or pass one on by its name alone
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// What to type to leave
    #[arg(long, default_value = "ctrl-p,ctrl-q", value_name = "KEYS")]
    pub(crate) detach_keys: DetachKeys,
    /// The container's id, an unambiguous beginning of it, or its name
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// The command and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    pub(crate) command: Vec<String>,
}

/// `davit attach`.
#[derive(Debug, Clone, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(crate) struct AttachArgs {
    /// Don't pass standard input on
    #[arg(long)]
    pub(crate) no_stdin: bool,
    /// Pass SIGHUP, SIGINT and SIGTERM on to a container without a terminal
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "true|false")]
    pub(crate) sig_proxy: bool,
    /// What to type to leave and have the container go on
    #[arg(long, default_value = "ctrl-p,ctrl-q", value_name = "KEYS")]
    pub(crate) detach_keys: DetachKeys,
    /// The container's id, an unambiguous beginning of it, or its name
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}
