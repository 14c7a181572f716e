//! The OCI runtime as the daemon passed it: a copy in memory that nobody can write to.
//!
//! Owns the decision to start that instead of the file: only for the same path, and while the file looks as it did. Whatever is amiss, the file
//! is started: it is slower and no worse.

use crate::passed::{self, PassedError};
use davit_proto::sealed::{ENV, Original};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;

/// See the module.
#[derive(Debug)]
pub(crate) struct Sealed {
    original: Original,
    fd: OwnedFd,
}

impl Sealed {
    /// What the daemon passed, if it did.
    pub(crate) fn take() -> Result<Option<Self>, PassedError> {
        let Some(original) = std::env::var_os(ENV).and_then(|value| Original::from_env(&value))
        else {
            return Ok(None);
        };
        Ok(Some(Self { original, fd: passed::copy()? }))
    }

    /// What it passed later, with what the variable would have said.
    pub(crate) fn given(said: &OsStr, fd: OwnedFd) -> Option<Self> {
        Some(Self { original: Original::from_env(said)?, fd })
    }

    /// Another descriptor of the copy, if it is one of the file at `path` as that is now.
    pub(crate) fn of(&self, path: &Path) -> Option<OwnedFd> {
        if self.original.is(path) { self.fd.try_clone().ok() } else { None }
    }
}
