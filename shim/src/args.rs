//! The command line: `davit-shim --pod-dir DIR`, `davit-shim init UID`, `davit-shim --version`.
//!
//! By hand, because a library for it would be resident in every pod's shim.

use std::ffi::OsString;
use std::path::PathBuf;

/// What the process is to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Be the shim of the pod whose directory this is.
    Serve(PathBuf),
    /// Be PID 1 of a pod's shared PID namespace, as this user.
    Init(u32),
    /// Print the version.
    Version,
}

/// Why the command line is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArgsError {
    #[error("no arguments: usage is davit-shim --pod-dir DIR")]
    None,
    #[error("--pod-dir needs a directory")]
    NoDirectory,
    #[error("init needs a user id")]
    NoUser,
    #[error("--pod-dir {}: not an absolute path", .0.display())]
    Relative(PathBuf),
    #[error("unknown argument {0:?}")]
    Unknown(OsString),
}

/// Reads the arguments behind the program's name.
pub(crate) fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Action, ArgsError> {
    let first = arguments.next().ok_or(ArgsError::None)?;
    let action = match first.to_str() {
        Some("--version") => Action::Version,
        Some("init") => {
            let user = arguments.next().ok_or(ArgsError::NoUser)?;
            let number = user.to_str().and_then(|text| text.parse().ok());
            Action::Init(number.ok_or(ArgsError::Unknown(user))?)
        }
        Some("--pod-dir") => {
            let directory = PathBuf::from(arguments.next().ok_or(ArgsError::NoDirectory)?);
            if !directory.is_absolute() {
                return Err(ArgsError::Relative(directory));
            }
            Action::Serve(directory)
        }
        Some(_) | None => return Err(ArgsError::Unknown(first)),
    };
    arguments.next().map_or(Ok(action), |surplus| Err(ArgsError::Unknown(surplus)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(arguments: &[&str]) -> Result<Action, ArgsError> {
        parse(arguments.iter().map(OsString::from))
    }

    #[test]
    fn takes_what_it_knows_and_nothing_besides() {
        assert_eq!(of(&["--pod-dir", "/p"]), Ok(Action::Serve("/p".into())));
        assert_eq!(of(&["init", "65535"]), Ok(Action::Init(65535)));
        assert_eq!(of(&["init"]), Err(ArgsError::NoUser));
        assert_eq!(of(&["init", "-1"]), Err(ArgsError::Unknown("-1".into())));
        assert_eq!(of(&["--version"]), Ok(Action::Version));
        assert_eq!(of(&[]), Err(ArgsError::None));
        assert_eq!(of(&["--pod-dir"]), Err(ArgsError::NoDirectory));
        assert_eq!(of(&["--pod-dir", "p"]), Err(ArgsError::Relative("p".into())));
        assert_eq!(of(&["--pod-dir", "/p", "x"]), Err(ArgsError::Unknown("x".into())));
        assert_eq!(of(&["init", "--version"]), Err(ArgsError::Unknown("--version".into())));
        assert_eq!(of(&["--help"]), Err(ArgsError::Unknown("--help".into())));
    }
}
