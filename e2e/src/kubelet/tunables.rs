//! The kernel's settings that a kubelet changes for the whole machine as it starts.
//!
//! Owns putting them back when the last test's kubelet has ended: who is the first writes down what they were, who is the last sets them again.
//! The directory of links to logs goes with the last kubelet too: each makes it when it starts, and needs it until it ends. A lock file in the cache folder, held by every [`Tunables`], tells who that is.
//!
//! The kubelet could be told to leave them alone (`protectKernelDefaults`), and would then refuse to start unless they were set before.

use crate::images::catalog;
use crate::registry::write_whole;
use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

const NAMES: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// The settings, for as long as a kubelet may change them.
#[derive(Debug)]
pub(super) struct Tunables {
    lock: File,
    saved: PathBuf,
}

impl Tunables {
    /// Writes them down, unless somebody has who still runs a kubelet.
    pub(super) fn borrow() -> Result<Self> {
        let dir = catalog::cache();
        let lock = File::create(dir.join("tunables.lock")).context("open the tunables' lock")?;
        let saved = dir.join("tunables.json");
        // Nobody else holds it: what a test that was killed had written down is still what has to be put back.
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() && !saved.is_file() {
            let mut values = BTreeMap::new();
            for name in NAMES {
                let path = Path::new("/proc/sys").join(name);
                let value = std::fs::read_to_string(&path)
                    .with_context(|| format!("read {}", path.display()))?;
                values.insert(name, value);
            }
            write_whole(&saved, serde_json::to_string(&values)?.as_bytes())?;
        }
        flock(&lock, FlockOperation::LockShared).context("share the tunables' lock")?;
        Ok(Self { lock, saved })
    }

    fn give_back(&self) -> Result<()> {
        // Of several that end at once each gives up its share before it asks, so that one of them is the last.
        if flock(&self.lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(());
        }
        // It may have been there before, with links of others in it.
        let _ = std::fs::remove_dir(super::ending::LINKS);
        let text = std::fs::read_to_string(&self.saved).context("read the saved tunables")?;
        let values: BTreeMap<String, String> =
            serde_json::from_str(&text).context("read the saved tunables")?;
        for (name, value) in values {
            super::cgroups::set(&Path::new("/proc/sys").join(name), value.as_bytes())?;
        }
        std::fs::remove_file(&self.saved).context("remove the saved tunables")
    }
}

impl Drop for Tunables {
    /// Where this fails, the next test's last kubelet does it.
    fn drop(&mut self) {
        drop(self.give_back());
    }
}
