//! Why a pod that nobody has stopped is not ready.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// What has happened to a pod's helpers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Trouble {
    /// Its shim has ended, and its containers with it.
    ShimGone {
        /// The end of what it said.
        said: String,
    },
    /// The first process of its shared PID namespace has ended, and all in there with it.
    InitGone {
        /// The exit code, or 128 + the signal's number.
        code: i32,
        /// Nanoseconds since the epoch, by the shim's clock.
        at: i64,
    },
    /// Its shim lives and does not answer. If it answers again, the pod is ready again.
    ShimSilent {
        /// How long it was given.
        after: Duration,
    },
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ShimGone { said } => write!(f, "the pod's shim has ended: {said}"),
            Self::InitGone { code, at: _ } => write!(
                f,
                "the init of the pod's shared PID namespace has ended with {code}, and with it all that ran in there"
            ),
            Self::ShimSilent { after } => {
                write!(f, "the pod's shim has not answered for {} ms", after.as_millis())
            }
        }
    }
}
