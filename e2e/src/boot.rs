//! The end of a boot, without the machine's.
//!
//! Owns what a reboot takes from one daemon: its processes and those of its pods, its mounts, links, rules and cgroups, and (mostly) the state directory's
//! content; and that the next daemon is told another boot id by the kernel's own file, over which one is mounted for that daemon alone. The product
//! knows nothing of this.

use crate::leaks;
use crate::registry::write_whole;
use crate::test::Test;
use anyhow::{Context as _, Result};
use std::path::Path;

/// What the reboot leaves of the state directory and of the pinned network namespaces' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// Nothing, as of a tmpfs.
    Emptied,
    /// All files: the directory is on a disk.
    Kept,
}

/// Ends the boot. The next start of the daemon is in another one.
///
/// # Errors
/// If something of it can't be ended.
pub fn end(t: &Test, run: Run) -> Result<()> {
    let settings = t.settings();
    if t.daemon().pid().is_some() {
        t.daemon().kill()?;
    }
    leaks::sweep(&settings)?;
    if run == Run::Emptied {
        for directory in [settings.state(), settings.netns_dir()] {
            empty(&directory)?;
        }
    }
    let id = std::fs::read("/proc/sys/kernel/random/uuid").context("draw a boot id")?;
    let file = settings.dir.join("boot_id");
    write_whole(&file, &id)?;
    t.daemon().set_boot_id(file);
    Ok(())
}

fn empty(directory: &Path) -> Result<()> {
    if directory.exists() {
        std::fs::remove_dir_all(directory)
            .with_context(|| format!("remove {}", directory.display()))?;
    }
    std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))
}
