//! Who of this node may call: `socket_group`.
//!
//! Owns the group's number and the way to its socket: a group that can't pass a directory above it could call nobody, which is found out at the start. Whoever may
//! call is as good as root here.

use crate::config::Group;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// Why a group can't be let in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GroupError {
    /// There is none of this name.
    #[error("socket_group {0:?}: there is no such group")]
    Unknown(String),
    /// Groups can't be looked up.
    #[error("socket_group {name:?}: look it up")]
    Lookup {
        /// The group's.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// It could not reach the socket.
    #[error("socket_group {name:?} can't pass through {}: it needs o+x, or the group and g+x", directory.display())]
    Shut {
        /// The group's.
        name: String,
        /// Above the socket.
        directory: PathBuf,
    },
    /// The kernel refused.
    #[error("socket_group {name:?}: {step} {}", path.display())]
    Io {
        /// The group's.
        name: String,
        /// What was tried.
        step: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// A group that there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Callers {
    name: String,
    number: u32,
}

impl Callers {
    /// The group of this name or number. A number needs no name here: a directory service may have it.
    ///
    /// # Errors
    /// [`GroupError::Unknown`].
    pub(crate) fn find(group: &Group) -> Result<Self, GroupError> {
        let name = group.as_str().to_owned();
        let number = match group.number() {
            Some(number) => number,
            None => match nix::unistd::Group::from_name(&name) {
                Ok(Some(found)) => found.gid.as_raw(),
                Ok(None) => return Err(GroupError::Unknown(name)),
                Err(error) => return Err(GroupError::Lookup { name, source: error.into() }),
            },
        };
        Ok(Self { name, number })
    }

    /// Gives it a socket.
    ///
    /// # Errors
    /// [`GroupError::Io`].
    pub(crate) fn own(&self, socket: &Path) -> Result<(), GroupError> {
        chown(socket, None, Some(self.number)).map_err(self.failed("give it", socket))
    }

    /// Lets it pass through a directory that is davit's own.
    ///
    /// # Errors
    /// [`GroupError::Io`].
    pub(crate) fn let_pass(&self, directory: &Path) -> Result<(), GroupError> {
        let opened = std::fs::metadata(directory).and_then(|found| {
            let mode = found.permissions().mode() | 0o111;
            std::fs::set_permissions(directory, Permissions::from_mode(mode))
        });
        opened.map_err(self.failed("let it pass through", directory))
    }

    /// Whether it can come to a socket: every directory above has to be open to it.
    ///
    /// # Errors
    /// [`GroupError::Shut`] with the first that isn't, from below.
    pub(crate) fn can_reach(&self, socket: &Path) -> Result<(), GroupError> {
        for directory in socket.ancestors().skip(1) {
            let found = std::fs::metadata(directory).map_err(self.failed("look at", directory))?;
            let mode = found.mode();
            if mode & 0o001 == 0 && (found.gid() != self.number || mode & 0o010 == 0) {
                let directory = directory.to_owned();
                return Err(GroupError::Shut { name: self.name.clone(), directory });
            }
        }
        Ok(())
    }

    fn failed(&self, step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> GroupError {
        let (name, path) = (self.name.clone(), path.to_owned());
        move |source| GroupError::Io { name, step, path, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(text: &str) -> Result<Callers, GroupError> {
        Callers::find(&text.parse().unwrap())
    }

    #[test]
    fn a_group_is_found_by_name_and_number_and_an_unknown_one_is_named() {
        assert_eq!(find("root").unwrap().number, 0);
        assert_eq!(find("3123456789").unwrap().number, 3_123_456_789);
        let refused = find("no-such-group").unwrap_err().to_string();
        assert_eq!(refused, "socket_group \"no-such-group\": there is no such group");
    }

    #[test]
    fn a_directory_that_the_group_can_not_pass_is_named() {
        let top = tempfile::tempdir().unwrap();
        let set = |path: &Path, mode| {
            std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        };
        let inner = top.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        let socket = inner.join("davit.sock");
        let group = find("4242").unwrap();
        set(top.path(), 0o711);
        set(&inner, 0o710);
        let refused = group.can_reach(&socket).unwrap_err().to_string();
        assert!(refused.contains(&inner.display().to_string()), "{refused}");
        chown(&inner, None, Some(4242)).unwrap();
        group.can_reach(&socket).unwrap();
        set(&inner, 0o700);
        assert!(group.can_reach(&socket).is_err());
        group.let_pass(&inner).unwrap();
        group.can_reach(&socket).unwrap();
        set(top.path(), 0o700);
        let refused = group.can_reach(&socket).unwrap_err().to_string();
        assert!(refused.contains(&format!("{}:", top.path().display())), "{refused}");
    }
}
