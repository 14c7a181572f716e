//! Sessions with a client of our own, over a pipe in memory: what is promised to good peers, and that bad ones get no further.

pub(crate) mod client;
mod fuzz;
mod hostile;
mod sessions;
mod wire;
