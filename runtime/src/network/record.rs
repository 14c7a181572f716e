//! What is written down about each pod's network, before anything is done to it.
//!
//! Owns `<state>/<sandbox id>.json`. A record is there from before the first change until the last undo has succeeded, and holds
//! all that an undo needs: the CNI configuration as it was, or what the bridge gave.
//!
//! ```text
//! (none) ──save──► Attaching ──ADD done──► Attached ──detach──► Detaching ──DEL done──► (none)
//!                      └────────────────────detach────────────────────┘
//! ```

use super::files;
use crate::id::SandboxId;
use crate::sandbox::{PortMapping, SandboxKey};
use crate::shortage::is_shortage;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// The version of the files here.
pub(super) const VERSION: u32 = 1;

/// One pod's attachment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) version: u32,
    pub(super) id: SandboxId,
    pub(super) key: SandboxKey,
    pub(super) netns: PathBuf,
    pub(super) provider: Provider,
    pub(super) phase: Phase,
}

impl Record {
    /// What its addresses on the built-in bridge are of.
    pub(super) fn subnets(&self) -> Vec<IpNet> {
        let (Provider::Bridge(_), Phase::Attached { result, .. }) = (&self.provider, &self.phase)
        else {
            return Vec::new();
        };
        let ips = result.get("ips").and_then(serde_json::Value::as_array).into_iter().flatten();
        let nets = ips.filter_map(|ip| ip.get("address")?.as_str()?.parse::<IpNet>().ok());
        nets.map(|net| net.trunc()).collect()
    }
}

/// Who attached it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Provider {
    Bridge(BridgeRecord),
    Cni(Box<CniRecord>),
}

/// What the built-in bridge did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BridgeRecord {
    /// The table that its host ports are in.
    pub(super) table: String,
    pub(super) ports: Vec<PortMapping>,
}

/// What the plugins were told: DEL tells them the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct CniRecord {
    /// The network's name.
    pub(super) network: String,
    /// The spec version spoken with its plugins.
    pub(super) cni_version: String,
    /// The file that it was read from: for people.
    pub(super) source: PathBuf,
    /// Each plugin's configuration, in the order of ADD.
    pub(super) plugins: Vec<serde_json::Map<String, serde_json::Value>>,
    /// `CNI_ARGS`.
    pub(super) args: String,
    /// By capability; each plugin gets those that it declares.
    pub(super) capabilities: BTreeMap<String, serde_json::Value>,
}

/// How far it came.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub(super) enum Phase {
    Attaching,
    /// The host ports are gone; link and leases may still be there.
    Detaching,
    Attached {
        ips: Vec<IpAddr>,
        mac: Option<String>,
        result: serde_json::Value,
    },
}

/// The folder of the records.
#[derive(Debug)]
pub(super) struct Records {
    dir: PathBuf,
}

/// What was found in the folder.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) records: Vec<Record>,
    /// Files that are no record, under the name they were put aside as.
    pub(super) quarantined: Vec<PathBuf>,
}

impl Records {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// # Errors
    /// The system call that failed.
    pub(super) fn save(&self, record: &Record) -> io::Result<()> {
        files::replace(&self.dir, &file_name(&record.id), &serde_json::to_vec(record)?)
    }

    /// `None`: there is none.
    ///
    /// # Errors
    /// The system call that failed, or `InvalidData` for a file that is no record.
    pub(super) fn load(&self, id: &SandboxId) -> io::Result<Option<Record>> {
        match load(&self.dir.join(file_name(id))) {
            Ok(record) => Ok(Some(record)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// # Errors
    /// The system call that failed.
    pub(super) fn remove(&self, id: &SandboxId) -> io::Result<()> {
        files::remove(&self.dir.join(file_name(id)))
    }

    /// Whose there are, whatever is in them; nothing is touched.
    ///
    /// # Errors
    /// The folder could not be listed.
    pub(super) fn ids(&self) -> io::Result<Vec<SandboxId>> {
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(".json"));
            ids.extend(id.and_then(|id| SandboxId::try_from(id.to_owned()).ok()));
        }
        Ok(ids)
    }

    /// All of them. Temporary files of a crash are swept, files that are no record are renamed to `….broken`.
    ///
    /// # Errors
    /// The folder could not be listed.
    pub(super) fn scan(&self) -> io::Result<Found> {
        let mut found = Found::default();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|_| entry.path().is_file()) else { continue };
            if name.starts_with('.') && name.ends_with(".tmp") {
                files::remove(&entry.path())?;
            } else if let Some(Ok(id)) =
                name.strip_suffix(".json").map(|id| SandboxId::try_from(id.to_owned()))
            {
                self.take(&id, &mut found)?;
            }
        }
        Ok(found)
    }

    fn take(&self, id: &SandboxId, found: &mut Found) -> io::Result<()> {
        let path = self.dir.join(file_name(id));
        match load(&path) {
            Ok(record) if record.id == *id => found.records.push(record),
            Err(error) if is_shortage(&error) => return Err(error),
            Ok(_) | Err(_) => {
                let aside = path.with_extension("json.broken");
                std::fs::rename(&path, &aside)?;
                found.quarantined.push(aside);
            }
        }
        Ok(())
    }
}

fn file_name(id: &SandboxId) -> String {
    format!("{id}.json")
}

fn load(path: &Path) -> io::Result<Record> {
    let record: Record = serde_json::from_slice(&files::read(path)?)?;
    if record.version > VERSION {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("record has version {}, newer than {VERSION}", record.version),
        ));
    }
    Ok(record)
}
