//! Kernel parameters of a network namespace: the calling thread's, as `/proc/sys/net` shows that.

use std::fs::OpenOptions;
use std::io::{self, Write};

/// Writes `value` to `/proc/sys/net/<path>` unless it is there already: a host where it is set need not let us write.
///
/// # Errors
/// The path with the system call's word.
pub(super) fn set(path: &str, value: &str) -> Result<(), (String, io::Error)> {
    let path = format!("/proc/sys/net/{path}");
    if std::fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    let written = OpenOptions::new().write(true).open(&path);
    written.and_then(|mut file| file.write_all(value.as_bytes())).map_err(|error| (path, error))
}

/// [`set`] for what a kernel without IPv6 does not have.
///
/// # Errors
/// As [`set`]; that there is no such file is no error.
pub(super) fn set_if_there(path: &str, value: &str) -> Result<(), (String, io::Error)> {
    match set(path, value) {
        Err((_, error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
