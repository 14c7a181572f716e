//! A process's standard streams, from the descriptors to the log.
//!
//! `stream` makes and reads pipes, `console` gets a terminal from the OCI runtime, `terminal` reads it, `lines` splits output into log records
//! (pure), `log` writes them, `tee` gives them to attached clients as they are, `feed` brings the clients' input. Output is read whether or not it is logged, and whoever is connected or not: a container never
//! waits for anybody but the kernel.

pub(crate) mod console;
pub(crate) mod feed;
pub(crate) mod lines;
pub(crate) mod log;
pub(crate) mod stream;
pub(crate) mod tee;
pub(crate) mod terminal;
