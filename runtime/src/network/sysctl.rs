//! Kernel parameters of a network namespace: the calling thread's, as `/proc/sys/net` shows that.

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd;

const NET: &str = "/proc/sys/net";

/// Writes `value` to `/proc/sys/net/<path>` unless it is there already: a host where it is set need not let us write.
///
/// # Errors
/// The path with the system call's word.
pub(super) fn set(path: &str, value: &str) -> Result<(), (String, io::Error)> {
    let path = format!("{NET}/{path}");
    set_in(CWD, &path, value).map_err(|error| (path, error))
}

/// [`set`] for several in one directory, which a kernel without IPv6 does not have. The way there is gone once: it leads past those of all network
/// namespaces that there are.
///
/// # Errors
/// As [`set`]; that there is no such directory or file is no error.
pub(super) fn set_if_there(
    directory: &str,
    values: &[(&str, &str)],
) -> Result<(), (String, io::Error)> {
    let path = format!("{NET}/{directory}");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = match openat(CWD, &path, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened.map_err(|error| (path.clone(), error.into()))?,
    };
    values.iter().try_for_each(|(name, value)| match set_in(&opened, name, value) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err((format!("{path}/{name}"), error))
        }
        Ok(()) | Err(_) => Ok(()),
    })
}

/// Sets several in one directory of a namespace that was made just now. A host that refuses one lets its pods do without.
pub(super) fn try_set(directory: &str, values: &[(&str, &str)]) {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // As in [`set_if_there`], the way there is gone once.
    let Ok(directory) = openat(CWD, format!("{NET}/{directory}"), flags, Mode::empty()) else {
        return;
    };
    for (name, value) in values {
        let file = openat(&directory, *name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
        let _ = file.map(|file| rustix::io::write(&file, value.as_bytes()));
    }
}

fn set_in(directory: impl AsFd, name: &str, value: &str) -> io::Result<()> {
    let open = |flags| {
        openat(directory.as_fd(), name, flags | OFlags::CLOEXEC, Mode::empty()).map(File::from)
    };
    let mut now = String::new();
    let read = open(OFlags::RDONLY).map(|mut file| file.read_to_string(&mut now));
    if matches!(read, Ok(Ok(_))) && now.trim() == value {
        return Ok(());
    }
    open(OFlags::WRONLY)?.write_all(value.as_bytes())
}
