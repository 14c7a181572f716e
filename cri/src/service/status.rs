//! What an error of the runtime is on the wire.
//!
//! Owns the one mapping from each operation's errors to gRPC codes, exhaustive, so that a new error can't slip through as `Unknown`. The kubelet acts on
//! NotFound (gone: forget it) and on DeadlineExceeded from ExecSync (a probe that timed out); the others are for people.

use davit_runtime::cdi::CdiError;
use davit_runtime::checkpoint::{ArchiveError, CheckpointError};
use davit_runtime::container::{
    CreateContainerError, ExecError, KillContainerError, PauseContainerError, RemoveContainerError,
    ReopenLogError, StartContainerError, StopContainerError, UpdateContainerError, VolumeError,
};
use davit_runtime::error::chain;
use davit_runtime::image::{
    ExplainError, FetchError, FindError, PullError, RegistryError, RemoveError, UsageError,
};
use davit_runtime::network::PodCidrError;
use davit_runtime::sandbox::{
    LookupError, RemoveSandboxError, RunSandboxError, StopSandboxError, UpdateSandboxError,
};
use davit_runtime::shim::ShimError;
use davit_runtime::stream::ForwardError;
use std::sync::Arc;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// Tells davit's own client with which exit code to report a command that could not be run: 126 or 127, as shells do.
pub(crate) const EXIT_CODE: &str = "davit-exit-code";

/// An error that has a gRPC code.
pub(crate) trait WireError: std::error::Error {
    /// Which.
    fn code(&self) -> Code;
}

/// An error as a status: its code, and the whole chain of causes in one line.
pub(crate) fn status<E: WireError + 'static>(error: &Arc<E>) -> Status {
    plain_status(error.as_ref())
}

/// The same of an error that nobody shares.
pub(crate) fn plain_status<E: WireError + 'static>(error: &E) -> Status {
    let text = chain(error);
    let mut status = Status::new(error.code(), text.clone());
    if let Some(code) = exit_code(&text).and_then(|code| MetadataValue::try_from(code).ok()) {
        status.metadata_mut().insert(EXIT_CODE, code);
    }
    status
}

/// The OCI runtimes say only in words that a command is missing or can't be run; these are the words of crun, runc and youki.
pub(crate) fn exit_code(text: &str) -> Option<&'static str> {
    let is = |words: &str| text.contains(words);
    if !(is("exec") || is("executable")) {
        None
    } else if is("not found in $PATH")
        || is("no such file or directory")
        || is("No such file or directory")
    {
        Some("127")
    } else if is("permission denied")
        || is("Permission denied")
        || is("exec format error")
        || is("Exec format error")
        || is("is a directory")
    {
        Some("126")
    } else {
        None
    }
}

impl WireError for LookupError {
    fn code(&self) -> Code {
        match self {
            Self::Unknown { .. } => Code::NotFound,
            Self::Ambiguous { .. } => Code::InvalidArgument,
        }
    }
}

impl WireError for ShimError {
    fn code(&self) -> Code {
        match self {
            Self::Unknown { .. } | Self::Runtime { .. } | Self::Failed { .. } => Code::Internal,
            Self::State { .. } | Self::Old => Code::FailedPrecondition,
            Self::Deadline { .. } => Code::DeadlineExceeded,
            Self::Gone { .. } | Self::Short { .. } => Code::Unavailable,
        }
    }
}

impl WireError for RunSandboxError {
    fn code(&self) -> Code {
        match self {
            Self::NameTaken { .. } => Code::AlreadyExists,
            Self::Handler(_) | Self::CgroupParent(_) | Self::UserNamespaces { .. } => {
                Code::InvalidArgument
            }
            Self::Id(_)
            | Self::Store(_)
            | Self::Cgroup(_)
            | Self::ResolvConf { .. }
            | Self::Netns(_)
            | Self::Shim(_) => Code::Internal,
            Self::Network(error) if error.cause.is_deadline() => Code::DeadlineExceeded,
            Self::Network(_) => Code::Internal,
        }
    }
}

impl WireError for StopSandboxError {
    fn code(&self) -> Code {
        match self {
            Self::Lookup(error) => error.code(),
            Self::Network { source, .. } if source.cause.is_deadline() => Code::DeadlineExceeded,
            Self::Shim { source, .. } => source.code(),
            Self::Store { .. }
            | Self::Alive { .. }
            | Self::Network { .. }
            | Self::Release { .. } => Code::Internal,
        }
    }
}

impl WireError for RemoveSandboxError {
    fn code(&self) -> Code {
        match self {
            Self::Lookup(error) => error.code(),
            Self::Stop(error) => error.code(),
            Self::Files { .. } | Self::Cgroup { .. } => Code::Internal,
        }
    }
}

impl WireError for CreateContainerError {
    fn code(&self) -> Code {
        match self {
            Self::Sandbox(error) => error.code(),
            Self::SandboxNotReady { .. } | Self::Target { .. } | Self::Unfit { .. } => {
                Code::FailedPrecondition
            }
            Self::NameTaken { .. } | Self::NameHeld { .. } | Self::NameBusy { .. } => {
                Code::AlreadyExists
            }
            Self::Archive(error) => error.code(),
            Self::Hung(_) => Code::DeadlineExceeded,
            Self::ImageUnknown { .. } => Code::NotFound,
            Self::Image(_) | Self::Checkpoint { .. } | Self::Spec(_) | Self::UserFiles { .. } => {
                Code::InvalidArgument
            }
            Self::Volume(error) => error.code(),
            Self::Cdi(error) => error.code(),
            Self::Layers { .. }
            | Self::TargetNamespace { .. }
            | Self::Label { .. }
            | Self::Handler(_)
            | Self::Id(_)
            | Self::Store(_) => Code::Internal,
            Self::Shim(error) | Self::Restore { source: error, .. } => error.code(),
        }
    }
}

impl WireError for CheckpointError {
    fn code(&self) -> Code {
        match self {
            Self::Lookup(error) => error.code(),
            Self::NotRunning { .. }
            | Self::Off
            | Self::Missing
            | Self::Broken(_)
            | Self::Without { .. }
            | Self::Busy { .. } => Code::FailedPrecondition,
            Self::Location { .. } => Code::InvalidArgument,
            Self::Timeout { .. } | Self::Hung { .. } => Code::DeadlineExceeded,
            Self::Shim { source, .. } => source.code(),
            Self::Io { .. } | Self::Store(_) | Self::Encode(_) | Self::Task(_) => Code::Internal,
        }
    }
}

impl WireError for ArchiveError {
    fn code(&self) -> Code {
        match self {
            Self::Open { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Code::NotFound
            }
            Self::Tar { source, .. } | Self::Diff { source, .. } if source.is_local() => {
                Code::Internal
            }
            Self::Open { .. } | Self::Store(_) => Code::Internal,
            Self::File { .. }
            | Self::Tar { .. }
            | Self::Diff { .. }
            | Self::Missing { .. }
            | Self::Unknown { .. }
            | Self::Kind { .. }
            | Self::Json { .. }
            | Self::Deleted { .. } => Code::InvalidArgument,
            Self::Version { .. } | Self::Architecture { .. } | Self::UserNamespace { .. } => {
                Code::FailedPrecondition
            }
        }
    }
}

impl WireError for CdiError {
    fn code(&self) -> Code {
        match self {
            Self::Unknown { .. } => Code::NotFound,
            Self::Conflict { .. } | Self::Edit { .. } => Code::FailedPrecondition,
        }
    }
}

impl WireError for VolumeError {
    fn code(&self) -> Code {
        match self {
            Self::Unknown { .. } => Code::NotFound,
            Self::Image { .. } | Self::SubPath { .. } | Self::Look { .. } => Code::InvalidArgument,
            Self::Layers { .. } => Code::Internal,
        }
    }
}

impl WireError for StartContainerError {
    fn code(&self) -> Code {
        match self {
            Self::Lookup(error) => error.code(),
            Self::State { .. } | Self::SandboxNotReady { .. } => Code::FailedPrecondition,
            Self::Shim { source, .. } => source.code(),
            Self::Store { .. } => Code::Internal,
        }
    }
}

impl WireError for StopContainerError {
    fn code(&self) -> Code {
        match self {
            Self::Lookup(error) => error.code(),
            Self::Shim { source, .. } => source.code(),
            Self::Alive { .. } => Code::Internal,
        }
    }
}

impl WireError for RemoveContainerError {
    fn code(&self) -> Code {
        match self {
            Self::Lookup(error) => error.code(),
            Self::Stop(error) => error.code(),
            Self::Shim { source, .. } => source.code(),
            Self::Files { .. } => Code::Internal,
        }
    }
}

impl WireError for UpdateContainerError {
    fn code(&self) -> Code {
        match self {
            Self::Lookup(error) => error.code(),
            Self::State { .. } | Self::InUse { .. } => Code::FailedPrecondition,
            Self::Resource(_) => Code::InvalidArgument,
            Self::Handler(_) | Self::Encode(_) | Self::Store { .. } => Code::Internal,
            Self::Shim { source, .. } => source.code(),
        }
    }
}

impl WireError for PauseContainerError {
    fn code(&self) -> Code {
        match self {
            Self::Lookup(error) => error.code(),
            Self::State { .. } => Code::FailedPrecondition,
            Self::Shim { source, .. } => source.code(),
        }
    }
}

impl WireError for KillContainerError {
    fn code(&self) -> Code {
        match self {
            Self::Lookup(error) => error.code(),
            Self::State { .. } => Code::FailedPrecondition,
            Self::Shim { source, .. } => source.code(),
        }
    }
}

impl WireError for UpdateSandboxError {
    fn code(&self) -> Code {
        match self {
            Self::Lookup(error) => error.code(),
            Self::Group(_) | Self::Cgroup { .. } | Self::Store { .. } => Code::Internal,
        }
    }
}

impl WireError for ExecError {
    fn code(&self) -> Code {
        match self {
            Self::Lookup(error) => error.code(),
            Self::NotRunning { .. } | Self::OldShim { .. } => Code::FailedPrecondition,
            Self::Process(_) | Self::UserFiles { .. } => Code::InvalidArgument,
            Self::Store { .. } | Self::Id(_) | Self::Pipes { .. } => Code::Internal,
            Self::Timeout { .. } => Code::DeadlineExceeded,
            // Not DeadlineExceeded: to the kubelet that is a probe that timed out, and the command may not even have begun.
            Self::Shim { source: ShimError::Deadline { .. }, .. } => Code::Unavailable,
            Self::Shim { source, .. } | Self::Attach { source, .. } => source.code(),
        }
    }
}

impl WireError for ForwardError {
    fn code(&self) -> Code {
        match self {
            Self::Lookup(error) => error.code(),
            Self::NotReady { .. } => Code::FailedPrecondition,
        }
    }
}

impl WireError for FindError {
    fn code(&self) -> Code {
        Code::InvalidArgument
    }
}

impl WireError for PullError {
    fn code(&self) -> Code {
        match self {
            Self::InvalidReference(_) | Self::InvalidAuth(_) => Code::InvalidArgument,
            Self::NotFound { .. } => Code::NotFound,
            Self::Unauthorized { .. } => Code::PermissionDenied,
            Self::Unavailable { .. } | Self::Timeout { .. } => Code::Unavailable,
            Self::Hosts { .. } | Self::Refused { .. } => Code::FailedPrecondition,
            Self::Content { .. } => Code::DataLoss,
            Self::Local { cause, .. } if cause.is_disk_full() => Code::ResourceExhausted,
            Self::Local { .. } | Self::Stopped { .. } => Code::Internal,
        }
    }
}

impl WireError for ExplainError {
    fn code(&self) -> Code {
        match self {
            Self::InvalidReference(_) => Code::InvalidArgument,
            Self::Hosts(_) => Code::FailedPrecondition,
        }
    }
}

impl WireError for RegistryError {
    fn code(&self) -> Code {
        match self {
            Self::Name { .. } | Self::Auth(_) => Code::InvalidArgument,
            Self::Hosts { .. } => Code::FailedPrecondition,
            Self::Fetch { source: FetchError::Unauthorized { .. }, .. } => Code::PermissionDenied,
            Self::Fetch { source: FetchError::NotFound { .. }, .. } => Code::NotFound,
            Self::Fetch { .. } => Code::Unavailable,
            Self::Catalogue { .. } => Code::DataLoss,
        }
    }
}

impl WireError for RemoveError {
    fn code(&self) -> Code {
        match self {
            Self::Find(error) => error.code(),
            Self::Io { .. } => Code::Internal,
        }
    }
}

impl WireError for UsageError {
    fn code(&self) -> Code {
        Code::Internal
    }
}

impl WireError for PodCidrError {
    fn code(&self) -> Code {
        match self {
            Self::Invalid { .. } => Code::InvalidArgument,
            Self::InTheWay { .. } => Code::FailedPrecondition,
            Self::Bridge { .. } | Self::Keep { .. } | Self::Interrupted => Code::Internal,
        }
    }
}

impl WireError for ReopenLogError {
    fn code(&self) -> Code {
        match self {
            Self::Lookup(error) => error.code(),
            Self::NotRunning { .. } => Code::FailedPrecondition,
            Self::Shim { source, .. } => source.code(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_cannot_be_run_is_told_as_a_shell_would() {
        for (text, code) in [
            (
                "create the container: executable file `nope` not found in $PATH: No such file or directory",
                Some("127"),
            ),
            ("start: exec: \"nope\": executable file not found in $PATH", Some("127")),
            ("create the container: open executable: Permission denied", Some("126")),
            ("exec /bin/x: exec format error", Some("126")),
            ("no image \"nope\" is here; pull it first", None),
        ] {
            assert_eq!(exit_code(text), code, "{text}");
        }
    }

    #[test]
    fn a_checkpoint_that_takes_too_long_is_told_alike_whoever_notices() {
        let id = davit_runtime::id::ContainerId::try_from("c".repeat(64)).unwrap();
        let message = "checkpoint took longer than 5 s".to_owned();
        let shim = ShimError::Deadline { message };
        for error in [
            CheckpointError::Timeout { id: id.clone(), after: std::time::Duration::from_secs(5) },
            CheckpointError::Shim { id, source: shim },
        ] {
            assert_eq!(plain_status(&error).code(), Code::DeadlineExceeded, "{error}");
        }
    }

    #[test]
    fn a_status_says_the_whole_chain() {
        let error = CreateContainerError::Sandbox(LookupError::Unknown {
            what: "pod sandbox",
            id: "x".to_owned(),
        });
        let status = plain_status(&error);
        assert_eq!(
            (status.code(), status.message()),
            (Code::NotFound, "pod_sandbox_id: no pod sandbox has the id \"x\"")
        );
    }
}
