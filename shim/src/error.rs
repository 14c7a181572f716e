//! What operations share in failing: the refusals that the state of a container demands, and how errors become text and
//! gRPC statuses.
//!
//! Each operation's own errors are beside it; the one `match` from each to a status is in `service`.

use std::fmt::Write;

/// An operation that the state of what it names does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("no container {0:?} here")]
    NoContainer(String),
    #[error("container {0:?} exists")]
    Exists(String),
    #[error("container {0:?} is being created")]
    Creating(String),
    #[error("container {0:?} is not running")]
    NotRunning(String),
    #[error("container {0:?} has exited")]
    Exited(String),
    #[error("exec {exec:?} of container {id:?} exists")]
    ExecExists { id: String, exec: String },
    #[error("container {0} is being checkpointed")]
    Frozen(String),
    #[error("container {0} is paused")]
    Paused(String),
    #[error("container {0} is being paused or resumed")]
    Pausing(String),
    #[error("container {0:?} lives")]
    Lives(String),
    #[error("the shim ends")]
    Ending,
    #[error("the init of the pod's shared PID namespace has ended")]
    NoInit,
    #[error("the pod has {0} containers, the most it can have")]
    Full(usize),
    #[error("the shim is not in its cgroup: {0}")]
    Unsettled(String),
    #[error("the pod has {0} streams open, the most it can have")]
    Sessions(usize),
}

/// A field of a request that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {value:?}: {reason}")]
pub(crate) struct Invalid {
    pub(crate) field: &'static str,
    pub(crate) value: String,
    pub(crate) reason: &'static str,
}

impl Invalid {
    pub(crate) fn new(field: &'static str, value: impl Into<String>, reason: &'static str) -> Self {
        Self { field, value: value.into(), reason }
    }
}

/// An error and its causes as one sentence.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

/// A name that becomes part of paths and arguments.
pub(crate) fn checked_name(field: &'static str, value: &str) -> Result<(), Invalid> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let refuse =
        |reason| Err(Invalid::new(field, value.chars().take(140).collect::<String>(), reason));
    match value.as_bytes() {
        [] => refuse("it is empty"),
        [b'.' | b'-', ..] => refuse("it starts with a dot or a dash"),
        bytes if bytes.len() > 128 => refuse("it is longer than 128 bytes"),
        bytes if !bytes.iter().copied().all(allowed) => {
            refuse("only letters, digits, '-', '_' and '.' are allowed")
        }
        _ => Ok(()),
    }
}

/// A path that does not depend on where the shim stands and has no way up in it.
pub(crate) fn checked_path(field: &'static str, value: &str) -> Result<(), Invalid> {
    use std::path::{Component, Path};
    let path = Path::new(value);
    if !path.is_absolute() {
        return Err(Invalid::new(field, value, "not an absolute path"));
    }
    if path.components().any(|c| c == Component::ParentDir) {
        return Err(Invalid::new(field, value, "it contains .."));
    }
    if value.contains('\0') {
        return Err(Invalid::new(field, value, "it contains a NUL byte"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_their_directory_or_look_like_options_are_refused() {
        for bad in ["", ".", "..", "-f", "a/b", "a b", "a\0", "ä", &"a".repeat(129)] {
            assert!(checked_name("id", bad).is_err(), "{bad:?}");
        }
        for good in ["a", "a.b-c_d", "0123456789abcdef", &"a".repeat(128)] {
            assert_eq!(checked_name("id", good), Ok(()));
        }
    }

    #[test]
    fn paths_are_absolute_and_go_down_only() {
        for bad in ["", "a", "./a", "/a/../b", "/a\0"] {
            assert!(checked_path("bundle", bad).is_err(), "{bad:?}");
        }
        assert_eq!(checked_path("bundle", "/a/..b/c"), Ok(()));
    }
}
