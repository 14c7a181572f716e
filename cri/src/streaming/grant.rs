//! What a URL was handed out for.

pub(crate) use davit_runtime::oci::ExecAs;
pub(crate) use davit_runtime::stream::Wanted;

/// A command to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exec {
    /// The container's whole id.
    pub(crate) container: String,
    /// The program and its arguments; at least one.
    pub(crate) command: Vec<String>,
    /// Its streams.
    pub(crate) wanted: Wanted,
    /// How it differs from the container's own.
    pub(crate) whom: ExecAs,
}

/// A container's own process to attach to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attach {
    /// The container's whole id.
    pub(crate) container: String,
    /// Its streams.
    pub(crate) wanted: Wanted,
    /// As the container is.
    pub(crate) on_eof: OnEof,
}

/// What the end of a client's input means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnEof {
    /// The process's input ends, and that is all.
    Stay,
    /// The client wants to go.
    Detach,
}

/// A pod whose ports are to be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Forward {
    /// The pod's whole id.
    pub(crate) pod: String,
    /// Those that were named; none means that the client names them later.
    pub(crate) ports: Vec<u16>,
}

/// What a token lets its holder do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Grant {
    /// Run a command.
    Exec(Exec),
    /// Attach to a container.
    Attach(Attach),
    /// Reach a pod's ports.
    Forward(Forward),
}

/// The kinds of grants, as URLs and metrics name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// [`Grant::Exec`].
    Exec,
    /// [`Grant::Attach`].
    Attach,
    /// [`Grant::Forward`].
    Forward,
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Exec, Self::Attach, Self::Forward];

    /// The first part of the URL's path.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::Forward => "portforward",
        }
    }
}

impl Grant {
    /// Its kind.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Exec(_) => Kind::Exec,
            Self::Attach(_) => Kind::Attach,
            Self::Forward(_) => Kind::Forward,
        }
    }

    /// What of it can be long, in bytes.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Exec(exec) => exec
                .command
                .iter()
                .chain(&exec.whom.env)
                .map(|part| size_of::<String>() + part.capacity())
                .sum(),
            Self::Attach(_) => 0,
            Self::Forward(forward) => forward.ports.capacity() * size_of::<u16>(),
        }
    }
}
