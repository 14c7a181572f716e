//! The arguments of what is done with registries and checkpoints.

use super::{Listing, Written};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `davit login`.
#[derive(Debug, Clone, Args)]
pub(crate) struct LoginArgs {
    /// The user; asked for unless given
    #[arg(short, long)]
    pub(crate) username: Option<String>,
    /// Read the password from standard input
    #[arg(long, requires = "username")]
    pub(crate) password_stdin: bool,
    /// Keep them in this file instead of $REGISTRY_AUTH_FILE or ~/.config/containers/auth.json
    #[arg(long, value_name = "FILE")]
    pub(crate) authfile: Option<PathBuf>,
    /// The registry, such as quay.io or localhost:5000
    #[arg(default_value = "docker.io")]
    pub(crate) registry: String,
}

/// `davit logout`.
#[derive(Debug, Clone, Args)]
pub(crate) struct LogoutArgs {
    /// Of every registry
    #[arg(short, long, conflicts_with = "registry")]
    pub(crate) all: bool,
    /// In this file instead of $REGISTRY_AUTH_FILE or ~/.config/containers/auth.json
    #[arg(long, value_name = "FILE")]
    pub(crate) authfile: Option<PathBuf>,
    /// The registry
    #[arg(required_unless_present = "all")]
    pub(crate) registry: Option<String>,
}

/// `davit search`.
#[derive(Debug, Clone, Args)]
pub(crate) struct SearchArgs {
    /// The registry, such as localhost:5000
    pub(crate) registry: String,
    /// What a repository has in its name; all unless given
    #[arg(default_value = "")]
    pub(crate) term: String,
}

/// `davit image …`.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ImageCommand {
    /// Tell which endpoints a pull would try, in order, as which user, and why; nobody is asked
    #[command(after_help = "Example:\n  davit image explain quay.io/team/app:1")]
    Explain(ExplainArgs),
}

/// `davit image explain`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    pub(crate) listing: Listing,
    /// The image's name
    pub(crate) image: String,
}

/// `davit checkpoint …`.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum CheckpointCommand {
    /// Write a running container, its memory included, into an archive; it runs on
    #[command(
        after_help = "Needs CRIU; where it is missing or does not work, nothing is touched.\n\nExample:\n  davit checkpoint create --name before-upgrade web"
    )]
    Create {
        /// The checkpoint's name; made up unless given
        #[arg(long)]
        name: Option<String>,
        /// How many seconds it may take; 0: as davit sees fit
        #[arg(long, default_value_t = 0, value_name = "SECONDS")]
        timeout: u32,
        /// The container's id, an unambiguous beginning of it, or its name
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Make a container from a checkpoint; its processes go on where they were
    ///
    /// In a new pod, or in one that is there. What the restored processes may do is in the archive, in a form that nobody can check: restore only what you
    /// would run as root.
    #[command(
        after_help = "Needs CRIU and the container's image; where one is missing, nothing is touched.\n\nExamples:\n  davit checkpoint restore before-upgrade\n  davit checkpoint restore --name web-again ./web.tar"
    )]
    Restore {
        /// The new container's name; the one it had unless given
        #[arg(long)]
        name: Option<String>,
        /// Restore it in this pod (an id, an unambiguous beginning of one, or a name) and not in a new one
        #[arg(long, value_name = "POD")]
        pod: Option<String>,
        /// How many seconds it may take; 0: as davit sees fit
        #[arg(long, default_value_t = 0, value_name = "SECONDS")]
        timeout: u32,
        /// A checkpoint's name, or the path of an archive (with a `/` in it)
        #[arg(value_name = "NAME|ARCHIVE")]
        archive: String,
    },
    /// List the checkpoints
    #[command(visible_alias = "ls", after_help = "Example:\n  davit checkpoint list -q")]
    List {
        #[command(flatten)]
        written: Written,
    },
    /// Delete checkpoints
    #[command(
        visible_alias = "rm",
        after_help = "Example:\n  davit checkpoint delete before-upgrade"
    )]
    Delete {
        /// Their names
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}
