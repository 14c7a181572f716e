//! Small files that are never seen half written.
//!
//! Owns write-then-rename and the bounded read. No fsync: an attachment lives no longer than the boot, and after a power loss an
//! older or missing record only means that there is less to detach.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// More than any file of ours or any CNI configuration is.
pub(super) const MAX_FILE: u64 = 4 << 20;

/// Writes `bytes` to `dir/name`, whole or not at all. One writer per name at a time: the temporary name is derived from it.
///
/// # Errors
/// The first system call that failed.
pub(super) fn replace(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!(".{name}.tmp"));
    let path = dir.join(name);
    let written = write_new(&temporary, bytes).and_then(|()| std::fs::rename(&temporary, &path));
    written.map_err(|error| {
        // The first error is the one to tell; a leftover is overwritten by the next writer and swept at open.
        drop(std::fs::remove_file(&temporary));
        io::Error::new(error.kind(), format!("{}: {error}", path.display()))
    })
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)
}

/// Reads a file of at most [`MAX_FILE`] bytes.
///
/// # Errors
/// The system call that failed, or `FileTooLarge`.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

/// Removes a file; one that is not there is as good as removed.
///
/// # Errors
/// The system call that failed.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
