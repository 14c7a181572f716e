//! Bytes from a process to its client.

use crate::streaming::backend::Output;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// How much is read at once, in bytes: what a pipe holds.
pub(crate) const CHUNK: usize = 64 * 1024;

/// Passes on everything, then ends `client`.
///
/// # Errors
/// The client's: it does not want any more.
pub(crate) async fn pass_on(
    mut output: Output,
    client: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = heard(output.read(&mut buffer).await);
        match buffer.get(..count) {
            Some([]) | None => return client.shutdown().await,
            Some(bytes) => client.write_all(bytes).await?,
        }
    }
}

/// A process that can't be heard any more has nothing more to say.
pub(crate) fn heard(read: io::Result<usize>) -> usize {
    read.unwrap_or_else(|error| {
        tracing::debug!(%error, "read what a process says");
        0
    })
}
