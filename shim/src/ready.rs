//! A shim that was begun before its pod: what it does meanwhile, and its wait.
//!
//! Owns the wait, which ends with the pod or with the daemon. Nothing is made before it is over but what belongs to the process itself.

use crate::passed::{self, PassedError};
use crate::sealed::Sealed;
use davit_proto::ready::{Begin, ENV, LONGEST, Meanwhile, NAME};
use davit_sys::passing::{Received, wait_for_message};
use rustix::stdio::dup2_stderr;
use rustix::thread::set_name;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;

/// Why there is nothing to wait for, or what came is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadyError {
    #[error(transparent)]
    Passed(#[from] PassedError),
    #[error("parse {ENV} {text:?}")]
    Parse { text: String, source: serde_json::Error },
    #[error("wait for a pod")]
    Wait(#[source] std::io::Error),
    #[error("what came with the pod is not what a daemon passes")]
    Message,
    #[error("take the log")]
    Log(#[source] rustix::io::Errno),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) meanwhile: Meanwhile,
    socket: OwnedFd,
}

/// What the daemon passes with a pod.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) listener: UnixListener,
    pub(crate) sealed: Option<Sealed>,
}

impl Ready {
    /// Whether this shim is to wait.
    pub(crate) fn take() -> Result<Option<Self>, ReadyError> {
        let Some(text) = std::env::var_os(ENV) else { return Ok(None) };
        let text = text.to_string_lossy().into_owned();
        // No more than a name: without it the shim is as good.
        let _ = set_name(NAME);
        let meanwhile =
            serde_json::from_str(&text).map_err(|source| ReadyError::Parse { text, source })?;
        Ok(Some(Self { meanwhile, socket: passed::waiting()? }))
    }

    /// Blocks until the pod is there. `None`: there will be none.
    pub(crate) fn wait(self) -> Result<Option<Given>, ReadyError> {
        let mut buffer = [0; LONGEST];
        let Received { bytes, descriptors, truncated } =
            wait_for_message(self.socket.as_fd(), &mut buffer).map_err(ReadyError::Wait)?;
        if bytes == 0 {
            return Ok(None);
        }
        let begin = buffer.get(..bytes).and_then(Begin::from_bytes).filter(|_| !truncated);
        let Begin { sealed } = begin.ok_or(ReadyError::Message)?;
        let mut descriptors = descriptors.into_iter();
        let (listener, log) =
            descriptors.next().zip(descriptors.next()).ok_or(ReadyError::Message)?;
        dup2_stderr(log).map_err(ReadyError::Log)?;
        let _ = set_name(c"davit-shim");
        let copy = descriptors.next();
        let sealed = sealed.zip(copy).and_then(|(said, copy)| Sealed::given(&said, copy));
        Ok(Some(Given { listener: listener.into(), sealed }))
    }
}

/// What the daemon has passed to a shim that was begun for its pod.
pub(crate) fn passed_at_once() -> Result<Given, PassedError> {
    Ok(Given { listener: passed::listener()?, sealed: Sealed::take()? })
}
