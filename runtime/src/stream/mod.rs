//! Streams into a pod: a command with input and output of its own, a client attached to a container, a connection to a port.
//!
//! Owns the daemon's half: the pipes, the session with the shim, the sockets in the pod's network namespace. What carries the bytes
//! to a client is the caller's; the process is the shim's. No byte of a command's passes through the shim, and none of a session
//! through a pod's task, so an unread stream holds up nothing but itself.
//!
//! ```text
//!            open: request and the pipes' other ends (SCM_RIGHTS)
//! Session ───────────────────────────────────────────────────────────► shim
//!   ├ stdin   Input  ═══ pipe or terminal ═══════════════════════════► the process, or the shim to the container's own
//!   ├ stdout  Output ◄══ pipe or terminal ════════════════════════════
//!   ├ stderr  Output ◄══ pipe ═════════════════════════════════════════
//!   └ control: sizes ─► line's task ─► Resize;   Exit, Detached ─► ended
//! ```
//!
//! Each part holds the line: when the last one is dropped, its task closes the connection, and the shim ends what was begun.

mod error;
mod forward;
mod io;
mod line;
mod open;

pub use error::{ForwardError, StreamError};
pub use forward::PodNetwork;
pub use io::{Input, Output};
pub use line::{Control, Resizer};
pub use open::{OpenFailure, Opening, open};

use crate::id::ContainerId;

/// Since which version of its interface a shim has sessions.
pub(crate) const SINCE: u32 = 2;

/// Which streams a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "as CRI has it: independent wishes")]
pub struct Wanted {
    /// To write to the process.
    pub stdin: bool,
    /// To read what it says.
    pub stdout: bool,
    /// To read its errors. Not together with a terminal, where both are one; an attach to a container that has one has none.
    pub stderr: bool,
    /// The command gets a terminal. Without meaning for an attach: the container has one or has none.
    pub terminal: bool,
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// How a session has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The command, or the container attached to, has ended.
    Exited {
        /// The exit code, or 128 + the signal's number.
        code: i32,
        /// The signal that ended it; 0 if none did.
        signal: i32,
    },
    /// The client was cut off; the container lives on.
    Detached {
        /// Why.
        reason: String,
    },
}

/// A command's or a container's streams. Dropping all of its parts hangs up: a command is ended, a container lives on.
#[derive(Debug)]
pub struct Session {
    /// If it was wanted.
    pub stdin: Option<Input>,
    /// If it was wanted.
    pub stdout: Option<Output>,
    /// If it was wanted, and there is no terminal.
    pub stderr: Option<Output>,
    /// The rest.
    pub control: Control,
}

/// A container that can be attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "as CRI has it: independent of each other")]
pub struct Attachable {
    /// Its whole id.
    pub id: ContainerId,
    /// It has a terminal: standard output and error are one.
    pub terminal: bool,
    /// It has a standard input that clients can write to.
    pub stdin: bool,
    /// That ends with the first client's.
    pub stdin_once: bool,
}
