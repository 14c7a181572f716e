//! Why a command failed, in words for whoever typed it.

use crate::auth_file::AuthFileError;
use crate::output::OutputError;
use std::io;
use std::path::PathBuf;
use tonic::Status;

/// The metadata in which the daemon says that it was the command, not davit, that could not be run: 126 or 127.
const EXIT_CODE: &str = "davit-exit-code";

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The executor could not be started.
    #[error("start the executor")]
    Executor(#[source] io::Error),
    /// Nobody answers there.
    #[error("connect to {address}: {problem}")]
    Connect {
        /// Where.
        address: String,
        /// The innermost cause.
        problem: String,
    },
    /// The daemon refused.
    #[error("{doing}: {}", told(status))]
    Call {
        /// What it was asked.
        doing: String,
        /// What it said.
        status: Box<Status>,
    },
    /// It answered without what was asked for.
    #[error("{doing}: the daemon's answer lacks {what}")]
    Incomplete {
        /// What it was asked.
        doing: &'static str,
        /// What is missing.
        what: &'static str,
    },
    /// Standard output can't be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// JSON could not be made.
    #[error("write JSON")]
    Json(#[from] serde_json::Error),
    /// There is nothing of this name.
    #[error("no container or pod {0:?}")]
    NoSuch(String),
    /// There is no container of this name.
    #[error("no container {0:?}")]
    NoContainer(String),
    /// There is no image of this name.
    #[error("no image {0:?}")]
    NoImage(String),
    /// Containers were made from it.
    #[error("image {0} is in use by a container: remove that first, or use --force")]
    ImageUsed(String),
    /// Its other names would go with it.
    #[error("image {name} has other names, which would go with it ({names}): use --force")]
    OtherNames {
        /// As given.
        name: String,
        /// All of them.
        names: String,
    },
    /// There is no such archive.
    #[error("find the archive {}", path.display())]
    Archive {
        /// As given.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file of credentials.
    #[error(transparent)]
    AuthFile(#[from] AuthFileError),
    /// A password is read for nobody.
    #[error("--password-stdin needs --username")]
    NoUser,
    /// There is nobody to ask.
    #[error("standard input is no terminal to ask for a password at: use --password-stdin")]
    NoPassword,
    /// Nothing could be read there.
    #[error("read the password")]
    Password(#[source] io::Error),
    /// There is nothing at all of this name.
    #[error("no container, pod or image {0:?}")]
    Nothing(String),
    /// The streaming server could not be spoken with, or said no.
    #[error("stream: {problem}")]
    Stream {
        /// What is wrong.
        problem: String,
    },
    /// This terminal can't be made raw.
    #[error("make the terminal raw")]
    Terminal(#[source] io::Error),
    /// A terminal was asked for where there is none.
    #[error("--tty with --interactive: standard input is no terminal")]
    NoTerminal,
    /// A template can't be used.
    #[error("template: {problem}{}", known.as_deref().map(|known| format!("; the fields are {known}")).unwrap_or_default())]
    Template {
        /// What is wrong with it.
        problem: String,
        /// The fields that there are, if that can be told.
        known: Option<String>,
    },
    /// There are several that it could be.
    #[error("{id:?} is ambiguous: {count} begin so")]
    Ambiguous {
        /// As given.
        id: String,
        /// How many.
        count: usize,
    },
    /// It runs, and was not to be stopped.
    #[error("container {0} is running: stop it first, or use --force")]
    Running(String),
    /// Another container of `davit run` has it.
    #[error("name {name:?} is in use by container {id}")]
    NameTaken {
        /// As given.
        name: String,
        /// Whose.
        id: String,
    },
    /// The cidfile can't be written, or exists.
    #[error("write cidfile {}", path.display())]
    CidFile {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The logs' directory can't be made.
    #[error("make log directory {}", path.display())]
    LogDirectory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel has no randomness to give.
    #[error("draw a random id")]
    Random(#[source] getrandom::Error),
    /// Signals can't be taken.
    #[error("take signals")]
    Signals(#[source] io::Error),
    /// Nothing that happens is both.
    #[error("--filter: nothing of type {types} has the event {events}")]
    NoEvent {
        /// As given.
        types: String,
        /// As given.
        events: String,
    },
    /// The stream of events was cut.
    #[error("events: the daemon has ended{}: {}", last.map(|last| format!(" (--after {last} goes on from here)")).unwrap_or_default(), told(status))]
    EventsEnded {
        /// The number of the last one.
        last: Option<u64>,
        /// What was said.
        status: Box<Status>,
    },
    /// A signal came before the container ran.
    #[error("interrupted")]
    Interrupted,
}

/// A status in words: what the daemon said, else what its code means.
fn told(status: &Status) -> String {
    if status.message().is_empty() {
        status.code().to_string()
    } else {
        status.message().to_owned()
    }
}

impl ClientError {
    /// What this failure makes the program exit with, if it has a say in that.
    pub(crate) fn exit_code(&self) -> Option<u8> {
        match self {
            Self::Call { status, .. } => {
                let code = status.metadata().get(EXIT_CODE)?.to_str().ok()?.parse().ok()?;
                matches!(code, 126 | 127).then_some(code)
            }
            Self::Interrupted => Some(130),
            Self::NoEvent { .. }
            | Self::EventsEnded { .. }
            | Self::Executor(_)
            | Self::Connect { .. }
            | Self::Incomplete { .. }
            | Self::Output(_)
            | Self::Json(_)
            | Self::NoSuch(_)
            | Self::NoContainer(_)
            | Self::NoImage(_)
            | Self::Nothing(_)
            | Self::Archive { .. }
            | Self::AuthFile(_)
            | Self::NoUser
            | Self::NoPassword
            | Self::Password(_)
            | Self::ImageUsed(_)
            | Self::OtherNames { .. }
            | Self::Stream { .. }
            | Self::Terminal(_)
            | Self::NoTerminal
            | Self::Template { .. }
            | Self::Ambiguous { .. }
            | Self::Running(_)
            | Self::NameTaken { .. }
            | Self::CidFile { .. }
            | Self::LogDirectory { .. }
            | Self::Random(_)
            | Self::Signals(_) => None,
        }
    }
}

/// Names what was asked in what was answered.
pub(crate) fn doing(doing: impl Into<String>) -> impl FnOnce(Status) -> ClientError {
    let doing = doing.into();
    move |status| ClientError::Call { doing, status: Box::new(status) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_daemons_word_makes_it_126_or_127() {
        let with = |code: &'static str| {
            let mut status = Status::unknown("exec: no such file");
            status.metadata_mut().insert(EXIT_CODE, code.parse().unwrap());
            doing("start container")(status).exit_code()
        };
        assert_eq!(with("126"), Some(126));
        assert_eq!(with("127"), Some(127));
        for code in ["0", "1", "128", "300", "x", ""] {
            assert_eq!(with(code), None, "{code}");
        }
        assert_eq!(doing("x")(Status::internal("no")).exit_code(), None);
    }
}
