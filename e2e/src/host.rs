//! What a test asks of the machine: to wait, to look, to name a free port.
//!
//! Owns the only sleeps of the tests: [`eventually`] polls for a condition with a deadline, so that no test waits a guessed time.

use anyhow::{Context, Result, bail};
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Between two looks.
const STEP: Duration = Duration::from_millis(10);

/// Calls `look` until it gives something.
///
/// # Errors
/// What `look` fails with, or that `what` did not come true within `within`.
pub fn eventually<T>(
    within: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + within;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() >= end {
            bail!("not within {within:?}: {what}");
        }
        pause(STEP);
    }
}

/// Lets time pass: only to see that something does *not* happen in it.
#[expect(
    clippy::disallowed_methods,
    reason = "tests run on threads of their own, not on an executor's"
)]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Below those that the kernel gives to whoever asks for any, be it for a connection: none of these is taken behind a test's back.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

/// A TCP port of 127.0.0.1 that is free and that no other test of this process gets, so that a daemon that is killed finds it free again.
///
/// # Errors
/// If all are taken.
pub fn free_port() -> Result<u16> {
    static NEXT: OnceLock<AtomicU32> = OnceLock::new();
    // Another process with tests begins somewhere else.
    let next = NEXT.get_or_init(|| AtomicU32::new(std::process::id().wrapping_mul(509)));
    for _ in PORTS {
        let offset = next.fetch_add(1, Ordering::Relaxed) % u32::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(offset).context("an offset within the range")?;
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port of {PORTS:?} is free")
}

/// The file's text, or nothing if it is not there.
///
/// # Errors
/// If it is there and cannot be read.
pub fn read_optional(path: &Path) -> Result<Option<String>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

/// The names in a directory, sorted; none if it is not there.
///
/// # Errors
/// If it is there and cannot be read.
pub fn names_in(dir: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("list {}", dir.display())),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("list {}", dir.display()))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Writes a program for `sh`, whole before it has its name, with the directories above it.
///
/// # Errors
/// If it can't be written.
pub fn script(path: &Path, text: &str) -> Result<()> {
    let parent = path.parent().context("a program is in a directory")?;
    std::fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
    let write = || {
        let mut file = tempfile::NamedTempFile::new_in(parent)?;
        file.write_all(format!("#!/bin/sh\n{text}\n").as_bytes())?;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o755))?;
        // Open for writing, it could not be run.
        file.into_temp_path().persist(path)?;
        anyhow::Ok(())
    };
    write().with_context(|| format!("write {}", path.display()))
}

/// Removes a directory and all below it; one that is not there is gone already.
///
/// # Errors
/// If it can't be removed.
pub fn remove_tree(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.with_context(|| format!("remove {}", dir.display())),
    }
}

/// What a cgroup file of a process says: `v1` of this controller's hierarchy if there is one, else `v2` of the unified one.
///
/// # Errors
/// If there is no such file.
pub fn cgroup_value(pid: u32, controller: &str, v1: &str, v2: &str) -> Result<String> {
    let file = cgroup_file(pid, controller, v1, v2)?;
    let value =
        std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    Ok(value.trim().to_owned())
}

/// The cgroup of a process, stopped in its tracks until this is dropped.
#[derive(Debug)]
pub struct Frozen {
    file: PathBuf,
    thaw: &'static str,
}

impl Frozen {
    /// Freezes all that is in the cgroup of this process.
    ///
    /// # Errors
    /// If the kernel cannot.
    pub fn around(pid: u32) -> Result<Self> {
        let file = cgroup_file(pid, "freezer", "freezer.state", "cgroup.freeze")?;
        let v1 = file.ends_with("freezer.state");
        write_kernel(&file, if v1 { "FROZEN" } else { "1" })?;
        Ok(Self { file, thaw: if v1 { "THAWED" } else { "0" } })
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // The cgroup may be gone, and what was in it with it.
        drop(write_kernel(&self.file, self.thaw));
    }
}

/// Writes to a file that is the kernel's, as it is.
fn write_kernel(file: &Path, value: &str) -> Result<()> {
    let mut open = std::fs::OpenOptions::new()
        .write(true)
        .open(file)
        .with_context(|| format!("open {}", file.display()))?;
    open.write_all(value.as_bytes()).with_context(|| format!("write {value} to {}", file.display()))
}

/// A cgroup file of a process, as [`cgroup_value`] finds it.
///
/// # Errors
/// If the process is gone.
pub fn cgroup_file(pid: u32, controller: &str, v1: &str, v2: &str) -> Result<PathBuf> {
    let table = format!("/proc/{pid}/cgroup");
    let text = std::fs::read_to_string(&table).with_context(|| format!("read {table}"))?;
    let entry = |wanted: &dyn Fn(&str) -> bool| {
        text.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            wanted(controllers).then(|| path.trim_start_matches('/').to_owned())
        })
    };
    let own = entry(&|names| names.split(',').any(|name| name == controller));
    Ok(match own {
        Some(path) => Path::new("/sys/fs/cgroup").join(controller).join(path).join(v1),
        None => {
            let path = entry(&str::is_empty)
                .with_context(|| format!("{table} has no unified hierarchy"))?;
            let unified = Path::new("/sys/fs/cgroup/unified");
            let top = if unified.is_dir() { unified } else { Path::new("/sys/fs/cgroup") };
            top.join(path).join(v2)
        }
    })
}
