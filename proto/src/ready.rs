//! A shim that is begun before there is a pod for it, and waits.
//!
//! Owns how it is told, both times: by a variable of its environment what it can do meanwhile, and by one message on its standard input, which is a socket to
//! the daemon then, that its pod is there. Its directory, on its command line, is the one that its pod is going to have. Where the socket is closed
//! without a message there will be no pod, and the shim ends: it holds nothing.

use serde::{Deserialize, Serialize};
use std::ffi::{CStr, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

/// The variable: a [`Meanwhile`] as JSON. Where it is set, standard input is no listening socket but the one to wait at.
pub const ENV: &str = "DAVIT_SHIM_READY";
/// What such a shim is called (proc_pid_comm(5)) while it waits, to be told from a pod's.
pub const NAME: &CStr = c"davit-shim-wait";
/// The longest message, in bytes: a path and how its file looks.
pub const LONGEST: usize = 8192;

/// What is the same for all pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meanwhile {
    /// As [`crate::disk::ShimConfig::cgroup_procs`], which its pod's configuration repeats.
    pub cgroup_procs: Vec<PathBuf>,
    /// As [`crate::disk::ShimConfig::oom_score_adj`], the same.
    pub oom_score_adj: Option<i32>,
}

/// That the pod is there. With it go two descriptors, the pod's listening socket and the log; and a third if there is a copy of an OCI runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begin {
    /// What [`crate::sealed::ENV`] would say of the copy.
    pub sealed: Option<OsString>,
}

impl Begin {
    /// The message. Never empty, as that would be the end.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let sealed = self.sealed.as_deref().map(OsStr::as_bytes).unwrap_or_default();
        [b"b", sealed].concat()
    }

    /// What [`Self::to_bytes`] gave; `None` if it never did.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let sealed = bytes.strip_prefix(b"b")?.to_vec();
        Some(Self { sealed: (!sealed.is_empty()).then(|| OsString::from_vec(sealed)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_arrives_and_nothing_else() {
        for sealed in [None, Some(OsString::from("1.2.3 /usr/bin/crun"))] {
            let begin = Begin { sealed };
            assert_eq!(Begin::from_bytes(&begin.to_bytes()), Some(begin));
        }
        assert_eq!(Begin::from_bytes(b""), None);
        assert_eq!(Begin::from_bytes(b"xyz"), None);
    }
}
