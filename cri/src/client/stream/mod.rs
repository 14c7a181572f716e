//! `davit exec` and `davit attach`, and `davit run -i` and `-t`: this terminal on one side, a process in a container on the other.
//!
//! Owns the way between them. The daemon hands out a URL, as it does to the kubelet; here the client behind it is this program, which speaks
//! version 5 of the protocol over WebSocket.
//!
//! ```text
//! stdin ─► thread ─► keys ─► channel 0 ┐                ┌ channel 1 ─► stdout
//! SIGWINCH ───────────────► channel 4 ─┼─► WebSocket ◄──┼ channel 2 ─► stderr
//! end of stdin ──────────► channel 255 ┘                └ channel 3 ─► how it ended
//! ```
//!
//! | module | owns |
//! |---|---|
//! | [`socket`] | the connection and its messages |
//! | [`terminal`] | this terminal's state, and its return |
//! | [`keys`] | the keys that leave without ending anything |
//! | [`session`] | the conversation |
//! | [`exec`], [`attach`] | the two commands |
//!
//! Invariant: a terminal that was made raw is put back whatever ends the program, but for SIGKILL.

pub(crate) mod attach;
pub(crate) mod exec;
pub(crate) mod keys;
pub(crate) mod session;
mod socket;
mod terminal;
