//! What was found out about OCI runtimes before, so that a restart of the daemon need not try them again.
//!
//! Owns one file below the state directory. Only what works is kept: a problem may be mended without the program changing. The file is
//! believed as long as the program is the same file, the boot the same and the cgroups the same; one that can't be read is no error, as
//! all in it can be found out again.

use super::probe::Candidate;
use super::{Features, Handler, Kind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Changes whenever what is found out does.
const VERSION: u32 = 3;
const FILE: &str = "handlers.json";

/// The file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Stored {
    version: u32,
    handlers: BTreeMap<String, Known>,
}

/// What is known of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    key: String,
    kind: Kind,
    version: String,
    features: Features,
}

/// What was found out before.
#[derive(Debug)]
pub(super) struct Cache {
    file: PathBuf,
    host: String,
    stored: Stored,
}

impl Cache {
    /// What `state` remembers; `host` is text that changes with everything that handlers depend on besides themselves.
    pub(super) fn load(state: &Path, host: &str) -> Self {
        let file = state.join(FILE);
        let stored =
            fs::read(&file).ok().and_then(|bytes| serde_json::from_slice::<Stored>(&bytes).ok());
        let stored = stored.filter(|stored| stored.version == VERSION).unwrap_or_default();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self { file, host: format!("{} {host}", boot.trim()), stored }
    }

    /// The candidate as it was found, if it is still the same.
    pub(super) fn find(&self, candidate: &Candidate) -> Option<Handler> {
        let known = self.stored.handlers.get(&candidate.name)?;
        if self.key(candidate)? != known.key {
            return None;
        }
        Some(candidate.as_handler(known.kind, known.version.clone(), known.features.clone()))
    }

    /// Remembers those that work, and nothing else.
    pub(super) fn store(&self, found: &[(Candidate, Handler)]) -> std::io::Result<()> {
        let known = |(candidate, handler): &(Candidate, Handler)| {
            let key = self.key(candidate).filter(|_| handler.problem.is_none())?;
            let Handler { kind, version, features, .. } = handler.clone();
            Some((candidate.name.clone(), Known { key, kind, version, features }))
        };
        let handlers: BTreeMap<_, _> = found.iter().filter_map(known).collect();
        if handlers == self.stored.handlers {
            return Ok(());
        }
        let stored = Stored { version: VERSION, handlers };
        let bytes = serde_json::to_vec_pretty(&stored)?;
        let temporary = self.file.with_extension("json.tmp");
        fs::File::create(&temporary)?.write_all(&bytes)?;
        fs::rename(&temporary, &self.file)
    }

    /// Everything that what was found out depends on.
    fn key(&self, candidate: &Candidate) -> Option<String> {
        let metadata = fs::metadata(&candidate.path).ok()?;
        Some(format!(
            "{} {} {} {}.{} {}.{} {} {} {:?} {:?}",
            self.host,
            candidate.path.display(),
            metadata.ino(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ctime(),
            metadata.ctime_nsec(),
            metadata.len(),
            candidate.systemd_cgroup,
            candidate.args,
            candidate.start_fifo,
        ))
    }
}
